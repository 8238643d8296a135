// 16-bit floats on their way from and to JavaScript, which has only the wider ones: on the host, so that reading a
// tensor needs no memory of the device.
#pragma once

#include <cstdint>

#include "../shared/dtype.h"

namespace moe {

/// Whether a host array of that dtype can be read from and written to a tensor of the other: its own dtype, or float32
/// for any float.
constexpr bool isHostDType(DType host, DType tensor) {
  return host == tensor || (host == DType::Float32 && tensor != DType::Int32);
}

/// `bits` [n] of BFloat16 or Float16.
void widenFloats(DType from, const void* bits, int64_t n, float* to);
void roundFloats(const float* from, int64_t n, DType to, void* bits);

}  // namespace moe
