// Forms that the software GPU does not execute, or that do not exist: each must be refused when the module is loaded,
// by a message that names what is wrong. A form that were taken with a modifier passed over would give wrong results.
#include "refusals.h"

#include <cstdio>

#include "gpu.h"

namespace runner {
namespace {

struct Refusal {
  const char* statement;
  const char* names;  // part of the message
};

constexpr Refusal kRefusals[] = {
    {"add.cluster.u32 %r0, %r1, %r2;", "cluster"},
    {"add.rna.f32 %f0, %f1, %f2;", "rna"},
    {"add.approx.f32 %f0, %f1, %f2;", "approx"},
    {"add.sat.u32 %r0, %r1, %r2;", ".sat"},
    {"add.f32x2 %d0, %d1, %d2;", "add.f32x2"},
    {"add.rn.f32.f16 %f0, %h0, %f1;", "f16"},
    {"min.sat.s32 %r0, %r1, %r2;", ".sat"},
    {"min.f32 %f0, %f1, %f2, %f3;", "three"},
    {"mul.relu.s32 %r0, %r1, %r2;", "mul"},
    {"mul.sat.f64 %d0, %d1, %d2;", "sat"},
    {"neg.sat.f32 %f0, %f1;", "sat"},
    {"tanh.approx.ftz.f32 %f0, %f1;", "ftz"},
    {"rcp.approx.f64 %d0, %d1;", "rcp"},
    {"ex2.f32 %f0, %f1;", ".approx"},
    {"dp2a.u32.u32 %r0, %r1, %r2, %r3;", "dp2a"},
    {"shf.l.b32 %r0, %r1, %r2, %r3;", "shf"},
    {"fma.rn.oob.f16 %h0, %h1, %h2, %h3;", "oob"},
    {"add.ftz.bf16 %h0, %h1, %h2;", "ftz"},
    {"max.relu.f16 %h0, %h1, %h2;", "relu"},
    {"set.lt.ftz.u32.f64 %r0, %d0, %d1;", ".ftz"},
    {"slct.u32.u32 %r0, %r1, %r2, %r3;", "slct"},
    {"cvt.rs.f16x2.f32 %r0, %f0, %f1, %r1;", "rs"},
    {"cvt.rn.satfinite.e4m3x2.f32 %h0, %f0, %f1;", "e4m3x2"},
    {"cvt.rn.relu.f32.f64 %f0, %d0;", ".relu"},
    {"cvt.rna.f32.f64 %f0, %d0;", ".rna"},
    {"cvt.rn.sat.bf16.f32 %h0, %f0;", ".sat"},
    {"cvt.ftz.s32.s16 %r0, %h0;", ".ftz"},
    {"ld.global.v8.b32 {%r0, %r1, %r2, %r3, %r0, %r1, %r2, %r3}, [%d0];", "v8"},
    {"ld.shared::cluster.u32 %r0, [%d0];", "shared::cluster"},
    {"st.async.shared::cluster.u32 [%r0], %r1, [%r2];", "async"},
    {"st.bulk.weak.shared::cta [%d0], 8, 0;", "bulk"},
    {"prefetch.tensormap [%d0];", "tensormap"},
    {"discard.global.L2 [%d0], 64;", "128"},
    {"isspacep.shared::cluster %p, %d0;", "isspacep"},
    {"cvta.shared::cluster.u64 %d0, %d1;", "cvta"},
    {"mapa.u64 %d0, %d1, %r0;", "mapa"},
    {"cp.async.cg.shared.global [%r0], [%d0], 8;", "16"},
    {"cp.async.ca.shared.global [%r0], [%d0], 12;", "size"},
    {"cp.async.bulk.commit_group;", "cp.async"},
    {"atom.global.add.f16 %h0, [%d0], %h1;", ".noftz"},
    {"atom.global.min.f32 %f0, [%d0], %f1;", "atom"},
    {"atom.global.add.v8.f32 {%f0, %f0, %f0, %f0, %f0, %f0, %f0, %f0}, [%d0], {%f1, %f1, %f1, %f1, %f1, %f1, %f1, "
     "%f1};",
     "atom"},
    {"red.shared.add.v2.f32 [%d0], {%f0, %f1};", "shared"},
    {"red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r0], %r1, [%r2];", "mbarrier"},
    {"fence.proxy.async;", "fence"},
    {"fence.sc;", "scope"},
    {"membar.proxy.alias;", "membar"},
    {"barrier.cluster.arrive;", "barrier"},
    {"bar.red.popc.pred %p, 0, %p;", "barrier"},
    {"shfl.idx.b32 %r0, %r1, 0, 31;", ".sync"},
    {"shfl.sync.idx.b64 %d0, %d1, 0, 31, -1;", "shfl"},
    {"redux.sync.min.f32 %f0, %f1, -1;", "redux"},
    {"redux.sync.add.b32 %r0, %r1, -1;", "redux"},
    {"match.sync.b32 %r0, %r1, -1;", "match"},
    {"ldmatrix.sync.aligned.m8n8.shared.b16 {%r0}, [%r1];", ".x1"},
    {"ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r0, %r1}, [%r2];", "m8n8"},
    {"mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d0, %d1}, {%d2}, {%d3}, {%d0, %d1};", "shape"},
    {"mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%f0, %f1, %f2, %f3}, {%r0, %r1, %r2, %r3}, {%r0, %r1}, "
     "{%f0, "
     "%f1, %f2, %f3};",
     "mma"},
    {"wmma.load.a.sync.aligned.row.m8n8k32.shared.s4 {%r0}, [%d0];", "shape"},
    {"wgmma.fence.sync.aligned;", "wgmma"},
    {"tcgen05.wait::ld.sync.aligned;", "tcgen05"},
    {"tex.2d.v4.f32.f32 {%f0, %f1, %f2, %f3}, [%d0, {%f0, %f1}];", "tex"},
    {"griddepcontrol.other;", "griddepcontrol"},
    {"mov.u32 %r0, !0;", "expression"},
    {"mov.u32 %r0, %nowhere;", "%nowhere"},
    {"mov.u32 %r0, %pm0;", "%pm0"},
    {"frobnicate.b32 %r0, %r1;", "frobnicate"},
};

std::string messageOf(const std::string& statement) {
  const std::string ptx =
      ".version 8.6\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\n.reg .pred %p;\n.reg .b16 %h<4>;\n.reg "
      ".b32 "
      "%r<4>;\n.reg .f32 %f<4>;\n.reg .b64 %d<4>;\n" +
      statement + "\nret;\n}\n";
  char log[512] = "";
  CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
  CUmodule module = nullptr;
  if (cuModuleLoadDataEx(&module, ptx.c_str(), 2, options, values) == CUDA_SUCCESS) {
    cuModuleUnload(module);
    return "";
  }
  return log;
}

}  // namespace

int checkRefusals() {
  int failed = 0;
  for (const Refusal& r : kRefusals) {
    const std::string message = messageOf(r.statement);
    const bool good = message.find(r.names) != std::string::npos;
    std::printf("%s refused: %s [%s]\n", good ? "ok  " : "FAIL", r.statement,
                message.empty() ? "taken" : message.c_str());
    failed += !good;
  }
  return failed;
}

}  // namespace runner
