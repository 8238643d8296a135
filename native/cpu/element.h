// From the dtype that an operation carries to the code for it: float, BFloat16 or Float16.
#pragma once

#include "../core/error.h"
#include "../shared/dtype.h"
#include "../shared/float16.h"

namespace moe::cpu {

template <class T>
const T* elements(const void* data) {
  return static_cast<const T*>(data);
}

template <class T>
T* elements(void* data) {
  return static_cast<T*>(data);
}

/// body.operator()<T>(), T being the type of the elements.
template <class Body>
void withElement(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::Float32:
      return body.template operator()<float>();
    case DType::BFloat16:
      return body.template operator()<BFloat16>();
    case DType::Float16:
      return body.template operator()<Float16>();
    case DType::Int32:
      break;
  }
  throw Error(ErrorCode::Internal, "an operation on floats was given int32");
}

}  // namespace moe::cpu
