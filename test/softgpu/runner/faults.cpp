#include "faults.h"

#include <cstdio>
#include <iterator>
#include <stdexcept>
#include <vector>

#include "fault_case.h"
#include "faults_host.h"
#include "gpu.h"

namespace runner {
namespace {

const char* const kPrologue = R"(.version 8.0
.target sm_80
.address_size 64
.extern .func __assertfail(.param .b64 message, .param .b64 file, .param .b32 line, .param .b64 function, .param .b64 size);
.extern .shared .align 16 .b8 dynamic[];
.const .align 4 .u32 table[4] = {1, 2, 3, 4};
.global .align 1 .b8 text[6] = {97, 32, 60, 32, 98, 0};
.visible .entry faulty(.param .u64 pa, .param .u64 pb)
{
.reg .pred %p, %q;
.reg .b16 %h;
.reg .b32 %t<8>, %id, %block;
.reg .b64 %a, %b, %x<4>;
.reg .f32 %f<8>;
.shared .align 16 .b8 tile[512];
.local .align 16 .b8 own[16];
ld.param.u64 %a, [pa];
ld.param.u64 %b, [pb];
mov.u32 %id, %tid.x;
mov.u32 %block, %ctaid.x;
mov.u32 %t0, 0;
)";

const FaultCase kCases[] = {
    // ---- out-of-bounds
    {"a global read beyond the end", "out-of-bounds", "mad.wide.u32 %x0, %id, 4, %a;\nld.global.u32 %t1, [%x0+4];",
     "ld.global.u32 %t1, [%x0+4]", 63, 0, "a", 256, 4},
    {"a global read before the beginning", "out-of-bounds", "ld.global.u32 %t1, [%a+-4];", "ld.global.u32 %t1, [%a+-4]",
     0, 0, "a", -4, 4},
    {"a global write beyond the end", "out-of-bounds", "mad.wide.u32 %x0, %id, 8, %a;\nst.global.u32 [%x0], %t0;",
     "st.global.u32 [%x0], %t0", 32, 0, "a", 256, 4},
    {"a vector that ends beyond the end", "out-of-bounds", "ld.global.v4.u32 {%t1, %t2, %t3, %t4}, [%a+248];",
     "ld.global.v4.u32 {%t1, %t2, %t3, %t4}, [%a+248]", 0, 0, "a", 248, 16},
    {"a read of null", "out-of-bounds", "mov.u64 %x0, 0;\nld.u32 %t1, [%x0];", "ld.u32 %t1, [%x0]", 0, 0, "", 0, 4},
    {"an atomic beyond the end", "out-of-bounds", "red.global.add.u32 [%a+256], 1;", "red.global.add.u32 [%a+256], 1",
     0, 0, "a", 256, 4},
    {"a shared read beyond the end", "out-of-bounds", "ld.shared.u32 %t1, [tile+512];", "ld.shared.u32 %t1, [tile+512]",
     0, 0, "", 512, 4},
    {"a shared write beyond the dynamic part", "out-of-bounds",
     "mov.u32 %t1, dynamic;\nmad.lo.u32 %t1, %id, 4, %t1;\nst.shared.u32 [%t1], %id;", "st.shared.u32 [%t1], %id", 32,
     0, "", 512 + 128, 4, 64, 1, 128},
    {"a shared write behind the last static variable", "out-of-bounds",
     ".shared .align 4 .b8 small[4];\nst.shared.u32 [small+4], %t0;", "st.shared.u32 [small+4], %t0", 0, 0, "", 516, 4},
    {"a shared write between the static and the dynamic part", "out-of-bounds",
     ".shared .align 4 .b8 small[4];\nmov.u32 %t1, dynamic;\nst.shared.u32 [%t1], %t0;\nst.shared.u32 [small+8], %t0;",
     "st.shared.u32 [small+8], %t0", 0, 0, "", 520, 4, 1, 1, 128},
    {"a shared write by a generic address", "out-of-bounds",
     "mov.u64 %x0, tile;\ncvta.shared.u64 %x0, %x0;\nst.u32 [%x0+1024], %t0;", "st.u32 [%x0+1024], %t0", 0, 0, "", 1024,
     4},
    {"a local write beyond the end", "out-of-bounds", "st.local.u32 [own+16], %t0;", "st.local.u32 [own+16], %t0", 0, 0,
     "", 16, 4},
    {"a parameter beyond the last", "out-of-bounds", "ld.param.u32 %t1, [pb+8];", "ld.param.u32 %t1, [pb+8]", 0, 0, "",
     16, 4},
    {"a constant beyond the end", "out-of-bounds", "ld.const.u32 %t1, [table+16];", "ld.const.u32 %t1, [table+16]"},
    {"an asynchronous copy from beyond the end", "out-of-bounds", "cp.async.ca.shared.global [tile], [%a+256], 4;",
     "cp.async.ca.shared.global [tile], [%a+256], 4", 0, 0, "a", 256, 4},
    {"an asynchronous copy to beyond the end", "out-of-bounds", "cp.async.ca.shared.global [tile+512], [%a], 4;",
     "cp.async.ca.shared.global [tile+512], [%a], 4", 0, 0, "", 512, 4},
    {"a matrix row beyond the end", "out-of-bounds",
     "shl.b32 %t1, %id, 4;\nst.shared.v4.u32 [%t1], {%t0, %t0, %t0, %t0};\nbar.warp.sync -1;\n"
     "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%t2, %t3, %t4, %t5}, [%t1+16];",
     "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%t2, %t3, %t4, %t5}, [%t1+16]", 31, 0, "", 512, 16, 32},
    // ---- misaligned
    {"a misaligned global read", "misaligned", "ld.global.u32 %t1, [%a+2];", "ld.global.u32 %t1, [%a+2]", 0, 0, "a", 2,
     4},
    {"a misaligned vector", "misaligned", "st.global.v4.u32 [%a+8], {%t0, %t0, %t0, %t0};",
     "st.global.v4.u32 [%a+8], {%t0, %t0, %t0, %t0}", 0, 0, "a", 8, 16},
    {"a misaligned shared write", "misaligned", "st.shared.u32 [tile+6], %t0;", "st.shared.u32 [tile+6], %t0", 0, 0, "",
     6, 4},
    {"a misaligned local read", "misaligned", "ld.local.u32 %t1, [own+2];", "ld.local.u32 %t1, [own+2]", 0, 0, "", 2,
     4},
    {"a misaligned parameter", "misaligned", "ld.param.u32 %t1, [pa+2];", "ld.param.u32 %t1, [pa+2]", 0, 0, "", 2, 4},
    {"a misaligned atomic", "misaligned", "red.global.add.u32 [%a+1], 1;", "red.global.add.u32 [%a+1], 1", 0, 0, "a", 1,
     4},
    {"a misaligned source of a copy", "misaligned", "cp.async.cg.shared.global [tile], [%a+4], 16;",
     "cp.async.cg.shared.global [tile], [%a+4], 16", 0, 0, "a", 4, 16},
    {"a misaligned target of a copy", "misaligned", "cp.async.cg.shared.global [tile+8], [%a], 16;",
     "cp.async.cg.shared.global [tile+8], [%a], 16", 0, 0, "", 8, 16},
    {"a misaligned matrix row", "misaligned",
     "shl.b32 %t1, %id, 4;\nst.shared.v4.u32 [%t1], {%t0, %t0, %t0, %t0};\nbar.warp.sync -1;\n"
     "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%t2}, [%t1+8];",
     "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%t2}, [%t1+8]", 0, 0, "", 8, 16, 32},
    // ---- uninitialised
    {"a read of memory nobody wrote", "uninitialised-global", "ld.global.u32 %t1, [%b+8];", "ld.global.u32 %t1, [%b+8]",
     0, 0, "b", 8, 4},
    {"an atomic on memory nobody wrote", "uninitialised-global", "atom.global.add.u32 %t1, [%b], 1;",
     "atom.global.add.u32 %t1, [%b], 1", 0, 0, "b", 0, 4, 1},
    {"a copy from memory nobody wrote", "uninitialised-global",
     "cp.async.ca.shared.global [tile], [%b], 4;\ncp.async.wait_all;", "cp.async.ca.shared.global [tile], [%b], 4", 0,
     0, "b", 0, 4, 1},
    {"a read of half-written memory", "uninitialised-global",
     "mov.u16 %h, 1;\nst.global.u16 [%b], %h;\nld.global.u32 %t1, [%b];", "ld.global.u32 %t1, [%b]", 0, 0, "b", 0, 4,
     1},
    {"a read of shared memory nobody wrote", "uninitialised-shared", "ld.shared.u32 %t1, [tile+4];",
     "ld.shared.u32 %t1, [tile+4]", 0, 0, "", 4, 4},
    {"a matrix row nobody wrote", "uninitialised-shared",
     "shl.b32 %t1, %id, 4;\nsetp.ne.u32 %p, %id, 9;\n@%p st.shared.v4.u32 [%t1], {%t0, %t0, %t0, %t0};\nbar.warp.sync "
     "-1;\n"
     "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%t2, %t3, %t4, %t5}, [%t1];",
     "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%t2, %t3, %t4, %t5}, [%t1]", 9, 0, "", 9 * 16, 16, 32},
    {"a register that nothing writes", "uninitialised-register", "add.f32 %f0, %f1, %f2;", "add.f32 %f0, %f1, %f2"},
    {"a register written by a copy of it alone", "uninitialised-register", "mov.f32 %f1, %f2;\nadd.f32 %f0, %f1, %f1;",
     "add.f32 %f0, %f1, %f1"},
    // ---- races in shared memory
    {"a read after another warp's write", "shared-race",
     "shl.b32 %t1, %id, 2;\nst.shared.u32 [%t1], %id;\nxor.b32 %t1, %t1, 128;\nsetp.gt.u32 %p, %id, 31;\n@%p "
     "ld.shared.u32 "
     "%t2, [%t1];",
     "@%p ld.shared.u32 %t2, [%t1]", 32, 0, "", 0, 4},
    {"a write after another warp's read", "shared-race",
     // Behind the barrier the second warp goes first: it came last.
     "shl.b32 %t1, %id, 2;\nst.shared.u32 [%t1], %id;\nbar.sync 0;\nld.shared.u32 %t2, [%t1];\nxor.b32 %t1, %t1, "
     "128;\nsetp.lt.u32 %p, %id, 32;\n@%p st.shared.u32 [%t1], %id;",
     "@%p st.shared.u32 [%t1], %id", 0, 0, "", 128, 4},
    {"two warps write one word", "shared-race", "st.shared.u32 [tile], %t0;", "st.shared.u32 [tile], %t0", 32, 0, "", 0,
     4},
    {"lanes write different words to one place", "shared-race", "st.shared.u32 [tile+4], %id;",
     "st.shared.u32 [tile+4], %id", 1, 0, "", 4, 4, 32},
    {"a lane reads another one's word", "shared-race",
     "shl.b32 %t1, %id, 2;\nst.shared.u32 [%t1], %id;\nxor.b32 %t1, %t1, 4;\nld.shared.u32 %t2, [%t1];",
     "ld.shared.u32 %t2, [%t1]", 0, 0, "", 4, 4, 32},
    {"a plain read of what atomics change", "shared-race",
     "setp.eq.u32 %p, %id, 0;\n@%p st.shared.u32 [tile], %t0;\nbar.sync 0;\nred.shared.add.u32 [tile], 1;\nsetp.eq.u32 "
     "%p, "
     "%id, 40;\n@%p ld.shared.u32 %t2, [tile];",
     "@%p ld.shared.u32 %t2, [tile]", 40, 0, "", 0, 4},
    {"a named barrier that only one warp knows", "shared-race",
     "shl.b32 %t1, %id, 2;\nst.shared.u32 [%t1], %id;\nsetp.gt.u32 %p, %id, 31;\n@%p bra OTHER;\nbar.sync 1, 32;\nbra "
     "DONE;\nOTHER:\nbar.sync 2, 32;\nxor.b32 %t1, %t1, 128;\nld.shared.u32 %t2, [%t1];\nDONE:",
     "ld.shared.u32 %t2, [%t1]", 32, 0, "", 0, 4},
    // ---- races in global memory
    {"two blocks write one word", "global-race", "st.global.u32 [%a+12], %block;", "st.global.u32 [%a+12], %block", 0,
     1, "a", 12, 4, 1, 2},
    {"a block reads another one's word", "global-race",
     "mad.wide.u32 %x0, %block, 4, %a;\nst.global.u32 [%x0], %t0;\nxor.b32 %t1, %block, 1;\nmad.wide.u32 %x0, %t1, 4, "
     "%a;\nld.global.u32 %t1, [%x0];",
     "ld.global.u32 %t1, [%x0]", 0, 1, "a", 0, 4, 1, 2},
    {"a sum over blocks without atomics", "global-race",
     "ld.global.u32 %t1, [%a];\nadd.u32 %t1, %t1, 1;\nst.global.u32 [%a], %t1;", "ld.global.u32 %t1, [%a]", 0, 1, "a",
     0, 4, 1, 2},
    {"a plain write of what another block changes by atomics", "global-race",
     "setp.eq.u32 %p, %block, 1;\n@%p st.global.u32 [%a], 77;\n@!%p red.global.add.u32 [%a], 1;",
     "@%p st.global.u32 [%a], 77", 0, 1, "a", 0, 4, 1, 2},
    {"atomics of the block's scope between blocks", "global-race", "red.global.cta.add.u32 [%a], 1;",
     "red.global.cta.add.u32 [%a], 1", 0, 1, "a", 0, 4, 1, 2},
    {"a flag without a fence", "global-race",
     // Block 0 writes a word and raises a flag; block 1 waits for the flag and reads the word.
     "setp.eq.u32 %p, %block, 1;\n@%p bra WAIT;\nst.global.u32 [%a], 9;\nst.volatile.global.u32 [%a+128], 77;\nret;\n"
     "WAIT:\nld.volatile.global.u32 %t1, [%a+128];\nsetp.ne.u32 %p, %t1, 77;\n@%p bra WAIT;\nld.global.u32 %t2, [%a];",
     "ld.global.u32 %t2, [%a]", 0, 1, "a", 0, 4, 1, 2},
    {"a flag with a fence of the block", "global-race",
     "setp.eq.u32 %p, %block, 1;\n@%p bra WAIT;\nst.global.u32 [%a], 9;\nmembar.cta;\nst.volatile.global.u32 [%a+128], "
     "77;\nret;\nWAIT:\nld.volatile.global.u32 %t1, [%a+128];\nsetp.ne.u32 %p, %t1, 77;\n@%p bra WAIT;\nld.global.u32 "
     "%t2, "
     "[%a];",
     "ld.global.u32 %t2, [%a]", 0, 1, "a", 0, 4, 1, 2},
    {"a warp reads another one's word in global memory", "global-race",
     "mad.wide.u32 %x0, %id, 4, %a;\nst.global.u32 [%x0], %t0;\nxor.b32 %t1, %id, 32;\nmad.wide.u32 %x0, %t1, 4, "
     "%a;\nld.global.u32 %t2, [%x0];",
     "ld.global.u32 %t2, [%x0]", 32, 0, "a", 0, 4},
    {"lanes write different words to one place in global memory", "global-race", "st.global.u32 [%a+4], %id;",
     "st.global.u32 [%a+4], %id", 1, 0, "a", 4, 4, 32},
    {"an asynchronous copy from what another warp wrote", "global-race",
     "mad.wide.u32 %x0, %id, 4, %a;\nst.global.u32 [%x0], %t0;\nxor.b32 %t1, %id, 32;\nmad.wide.u32 %x0, %t1, 4, "
     "%a;\nshl.b32 %t1, %id, 2;\ncp.async.ca.shared.global [%t1], [%x0], 4;\ncp.async.wait_all;",
     "cp.async.ca.shared.global [%t1], [%x0], 4", 32, 0, "a", 0, 4},
    {"a warp writes what another one has read", "global-race",
     // Only a block that runs its last warp first reads what was written.
     "setp.lt.u32 %p, %id, 32;\nmad.wide.u32 %x0, %id, 4, %a;\n@%p ld.global.u32 %t1, [%x0+128];\n@!%p st.global.u32 "
     "[%x0], %t0;",
     "@%p ld.global.u32 %t1, [%x0+128]", 0, 0, "a", 128, 4, 64, 1, 0, "", "earliest"},
    {"a read that no compare-and-swap follows", "global-race",
     "setp.eq.u32 %p, %block, 1;\n@!%p atom.global.cas.b32 %t1, [%a], 0, 7;\n@%p ld.global.u32 %t2, [%a];",
     "@%p ld.global.u32 %t2, [%a]", 0, 1, "a", 0, 4, 1, 2, 0, "", "latest"},
    {"a read before the compare-and-swap of another address", "global-race",
     "mad.wide.u32 %x0, %block, 4, %a;\nld.global.u32 %t1, [%x0];\nxor.b32 %t2, %block, 1;\nmad.wide.u32 %x0, %t2, 4, "
     "%a;\natom.global.cas.b32 %t3, [%x0], 9, 7;",
     "ld.global.u32 %t1, [%x0]", 0, 1, "a", 4, 4, 1, 2},
    {"a read and a barrier before the compare-and-swap", "global-race",
     "ld.global.u32 %t1, [%a];\nbar.sync 0;\natom.global.cas.b32 %t2, [%a], %t1, 7;", "ld.global.u32 %t1, [%a]", 0, 1,
     "a", 0, 4, 1, 2},
    {"a read on a way that leads past the compare-and-swap", "global-race",
     "setp.eq.u32 %p, %id, 0;\n@!%p bra SWAP;\nld.global.u32 %t1, [%a];\nbra.uni DONE;\nSWAP:\natom.global.cas.b32 "
     "%t2, "
     "[%a], 0, 7;\nDONE:",
     "ld.global.u32 %t1, [%a]", 0, 1, "a", 0, 4, 2, 2},
    {"a read-only load of what the launch writes", "global-race",
     "mad.wide.u32 %x0, %id, 4, %a;\nst.global.u32 [%x0], %t0;\nld.global.nc.u32 %t1, [%x0];",
     "ld.global.nc.u32 %t1, [%x0]", 0, 0, "a", 0, 4},
    // ---- barriers and collectives
    {"a barrier that half a warp reaches", "divergent-barrier", "setp.lt.u32 %p, %id, 16;\n@%p bar.sync 0;",
     "@%p bar.sync 0", 0, 0},
    {"an exit before the barrier", "divergent-barrier", "setp.eq.u32 %p, %id, 5;\n@%p exit;\nbar.sync 0;", "bar.sync 0",
     0, 0},
    {"warps at different barriers", "divergent-barrier",
     "setp.lt.u32 %p, %id, 32;\n@%p bra FIRST;\nbar.sync 0;\nbra DONE;\nFIRST:\nbar.sync 0;\nDONE:", "bar.sync 0", 32,
     0},
    {"ldmatrix by half a warp", "diverged-aligned",
     "shl.b32 %t1, %id, 4;\nst.shared.v4.u32 [%t1], {%t0, %t0, %t0, %t0};\nbar.warp.sync -1;\nsetp.lt.u32 %p, %id, "
     "16;\n"
     "@%p ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%t2}, [%t1];",
     "@%p ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%t2}, [%t1]", 0, 0, "", 0, 0, 32},
    {"mma by a warp of which lanes have exited", "diverged-aligned",
     "setp.gt.u32 %p, %id, 29;\n@%p exit;\nmov.f32 %f0, "
     "0f00000000;\nmma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f1, "
     "%f2, %f3, %f4}, {%t0, %t0}, {%t0}, {%f0, %f0, %f0, %f0};",
     "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%t0, %t0}, {%t0}, {%f0, %f0, %f0, %f0}",
     0, 0, "", 0, 0, 32},
    {"a block that is no multiple of a warp", "diverged-aligned",
     "mov.f32 %f0, 0f00000000;\nmma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%t0, %t0}, "
     "{%t0}, "
     "{%f0, %f0, %f0, %f0};",
     "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%t0, %t0}, {%t0}, {%f0, %f0, %f0, %f0}",
     0, 0, "", 0, 0, 20},
    {"a lane outside its own mask", "wrong-member-mask", "shfl.sync.idx.b32 %t1, %id, 0, 31, 0xffff;",
     "shfl.sync.idx.b32 %t1, %id, 0, 31, 0xffff", 16, 0, "", 0, 0, 32},
    {"a shuffle from a lane that takes no part", "wrong-member-mask",
     "setp.lt.u32 %p, %id, 16;\n@%p shfl.sync.idx.b32 %t1, %id, 20, 31, 0xffff;",
     "@%p shfl.sync.idx.b32 %t1, %id, 20, 31, 0xffff", 0, 0, "", 0, 0, 32},
    {"lanes that name each other with different masks", "wrong-member-mask",
     "setp.lt.u32 %p, %id, 16;\nselp.b32 %t1, 0xffff, -1, %p;\nredux.sync.add.u32 %t2, %id, %t1;",
     "redux.sync.add.u32 %t2, %id, %t1", 16, 0, "", 0, 0, 32},
    {"barrier 16", "invalid-barrier", "mov.u32 %t1, 16;\nbar.sync %t1;", "bar.sync %t1", 0, 0},
    {"a count that is no multiple of a warp", "invalid-barrier", "mov.u32 %t1, 33;\nbar.sync 1, %t1;",
     "bar.sync 1, %t1", 0, 0},
    {"warps with different counts", "invalid-barrier",
     "setp.lt.u32 %p, %id, 32;\nselp.b32 %t1, 64, 96, %p;\nbar.sync 1, %t1;", "bar.sync 1, %t1", 32, 0},
    {"lanes that name different barriers", "invalid-barrier", "and.b32 %t1, %id, 1;\nbar.sync %t1;", "bar.sync %t1", 1,
     0},
    // ---- asynchronous copies
    {"a read before the wait", "async-copy-not-waited",
     "shl.b32 %t1, %id, 2;\nmad.wide.u32 %x0, %id, 4, %a;\ncp.async.ca.shared.global [%t1], [%x0], "
     "4;\ncp.async.commit_group;\nld.shared.u32 %t2, [%t1];\ncp.async.wait_all;",
     "ld.shared.u32 %t2, [%t1]", 0, 0, "", 0, 4},
    {"a wait without a commit", "async-copy-not-waited",
     "shl.b32 %t1, %id, 2;\nmad.wide.u32 %x0, %id, 4, %a;\ncp.async.ca.shared.global [%t1], [%x0], "
     "4;\ncp.async.wait_group "
     "0;\nld.shared.u32 %t2, [%t1];\ncp.async.wait_all;",
     "ld.shared.u32 %t2, [%t1]", 0, 0, "", 0, 4},
    {"a write into a copy in flight", "async-copy-not-waited",
     "shl.b32 %t1, %id, 2;\nmad.wide.u32 %x0, %id, 4, %a;\ncp.async.ca.shared.global [%t1], [%x0], 4;\nst.shared.u32 "
     "[%t1], "
     "%t0;\ncp.async.wait_all;",
     "st.shared.u32 [%t1], %t0", 0, 0, "", 0, 4},
    {"another thread's copy, waited for by nobody", "async-copy-not-waited",
     // The barrier orders the threads, but only the thread that copies can wait for its copy.
     "shl.b32 %t1, %id, 2;\nmad.wide.u32 %x0, %id, 4, %a;\ncp.async.ca.shared.global [%t1], [%x0], 4;\nbar.sync "
     "0;\nxor.b32 "
     "%t1, %t1, 128;\nld.shared.u32 %t2, [%t1];\ncp.async.wait_all;",
     "ld.shared.u32 %t2, [%t1]", 32, 0, "", 0, 4, 64, 1, 0, "shared-race"},
    {"a copy in flight at the end", "async-copy-at-exit",
     "shl.b32 %t1, %id, 2;\nmad.wide.u32 %x0, %id, 4, %a;\ncp.async.ca.shared.global [%t1], [%x0], 4;",
     "cp.async.ca.shared.global [%t1], [%x0], 4", 0, 0, "", 0, 4},
    // ---- no progress
    {"a barrier that too few reach", "deadlock", "bar.sync 1, 96;", "bar.sync 1, 96", 0, 0},
    {"a spin on what nobody changes", "deadlock",
     "SPIN:\nld.volatile.global.u32 %t1, [%a];\nsetp.eq.u32 %p, %t1, 0;\n@%p bra SPIN;",
     "ld.volatile.global.u32 %t1, [%a]", 0, 0},
    {"lanes that wait for one that left", "deadlock",
     "setp.eq.u32 %p, %id, 3;\n@%p bra SPIN;\nbar.warp.sync -1;\nret;\nSPIN:\nld.volatile.global.u32 %t1, "
     "[%a];\nsetp.eq.u32 %p, "
     "%t1, 0;\n@%p bra SPIN;",
     "bar.warp.sync -1", 0, 0, "", 0, 0, 32},
    {"a lock that its holder never returns", "deadlock",
     "LOCK:\natom.global.cas.b32 %t1, [%a], 0, 1;\nsetp.ne.u32 %p, %t1, 0;\n@%p bra LOCK;", "", 0, 0, "", 0, 0, 64},
    {"blocks that wait for one that never starts", "deadlock",
     // More blocks than run at once, each waiting for the last.
     "setp.eq.u32 %p, %block, 9999;\n@%p st.volatile.global.u32 [%a+4], 0;\nSPIN:\nld.volatile.global.u32 %t1, "
     "[%a+4];\n"
     "setp.ne.u32 %q, %t1, 0;\n@%q bra SPIN;",
     "", 0, 0, "", 0, 0, 32, 10000},
    // ---- the kernel stops itself
    {"a trap", "trap", "setp.eq.u32 %p, %id, 7;\n@%p trap;", "@%p trap", 7, 0},
    {"a branch beyond its table", "trap",
     "mov.u32 %t1, 2;\nTABLE: .branchtargets ZERO, ONE;\nbrx.idx %t1, TABLE;\nZERO:\nONE:", "brx.idx %t1, TABLE", 0, 0,
     "", 2},
    {"an assertion", "assertion",
     "{.param .b64 m; .param .b64 f; .param .b32 l; .param .b64 n; .param .b64 s;\nmov.u64 %x0, text;\ncvta.global.u64 "
     "%x0, "
     "%x0;\nst.param.b64 [m], %x0;\nst.param.b64 [f], %x0;\nst.param.b32 [l], 12;\nst.param.b64 [n], "
     "%x0;\nst.param.b64 [s], "
     "1;\nsetp.ne.u32 %p, %id, 9;\n@%p bra PASSED;\ncall.uni __assertfail, (m, f, l, n, s);\nPASSED:\n}",
     "call.uni __assertfail, (m, f, l, n, s)", 9, 0},
};

std::vector<FaultCase> allCases() {
  std::vector<FaultCase> cases(std::begin(kCases), std::end(kCases));
  cases.insert(cases.end(), orderCases().begin(), orderCases().end());
  return cases;
}

std::string ptxOf(const FaultCase& c) { return std::string(kPrologue) + c.body + "\nret;\n}\n"; }

std::string quoted(const char* text) {
  std::string out = "\"";
  for (const char* p = text; *p; ++p) out += *p == '\n' ? std::string("\\n") : std::string(1, *p);
  return out + "\"";
}

}  // namespace

void listFaults() {
  for (const FaultCase& c : allCases()) {
    std::printf(
        "{\"name\":%s,\"fault\":%s,\"kernel\":\"faulty\",\"statement\":%s,\"thread\":%u,\"block\":%u,\"base\":%s,"
        "\"offset\":"
        "%ld,\"bytes\":%u%s%s}\n",
        quoted(c.name).c_str(), quoted(c.fault).c_str(), quoted(c.statement).c_str(), c.thread, c.block,
        quoted(c.base).c_str(), c.offset, c.bytes, *c.also ? (",\"also\":" + quoted(c.also)).c_str() : "",
        *c.order ? (",\"order\":" + quoted(c.order)).c_str() : "");
  }
  for (const HostCase& c : hostCases()) {
    std::printf("{\"name\":%s,\"fault\":%s,\"kernel\":%s,\"base\":%s,\"offset\":%ld,\"bytes\":%u}\n",
                quoted(c.name).c_str(), quoted(c.fault).c_str(), quoted(c.kernel).c_str(), quoted(c.base).c_str(),
                c.offset, c.bytes);
  }
}

std::string faultPtx(const std::string& name) {
  for (const FaultCase& c : allCases()) {
    if (name == c.name) return ptxOf(c);
  }
  return kHostPtx;
}

void provoke(const std::string& name) {
  std::vector<unsigned> numbers(kWords);
  for (unsigned k = 0; k < kWords; ++k) numbers[k] = k;
  CUdeviceptr a = 0, b = 0;
  CHECK(cuMemAlloc(&a, kWords * 4));
  CHECK(cuMemcpyHtoD(a, numbers.data(), kWords * 4));
  auto say = [&] { std::printf("{\"a\":%llu,\"b\":%llu}\n", a, b); };
  for (const FaultCase& c : allCases()) {
    if (name != c.name) continue;
    CHECK(cuMemAlloc(&b, kWords * 4));
    say();
    CUmodule module = nullptr;
    CUfunction f = nullptr;
    CHECK(cuModuleLoadData(&module, ptxOf(c).c_str()));
    CHECK(cuModuleGetFunction(&f, module, "faulty"));
    void* arguments[] = {&a, &b};
    CHECK(cuLaunchKernel(f, c.grid, 1, 1, c.threads, 1, 1, c.sharedBytes, nullptr, arguments, nullptr));
    std::printf("%s\n", cuCtxSynchronize() == CUDA_SUCCESS ? "no error" : "error");
    cuMemFree(a);
    cuMemFree(b);
    return;
  }
  for (const HostCase& c : hostCases()) {
    if (name != c.name) continue;
    say();
    Module module(kHostPtx);
    c.run(module.function("plain"), module.function("bounded"), a);
    cuMemFree(a);
    return;
  }
  throw std::runtime_error("no fault named '" + name + "'");
}

}  // namespace runner
