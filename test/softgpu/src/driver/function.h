// What launches and functions share.
#pragma once

#include "driver/state.h"

namespace softgpu {

// How many blocks fit a multiprocessor.
u32 blocksPerMultiprocessor(const CUfunc_st& f, u32 threads, u64 dynamicShared);
CUresult findGlobal(CUdeviceptr* address, size_t* bytes, CUmodule module, const char* name);

}  // namespace softgpu
