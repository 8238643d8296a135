// Checks that what the software GPU cannot execute is refused by name.
#pragma once

namespace runner {

// Prints one line per form; the number of forms that were taken, or refused without their name.
int checkRefusals();

}  // namespace runner
