// Parses PTX text into a syntax tree. Knows the grammar, but no instruction.
#pragma once

#include <string_view>

#include "ptx/syntax.h"

namespace softgpu::ptx {

Tree parse(std::string_view source);

// Bytes of a fundamental type name without its dot (u8, f16x2, b128, pred); 0 if it is none.
u32 typeBytes(std::string_view name);

}  // namespace softgpu::ptx
