#include "fault_case.h"

namespace runner {

const std::vector<FaultCase>& orderCases() {
  static const std::vector<FaultCase> cases = {
      // ---- fences of different scopes
      {"a fence of the block behind one of the device", "none",
       "setp.eq.u32 %p, %block, 1;\n@%p bra WAIT;\nst.global.u32 [%a], 9;\nfence.acq_rel.gpu;\nfence.acq_rel.cta;\n"
       "st.relaxed.gpu.global.u32 [%a+128], 77;\nret;\nWAIT:\nld.acquire.gpu.global.u32 %t1, [%a+128];\n"
       "setp.ne.u32 %p, %t1, 77;\n@%p bra WAIT;\nld.global.u32 %t2, [%a];",
       "", 0, 0, "", 0, 0, 1, 2},
      {"a store that only the block's fence follows", "global-race",
       "setp.eq.u32 %p, %block, 1;\n@%p bra WAIT;\nfence.acq_rel.gpu;\nst.global.u32 [%a], 9;\nfence.acq_rel.cta;\n"
       "st.relaxed.gpu.global.u32 [%a+128], 77;\nret;\nWAIT:\nld.acquire.gpu.global.u32 %t1, [%a+128];\n"
       "setp.ne.u32 %p, %t1, 77;\n@%p bra WAIT;\nld.global.u32 %t2, [%a];",
       "ld.global.u32 %t2, [%a]", 0, 1, "a", 0, 4, 1, 2},
      // ---- words of shared memory that several warps read
      {"a lane writes what another one of its warp just read, and all warps before", "shared-race",
       "shl.b32 %t1, %id, 2;\nst.shared.u32 [%t1], %id;\nbar.sync 0;\nld.shared.u32 %t2, [tile+4];\nbar.sync 0;\n"
       "setp.eq.u32 %p, %id, 0;\n@%p ld.shared.u32 %t2, [tile+4];\nsetp.eq.u32 %p, %id, 1;\n"
       "@%p st.shared.u32 [tile+4], %id;",
       "@%p st.shared.u32 [tile+4], %id", 1, 0, "", 4, 4},
      {"a lane writes what it just read, and all warps before", "none",
       "shl.b32 %t1, %id, 2;\nst.shared.u32 [%t1], %id;\nbar.sync 0;\nld.shared.u32 %t2, [tile+4];\nbar.sync 0;\n"
       "setp.eq.u32 %p, %id, 1;\n@%p ld.shared.u32 %t2, [tile+4];\n@%p st.shared.u32 [tile+4], %id;",
       ""},
      {"strong accesses of what all warps read before the barrier", "none",
       "shl.b32 %t1, %id, 2;\nst.shared.u32 [%t1], %id;\nbar.sync 0;\nld.shared.u32 %t2, [tile+4];\nbar.sync 0;\n"
       "setp.lt.u32 %p, %id, 32;\n@%p ld.volatile.shared.u32 %t2, [tile+4];\n@!%p red.shared.add.u32 [tile+4], 1;",
       ""},
  };
  return cases;
}

}  // namespace runner
