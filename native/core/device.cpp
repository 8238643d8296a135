#include "device.h"

#include <cstring>
#include <new>

#include "graph.h"
#include "host-floats.h"
#include "wait.h"

namespace moe {

namespace {

class FunctionJob final : public Job {
 public:
  explicit FunctionJob(std::function<void()> body) : body_(std::move(body)) {}
  void run() noexcept override { body_(); }

 private:
  std::function<void()> body_;
};

/// Every Health is a tensor's. Assignments through the base leave alone whose it is.
struct TensorHealth final : Health {
  Tensor* tensor = nullptr;
};

std::unique_ptr<Job> job(std::function<void()> body) { return std::make_unique<FunctionJob>(std::move(body)); }

}  // namespace

Tensor::Tensor(std::shared_ptr<Device> device, DType dtype, int64_t size, bool lasting)
    : device_(std::move(device)), dtype_(dtype), size_(size), health_(std::make_shared<TensorHealth>()) {
  static_cast<TensorHealth&>(*health_).tensor = this;
  block_ = device_->pool_.take(bytes(), lasting);
}

Tensor::~Tensor() {
  static_cast<TensorHealth&>(*health_).tensor = nullptr;
  device_->pool_.give(block_);
}

Tensor* Tensor::of(const HealthPtr& health) { return static_cast<TensorHealth&>(*health).tensor; }

Device::Device(std::unique_ptr<Backend> backend, size_t memoryLimit)
    : backend_(std::move(backend)), pool_(*backend_, memoryLimit, [this] {
        queue_.waitIdle();
        backend_->waitIdle();
      }) {}

Device::~Device() { close(); }

void Device::close() {
  if (closed_) return;
  closed_ = true;
  queue_.close();
  backend_->waitIdle();
  pool_.close();
  backend_.reset();
}

void Device::checkOpen() const {
  if (closed_) throw Error(ErrorCode::Disposed, "the device is disposed");
  if (isLost_.load(std::memory_order_acquire))
    throw Error(ErrorCode::DeviceLost, "the device is lost: " + lost_->message, lost_->hint);
}

void Device::noteLoss(const FailurePtr& failure) {
  if (!failure || failure->code != ErrorCode::DeviceLost) return;
  std::lock_guard lock(failuresMutex_);
  if (lost_) return;
  lost_ = failure;
  isLost_.store(true, std::memory_order_release);
}

template <class Body>
FailurePtr Device::caught(const char* name, const Body& body) {
  FailurePtr failure;
  const auto fail = [&](ErrorCode code, const char* what, const std::string& hint) {
    failure = std::make_shared<Failure>(code, name ? std::string(name) + ": " + what : what, hint);
    noteLoss(failure);
  };
  try {
    body();
  } catch (const Error& error) {
    fail(error.code(), error.what(), error.hint());
  } catch (const std::bad_alloc&) {
    fail(ErrorCode::OutOfMemory, "out of host memory", {});
  } catch (const std::exception& error) {
    fail(ErrorCode::Internal, error.what(), {});
  }
  return failure;
}

template <class Body>
void Device::noting(const Body& body) {
  if (const FailurePtr failure = caught(nullptr, body)) rethrow(*failure);
}

void Device::prepare(size_t operations) {
  // As many as the queue holds may still be on their way, and those of one call follow its last allocation.
  constexpr size_t usual = Queue::capacity + 64;
  bool ready = false;
  noting([&] { ready = backend_->prepare(usual + operations); });
  if (ready) return;
  pool_.makeRoom();
  noting([&] { ready = backend_->prepare(usual + operations); });
  if (!ready) throw Error(ErrorCode::OutOfMemory, "out of memory for what operations tell of how they went");
}

TensorPtr Device::empty(DType dtype, int64_t size, bool lasting) {
  checkOpen();
  if (size < 0 || size > (int64_t{1} << 53))
    throw Error(ErrorCode::OutOfMemory, "a tensor of that size fits no memory");
  prepare(0);
  TensorPtr tensor;
  noting([&] { tensor = std::make_shared<Tensor>(shared_from_this(), dtype, size, lasting); });
  return tensor;
}

std::shared_ptr<char[]> Device::staging(size_t bytes, const char* purpose) {
  std::shared_ptr<char[]> block;
  noting([&] { block = backend_->staging(bytes); });
  if (!block) throw Error(ErrorCode::OutOfMemory, std::string("out of host memory for ") + purpose);
  return block;
}

TensorPtr Device::zeros(DType dtype, int64_t size) {
  TensorPtr tensor = empty(dtype, size);
  enqueue("zeros", {{}, {tensor->health()}, {}},
          [data = tensor->data(), bytes = tensor->bytes()](Backend& backend) { backend.zero(data, bytes); });
  return tensor;
}

void Device::enqueue(const char* name, Operands operands, std::function<void(Backend&)> body) {
  checkOpen();
  if (recording_) return recording_->add(name, std::move(operands), std::move(body));
  push([this, name, operands = std::move(operands), body = std::move(body)] { run(name, operands, body); });
}

void Device::push(std::function<void()> body) { queue_.push(job(std::move(body))); }

void Device::nowAndOnReplay(std::function<void()> step) {
  step();
  if (recording_) recording_->onReplay(std::move(step));
}

void Device::nowOrOnReplay(std::function<void()> step) {
  if (recording_) return recording_->onReplay(std::move(step));
  step();
}

void Device::consult(const TensorPtr& gradient) {
  if (recording_) recording_->consult(gradient);
}

void Device::settle(const TensorPtr& gradient) {
  if (recording_) recording_->settle(gradient);
}

void Device::hold(std::shared_ptr<void> owner) {
  if (recording_) recording_->hold(std::move(owner));
}

void Device::refuseRecording(const char* call) const {
  if (recording_) recording_->refuse(call);
}

FailurePtr Device::attempt(const char* name, const std::function<void(Backend&)>& body) {
  const FailurePtr failure = caught(name, [&] { body(*backend_); });
  if (failure) {
    std::lock_guard lock(failuresMutex_);
    addUnreported(failures_, failure);
  }
  return failure;
}

FailurePtr Device::run(const char* name, const Operands& operands, const std::function<void(Backend&)>& body) {
  FailurePtr failure;
  OutcomePtr outcome;
  for (const HealthPtr& input : operands.inputs)
    if ((failure = input->failure)) break;
  if (!failure)
    failure = attempt(name, [&](Backend& backend) {
      backend.begin(name, operands);
      body(backend);
      outcome = backend.end();
    });
  for (const HealthPtr& output : operands.outputs) *output = {failure, outcome};
  if (failure)
    for (const HealthPtr& gradient : operands.gradients)
      if (!gradient->failure) gradient->failure = failure;
  return failure;
}

const TensorPtr& Device::materialise(const TensorPtr& tensor) {
  if (tensor->lasting()) consult(tensor);
  // At a replay the memory may hold what another backward has left there.
  if (tensor->cleared && (recording_ || !tensor->zeroed)) {
    enqueue("zeroGrad", {{}, {}, {tensor->health()}},
            [data = tensor->data(), bytes = tensor->bytes()](Backend& backend) { backend.zero(data, bytes); });
    nowAndOnReplay([tensor] { tensor->zeroed = true; });
  }
  return tensor;
}

void Device::read(const TensorPtr& tensor, void* host, DType hostDType, Completion completion) {
  const DType dtype = tensor->dtype();
  std::shared_ptr<char[]> bits;
  if (hostDType != dtype) bits.reset(new char[tensor->bytes()]);
  copyOut(tensor, bits ? bits.get() : host,
          [bits, dtype, size = tensor->size(), host, completion = std::move(completion)](FailurePtr failure) {
            if (failure)
              failure->reported = true;
            else if (bits)
              widenFloats(dtype, bits.get(), size, static_cast<float*>(host));
            completion(std::move(failure));
          });
}

void Device::copyOut(const TensorPtr& tensor, void* host, Completion completion) {
  checkOpen();
  refuseRecording("reading a tensor");
  materialise(tensor);
  queue_.push(job([this, health = tensor->health(), data = tensor->data(), bytes = tensor->bytes(), host,
                   completion = std::move(completion)] {
    if (health->failure) return completion(health->failure);
    const auto tell = [this, completion](FailurePtr failure) {
      noteLoss(failure);
      completion(std::move(failure));
    };
    if (FailurePtr failure = caught(nullptr, [&] { backend_->read(host, data, bytes, health->outcome, tell); }))
      completion(std::move(failure));
  }));
}

void Device::readSync(const TensorPtr& tensor, void* host, DType hostDType) {
  struct Answer {
    FailurePtr failure;
    std::atomic<int32_t> given{0};
  };
  auto answer = std::make_shared<Answer>();
  read(tensor, host, hostDType, [answer](FailurePtr failure) {
    answer->failure = std::move(failure);
    answer->given.store(1, std::memory_order_release);
    answer->given.notify_all();
  });
  while (answer->given.load(std::memory_order_acquire) == 0) waitWhileEqual<int32_t>(answer->given, 0);
  if (answer->failure) rethrow(*answer->failure);
}

void Device::write(const TensorPtr& tensor, const void* host, DType hostDType) {
  checkOpen();
  refuseRecording("writing to a tensor");
  const size_t bytes = tensor->bytes();
  const std::shared_ptr<char[]> copy = staging(bytes, "the copy of the written data");
  if (hostDType != tensor->dtype())
    roundFloats(static_cast<const float*>(host), tensor->size(), tensor->dtype(), copy.get());
  else if (bytes > 0)
    std::memcpy(copy.get(), host, bytes);
  enqueue("write", {{}, {tensor->health()}, {}},
          [copy, data = tensor->data(), bytes](Backend& backend) { backend.write(data, copy, bytes); });
  ++tensor->version;
  tensor->cleared = false;
}

namespace {

/// A tensor on its way from one device's queue to another's.
struct Transit {
  enum : int32_t { Waiting, Ready, Cancelled };
  std::shared_ptr<char[]> bytes;
  FailurePtr failure;
  std::atomic<int32_t> state{Waiting};

