// Parses PTX text into a syntax tree. Knows the grammar, but no instruction.
#pragma once

#include <string>
#include <string_view>

#include "ptx/syntax.h"

namespace softgpu::ptx {

Tree parse(std::string_view source);

// The bits of a numeric literal for an element of the named type; a decimal point makes it a real number.
u64 literalBits(const std::string& text, std::string_view type);

// Bytes of a fundamental type name without its dot (u8, f16x2, b128, pred); 0 if it is none.
u32 typeBytes(std::string_view name);

}  // namespace softgpu::ptx
