// The element types of tensors.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moe {

enum class DType : int32_t { Float32, BFloat16, Float16, Int32 };

constexpr size_t dtypeSize(DType dtype) { return dtype == DType::BFloat16 || dtype == DType::Float16 ? 2 : 4; }

constexpr const char* dtypeName(DType dtype) {
  switch (dtype) {
    case DType::Float32:
      return "float32";
    case DType::BFloat16:
      return "bfloat16";
    case DType::Float16:
      return "float16";
    case DType::Int32:
      return "int32";
  }
  return "";
}

}  // namespace moe
