#include "faults_host.h"

#include <cstdio>

#include "gpu.h"

namespace runner {

const char* const kHostPtx = R"(.version 8.0
.target sm_80
.address_size 64
.visible .entry plain(.param .u64 pa) { .reg .b64 %a; .reg .b32 %t; ld.param.u64 %a, [pa]; ld.global.u32 %t, [%a]; ret; }
.visible .entry bounded(.param .u64 pa) .maxntid 128, 1, 1 {
  .reg .b32 %t; .shared .align 16 .b8 tile[32]; mov.u32 %t, 0; st.shared.u32 [tile], %t; ret;
}
)";

namespace {

void start(CUfunction f, CUdeviceptr a, unsigned gx, unsigned gy, unsigned bx, unsigned by, unsigned shared,
           bool cooperative = false) {
  void* arguments[] = {&a};
  if (cooperative) {
    cuLaunchCooperativeKernel(f, gx, gy, 1, bx, by, 1, shared, nullptr, arguments);
  } else {
    cuLaunchKernel(f, gx, gy, 1, bx, by, 1, shared, nullptr, arguments, nullptr);
  }
  cuCtxSynchronize();
}

// Where the buffer is that a program makes for itself.
void sayOther(CUdeviceptr other) { std::printf("{\"other\":%llu}\n", other); }

}  // namespace

