// PTX instruction types, and the one place that maps them to C++ types.
#pragma once

#include <optional>
#include <string_view>
#include <type_traits>

#include "base/types.h"

namespace softgpu::ptx {

enum class Type : u8 {
  kB8,
  kB16,
  kB32,
  kB64,
  kB128,
  kU8,
  kU16,
  kU32,
  kU64,
  kS8,
  kS16,
  kS32,
  kS64,
  kU16x2,
  kS16x2,
  kF16,
  kF16x2,
  kBf16,
  kBf16x2,
  kTf32,
  kF32,
  kF64,
  kPred,
};  // clang-format would put each on its own line

struct TypeName {
  std::string_view name;
  Type type;
  u32 bytes;
};

constexpr TypeName kTypeNames[] = {
    {"b8", Type::kB8, 1},       {"b16", Type::kB16, 2},     {"b32", Type::kB32, 4},       {"b64", Type::kB64, 8},
    {"b128", Type::kB128, 16},  {"u8", Type::kU8, 1},       {"u16", Type::kU16, 2},       {"u32", Type::kU32, 4},
    {"u64", Type::kU64, 8},     {"s8", Type::kS8, 1},       {"s16", Type::kS16, 2},       {"s32", Type::kS32, 4},
    {"s64", Type::kS64, 8},     {"u16x2", Type::kU16x2, 4}, {"s16x2", Type::kS16x2, 4},   {"f16", Type::kF16, 2},
    {"f16x2", Type::kF16x2, 4}, {"bf16", Type::kBf16, 2},   {"bf16x2", Type::kBf16x2, 4}, {"tf32", Type::kTf32, 4},
    {"f32", Type::kF32, 4},     {"f64", Type::kF64, 8},     {"pred", Type::kPred, 4},
};

inline std::optional<Type> typeNamed(std::string_view name) {
  for (const TypeName& t : kTypeNames) {
    if (t.name == name) return t.type;
  }
  return std::nullopt;
}
inline u32 bytesOf(Type type) { return kTypeNames[static_cast<u32>(type)].bytes; }
inline std::string_view nameOf(Type type) { return kTypeNames[static_cast<u32>(type)].name; }
inline bool isFloat(Type type) { return type >= Type::kF16 && type <= Type::kF64; }
inline bool isSigned(Type type) { return type >= Type::kS8 && type <= Type::kS64; }

// Calls `body` with a value of the C++ type for an integer or bit type of 8 to 64 bits, or for f32 and f64; returns a
// null Result for every other type.
template <class Result, class Body>
Result forInteger(Type type, Body body) {
  switch (type) {
    case Type::kB8:
    case Type::kU8:
      return body(u8());
    case Type::kS8:
      return body(i8());
    case Type::kB16:
    case Type::kU16:
      return body(u16());
    case Type::kS16:
      return body(i16());
    case Type::kB32:
    case Type::kU32:
      return body(u32());
    case Type::kS32:
      return body(i32());
    case Type::kB64:
    case Type::kU64:
      return body(u64());
    case Type::kS64:
      return body(i64());
    default:
      return Result();
  }
}

// The same for an unsigned word of the type's size, whatever the type means.
template <class Result, class Body>
Result forBits(Type type, Body body) {
  switch (bytesOf(type)) {
    case 1:
      return body(u8());
    case 2:
      return body(u16());
    case 4:
      return body(u32());
    case 8:
      return body(u64());
    default:
      return Result();
  }
}

}  // namespace softgpu::ptx
