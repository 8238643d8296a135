// What is wrong with a PTX text, and where: thrown by the lexer, the parser and the lowering.
#pragma once

#include <stdexcept>
#include <string>

#include "base/types.h"

namespace softgpu::ptx {

struct PtxError : std::runtime_error {
  PtxError(u32 atLine, const std::string& what)
      : std::runtime_error("PTX line " + std::to_string(atLine) + ": " + what), line(atLine) {}
  u32 line;
};

}  // namespace softgpu::ptx
