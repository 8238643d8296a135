// Modules: which PTX of an image the driver would compile for this device, and what is in it.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "driver/fatbin.h"
#include "driver/state.h"
#include "ptx/lowering.h"
#include "ptx/parser.h"

using namespace softgpu;

namespace {

struct Choice {
  std::string_view text;
  CUresult error = CUDA_ERROR_NO_BINARY_FOR_GPU;
};

// What the driver would compile for this device: the PTX with the highest architecture that it can run. Machine code is
// of no use here.
Choice choosePtx(const void* image) {
  if (std::memcmp(image,
                  "\x7f"
                  "ELF",
                  4) == 0)
    return {};
  if (!isFatbin(image)) return {static_cast<const char*>(image), CUDA_SUCCESS};
  Choice choice;
  u32 best = 0;
  for (const FatbinEntry& entry : entriesOf(image)) {
    if (!entry.isPtx || entry.architecture > options().capability() || entry.architecture < best) continue;
    if (entry.compressed) {
      std::fprintf(stderr, "softgpu: compressed PTX in the image; build it with --compress-mode=none\n");
      return {{}, CUDA_ERROR_INVALID_IMAGE};
    }
    best = entry.architecture;
    choice = {entry.text, CUDA_SUCCESS};
  }
  return choice;
}

// sm_90a runs on 9.0 alone, sm_100f on 10.x.
bool runsHere(const ptx::Tree& tree) {
  if (tree.target.ends_with('a')) return tree.architecture == options().capability();
  if (tree.target.ends_with('f') && tree.architecture / 10 != options().major) return false;
  return tree.architecture <= options().capability();
}

CUresult load(CUmodule* out, const void* image, std::string* log) {
  SOFTGPU_TRY(usable());
  const Choice choice = choosePtx(image);
  if (choice.error != CUDA_SUCCESS) return choice.error;
  auto module = std::make_unique<CUmod_st>();
  try {
    const ptx::Tree tree = ptx::parse(choice.text);
    if (!runsHere(tree)) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    std::vector<std::pair<u64, const ptx::Variable*>> placed;
    module->program = ptx::lower(tree, [&](const ptx::Variable& v) {
      Allocation* a = arena().allocate(std::max<u64>(v.size, 1), true);
      if (!a) throw ptx::PtxError(0, "out of memory for variable " + v.name);
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
