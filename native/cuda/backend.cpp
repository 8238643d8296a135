// The stream, what operations depend on, and the way of data in and out.
#include "backend.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "../shared/upload.h"

namespace moe::cuda {

namespace {

// Of which nobody has looked at what they found: that is not done for each, but a program that never synchronises must
// not grow.
constexpr size_t manyRecent = 512;

Properties propertiesOf(int ordinal) {
  CUdevice device;
  Properties p{};
  MOE_CUDA(cuDeviceGet, &device, ordinal);
  MOE_CUDA(cuDeviceGetAttribute, &p.multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
  MOE_CUDA(cuDeviceGetAttribute, &p.sharedBytesPerBlock, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device);
  return p;
}

CudaOutcome* outcomeOf(const HealthPtr& health) { return static_cast<CudaOutcome*>(health->outcome.get()); }

}  // namespace

std::string typed(const char* kernel, DType dtype) { return std::string(kernel) + "_" + dtypeName(dtype); }

CudaBackend::CudaBackend(int ordinal)
    : context_(std::make_shared<const Context>(ordinal)),
      properties_(propertiesOf(ordinal)),
      pinned_(std::make_shared<PinnedPool>(context_)),
      statuses_(std::make_shared<StatusPool>(context_->get(), stream_.get())),
      completions_(context_->get(), stream_.get()) {}

// Tensors may outlive this with their outcomes, and copies from other devices with their page-locked blocks: only the
// latter hold the context, until they are done.
CudaBackend::~CudaBackend() {
  waitIdle();
  executables_->close();
  pinned_->forgetCopies();
  statuses_->close();
}

// ------------------------------------------------------------------------------------------------ memory

void* CudaBackend::allocate(size_t bytes) {
  context_->makeCurrent();
  CUdeviceptr block = 0;
  const CUresult result = driver().cuMemAlloc_v2(&block, std::max<size_t>(bytes, 1));
  if (result == CUDA_ERROR_OUT_OF_MEMORY) return nullptr;
  check(result, "cuMemAlloc");
  return reinterpret_cast<void*>(block);
}

// A lost context takes its memory with it: nothing to be told then.
void CudaBackend::release(void* block, size_t) {
  driver().cuCtxSetCurrent(context_->get());
  driver().cuMemFree_v2(address(block));
}

std::shared_ptr<char[]> CudaBackend::staging(size_t bytes) { return pinned_->take(bytes); }

bool CudaBackend::prepare(size_t operations) {
  try {
    statuses_->reserve(statusesPerOperation * operations);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::OutOfMemory) throw;
    return false;
  }
  return true;
}

void CudaBackend::waitIdle() {
  driver().cuCtxSetCurrent(context_->get());
  driver().cuStreamSynchronize(stream_.get());
  completions_.waitIdle();
}

void CudaBackend::write(void* device, const std::shared_ptr<char[]>& staging, size_t bytes) {
  if (bytes == 0) return;
  MOE_CUDA(cuMemcpyHtoDAsync_v2, address(device), staging.get(), bytes, stream_.get());
  pinned_->keepUntilDone(stream_.get(), staging);
}

// Through the parameters of a kernel: a block of page-locked memory might have to be allocated, and that waits.
void CudaBackend::upload(void* device, const std::vector<uint64_t>& words) {
  for (size_t done = 0; done < words.size(); done += UploadPiece::maxWords) {
    UploadPiece piece;
    piece.target = static_cast<uint64_t*>(device) + done;
    piece.count = static_cast<int32_t>(std::min<size_t>(words.size() - done, UploadPiece::maxWords));
    std::copy_n(words.data() + done, piece.count, piece.words);
    void* parameters[] = {&piece};
    launchKernel("upload", {1}, 256, 0, parameters);
  }
}

void CudaBackend::read(void* host, const void* device, size_t bytes, const OutcomePtr& outcome, Completion completion) {
  context_->makeCurrent();
  const std::shared_ptr<char[]> block = pinned_->take(sizeof(Status) + bytes);
  if (!block) throw Error(ErrorCode::OutOfMemory, "out of page-locked host memory");
  auto* status = new (block.get()) Status{noFault, noFault, noValue};
  if (outcome) {
    const Status* own = static_cast<const CudaOutcome&>(*outcome).status;
    const auto count = static_cast<int64_t>(bytes);
    void* parameters[] = {&device, const_cast<int64_t*>(&count), &own};
    if (bytes > 0) launchKernel("clearPoisoned", {blocksFor(count, 256)}, 256, 0, parameters);
    MOE_CUDA(cuMemcpyDtoHAsync_v2, status, address(own), sizeof(Status), stream_.get());
  }
  if (bytes > 0) MOE_CUDA(cuMemcpyDtoHAsync_v2, block.get() + sizeof(Status), address(device), bytes, stream_.get());
  completions_.after([this, block, status, host, bytes, completion = std::move(completion)](CUresult result) {
    if (result != CUDA_SUCCESS) return completion(lost(result, "read"));
    if (const FaultWord word = std::min(status->inherited, status->own); word != noFault)
      return completion(faults_->failure(word, status->value));
    if (bytes > 0) std::memcpy(host, block.get() + sizeof(Status), bytes);
    completion(nullptr);
  });
}

// ------------------------------------------------------------------------------------------------ operations

void CudaBackend::begin(const char* name, const Operands& operands) {
  context_->makeCurrent();
  operation_ = {};
  operation_.name = name;
  operation_.operands = &operands;
}

OutcomePtr CudaBackend::end() {
  // Copies and fills look at no status; and nothing is launched for empty shapes.
  if (!operation_.entered) {
    const std::vector<const Status*> inputs = distinctStatuses(operation_.operands->inputs);
    if (inputs.size() > 1 || dependsOnReplay() || (!inputs.empty() && !operation_.operands->gradients.empty()))
      launch("inherit", {1}, 1, 0);
    else
      for (const HealthPtr& input : operation_.operands->inputs)
        if (input->outcome) operation_.outcome = std::static_pointer_cast<CudaOutcome>(input->outcome);
  }
  operation_.operands = nullptr;
  return std::move(operation_.outcome);
}

void CudaBackend::expectFaults(const FaultLimits& limits, bool inFirst) {
  operation_.canFail = true;
  operation_.failsInFirst = inFirst;
  operation_.limits = limits;
}

unsigned CudaBackend::blocksFor(int64_t items, unsigned threads) const {
  return static_cast<unsigned>(std::min<int64_t>((items + threads - 1) / threads, 8 * properties_.multiprocessors));
}

std::vector<const Status*> CudaBackend::distinctStatuses(const std::vector<HealthPtr>& inputs) {
  std::vector<const Status*> statuses;
  for (const HealthPtr& input : inputs)
    if (const CudaOutcome* outcome = outcomeOf(input)) statuses.push_back(outcome->status);
  std::sort(statuses.begin(), statuses.end());
  statuses.erase(std::unique(statuses.begin(), statuses.end()), statuses.end());
  return statuses;
}

void CudaBackend::mergeInto(Status* status, std::vector<const Status*>& inputs, size_t rest) {
  while (inputs.size() > rest) {
    const size_t count = std::min<size_t>(inputs.size(), Guard::maxInputs);
    Guard merge{};
    merge.first = true;
    merge.resetOwn = true;
    merge.status = status;
    merge.inputCount = static_cast<int32_t>(count);
    std::copy(inputs.end() - count, inputs.end(), merge.inputs);
    inputs.resize(inputs.size() - count);
    void* list[] = {&merge};
    launchKernel("inherit", {1}, 1, 0, list);
    if (!inputs.empty()) inputs.insert(inputs.begin(), status);
  }
}

std::shared_ptr<CudaOutcome> CudaBackend::makeOutcome() {
  auto outcome = std::make_shared<CudaOutcome>(statuses_, capturing_ != nullptr);
  if (capturing_) capturing_->outcomes.push_back(outcome);
  return outcome;
}

bool CudaBackend::dependsOnReplay() const {
  return !capturing_ && std::ranges::any_of(operation_.operands->inputs, [](const HealthPtr& input) {
    const CudaOutcome* outcome = outcomeOf(input);
    return outcome && outcome->ofReplays;
  });
}

void CudaBackend::noteRecent(Recent recent) {
  // Before this one is noted: nothing of it has been given to the stream yet.
  try {
    if (recent_.size() >= manyRecent && !finding_) findFailures(false, [](CUresult) {});
  } catch (const Error&) {
    // No fault of this operation; the next one tries again.
  }
  recent_.push_back(std::move(recent));
}

Guard CudaBackend::nextGuard() {
  if (!operation_.entered) {
    operation_.entered = true;
    return enter();
  }
  Guard guard{};
  if (operation_.outcome) {
    guard.inputs[guard.inputCount++] = operation_.outcome->status;
    guard.status = operation_.outcome->status;
    guard.operation = operation_.number;
  }
  return guard;
}

/// The guard of an operation's first kernel.
Guard CudaBackend::enter() {
  Operation& op = operation_;
  std::vector<const Status*> inputs = distinctStatuses(op.operands->inputs);
  Guard guard{};
  guard.first = true;

  // With a single input and no faults of its own, an operation shares the outcome of that input, when that stays.
  if (op.canFail || inputs.size() > 1 || dependsOnReplay()) {
    op.outcome = makeOutcome();
    guard.status = op.outcome->status;
    guard.resetOwn = !op.failsInFirst;
    if (op.failsInFirst)
      MOE_CUDA(cuMemsetD8Async, address(&guard.status->own), 0xff, sizeof(FaultWord) + sizeof(FaultValue),
               stream_.get());
  } else if (inputs.size() == 1) {
    for (const HealthPtr& input : op.operands->inputs)
      if (input->outcome) op.outcome = std::static_pointer_cast<CudaOutcome>(input->outcome);
  }
  if (op.canFail) {
    op.number = guard.operation = faults_->number(op.name, op.limits);
    if (capturing_)
      capturing_->fallible.push_back({op.number, op.outcome});
    else
      noteRecent({op.outcome, op.number, false});
  }

  // More inputs than a guard holds are merged into the status by kernels that do nothing else.
  mergeInto(guard.status, inputs, Guard::maxInputs);
  guard.inputCount = static_cast<int32_t>(inputs.size());
  std::copy(inputs.begin(), inputs.end(), guard.inputs);

  // Gradients keep an outcome of their own until they are cleared; those that start together share one.
  std::shared_ptr<CudaOutcome> fresh;
  for (const HealthPtr& gradient : op.operands->gradients) {
    if (!gradient->outcome) {
      if (inputs.empty() && !op.canFail) continue;
      if (!fresh) fresh = makeOutcome();
      gradient->outcome = fresh;
    }
    Status* status = outcomeOf(gradient)->status;
    if (std::find(guard.gradients, guard.gradients + guard.gradientCount, status) !=
        guard.gradients + guard.gradientCount)
      continue;
    if (guard.gradientCount == Guard::maxGradients)
      throw Error(ErrorCode::Internal, "an operation has more gradients than a guard holds");
    if (fresh && status == fresh->status) guard.freshGradients |= 1u << guard.gradientCount;
    guard.gradients[guard.gradientCount++] = status;
  }
  return guard;
}

void CudaBackend::launchKernel(const std::string& kernel, Dim grid, unsigned block, size_t sharedBytes,
                               void** parameters, bool together) {
  const CUfunction function = kernels_.find(kernel);
  constexpr size_t withoutAsking = 40 << 10;  // of 48 KB: a kernel may have variables of its own besides
  if (sharedBytes > withoutAsking)
    MOE_CUDA(cuFuncSetAttribute, function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
             static_cast<int>(sharedBytes));
  const auto shared = static_cast<unsigned>(sharedBytes);
  if (timing_) timed_.push_back({kernel, {}, {}});
  if (timing_) timed_.back().from.record(stream_.get());
  if (together)
    MOE_CUDA(cuLaunchCooperativeKernel, function, grid.x, grid.y, grid.z, block, 1, 1, shared, stream_.get(),
             parameters);
  else
    MOE_CUDA(cuLaunchKernel, function, grid.x, grid.y, grid.z, block, 1, 1, shared, stream_.get(), parameters, nullptr);
  if (timing_) timed_.back().to.record(stream_.get());
}

Completions::Passed CudaBackend::tellPassing() {
  auto passed = std::make_shared<std::atomic<bool>>(false);
  const auto tell = [this, passed](char*) {
    *passed = true;
    completions_.wake();
  };
  pinned_->keepUntilDone(stream_.get(), std::shared_ptr<char[]>(nullptr, tell));
  return passed;
}

void CudaBackend::findFailures(bool awaited, std::function<void(CUresult)> then) {
  struct Ended {
    std::vector<uint32_t> numbers;
    std::vector<Recent> recent;
  };
  const auto ended = std::make_shared<Ended>(Ended{faults_->takeEnded(), std::exchange(recent_, {})});
  finding_ = true;
  try {
    const Snapshot snapshot = statuses_->snapshot();
    const Completions::Passed passed = awaited ? nullptr : tellPassing();
    auto look = [this, snapshot, ended, then = std::move(then)](CUresult result) {
      if (result == CUDA_SUCCESS) {
        for (const Recent& operation : ended->recent) {
          const auto& [inherited, own, value] = snapshot.of(operation.outcome->status);
          if (const FaultWord word = operation.ofReplay || inherited == noFault ? std::min(inherited, own) : noFault;
              word != noFault)
            addUnreported(found_, faults_->failure(word, value));
          if (!operation.ofReplay) ended->numbers.push_back(operation.number);
        }
        faults_->settle(snapshot, ended->numbers);
      }
      finding_ = false;
      then(result);
    };
    completions_.after(std::move(look), passed);
  } catch (...) {
    // Nothing is on its way: all of it is left to the next time.
    faults_->end(ended->numbers);
    recent_ = std::move(ended->recent);
    finding_ = false;
    throw;
  }
}

void CudaBackend::collectFailures(std::function<void(std::vector<FailurePtr>)> completion) {
  context_->makeCurrent();
  // They write to the same memory of the host.
  if (finding_) completions_.waitIdle();
  findFailures(true, [this, completion = std::move(completion)](CUresult result) {
    if (result != CUDA_SUCCESS) addUnreported(found_, lost(result, "synchronize"));
    completion(std::exchange(found_, {}));
  });
}

FailurePtr CudaBackend::lost(CUresult result, const char* call) const {
  try {
    check(result, call);
  } catch (const Error& error) {
    return std::make_shared<Failure>(error.code(), error.what(), error.hint());
  }
  return nullptr;
}

}  // namespace moe::cuda
