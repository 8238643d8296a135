#include "outcomes.h"

#include <set>
#include <string>

namespace moe::cuda {

namespace {

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

const Status& Snapshot::of(const Status* status) const {
  for (const auto& [device, host] : blocks_)
    if (status >= device && status < device + StatusBlock::count) return host[status - device];
  throw Error(ErrorCode::Internal, "a status that no snapshot has");
}

void StatusPool::close() {
  std::lock_guard lock(mutex_);
  for (const auto& [device, host] : blocks_) {
    driver().cuMemFree_v2(address(device));
    driver().cuMemFreeHost(host);
  }
  blocks_.clear();
}

void StatusPool::grow() {
  constexpr size_t bytes = StatusBlock::count * sizeof(Status);
  CUdeviceptr device = 0;
  void* host = nullptr;
  MOE_CUDA(cuCtxSetCurrent, context_);
  blocks_.reserve(blocks_.size() + 1);
  MOE_CUDA(cuMemAlloc_v2, &device, bytes);
  if (const CUresult result = driver().cuMemHostAlloc(&host, bytes, 0); result != CUDA_SUCCESS) {
    driver().cuMemFree_v2(device);
    check(result, "cuMemHostAlloc");
  }
  blocks_.push_back({reinterpret_cast<Status*>(device), static_cast<Status*>(host)});
}

void StatusPool::clearNext() {
  if (cleared_ == blocks_.size()) grow();
  Status* const block = blocks_[cleared_].device;
  MOE_CUDA(cuMemsetD8Async, address(block), 0xff, StatusBlock::count * sizeof(Status), stream_);
  ++cleared_;
  for (size_t i = StatusBlock::count; i-- > 0;) free_.push_back(block + i);
}

Status* StatusPool::take() {
  std::lock_guard lock(mutex_);
  if (free_.empty()) clearNext();
  Status* status = free_.back();
  free_.pop_back();
  return status;
}

void StatusPool::reserve(size_t count) {
  std::lock_guard lock(mutex_);
  while (free_.size() + (blocks_.size() - cleared_) * StatusBlock::count < count) grow();
}

void StatusPool::clear(size_t count) {
  std::lock_guard lock(mutex_);
  while (free_.size() < count) clearNext();
}

void StatusPool::give(Status* status) {
  std::lock_guard lock(mutex_);
  free_.push_back(status);
}

Snapshot StatusPool::snapshot() {
  std::vector<StatusBlock> used;
  {
    // Not around the copies: they may wait for room in the stream, and other threads for the lock.
    std::lock_guard lock(mutex_);
    used.assign(blocks_.begin(), blocks_.begin() + static_cast<ptrdiff_t>(cleared_));
  }
  for (const auto& [device, host] : used)
    MOE_CUDA(cuMemcpyDtoHAsync_v2, host, address(device), StatusBlock::count * sizeof(Status), stream_);
  return Snapshot(used);
}

uint32_t Faults::number(const char* operation, FaultLimits limits) {
  std::lock_guard lock(mutex_);
  do last_ = faultOperation(faultWord(last_ + 1, Fault{}, 0));
  while (isInUse(last_));
  origins_[last_] = {operation, limits};
  return last_;
}

bool Faults::isInUse(uint32_t number) const {
  if (origins_.contains(number)) return true;
  const auto next = failures_.lower_bound(faultWord(number, Fault{}, 0));
  return next != failures_.end() && faultOperation(next->first) == number;
}

void Faults::renew(uint32_t number) {
  std::lock_guard lock(mutex_);
  std::erase_if(failures_, [&](const auto& known) { return faultOperation(known.first) == number; });
}

void Faults::end(const std::vector<uint32_t>& numbers) {
  std::lock_guard lock(mutex_);
  ended_.insert(ended_.end(), numbers.begin(), numbers.end());
}

std::vector<uint32_t> Faults::takeEnded() {
  std::lock_guard lock(mutex_);
  return std::exchange(ended_, {});
}

FailurePtr Faults::failure(FaultWord word, FaultValue value) {
  std::lock_guard lock(mutex_);
  return find(word, value);
}

const FailurePtr& Faults::find(FaultWord word, FaultValue value) {
  FailurePtr& failure = failures_[word];
  if (failure) return failure;
  const auto known = origins_.find(faultOperation(word));
  const auto [operation, limits] = known == origins_.end() ? Origin{} : known->second;
  const Failure words = describe(operation, word, value, limits);
  return failure = std::make_shared<Failure>(words.code, words.message, words.hint);
}

void Faults::settle(const Snapshot& snapshot, const std::vector<uint32_t>& ended) {
  std::lock_guard lock(mutex_);
  std::set<FaultWord> left;
  snapshot.forEach([&](const Status& status) {
    const FaultWord word = std::min(status.inherited, status.own);
    if (word != noFault && left.insert(word).second) find(word, status.value);
  });
  std::erase_if(failures_, [&](const auto& known) { return !left.contains(known.first); });
  for (const uint32_t number : ended) origins_.erase(number);
}

}  // namespace moe::cuda
