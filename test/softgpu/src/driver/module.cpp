// Modules: which PTX of an image the driver would compile for this device, and what is in it.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>

#include "driver/fatbin.h"
#include "driver/function.h"
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
  if (!isFatbin(image)) {
    const std::string_view text = static_cast<const char*>(image);
    // Text that is no PTX is no image at all.
    if (text.find(".version") == std::string_view::npos) return {{}, CUDA_ERROR_INVALID_IMAGE};
    return {text, CUDA_SUCCESS};
  }
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

// The driver that a PTX version came with: it rejects newer ones.
int driverFor(const std::string& version) {
  struct Row {
    int ptx, driver;
  };
  constexpr Row kTable[] = {{70, 11000}, {71, 11010}, {72, 11020}, {73, 11030}, {74, 11040}, {75, 11050}, {76, 11060},
                            {77, 11070}, {78, 11080}, {80, 12000}, {81, 12010}, {82, 12020}, {83, 12030}, {84, 12040},
                            {85, 12050}, {86, 12070}, {87, 12080}, {88, 12090}, {90, 13000}};
  const size_t dot = version.find('.');
  const int ptx =
      std::atoi(version.c_str()) * 10 + (dot == std::string::npos ? 0 : std::atoi(version.c_str() + dot + 1));
  for (const Row& row : kTable) {
    if (ptx <= row.ptx) return row.driver;
  }
  return CUDA_VERSION;
}

CUresult build(CUmod_st& module, const Choice& choice) {
  const ptx::Tree tree = ptx::parse(choice.text);
  if (options().driverVersion && driverFor(tree.version) > options().driverVersion) {
    return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
  }
  if (!runsHere(tree)) return CUDA_ERROR_NO_BINARY_FOR_GPU;
  std::vector<std::pair<u64, const ptx::Variable*>> placed;
  module.program = ptx::lower(tree, [&](const ptx::Variable& v) {
    Allocation* a = arena().allocate(std::max<u64>(v.size, 1), MemoryKind::kModule);
    if (!a) throw ptx::PtxError(0, "out of memory for variable " + v.name);
    a->constant = v.space == ptx::Space::kConst;
    module.allocations.push_back(a->base);
    std::memcpy(reinterpret_cast<void*>(a->base), v.initial.data(), v.initial.size());
    a->setRangeInitialised(a->base, v.size);
    placed.push_back({a->base, &v});
    return ptx::ModuleSymbol{v.space, a->base, v.size};
  });
  for (auto [base, v] : placed) {
    for (const auto& reference : v->references) {
      auto it = module.program->symbols.find(reference.symbol);
      if (it == module.program->symbols.end()) throw ptx::PtxError(0, "unknown symbol " + reference.symbol);
      const u64 value = it->second.address + static_cast<u64>(reference.offset);
      std::memcpy(reinterpret_cast<void*>(base + reference.at), &value, 8);
    }
  }
  return CUDA_SUCCESS;
}

}  // namespace

CUresult softgpu::loadModule(CUmodule* out, const void* image, std::string* log) {
  SOFTGPU_NOT_NULL(out);
  SOFTGPU_NOT_NULL(image);
  SOFTGPU_TRY(notCapturing());
  if (device().refusesAllocation()) return CUDA_ERROR_OUT_OF_MEMORY;
  const Choice choice = choosePtx(image);
  if (choice.error != CUDA_SUCCESS) return choice.error;
  auto module = std::make_unique<CUmod_st>();
  CUresult result = CUDA_ERROR_INVALID_PTX;
  try {
    result = build(*module, choice);
  } catch (const ptx::PtxError& e) {
    std::fprintf(stderr, "softgpu: %s\n", e.what());
    if (log) *log = e.what();
  }
  if (result != CUDA_SUCCESS) {
    for (u64 base : module->allocations) arena().free(base);
    return result;
  }
  *out = device().modules.add(std::move(module));
  return CUDA_SUCCESS;
}

