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
      // ---- plain accesses of what atomics change
      {"a plain read of what blocks add up by atomics", "global-race",
       "red.global.add.u32 [%a], 1;\nld.global.u32 %t1, [%a];", "red.global.add.u32 [%a], 1", 0, 1, "a", 0, 4, 1, 2},
      {"a plain read by whole warps of what blocks add up by atomics", "global-race",
       "mad.wide.u32 %x0, %id, 4, %a;\nred.global.add.u32 [%x0], 1;\nld.global.u32 %t1, [%x0];",
       "red.global.add.u32 [%x0], 1", 0, 1, "a", 0, 4, 32, 2},
      {"a plain read between two atomics", "global-race",
       "red.global.add.u32 [%a], 1;\nld.global.u32 %t1, [%a];\nred.global.add.u32 [%a], 1;",
       "red.global.add.u32 [%a], 1", 0, 1, "a", 0, 4, 1, 2},
      {"a plain write between two atomics", "global-race",
       "red.global.add.u32 [%a], 1;\nst.global.u32 [%a], 99;\nred.global.add.u32 [%a], 1;",
       "red.global.add.u32 [%a], 1", 0, 1, "a", 0, 4, 1, 2},
      {"a plain read by one warp of what another one adds to", "global-race",
       "and.b32 %t1, %id, 31;\nsetp.eq.u32 %p, %t1, 0;\n@%p red.global.add.u32 [%a], 1;\n@%p ld.global.u32 %t1, [%a];",
       ""},
      {"a plain read of a sum when all have added to it", "none",
       "red.global.add.u32 [%a], 1;\nmembar.gl;\natom.global.add.u32 %t1, [%a+128], 1;\nsetp.ne.u32 %p, %t1, 33;\n"
       "@%p bra DONE;\nmembar.gl;\nld.global.u32 %t2, [%a];\nst.global.u32 [%a], %t2;\nDONE:",
       "", 0, 0, "", 0, 0, 1, 2},
      {"a plain read of a sum before others go on adding", "none",
       "setp.eq.u32 %p, %block, 1;\n@%p bra WAIT;\nred.global.add.u32 [%a], 1;\nld.global.u32 %t1, [%a];\nmembar.gl;\n"
       "st.volatile.global.u32 [%a+128], 77;\nret;\nWAIT:\nld.volatile.global.u32 %t1, [%a+128];\n"
       "setp.ne.u32 %p, %t1, 77;\n@%p bra WAIT;\nred.global.add.u32 [%a], 1;\nld.global.u32 %t1, [%a];",
       "", 0, 0, "", 0, 0, 1, 2},
      {"a barrier between a plain read and the atomics around it", "none",
       "red.global.add.u32 [%a], 1;\nbar.sync 0;\nld.global.u32 %t1, [%a];\nbar.sync 0;\nred.global.add.u32 [%a], 1;",
       ""},
      // ---- a fence of some lanes: block 1 waits for the flag and reads what lane 5 of block 0 wrote
      {"a fence by another lane than the one that wrote", "global-race",
       "setp.eq.u32 %p, %block, 1;\n@%p bra WAIT;\nmad.wide.u32 %x0, %id, 4, %a;\nst.global.u32 [%x0], %t0;\n"
       "setp.eq.u32 %p, %id, 0;\n@%p membar.gl;\n@%p st.volatile.global.u32 [%a+128], 77;\nret;\n"
       "WAIT:\nld.volatile.global.u32 %t1, [%a+128];\nsetp.ne.u32 %p, %t1, 77;\n@%p bra WAIT;\n"
       "ld.global.u32 %t2, [%a+20];",
       "ld.global.u32 %t2, [%a+20]", 0, 1, "a", 20, 4, 32, 2},
      {"a release by another lane than the one that wrote", "global-race",
       "setp.eq.u32 %p, %block, 1;\n@%p bra WAIT;\nmad.wide.u32 %x0, %id, 4, %a;\nst.global.u32 [%x0], %t0;\n"
       "setp.eq.u32 %p, %id, 0;\n@%p st.release.gpu.global.u32 [%a+128], 77;\nret;\n"
       "WAIT:\nld.acquire.gpu.global.u32 %t1, [%a+128];\nsetp.ne.u32 %p, %t1, 77;\n@%p bra WAIT;\n"
       "ld.global.u32 %t2, [%a+20];",
       "ld.global.u32 %t2, [%a+20]", 0, 1, "a", 20, 4, 32, 2},
      {"a fence by the lane that wrote", "none",
       "setp.eq.u32 %p, %block, 1;\n@%p bra WAIT;\nmad.wide.u32 %x0, %id, 4, %a;\nst.global.u32 [%x0], %t0;\n"
       "setp.eq.u32 %p, %id, 5;\n@%p membar.gl;\n@%p st.volatile.global.u32 [%a+128], 77;\nret;\n"
       "WAIT:\nld.volatile.global.u32 %t1, [%a+128];\nsetp.ne.u32 %p, %t1, 77;\n@%p bra WAIT;\n"
       "ld.global.u32 %t2, [%a+20];",
       "", 0, 0, "", 0, 0, 32, 2},
      {"a fence by one lane behind a barrier of the warp", "none",
       "setp.eq.u32 %p, %block, 1;\n@%p bra WAIT;\nmad.wide.u32 %x0, %id, 4, %a;\nst.global.u32 [%x0], %t0;\n"
       "bar.warp.sync -1;\nsetp.eq.u32 %p, %id, 0;\n@%p fence.acq_rel.gpu;\n@%p st.volatile.global.u32 [%a+128], 77;\n"
       "ret;\nWAIT:\nld.volatile.global.u32 %t1, [%a+128];\nsetp.ne.u32 %p, %t1, 77;\n@%p bra WAIT;\n"
       "ld.global.u32 %t2, [%a+20];",
       "", 0, 0, "", 0, 0, 32, 2},
      {"a fence by one lane behind a barrier of its quarter", "none",
       "setp.eq.u32 %p, %block, 1;\n@%p bra WAIT;\nmad.wide.u32 %x0, %id, 4, %a;\nst.global.u32 [%x0], %t0;\n"
       "setp.lt.u32 %p, %id, 8;\n@!%p bra DONE;\nbar.warp.sync 255;\nsetp.eq.u32 %p, %id, 0;\n@%p fence.acq_rel.gpu;\n"
       "@%p st.volatile.global.u32 [%a+128], 77;\nret;\n"
       "WAIT:\nld.volatile.global.u32 %t1, [%a+128];\nsetp.ne.u32 %p, %t1, 77;\n@%p bra WAIT;\n"
       "ld.global.u32 %t2, [%a+20];\nDONE:",
       "", 0, 0, "", 0, 0, 32, 2},
      {"fences by all lanes, a barrier, and the flag by another warp", "none",
       "setp.eq.u32 %p, %block, 1;\n@%p bra WAIT;\nmad.wide.u32 %x0, %id, 4, %a;\nst.global.u32 [%x0], %t0;\n"
       "membar.gl;\nbar.sync 0;\nsetp.eq.u32 %p, %id, 32;\n@%p st.volatile.global.u32 [%a+252], 77;\nret;\n"
       "WAIT:\nld.volatile.global.u32 %t1, [%a+252];\nsetp.ne.u32 %p, %t1, 77;\n@%p bra WAIT;\n"
       "ld.global.u32 %t2, [%a+20];",
       "", 0, 0, "", 0, 0, 63, 2},
      {"a fence of the block by another lane than the one that wrote", "shared-race",
       "setp.eq.u32 %p, %id, 0;\n@%p st.shared.u32 [tile+256], %t0;\nbar.sync 0;\nsetp.lt.u32 %p, %id, 32;\n"
       "@%p bra WAIT;\nshl.b32 %t1, %id, 2;\nst.shared.u32 [%t1], %id;\nsetp.eq.u32 %p, %id, 32;\n@%p membar.cta;\n"
       "@%p st.volatile.shared.u32 [tile+256], 1;\nbra DONE;\nWAIT:\nld.volatile.shared.u32 %t2, [tile+256];\n"
       "setp.ne.u32 %p, %t2, 1;\n@%p bra WAIT;\nld.shared.u32 %t3, [tile+148];\nDONE:",
       "ld.shared.u32 %t3, [tile+148]", 0, 0, "", 148, 4},
      {"a fence of the block by the lane that wrote, handed on by a barrier", "none",
       "setp.eq.u32 %p, %id, 0;\n@%p st.shared.u32 [tile+384], %t0;\nbar.sync 0;\nsetp.gt.u32 %p, %id, 63;\n"
       "@%p bra TAKE;\nsetp.gt.u32 %p, %id, 31;\n@!%p bra WAIT;\nshl.b32 %t1, %id, 2;\nst.shared.u32 [%t1], %id;\n"
       "setp.eq.u32 %p, %id, 37;\n@%p membar.cta;\n@%p st.volatile.shared.u32 [tile+384], 1;\nbra DONE;\n"
       "WAIT:\nld.volatile.shared.u32 %t2, [tile+384];\nsetp.ne.u32 %p, %t2, 1;\n@%p bra WAIT;\nbar.arrive 1, 64;\n"
       "bra DONE;\nTAKE:\nbar.sync 1, 64;\nld.shared.u32 %t3, [tile+148];\nDONE:",
       "", 0, 0, "", 0, 0, 96},
      // ---- barriers of a part of the warp
      {"halves of a warp that meet among themselves", "shared-race",
       "shl.b32 %t1, %id, 2;\nst.shared.u32 [%t1], %id;\nsetp.lt.u32 %p, %id, 16;\nselp.b32 %t2, 0xffff, 0xffff0000, "
       "%p;\nbar.warp.sync %t2;\nxor.b32 %t1, %t1, 64;\nld.shared.u32 %t3, [%t1];",
       "ld.shared.u32 %t3, [%t1]", 0, 0, "", 64, 4, 32},
      {"halves of a warp that meet among themselves, in global memory", "global-race",
       "mad.wide.u32 %x0, %id, 4, %a;\nst.global.u32 [%x0], %id;\nsetp.lt.u32 %p, %id, 16;\n"
       "selp.b32 %t2, 0xffff, 0xffff0000, %p;\nbar.warp.sync %t2;\nxor.b64 %x0, %x0, 64;\nld.global.u32 %t3, [%x0];",
       "ld.global.u32 %t3, [%x0]", 0, 0, "a", 64, 4, 32},
      {"a half that writes what the other one reads", "shared-race",
       "setp.eq.u32 %p, %id, 0;\n@%p st.shared.u32 [tile], %t0;\nbar.warp.sync -1;\nld.shared.u32 %t3, [tile];\n"
       "setp.lt.u32 %p, %id, 16;\nselp.b32 %t2, 0xffff, 0xffff0000, %p;\nbar.warp.sync %t2;\nsetp.eq.u32 %p, %id, 3;\n"
       "@%p st.shared.u32 [tile], %id;",
       "@%p st.shared.u32 [tile], %id", 3, 0, "", 0, 4, 32},
      {"halves of a warp that keep to themselves", "none",
       // Each reads its neighbour's word, all read the first one, and one writes it: round after round.
       "mov.u32 %t5, 0;\nshl.b32 %t1, %id, 2;\nand.b32 %t4, %t1, 64;\nsetp.lt.u32 %p, %id, 16;\n"
       "selp.b32 %t2, 0xffff, 0xffff0000, %p;\nROUND:\nst.shared.u32 [%t1], %id;\nbar.warp.sync %t2;\n"
       "xor.b32 %t6, %t1, 4;\nld.shared.u32 %t3, [%t6];\nld.shared.u32 %t3, [%t4];\nbar.warp.sync %t2;\n"
       "and.b32 %t7, %id, 15;\nsetp.eq.u32 %q, %t7, 3;\n@%q st.shared.u32 [%t4], %id;\nbar.warp.sync %t2;\n"
       "add.u32 %t5, %t5, 1;\nsetp.lt.u32 %q, %t5, 4;\n@%q bra ROUND;\n"
       "bar.warp.sync -1;\nxor.b32 %t6, %t1, 64;\nld.shared.u32 %t3, [%t6];",
       "", 0, 0, "", 0, 0, 32},
      {"lanes that know each other through a third", "none",
       "shl.b32 %t1, %id, 2;\nsetp.gt.u32 %p, %id, 2;\n@%p bra DONE;\nst.shared.u32 [%t1], %id;\nsetp.eq.u32 %p, %id, "
       "2;\n"
       "@%p bra LAST;\nbar.warp.sync 3;\nsetp.eq.u32 %p, %id, 0;\n@%p bra DONE;\nLAST:\nbar.warp.sync 6;\n"
       "setp.eq.u32 %p, %id, 2;\n@%p ld.shared.u32 %t3, [tile];\nDONE:",
       "", 0, 0, "", 0, 0, 32},
  };
  return cases;
}

}  // namespace runner
