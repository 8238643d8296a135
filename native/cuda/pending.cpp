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

// experts.cpp
MOE_PENDING(expertsForward, ExpertsForward)
MOE_PENDING(expertsBackward, ExpertsBackward)
MOE_PENDING(groupedGemmForward, GroupedGemmForward)
MOE_PENDING(groupedGemmBackward, GroupedGemmBackward)
MOE_PENDING_WORKSPACE(ExpertsForward)
MOE_PENDING_WORKSPACE(ExpertsBackward)
MOE_PENDING_WORKSPACE(GroupedGemmForward)
MOE_PENDING_WORKSPACE(GroupedGemmBackward)

}  // namespace moe::cuda
