// Operations whose kernels are not written yet.
#include "backend.h"

namespace moe::cuda {

namespace {

[[noreturn]] void missing(const char* what) {
  throw Error(ErrorCode::Unsupported, std::string(what) + " is not supported on CUDA yet", "openDevice('cpu') has it.");
}

}  // namespace

#define MOE_PENDING(method, Operation) \
  void CudaBackend::method(const Operation&) { missing(#Operation); }
#define MOE_PENDING_WORKSPACE(Operation) \
  size_t CudaBackend::workspaceBytes(const Operation&) const { return 0; }

// permute.cpp
MOE_PENDING(buildPlan, BuildPlan)
MOE_PENDING(dispatch, Dispatch)
MOE_PENDING(combine, Combine)
MOE_PENDING(combineBackward, CombineBackward)
MOE_PENDING_WORKSPACE(BuildPlan)

// experts.cpp
MOE_PENDING(expertsForward, ExpertsForward)
MOE_PENDING(expertsBackward, ExpertsBackward)
MOE_PENDING(groupedGemmForward, GroupedGemmForward)
MOE_PENDING(groupedGemmBackward, GroupedGemmBackward)
MOE_PENDING_WORKSPACE(ExpertsForward)
MOE_PENDING_WORKSPACE(ExpertsBackward)
MOE_PENDING_WORKSPACE(GroupedGemmForward)
MOE_PENDING_WORKSPACE(GroupedGemmBackward)

// modules.cpp
MOE_PENDING(sigmoidGateForward, SigmoidGateForward)
MOE_PENDING(sigmoidGateBackward, SigmoidGateBackward)
MOE_PENDING(embeddingForward, EmbeddingForward)
MOE_PENDING(embeddingBackward, EmbeddingBackward)
MOE_PENDING(rmsNormForward, RmsNormForward)
MOE_PENDING(rmsNormBackward, RmsNormBackward)
MOE_PENDING(crossEntropyForward, CrossEntropyForward)
MOE_PENDING(crossEntropyBackward, CrossEntropyBackward)
MOE_PENDING(add, Add)
MOE_PENDING_WORKSPACE(SigmoidGateBackward)
MOE_PENDING_WORKSPACE(EmbeddingBackward)
MOE_PENDING_WORKSPACE(RmsNormBackward)
MOE_PENDING_WORKSPACE(CrossEntropyForward)

// optim.cpp
MOE_PENDING(adamwStep, AdamWStep)
MOE_PENDING_WORKSPACE(AdamWStep)

}  // namespace moe::cuda
