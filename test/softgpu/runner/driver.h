// Checks of the driver API: streams, events, callbacks, graphs, memory and errors.
#pragma once

namespace runner {

// Prints one line per check; 0 when all passed.
int checkDriver();

}  // namespace runner