const std::vector<HostCase>& hostCases() {
  static const std::vector<HostCase> cases = {
      {"a grid without blocks", "invalid-launch", "plain",
       [](CUfunction f, CUfunction, CUdeviceptr a) { start(f, a, 0, 1, 32, 1, 0); }},
      {"a block without threads", "invalid-launch", "plain",
       [](CUfunction f, CUfunction, CUdeviceptr a) { start(f, a, 1, 1, 0, 1, 0); }},
      {"too many threads", "invalid-launch", "plain",
       [](CUfunction f, CUfunction, CUdeviceptr a) { start(f, a, 1, 1, 64, 32, 0); }},
      {"more threads than the kernel's bounds", "invalid-launch", "bounded",
       [](CUfunction, CUfunction f, CUdeviceptr a) { start(f, a, 1, 1, 160, 1, 0); }},
      {"too many rows of blocks", "invalid-launch", "plain",
       [](CUfunction f, CUfunction, CUdeviceptr a) { start(f, a, 1, 65536, 32, 1, 0); }},
      {"more shared memory than was asked for", "invalid-launch", "plain",
       [](CUfunction f, CUfunction, CUdeviceptr a) { start(f, a, 1, 1, 32, 1, 49 * 1024); }},
      {"shared memory whose size wraps around", "invalid-launch", "bounded",
       [](CUfunction, CUfunction f, CUdeviceptr a) { start(f, a, 1, 1, 32, 1, 0xfffffff0); }},
      {"a cooperative grid that does not fit", "invalid-launch", "plain",
       [](CUfunction f, CUfunction, CUdeviceptr a) { start(f, a, 1000, 1, 1024, 1, 0, true); }},
      {"a cluster of two blocks", "invalid-launch", "plain",
       [](CUfunction f, CUfunction, CUdeviceptr a) {
         void* arguments[] = {&a};
         CUlaunchAttribute cluster{};
         cluster.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
         cluster.value.clusterDim = {2, 1, 1};
         CUlaunchConfig config{2, 1, 1, 32, 1, 1, 0, nullptr, &cluster, 1};
         cuLaunchKernelEx(&config, f, arguments, nullptr);
       }},
      {"a kernel that reads freed memory", "use-after-free", "plain",
       [](CUfunction f, CUfunction, CUdeviceptr a) {
         CHECK(cuMemFree(a));
         start(f, a, 1, 1, 1, 1, 0);
       },
       "a", 0, 4},
      {"a kernel that reads what its stream has freed", "use-after-free", "plain",
       [](CUfunction f, CUfunction, CUdeviceptr a) {
         CHECK(cuMemFreeAsync(a, nullptr));
         start(f, a, 1, 1, 1, 1, 0);
       },
       "a", 0, 4},
      {"a copy from freed memory", "use-after-free", "",
       [](CUfunction, CUfunction, CUdeviceptr a) {
         unsigned word = 0;
         CHECK(cuMemFree(a));
         cuMemcpyDtoH(&word, a + 8, 4);
       },
       "a", 8, 4},
      {"a copy beyond the end", "out-of-bounds", "",
       [](CUfunction, CUfunction, CUdeviceptr a) {
         unsigned words[2] = {};
         cuMemcpyHtoD(a + 252, words, 8);
       },
       "a", 252, 8},
      {"a copy beyond the end of pinned memory", "out-of-bounds", "",
       [](CUfunction, CUfunction, CUdeviceptr a) {
         void* pinned = nullptr;
         CHECK(cuMemHostAlloc(&pinned, 64, 0));
         sayOther(reinterpret_cast<CUdeviceptr>(pinned));
         cuMemcpyDtoHAsync(pinned, a, 128, nullptr);
         cuCtxSynchronize();
         cuMemFreeHost(pinned);
       },
       "other", 0, 128},
      {"a copy from beyond the end of pinned memory", "out-of-bounds", "",
       [](CUfunction, CUfunction, CUdeviceptr a) {
         void* pinned = nullptr;
         CHECK(cuMemHostAlloc(&pinned, 64, 0));
         sayOther(reinterpret_cast<CUdeviceptr>(pinned));
         cuMemcpyHtoDAsync(a, static_cast<char*>(pinned) + 64, 4, nullptr);
         cuCtxSynchronize();
         cuMemFreeHost(pinned);
       },
       "other", 64, 4},
      {"a copy to freed pinned memory", "use-after-free", "",
       [](CUfunction, CUfunction, CUdeviceptr a) {
         void* pinned = nullptr;
         CHECK(cuMemHostAlloc(&pinned, 64, 0));
         sayOther(reinterpret_cast<CUdeviceptr>(pinned));
         CHECK(cuMemFreeHost(pinned));
         cuMemcpyDtoH(pinned, a, 4);
       },
       "other", 0, 4},
      {"a copy from freed pinned memory, staged", "use-after-free", "",
       [](CUfunction, CUfunction, CUdeviceptr a) {
         void* pinned = nullptr;
         CHECK(cuMemHostAlloc(&pinned, 64, 0));
         sayOther(reinterpret_cast<CUdeviceptr>(pinned));
         CHECK(cuMemFreeHost(pinned));
         cuMemcpyHtoDAsync(a, pinned, 4, nullptr);
         cuCtxSynchronize();
       },
       "other", 0, 4},
      {"a copy between addresses, of which one is freed", "use-after-free", "",
       [](CUfunction, CUfunction, CUdeviceptr a) {
         CUdeviceptr freed = 0;
         CHECK(cuMemAlloc(&freed, 64));
         sayOther(freed);
         CHECK(cuMemFree(freed));
         cuMemcpy(freed, a, 8);
       },
       "other", 0, 8},
      {"a fill beyond the end", "out-of-bounds", "",
       [](CUfunction, CUfunction, CUdeviceptr a) { cuMemsetD32(a, 0, 65); }, "a", 0, 260},
      {"a copy to the host of memory nobody wrote", "uninitialised-copy", "",
       [](CUfunction, CUfunction, CUdeviceptr a) {
         unsigned words[kWords] = {};
         CUdeviceptr fresh = 0;
         CHECK(cuMemAlloc(&fresh, sizeof words));
         // The mark travels with a copy on the device; the first half is overwritten.
         CHECK(cuMemcpyDtoD(a, fresh, sizeof words));
         CHECK(cuMemcpyHtoD(a, words, 128));
         CHECK(cuMemcpyDtoH(words, a, sizeof words));
         CHECK(cuMemFree(fresh));
       },
       "a", 128, 128},
      {"memory that is never freed", "leak", "",
       [](CUfunction, CUfunction, CUdeviceptr) {
         CUdeviceptr lost = 0;
         CHECK(cuMemAlloc(&lost, 100));
       },
       "", 0, 100},
      {"pinned memory that is never freed", "leak", "",
       [](CUfunction, CUfunction, CUdeviceptr) {
         void* lost = nullptr;
         CHECK(cuMemHostAlloc(&lost, 200, 0));
       },
       "", 0, 200},
  };
  return cases;
}

}  // namespace runner
