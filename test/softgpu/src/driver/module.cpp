// Modules: which PTX of an image the driver would compile for this device, and what is in it.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>

#include "driver/state.h"
#include "ptx/lowering.h"
#include "ptx/parser.h"

using namespace softgpu;

namespace {

constexpr u32 kFatbinMagic = 0xba55ed50, kWrapperMagic = 0x466243b1;
constexpr u16 kPtxEntry = 1;
// Flags of a compressed entry: not readable here, so kernels are built with --compress-mode=none.
constexpr u64 kCompressed = 0xa000;

template <class T>
T read(const u8* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

struct Choice {
  std::string_view text;
  CUresult error = CUDA_ERROR_NO_BINARY_FOR_GPU;
};

// The PTX with the highest architecture that this device can run. Machine code is of no use here.
Choice choosePtx(const u8* image) {
  const u32 magic = read<u32>(image);
  if (magic == kWrapperMagic) return choosePtx(read<const u8*>(image + 8));
  if (std::memcmp(image,
                  "\x7f"
                  "ELF",
                  4) == 0)
    return {};
  if (magic != kFatbinMagic) return {reinterpret_cast<const char*>(image), CUDA_SUCCESS};
  const u8* at = image + read<u16>(image + 6);
  const u8* end = at + read<u64>(image + 8);
  Choice choice;
  u32 best = 0;
  while (at < end) {
    const u16 kind = read<u16>(at);
    const u32 header = read<u32>(at + 4), architecture = read<u32>(at + 28);
    const u64 size = read<u64>(at + 8), flags = read<u64>(at + 40);
    if (kind == kPtxEntry && architecture <= options().capability() && architecture >= best) {
      if (flags & kCompressed) {
        std::fprintf(stderr, "softgpu: compressed PTX in the image; build it with --compress-mode=none\n");
        return {{}, CUDA_ERROR_INVALID_IMAGE};
      }
      best = architecture;
      const char* text = reinterpret_cast<const char*>(at + header);
      choice = {{text, strnlen(text, size)}, CUDA_SUCCESS};
    }
    at += header + size;
  }
  return choice;
}

u32 targetOf(const std::string& target) {
  return target.starts_with("sm_") ? static_cast<u32>(std::strtoul(target.c_str() + 3, nullptr, 10)) : 0;
}

CUresult load(CUmodule* out, const void* image, std::string* log) {
  SOFTGPU_TRY(usable());
  const Choice choice = choosePtx(static_cast<const u8*>(image));
  if (choice.error != CUDA_SUCCESS) return choice.error;
  auto module = std::make_unique<CUmod_st>();
  try {
    const ptx::Tree tree = ptx::parse(choice.text);
    if (targetOf(tree.target) > options().capability()) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    std::vector<std::pair<u64, const ptx::Variable*>> placed;
    module->program = ptx::lower(tree, [&](const ptx::Variable& v) {
      Allocation* a = arena().allocate(std::max<u64>(v.size, 1), true);
      if (!a) throw ptx::PtxError(0, "out of memory for variable " + v.name);
      a->constant = v.space == ptx::Space::kConst;
      module->allocations.push_back(a->base);
      std::memcpy(reinterpret_cast<void*>(a->base), v.initial.data(), v.initial.size());
      a->setRangeInitialised(a->base, v.size);
      placed.push_back({a->base, &v});
      return ptx::ModuleSymbol{v.space, a->base, v.size};
    });
    for (auto [base, v] : placed) {
      for (const auto& reference : v->references) {
        auto it = module->program->symbols.find(reference.symbol);
        if (it == module->program->symbols.end()) throw ptx::PtxError(0, "unknown symbol " + reference.symbol);
        const u64 value = it->second.address + static_cast<u64>(reference.offset);
        std::memcpy(reinterpret_cast<void*>(base + reference.at), &value, 8);
      }
    }
  } catch (const ptx::PtxError& e) {
    for (u64 base : module->allocations) arena().free(base);
    std::fprintf(stderr, "softgpu: %s\n", e.what());
    if (log) *log = e.what();
    return CUDA_ERROR_INVALID_PTX;
  }
  *out = module.release();
  return CUDA_SUCCESS;
}

}  // namespace

SOFTGPU_API cuModuleLoadData(CUmodule* out, const void* image) { return load(out, image, nullptr); }

SOFTGPU_API cuModuleLoadDataEx(CUmodule* out, const void* image, unsigned count, CUjit_option* names, void** values) {
  std::string log;
  const CUresult result = load(out, image, &log);
  char* buffer = nullptr;
  size_t size = 0;
  for (unsigned k = 0; k < count; ++k) {
    if (names[k] == CU_JIT_ERROR_LOG_BUFFER) buffer = static_cast<char*>(values[k]);
    if (names[k] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES) size = reinterpret_cast<size_t>(values[k]);
  }
  if (buffer && size) std::snprintf(buffer, size, "%s", log.c_str());
  return result;
}

SOFTGPU_API cuModuleUnload(CUmodule module) {
  device().finishAll();
  for (u64 base : module->allocations) arena().free(base);
  delete module;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuModuleGetFunction(CUfunction* out, CUmodule module, const char* name) {
  auto it = module->program->kernels.find(name);
  if (it == module->program->kernels.end()) return CUDA_ERROR_NOT_FOUND;
  std::lock_guard lock(device().mutex);
  for (auto& f : module->functions) {
    if (f->kernel == it->second.get()) {
      *out = f.get();
      return CUDA_SUCCESS;
    }
  }
  auto function = std::make_unique<CUfunc_st>();
  function->kernel = it->second.get();
  function->module = module;
  *out = function.get();
  module->functions.push_back(std::move(function));
  return CUDA_SUCCESS;
}

SOFTGPU_API cuModuleGetGlobal(CUdeviceptr* address, size_t* bytes, CUmodule module, const char* name) {
  auto it = module->program->symbols.find(name);
  if (it == module->program->symbols.end()) return CUDA_ERROR_NOT_FOUND;
  if (address) *address = it->second.address;
  if (bytes) *bytes = it->second.bytes;
  return CUDA_SUCCESS;
}
