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
  };
  return cases;
}

}  // namespace runner
