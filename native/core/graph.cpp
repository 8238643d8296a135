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
  std::vector<State> after;          // of the outputs, once the device has captured the step
  std::unique_ptr<Capture> capture;  // null: the operations are run one by one
  FailurePtr failure;                // of the capture

  void findOperands();
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

/// Nothing runs here: the states of before come back, and what only the step writes waits for a replay.
void Graph::Recorded::captureOn(Device& device) {
  std::vector<State> before;
  for (const auto* list : {&inputs, &gradients, &outputs})
    for (const HealthPtr& health : *list) before.push_back({health, *health});
  for (const auto* list : {&inputs, &gradients})
    for (const HealthPtr& health : *list) *health = {};
  try {
    capture = device.backend().capture(inputs, operations.size(), [&] {
      for (const Operation& operation : operations) {
        if (const FailurePtr failed = device.run(operation.name, operation.operands, operation.body))
          throw Error(failed->code, failed->message, failed->hint);
      }
    });
  } catch (const Error& error) {
    failure = std::make_shared<Failure>(error.code(), std::string("graph: ") + error.what(), error.hint());
  }
  if (capture)
    for (const HealthPtr& health : outputs) after.push_back({health, *health});
  for (const State& state : before) *state.health = state.value;

  const auto unwritten = std::make_shared<Failure>(
      ErrorCode::StalePass, "this tensor is written by graph.replay(), which has not run yet", std::string());
  std::unordered_set<Health*> outside;
  for (const auto* list : {&inputs, &gradients})
    for (const HealthPtr& health : *list) outside.insert(health.get());
  for (const HealthPtr& health : outputs)
    if (!outside.contains(health.get()) && !health->failure && !health->outcome) health->failure = unwritten;
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

void Graph::abort() {
  device_->setRecording(nullptr);
  device_->pool().endArena();
}

void Graph::end() {
  abort();
  if (!refused_.empty()) throw Error(ErrorCode::InvalidArgument, refused_);
  recorded_->findOperands();
  device_->push([recorded = recorded_, device = device_.get()] { recorded->captureOn(*device); });
}

void Graph::replay() {
  device_->checkOpen();
  if (device_->recording()) throw Error(ErrorCode::InvalidArgument, "replay() inside of a graph's step");
  restoreGradients();
  for (const auto& step : steps_) step();
  queueValues();
  device_->push([recorded = recorded_, device = device_.get()] { recorded->replayOn(*device); });
}

void Graph::add(const char* name, Operands operands, std::function<void(Backend&)> body) {
  for (const auto* list : {&operands.inputs, &operands.outputs, &operands.gradients})
    for (const HealthPtr& health : *list)
      if (Tensor* tensor = Tensor::of(health); tensor && tensor->arena() != arena_.get())
        hold(tensor->shared_from_this());
  recorded_->operations.push_back({name, std::move(operands), std::move(body)});
}

void Graph::consult(const TensorPtr& gradient) {
  const auto same = [&](const GradientState& state) { return state.gradient == gradient; };
  if (std::ranges::any_of(gradients_, same) || std::ranges::find(settled_, gradient) != settled_.end()) return;
  gradients_.push_back({gradient, gradient->cleared});
}

/// The first backward after a clear was recorded as one that writes, and any other as one that adds.
void Graph::restoreGradients() {
  for (const auto& [gradient, cleared] : gradients_)
    if (cleared && !gradient->cleared)
      throw Error(
          ErrorCode::StalePass,
          "replay(): the step was recorded with cleared gradients, and now they are not: it would overwrite them",
          "call zeroGrad() first, or record the step with it");
  for (const auto& [gradient, cleared] : gradients_)
    if (!cleared && gradient->cleared) {
      device_->materialise(gradient);
      gradient->cleared = false;
    }
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