  void finish(int32_t how) {
    state.store(how, std::memory_order_release);
    state.notify_all();
  }
};

/// Finishes the transit even when the sending job is dropped without having run.
struct Sender {
  explicit Sender(std::shared_ptr<Transit> transit) : transit(std::move(transit)) {}
  ~Sender() {
    if (transit->state.load(std::memory_order_relaxed) == Transit::Waiting) transit->finish(Transit::Cancelled);
  }

  const std::shared_ptr<Transit> transit;
};

}  // namespace

TensorPtr Device::transfer(const TensorPtr& source) {
  Device& from = source->device();
  from.checkOpen();
  refuseRecording("copying from another device");
  TensorPtr target = empty(source->dtype(), source->size());
  auto transit = std::make_shared<Transit>();
  transit->bytes = staging(source->bytes(), "a copy between devices");
  auto sender = std::make_shared<Sender>(transit);
  from.copyOut(source, transit->bytes.get(), [sender = std::move(sender)](FailurePtr failure) {
    sender->transit->failure = std::move(failure);
    sender->transit->finish(Transit::Ready);
  });
  enqueue("to", {{}, {target->health()}, {}},
          [transit, data = target->data(), bytes = target->bytes()](Backend& backend) {
            while (transit->state.load(std::memory_order_acquire) == Transit::Waiting)
              waitWhileEqual<int32_t>(transit->state, Transit::Waiting);
            if (transit->state.load() == Transit::Cancelled)
              throw Error(ErrorCode::Disposed, "the source's device was disposed before the copy");
            if (transit->failure) rethrow(*transit->failure);
            backend.write(data, transit->bytes, bytes);
          });
  return target;
}

void Device::synchronize(Completion completion) {
  checkOpen();
  refuseRecording("synchronize()");
  queue_.push(job([this, completion = std::move(completion)] {
    const auto tell = [this, completion](std::vector<FailurePtr> found) {
      completion(firstUnreported(std::move(found)));
    };
    if (FailurePtr failure = caught(nullptr, [&] { backend_->collectFailures(tell); })) completion(std::move(failure));
  }));
}

FailurePtr Device::firstUnreported(std::vector<FailurePtr> found) {
  for (const FailurePtr& failure : found) noteLoss(failure);
  std::lock_guard lock(failuresMutex_);
  for (FailurePtr& failure : found) addUnreported(failures_, std::move(failure));
  for (const FailurePtr& failure : failures_)
    if (!failure->reported.exchange(true)) return failure;
  return nullptr;
}

void rethrow(const Failure& failure) { throw Error(failure.code, failure.message, failure.hint); }

}  // namespace moe