CUresult softgpu::unloadModule(CUmodule module) {
  SOFTGPU_HANDLE(modules, module);
  device().finishAll();
  std::vector<CUfunction> gone;
  device().functions.forEach([&](CUfunc_st& f) {
    if (f.module == module) gone.push_back(&f);
  });
  for (CUfunction f : gone) device().functions.take(f);
  for (u64 base : module->allocations) arena().free(base);
  device().modules.take(module);
  return CUDA_SUCCESS;
}

// The same function for the same name, each time.
CUresult softgpu::findFunction(CUfunction* out, CUmodule module, const char* name) {
  SOFTGPU_HANDLE(modules, module);
  SOFTGPU_NOT_NULL(out);
  SOFTGPU_NOT_NULL(name);
  std::lock_guard lock(device().mutex);
  auto it = module->program->kernels.find(name);
  if (it == module->program->kernels.end()) return CUDA_ERROR_NOT_FOUND;
  *out = nullptr;
  device().functions.forEach([&](CUfunc_st& f) {
    if (f.kernel == it->second.get()) *out = &f;
  });
  if (*out) return CUDA_SUCCESS;
  auto function = std::make_unique<CUfunc_st>();
  function->name = name;
  function->kernel = it->second.get();
  function->module = module;
  *out = device().functions.add(std::move(function));
  return CUDA_SUCCESS;
}

CUresult softgpu::findGlobal(CUdeviceptr* address, size_t* bytes, CUmodule module, const char* name) {
  SOFTGPU_HANDLE(modules, module);
  SOFTGPU_NOT_NULL(name);
  auto it = module->program->symbols.find(name);
  if (it == module->program->symbols.end()) return CUDA_ERROR_NOT_FOUND;
  if (address) *address = it->second.address;
  if (bytes) *bytes = it->second.bytes;
  return CUDA_SUCCESS;
}

SOFTGPU_API cuModuleLoadData(CUmodule* out, const void* image) {
  SOFTGPU_ENTER(kAllocating);
  return loadModule(out, image, nullptr);
}
SOFTGPU_API cuModuleLoadFatBinary(CUmodule* out, const void* image) {
  SOFTGPU_ENTER(kAllocating);
  return loadModule(out, image, nullptr);
}
SOFTGPU_API cuModuleLoad(CUmodule* out, const char* path) {
  SOFTGPU_ENTER(kAllocating);
  SOFTGPU_NOT_NULL(path);
  std::ifstream file(path, std::ios::binary);
  if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
  const std::string image{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return loadModule(out, image.c_str(), nullptr);
}

SOFTGPU_API cuModuleLoadDataEx(CUmodule* out, const void* image, unsigned count, CUjit_option* names, void** values) {
  SOFTGPU_ENTER(kAllocating);
  std::string log;
  const CUresult result = loadModule(out, image, &log);
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
  SOFTGPU_ENTER(kFreeing);
  SOFTGPU_TRY(notCapturing());
  return unloadModule(module);
}
SOFTGPU_API cuModuleGetFunction(CUfunction* out, CUmodule module, const char* name) {
  SOFTGPU_ENTER(kOther);
  return findFunction(out, module, name);
}
SOFTGPU_API cuModuleGetFunctionCount(unsigned* count, CUmodule module) {
  SOFTGPU_ENTER(kOther);
  SOFTGPU_HANDLE(modules, module);
  *count = static_cast<unsigned>(module->program->kernels.size());
  return CUDA_SUCCESS;
}
SOFTGPU_API cuModuleGetGlobal(CUdeviceptr* address, size_t* bytes, CUmodule module, const char* name) {
  SOFTGPU_ENTER(kOther);
  return findGlobal(address, bytes, module, name);
}
SOFTGPU_API cuModuleGetLoadingMode(CUmoduleLoadingMode* mode) {
  SOFTGPU_CALL(kOther);
  SOFTGPU_NOT_NULL(mode);
  *mode = CU_MODULE_EAGER_LOADING;
  return CUDA_SUCCESS;
}
