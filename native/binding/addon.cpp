// The addon's entry: per-environment state, and the list of exports in the order of lib/binding.ts.
#include <fstream>
#include <string>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#include <unistd.h>

#include "../cpu/isa.h"
#include "../cuda/devices.h"
#include "../cuda/kernels.h"
#include "../cuda/tiles.h"
#include "guard.h"

namespace moe::binding {

namespace {

Napi::Value initialize(const Napi::CallbackInfo& info) {
  Environment::of(info.Env()).setErrorClass(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

std::string processorName() {
#if defined(__APPLE__)
  char name[256];
  size_t size = sizeof(name);
  if (sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) == 0) return name;
#else
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("model name", 0) == 0)
      if (const size_t colon = line.find(": "); colon != std::string::npos) return line.substr(colon + 2);
#endif
  return "CPU";
}

/// Bytes this process may use: physical memory, or its control group's limit when that is lower.
double usableMemory() {
  double bytes = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream file(path);
    if (double limit; file >> limit && limit > 0 && limit < bytes) bytes = limit;
  }
  return bytes;
}

Napi::Value cpuInfo(const Napi::CallbackInfo& info) {
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("name", processorName());
  result.Set("isa", cpu::isaName(cpu::detectIsa()));
  result.Set("memoryBytes", usableMemory());
  return result;
}

Napi::Value cudaDevices(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const cuda::GpuList list = cuda::listGpus(boolean(info[0]));
  Napi::Array gpus = Napi::Array::New(env);
  for (const cuda::GpuInfo& gpu : list.gpus) {
    Napi::Object object = Napi::Object::New(env);
    object.Set("name", gpu.name);
    object.Set("reason", gpu.reason);
    object.Set("computeCapability", std::to_string(gpu.major) + "." + std::to_string(gpu.minor));
    object.Set("multiprocessors", gpu.multiprocessors);
    object.Set("memoryBytes", gpu.memoryBytes);
    gpus.Set(gpus.Length(), object);
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("reason", list.reason);
  result.Set("driverVersion", list.driverVersion);
  result.Set("gpus", gpus);
  return result;
}

/// The tiles that the experts stage takes for a shape on a GPU of given size: no device is asked.
Napi::Value cudaTiles(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object given = info[0].As<Napi::Object>();
  const auto of = [&](const char* name) { return integer(given.Get(name)); };
  const cuda::ExpertsShape shape{
      static_cast<DType>(of("dtype")), count(given.Get("rows")), of("numExperts"), of("hiddenSize"), of("ffnSize"),
      boolean(given.Get("gated"))};
  Napi::Array products = Napi::Array::New(env);
  for (const cuda::PlannedProduct& product :
       cuda::planExperts(shape, {of("multiprocessors"), of("sharedBytesPerBlock")})) {
    Napi::Object object = Napi::Object::New(env);
    object.Set("kernel", product.kernel);
    object.Set("tile", product.choice.describe(shape.dtype));
    products.Set(products.Length(), object);
  }
  return products;
}

Napi::Object buildInfo(Napi::Env env) {
  Napi::Object build = Napi::Object::New(env);
  build.Set("compiler", __VERSION__);
  const cuda::KernelBuild& kernels = cuda::kernelBuild();
  build.Set("cuda", kernels.built);
  build.Set("cudaReason", kernels.reason);
  build.Set("cudaFolder", cuda::kernelFolder());
  Napi::Object checksums = Napi::Object::New(env);
  for (const auto& [name, checksum] : kernels.checksums) checksums.Set(name, checksum);
  build.Set("cudaChecksums", checksums);
  return build;
}

Napi::Object start(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Environment(env));
  exports.Set("build", buildInfo(env));
  expose<initialize>(exports, "initialize");
  expose<cpuInfo>(exports, "cpuInfo");
  expose<cudaDevices>(exports, "cudaDevices");
  expose<cudaTiles>(exports, "cudaTiles");
  exposeTensors(exports);
  exposeLayer(exports);
  exposeModules(exports);
  exposeOps(exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(switchyard, start)

}  // namespace moe::binding
