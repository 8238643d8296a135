// One small program per fault, each doing one thing wrong; and some that do nothing wrong.
#pragma once

#include <string>

namespace runner {

// One JSON object per line and program: its name and what the report must say.
void listFaults();
// The PTX of a program's kernels.
std::string faultPtx(const std::string& name);
// Runs a program and prints where its buffers are. The status does not matter: the report does.
void provoke(const std::string& name);

}  // namespace runner
