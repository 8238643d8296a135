// What every kernel needs: elements and their conversion to float32, the guard that makes poisoned operations do
// nothing, and reductions over warps and blocks with a fixed tree.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "../native/shared/float16.h"
#include "../native/shared/operations.h"
#include "../native/shared/status.h"

namespace moe {

constexpr int warpSize_ = 32;
constexpr unsigned wholeWarp = 0xffffffffu;

// ------------------------------------------------------------------------------------------------ elements

using bfloat16 = __nv_bfloat16;
using float16 = __half;

/// Calls macro(name, type) for every float dtype: kernels are named after it, as in "add_bfloat16".
#define MOE_FLOAT_TYPES(macro) macro(float32, float) macro(bfloat16, moe::bfloat16) macro(float16, moe::float16)

__device__ inline float toFloat(bfloat16 x) { return __bfloat162float(x); }
__device__ inline float toFloat(float16 x) { return __half2float(x); }

/// To nearest even.
template <class T>
__device__ inline T fromFloat(float x);
template <>
__device__ inline float fromFloat<float>(float x) {
  return x;
}
template <>
__device__ inline bfloat16 fromFloat<bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ inline float16 fromFloat<float16>(float x) {
  return __float2half_rn(x);
}

/// Of a mask [T], which may be null.
__device__ inline bool isLive(const int32_t* mask, int64_t t) { return !mask || mask[t] != 0; }

// ------------------------------------------------------------------------------------------------ guard

__device__ inline FaultWord earlier(FaultWord a, FaultWord b) { return a < b ? a : b; }

/// What goes with a word that one of the inputs has.
__device__ inline FaultValue inheritedValue(const Guard& guard, FaultWord word) {
  for (int i = 0; i < guard.inputCount; ++i)
    if (guard.inputs[i]->inherited == word || guard.inputs[i]->own == word) return guard.inputs[i]->value;
  return noValue;
}

/// False when the operation must do nothing. Every thread of every kernel asks this first; an operation's first kernel
/// also writes what the operation inherits from its inputs. A kernel that looks for faults itself asks with
/// `findsFaults`: it must not stop at what another of its blocks has found, or the lowest index would be missed.
__device__ inline bool enter(const Guard& guard, bool findsFaults = false) {
  FaultWord word = noFault;
  for (int i = 0; i < guard.inputCount; ++i) {
    const Status& input = *guard.inputs[i];
    const bool skipOwn = findsFaults && guard.inputs[i] == guard.status;
    word = earlier(word, skipOwn ? input.inherited : earlier(input.inherited, input.own));
  }
  if (guard.first && blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0 && threadIdx.x == 0) {
    const FaultValue value = word == noFault ? noValue : inheritedValue(guard, word);
    if (guard.status) {
      guard.status->inherited = word;
      if (guard.resetOwn) guard.status->own = noFault;
      if (guard.resetOwn || word != noFault) guard.status->value = value;
    }
    for (int i = 0; i < guard.gradientCount; ++i) {
      Status& gradient = *guard.gradients[i];
      const bool fresh = guard.freshGradients >> i & 1u;
      if (fresh) gradient.own = noFault;
      if (!fresh && word >= gradient.inherited) continue;
      gradient.inherited = word;
      gradient.value = value;
    }
  }
  return word == noFault;
}

/// A fault of an index: `value` is its faultValue().
__device__ inline void noteFault(const Guard& guard, Fault fault, int64_t index, FaultValue value) {
  atomicMin(&guard.status->own, faultWord(guard.operation, fault, index));
  atomicMin(&guard.status->value, value);
}

// ------------------------------------------------------------------------------------------------ reductions

struct Sum {
  template <class T>
  __device__ static T combine(T a, T b) {
    return a + b;
  }
};

/// NaN wins.
struct Maximum {
  __device__ static float combine(float a, float b) { return a != a || a > b ? a : b; }
};

/// In every lane.
template <class Combine, class T>
__device__ inline T warpReduce(T x) {
  for (int distance = warpSize_ / 2; distance > 0; distance /= 2)
    x = Combine::combine(x, __shfl_xor_sync(wholeWarp, x, distance));
  return x;
}

template <class T>
__device__ inline T warpSum(T x) {
  return warpReduce<Sum>(x);
}

__device__ inline int lane() { return threadIdx.x % warpSize_; }
__device__ inline int warp() { return threadIdx.x / warpSize_; }

/// In every thread; `scratch` holds one element per warp and may be used again after the next barrier.
template <class T>
__device__ inline T blockSum(T x, T* scratch) {
  x = warpSum(x);
  if (lane() == 0) scratch[warp()] = x;
  __syncthreads();
  T sum = scratch[0];
  for (int i = 1; i < static_cast<int>(blockDim.x) / warpSize_; ++i) sum += scratch[i];
  return sum;
}

}  // namespace moe
