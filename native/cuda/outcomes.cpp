#include "outcomes.h"

namespace moe::cuda {

namespace {

// Failures that are told apart from new ones of the same words; older ones count as new when met again.
constexpr size_t maxFailures = 1024;

std::string below(int64_t limit) { return "[0, " + std::to_string(limit) + ")"; }

Failure describe(const std::string& operation, FaultWord word, FaultValue value, const FaultLimits& limits) {
  const std::string at = std::to_string(faultIndex(word)), range = below(limits.indices);
  const std::string got = value == noValue ? "" : ", got " + std::to_string(foundValue(value));
  const auto wrong = [&](const std::string& what) {
    return Failure(ErrorCode::InvalidArgument, operation + ": " + what + got, {});
  };
  switch (faultKind(word)) {
    case Fault::NonFiniteLogits:
      return Failure(ErrorCode::NonFinite, operation + ": router logits of token " + at + " are not finite",
                     "look for NaN or infinity in the layer's input and in the router's weight");
    case Fault::TokenType:
      return wrong("tokenTypes of token " + at + " must be in " + below(limits.tokenTypes));
    case Fault::RoutingIndex:
      return wrong("routing.indices of token " + at + " must be experts in " + range);
    case Fault::PlanIndex:
      return wrong("indices of token " + at + " must be experts in " + range + " or -1");
    case Fault::Priority:
      return Failure(ErrorCode::NonFinite, operation + ": priorities of token " + at + " must be numbers, got NaN", {});
    case Fault::EmbeddingIndex:
      return wrong("indices[" + at + "] must be in " + range);
    case Fault::TargetIndex:
      return wrong("targets[" + at + "] must be -1 or in " + range);
  }
  return Failure(ErrorCode::Internal, operation + ": a fault of an unknown kind on the device", {});
}

}  // namespace

void StatusPool::close() {
  std::lock_guard lock(mutex_);
  for (const CUdeviceptr block : blocks_) driver().cuMemFree_v2(block);
  blocks_.clear();
}

void StatusPool::grow() {
  CUdeviceptr block = 0;
  MOE_CUDA(cuMemAlloc_v2, &block, blockCount * sizeof(Status));
  blocks_.reserve(blocks_.size() + 1);
  if (const CUresult result = driver().cuMemsetD8Async(block, 0xff, blockCount * sizeof(Status), stream_);
      result != CUDA_SUCCESS) {
    driver().cuMemFree_v2(block);
    check(result, "cuMemsetD8Async");
  }
  blocks_.push_back(block);
  for (size_t i = blockCount; i-- > 0;) free_.push_back(reinterpret_cast<Status*>(block) + i);
}

Status* StatusPool::take() {
  std::lock_guard lock(mutex_);
  if (free_.empty()) grow();
  Status* status = free_.back();
  free_.pop_back();
  return status;
}

void StatusPool::reserve(size_t count) {
  std::lock_guard lock(mutex_);
  while (free_.size() < count) grow();
}

void StatusPool::give(Status* status) {
  std::lock_guard lock(mutex_);
  free_.push_back(status);
}

uint32_t Faults::number(const char* operation, FaultLimits limits) {
  std::lock_guard lock(mutex_);
  if (origins_.empty()) origins_.resize(remembered);
  next_ = (next_ + 1) & 0x7fffffu;
  origins_[next_ % remembered] = {operation, limits};
  return next_;
}

void Faults::renew(uint32_t number, const char* operation, FaultLimits limits) {
  std::lock_guard lock(mutex_);
  origins_[number % remembered] = {operation, limits};
  const auto isOf = [&](FaultWord word) { return faultOperation(word) == number; };
  std::erase_if(failures_, [&](const auto& known) { return isOf(known.first); });
  std::erase_if(order_, isOf);
}

FailurePtr Faults::failure(FaultWord word, FaultValue value) {
  std::lock_guard lock(mutex_);
  if (const auto known = failures_.find(word); known != failures_.end()) return known->second;
  const Origin origin = origins_.empty() ? Origin{} : origins_[faultOperation(word) % remembered];
  const Failure words = describe(origin.operation ? origin.operation : "an operation", word, value, origin.limits);
  const FailurePtr made = std::make_shared<Failure>(words.code, words.message, words.hint);
  failures_.emplace(word, made);
  order_.push_back(word);
  if (order_.size() > maxFailures) {
    failures_.erase(order_.front());
    order_.pop_front();
  }
  return made;
}

}  // namespace moe::cuda
