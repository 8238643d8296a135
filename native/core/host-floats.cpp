#include "host-floats.h"

#include "../shared/float16.h"

namespace moe {

namespace {

template <class To, class From>
void convertAll(const From* from, int64_t n, To* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = convertTo<To>(from[i]);
}

}  // namespace

void widenFloats(DType from, const void* bits, int64_t n, float* to) {
  if (from == DType::BFloat16)
    convertAll(static_cast<const BFloat16*>(bits), n, to);
  else
    convertAll(static_cast<const Float16*>(bits), n, to);
}

void roundFloats(const float* from, int64_t n, DType to, void* bits) {
  if (to == DType::BFloat16)
    convertAll(from, n, static_cast<BFloat16*>(bits));
  else
    convertAll(from, n, static_cast<Float16*>(bits));
}

}  // namespace moe
