#include "graph.h"

#include <algorithm>
#include <unordered_set>

#include "device.h"

namespace moe {

/// The queue's thread owns it once the recording has ended.
struct Graph::Recorded {
  struct Operation {
    const char* name;
    Operands operands;
    std::function<void(Backend&)> body;
  };
  struct State {
    HealthPtr health;
    Health value;
  };

  std::vector<Operation> operations;
  std::vector<HealthPtr> inputs;     // read before the step writes them
  std::vector<HealthPtr> gradients;  // added to before
  std::vector<HealthPtr> outputs;    // written, or accumulated into
  std::vector<HealthPtr> made;       // of tensors that the step has made, as far as it writes them
  std::vector<State> after;          // of the outputs, once the device has captured the step
  std::unique_ptr<Capture> capture;  // null: the operations are run one by one
  FailurePtr failure;                // of the capture

  void findOperands();
  /// What only the step writes holds nothing yet.
  void markUnwritten(const char* why);
  void captureOn(Device& device);
  void replayOn(Device& device);
};

void Graph::Recorded::findOperands() {
  std::unordered_set<Health*> written, read;
  for (const Operation& operation : operations) {
    for (const HealthPtr& health : operation.operands.inputs)
      if (!written.contains(health.get()) && read.insert(health.get()).second) inputs.push_back(health);
    for (const HealthPtr& health : operation.operands.gradients)
      if (!written.contains(health.get()) && read.insert(health.get()).second) gradients.push_back(health);
    for (const auto* list : {&operation.operands.outputs, &operation.operands.gradients})
      for (const HealthPtr& health : *list)
        if (written.insert(health.get()).second) outputs.push_back(health);
  }
}

void Graph::Recorded::markUnwritten(const char* why) {
  const auto unwritten = std::make_shared<Failure>(ErrorCode::StalePass, why, std::string());
  for (const HealthPtr& health : made) *health = {unwritten, nullptr};
}

/// Nothing runs here: the states of before come back.
void Graph::Recorded::captureOn(Device& device) {
  std::vector<State> before;
  for (const auto* list : {&inputs, &gradients, &outputs})
    for (const HealthPtr& health : *list) before.push_back({health, *health});
  for (const auto* list : {&inputs, &gradients})
    for (const HealthPtr& health : *list) *health = {};
  failure = device.attempt("graph", [&](Backend& backend) {
    capture = backend.capture(inputs, operations.size(), [&] {
      for (const Operation& operation : operations)
        if (const FailurePtr failed = device.run(operation.name, operation.operands, operation.body)) {
          failed->reported = true;  // told by the failure of the whole
          rethrow(*failed);
        }
    });
  });
  if (capture)
    for (const HealthPtr& health : outputs) after.push_back({health, *health});
  for (const State& state : before) *state.health = state.value;
  markUnwritten("this tensor is written by graph.replay(), which has not run yet");
}

void Graph::Recorded::replayOn(Device& device) {
  if (!capture && !failure) {
    for (const Operation& operation : operations) device.run(operation.name, operation.operands, operation.body);
    return;
  }
  FailurePtr found = failure;
  std::vector<HealthPtr> all = inputs;
  all.insert(all.end(), gradients.begin(), gradients.end());
  for (const HealthPtr& health : all)
    if (!found) found = health->failure;
  if (!found) found = device.attempt("graph.replay", [&](Backend& backend) { backend.replay(*capture, all); });
  if (found)
    for (const HealthPtr& health : outputs) *health = {found, nullptr};
  else
    for (const State& state : after) *state.health = state.value;
}

Graph::Graph(std::shared_ptr<Device> device) : device_(std::move(device)), recorded_(std::make_shared<Recorded>()) {}

Graph::~Graph() {
  if (device_->recording() == this) abort();
  // Replays that are still queued run before whoever gets the memory next.
  if (arena_) device_->pool().drop(arena_);
  // The device's part belongs to its queue.
  if (!device_->closed()) device_->push([recorded = std::move(recorded_)] {});
}

void Graph::begin() {
  device_->checkOpen();
  if (device_->recording()) throw Error(ErrorCode::InvalidArgument, "graph() inside of a graph's step");
  arena_ = device_->pool().beginArena();
  device_->setRecording(this);
}

/// No operation has run: what the host keeps about them is as it was.
void Graph::stop() {
  device_->setRecording(nullptr);
  device_->pool().endArena();
  for (const auto& [gradient, cleared, zeroed, consulted] : gradients_) {
    gradient->cleared = cleared;
    gradient->zeroed = zeroed;
  }
  std::erase_if(written_, [](const std::weak_ptr<Tensor>& tensor) { return tensor.expired(); });
}

void Graph::abort() {
  stop();
  device_->push([recorded = recorded_] {
    recorded->markUnwritten(
        "this tensor was made in the step of a device.graph() that has thrown: nothing was written");
  });
}

void Graph::end() {
  if (!refused_.empty()) {
    abort();
    throw Error(ErrorCode::InvalidArgument, refused_);
  }
  device_->checkOpen();
  device_->prepare(recorded_->operations.size());
  stop();
  recorded_->findOperands();
  device_->push([recorded = recorded_, device = device_.get()] { recorded->captureOn(*device); });
}

void Graph::replay() {
  device_->checkOpen();
  if (device_->recording()) throw Error(ErrorCode::InvalidArgument, "replay() inside of a graph's step");
  device_->prepare(1);
  prepareGradients();
  for (const std::weak_ptr<Tensor>& tensor : written_)
    if (const TensorPtr written = tensor.lock()) ++written->replays;
  for (const auto& step : steps_) step();
  queueValues();
  device_->push([recorded = recorded_, device = device_.get()] { recorded->replayOn(*device); });
}

void Graph::add(const char* name, Operands operands, std::function<void(Backend&)> body) {
  for (const auto* list : {&operands.inputs, &operands.outputs, &operands.gradients})
    for (const HealthPtr& health : *list)
      if (Tensor* tensor = Tensor::of(health); tensor && !owns(*tensor)) hold(tensor->shared_from_this());
  for (const HealthPtr& health : operands.outputs)
    if (Tensor* tensor = Tensor::of(health)) {
      written_.push_back(tensor->weak_from_this());
      if (owns(*tensor)) recorded_->made.push_back(health);
    }
  recorded_->operations.push_back({name, std::move(operands), std::move(body)});
}

void Graph::consult(const TensorPtr& gradient) { note(gradient, true); }
void Graph::settle(const TensorPtr& gradient) { note(gradient, false); }

void Graph::note(const TensorPtr& gradient, bool consulted) {
  const auto same = [&](const GradientState& state) { return state.gradient == gradient; };
  if (std::ranges::none_of(gradients_, same))
    gradients_.push_back({gradient, gradient->cleared, gradient->zeroed, consulted});
}

/// The first backward after a clear was recorded as one that writes, and any other as one that adds.
void Graph::prepareGradients() {
  for (const auto& [gradient, cleared, zeroed, consulted] : gradients_)
    if (consulted && cleared && !gradient->cleared)
      throw Error(
          ErrorCode::StalePass,
          "replay(): the step was recorded with cleared gradients, and now they are not: it would overwrite them",
          "call zeroGrad() first, or record the step with it");
  for (const auto& [gradient, cleared, zeroed, consulted] : gradients_)
    if (consulted && !cleared) device_->materialise(gradient);
}

size_t Graph::reserve(size_t words) {
  size_t first = values_.size();
  const size_t used = first - (chunks_.empty() ? 0 : (chunks_.size() - 1) * chunkWords);
  if (chunks_.empty() || used + words > chunkWords) {
    first = chunks_.size() * chunkWords;
    // Lasting: the arena's memory may hold something else earlier in the step.
    chunks_.push_back(device_->empty(DType::Int32, 2 * chunkWords, true));
  }
  values_.resize(first + words);
  return first;
}

void Graph::queueValues() {
  if (values_ == queued_) return;
  for (size_t chunk = 0; chunk < chunks_.size(); ++chunk) {
    std::vector<uint64_t> words(values_.begin() + chunk * chunkWords,
                                values_.begin() + std::min(values_.size(), (chunk + 1) * chunkWords));
    words.resize(chunkWords);
    device_->write(chunks_[chunk], words.data(), DType::Int32);
  }
  queued_ = values_;
}

void Graph::refuse(const char* call) {
  refused_ = std::string(call) + " inside of device.graph(): a step that is replayed can neither read nor bring data";
  throw Error(ErrorCode::InvalidArgument, refused_, "Give it tensors made before, and write to them before replay().");
}

}  // namespace moe
