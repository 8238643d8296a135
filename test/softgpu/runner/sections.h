// Which section of the PTX ISA describes an instruction.
#pragma once

#include <string>

#include "ptx/syntax.h"

namespace runner {

bool isInSection(const softgpu::ptx::Statement& statement, const std::string& section);

}  // namespace runner
