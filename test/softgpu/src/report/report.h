// The report file: one JSON object per line, for each launch, each fault outside a launch, and the calls of a program.
// Faults also go to stderr, one line each, when they are found.
#pragma once

#include <string_view>

#include "exec/launch.h"

namespace softgpu {

void reportLaunch(const Launch& launch, u64 stream);
void reportFault(const Fault& fault);
// One more line of the report, if there is one.
void writeReport(const std::string& line);

// A JSON string.
std::string quoted(std::string_view text);
// Appends to a file that several threads and processes may share.
void appendLine(const std::string& path, const std::string& line);

}  // namespace softgpu
