// Cases of special registers, as a block of one warp in a grid of one block has them (the runner's driver checks tell
// the coordinates of a larger grid apart), and of the registers that hold masks of lanes.
#include "builder.h"

namespace runner {

std::vector<Case> specialCases() {
  Builder b;
  const Rows none{{0}};
  auto constant = [&](const char* section, const std::string& name, uint64_t value) {
    b.text(section, "mov.u32 %d, " + name + ";", "w", none, [value](Lane, unsigned) { return value; });
  };
  b.text("10.1", "mov.u32 %d, %tid.x;", "w", none, [](Lane, unsigned l) { return l; });
  b.text("10.3", "mov.u32 %d, %laneid;", "w", none, [](Lane, unsigned l) { return l; });
  constant("10.1", "%tid.y", 0);
  constant("10.1", "%tid.z", 0);
  constant("10.2", "%ntid.x", 32);
  constant("10.2", "%ntid.y", 1);
  constant("10.2", "%ntid.z", 1);
  constant("10.4", "%warpid", 0);
  constant("10.5", "%nwarpid", 64);
  for (const char* axis : {".x", ".y", ".z"}) {
    constant("10.6", std::string("%ctaid") + axis, 0);
    constant("10.7", std::string("%nctaid") + axis, 1);
  }
  // Of a launch that is not cooperative there is no workspace.
  constant("10.28", "%envreg1", 0);
  constant("10.28", "%envreg2", 0);
  b.text("10.18", "mov.u32 %d, %lanemask_eq;", "w", none, [](Lane, unsigned l) { return uint64_t{1} << l; });
  b.text("10.19", "mov.u32 %d, %lanemask_le;", "w", none, [](Lane, unsigned l) { return (uint64_t{2} << l) - 1; });
  b.text("10.20", "mov.u32 %d, %lanemask_lt;", "w", none, [](Lane, unsigned l) { return (uint64_t{1} << l) - 1; });
  b.text("10.21", "mov.u32 %d, %lanemask_ge;", "w", none, [](Lane, unsigned l) { return ~uint64_t{0} << l; });
  b.text("10.22", "mov.u32 %d, %lanemask_gt;", "w", none, [](Lane, unsigned l) { return ~uint64_t{1} << l; });
  return std::move(b.cases);
}

}  // namespace runner
