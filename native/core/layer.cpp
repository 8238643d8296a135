// The order of the stages, and nothing of how they are done: route → plan → experts → combine, shared experts beside
// them. Each queued closure holds raw pointers; see tensor.h for why that is safe.
#include "layer.h"

#include <string>

#include "../shared/noise.h"

namespace moe {

namespace {

/// The float block of what the balancing losses keep for backward. One function both counts and carves.
struct LossBlock {
  float *counts = nullptr, *tokens = nullptr, *importance = nullptr, *load = nullptr;

  int64_t carve(float* block, const LossOptions& losses, int64_t scopes, int experts) {
    int64_t used = 0;
    const auto take = [&](float*& field, int64_t count) {
      if (block) field = block + used;
      used += count;
    };
    if (losses.loadBalanceOn) {
      take(counts, scopes * experts);
      take(tokens, scopes);
    }
    if (losses.importanceOn) take(importance, experts);
    if (losses.loadOn) take(load, experts);
    return used;
  }
};

void* dataOf(const TensorPtr& tensor) { return tensor ? tensor->data() : nullptr; }
float* floatsOf(const TensorPtr& tensor) { return tensor ? tensor->floats() : nullptr; }
const int32_t* intsOf(const TensorPtr& tensor) { return tensor ? tensor->ints() : nullptr; }

void reads(Operands& operands, std::initializer_list<TensorPtr> tensors) {
  for (const TensorPtr& tensor : tensors)
    if (tensor) operands.inputs.push_back(tensor->health());
}

void writes(Operands& operands, std::initializer_list<TensorPtr> tensors) {
  for (const TensorPtr& tensor : tensors)
    if (tensor) operands.outputs.push_back(tensor->health());
}

void checkOptional(const TensorPtr& tensor, int64_t size, DType dtype, const char* name) {
  if (tensor) checkTensor(tensor, size, dtype, name);
}

BuildPlan planInto(const PlanBlock& block, int64_t tokens, int64_t rows, int experts, int topK) {
  return {.T = tokens,
          .R = rows,
          .E = experts,
          .K = topK,
          .expertOffsets = block.expertOffsets,
          .rowToken = block.rowToken,
          .rowSlot = block.rowSlot,
          .tokenOffsets = block.tokenOffsets,
          .tokenRows = block.tokenRows,
          .assigned = block.assigned,
          .keptCounts = block.keptCounts,
          .totals = block.totals};
}

PlanRows planRows(const PlanBlock& block, int64_t tokens, int64_t rows, int experts, int topK) {
  return {tokens,         rows, experts, topK, block.expertOffsets, block.rowToken, block.rowSlot, block.tokenOffsets,
          block.tokenRows};
}

}  // namespace

void Layer::updateSelectionBias() {
  const TensorPtr& bias = parameters.selectionBias->value();
  const SelectionBiasStep step{.E = config.numExperts,
                               .rate = config.selectionBiasRate,
                               .totals = static_cast<int64_t*>(assigned->data()),
                               .bias = bias->floats()};
  Operands operands;
  writes(operands, {bias});
  reads(operands, {bias});
  device->enqueue("MoELayer.updateSelectionBias", std::move(operands),
                  [step](Backend& backend) { backend.selectionBiasStep(step); });
  ++bias->version;
}

// ------------------------------------------------------------------------------------------------ forward

MoEPass::MoEPass(std::shared_ptr<Layer> layer, const TensorPtr& input, const ForwardCall& call)
    : layer_(std::move(layer)),
      dtype_(layer_->config.dtype),
      H_(layer_->config.hiddenSize),
      F_(layer_->config.ffnSize),
      E_(layer_->config.numExperts),
      K_(call.topK),
      training_(call.training),
      ranRouter_(!call.routingWeights),
      givenLogits_(call.logits != nullptr),
      router_(call.router),
      losses_(call.losses),
      input_(input),
      mask_(call.mask),
      lossMask_(call.lossMask),
      tokenTypes_(call.tokenTypes) {
  if (input->size() % H_ != 0) throw Error(ErrorCode::Shape, "input must have a whole number of rows");
  T_ = input->size() / H_;
  if (!ranRouter_) losses_ = {};
  checkCall(call);
  const bool ownNoise =
      router_.noise == NoiseType::None || call.noise || (router_.noise == NoiseType::Jitter && call.logits);
  noise_ = {.drawn = training_ && ranRouter_ && !ownNoise,
            .key = noiseKey(layer_->seed, NoisePurpose::Router, stepOf(call)),
            .tokenOffset = call.tokenOffset};
  capacity_ = call.capacity.resolve(T_, K_, E_, training_);
  if (call.priorities) capacity_.priority = Priority::Given;
  R_ = maxRows(capacity_, T_, K_, E_);

  Device& device = *layer_->device;
  for (const TensorPtr& tensor : {input_, mask_, lossMask_, tokenTypes_, call.routingIndices, call.routingWeights,
                                  call.logits, call.noise, call.priorities})
    if (tensor) device.materialise(tensor);

  output_ = device.empty(dtype_, T_ * H_);
  queueRoute(call);
  queueExperts(call);
  if (layer_->config.sharedSize > 0) queueShared(call);

  if (training_) {
    if (call.noiseStep < 0) ++layer_->step;
    for (const TensorPtr& tensor : {input_, mask_, lossMask_, tokenTypes_, indices_, weights_, logits_}) watch(tensor);
    watchParameters();
  } else {
    for (TensorPtr* saved : {&input_, &mask_, &lossMask_, &tokenTypes_, &scores_, &noisy_, &noiseLogits_, &lossState_,
                             &sharedPlan_, &sharedGates_})
      saved->reset();
  }
}

uint64_t MoEPass::stepOf(const ForwardCall& call) const {
  return call.noiseStep < 0 ? layer_->step : static_cast<uint64_t>(call.noiseStep);
}

void MoEPass::checkCall(const ForwardCall& call) const {
  checkTensor(input_, T_ * H_, dtype_, "input");
  checkOptional(call.mask, T_, DType::Int32, "mask");
  checkOptional(call.lossMask, T_, DType::Int32, "lossMask");
  checkOptional(call.routingIndices, T_ * K_, DType::Int32, "routing.indices");
  checkOptional(call.routingWeights, T_ * K_, DType::Float32, "routing.weights");
  checkOptional(call.logits, T_ * E_, DType::Float32, "logits");
  checkOptional(call.noise, T_ * E_, DType::Float32, "noise");
  checkOptional(call.tokenTypes, T_, DType::Int32, "tokenTypes");
  checkOptional(call.priorities, T_ * K_, DType::Float32, "priorities");
  if (layer_->allowedExperts && ranRouter_ && !call.tokenTypes)
    throw Error(ErrorCode::InvalidArgument, "tokenTypes must be given to a layer with router.allowedExperts");
  if (T_ * K_ > INT32_MAX) throw Error(ErrorCode::Shape, "input has more tokens times choices than 2^31 - 1");
  if (losses_.sequenceLength > 0 && T_ % losses_.sequenceLength != 0)
    throw Error(ErrorCode::Shape, "input must have a multiple of losses.loadBalance.sequenceLength (" +
                                      std::to_string(losses_.sequenceLength) + ") tokens, got " + std::to_string(T_));
}

void MoEPass::queueRoute(const ForwardCall& call) {
  Device& device = *layer_->device;
  const LayerParameters& p = layer_->parameters;
  if (ranRouter_) logits_ = device.empty(DType::Float32, T_ * E_);
  indices_ = device.empty(DType::Int32, T_ * K_);
  weights_ = device.empty(DType::Float32, T_ * K_);
  kept_ = device.empty(DType::Int32, T_ * K_);
  scores_ = device.empty(DType::Float32, T_ * K_);
  const bool noisy = ranRouter_ && (call.noise || (noise_.drawn && router_.noise != NoiseType::Jitter));
  if (noisy) noisy_ = device.empty(DType::Float32, T_ * E_);
  const bool drawsLearned = noise_.drawn && router_.noise == NoiseType::Learned;
  if (p.routerNoise && (drawsLearned || losses_.loadOn)) noiseLogits_ = device.empty(DType::Float32, T_ * E_);
  statistics_.values = device.empty(DType::Float32, RouteValue::count);
  LossBlock loss;
  const int64_t scopes = losses_.scopes(T_);
  if (const int64_t size = loss.carve(nullptr, losses_, scopes, E_); size > 0) {
    lossState_ = device.empty(DType::Float32, size);
    loss.carve(lossState_->floats(), losses_, scopes, E_);
  }
  statistics_.plan = device.empty(DType::Int32, statistics_.block.carve(nullptr, T_, E_, R_));
  statistics_.block.carve(statistics_.plan->ints(), T_, E_, R_);
  statistics_.counts = device.empty(DType::Int32, 2 * int64_t{E_} + PlanTotal::count);
  statistics_.block.assigned = statistics_.counts->ints();
  statistics_.block.keptCounts = statistics_.counts->ints() + E_;
  statistics_.block.totals = statistics_.counts->ints() + 2 * int64_t{E_};

  const bool product = ranRouter_ && !givenLogits_;
  RouteForward route{.dtype = dtype_,
                     .router = router_,
                     .losses = losses_,
                     .T = T_,
                     .H = H_,
                     .E = E_,
                     .K = K_,
                     .input = product || noiseLogits_ ? input_->data() : nullptr,
                     .weight = product ? floatsOf(p.routerWeight) : nullptr,
                     .bias = ranRouter_ ? floatsOf(p.routerBias) : nullptr,
                     .noiseWeight = noiseLogits_ ? floatsOf(p.routerNoise) : nullptr,
                     .selectionBias = ranRouter_ ? floatsOf(p.selectionBias) : nullptr,
                     .givenNoise = ranRouter_ ? floatsOf(call.noise) : nullptr,
                     .noise = noise_,
                     .allowed = allowed(),
                     .givenLogits = floatsOf(call.logits),
                     .givenIndices = intsOf(call.routingIndices),
                     .givenWeights = floatsOf(call.routingWeights),
                     .mask = intsOf(mask_),
                     .lossMask = intsOf(lossMask_),
                     .logits = floatsOf(logits_),
                     .noisy = floatsOf(noisy_),
                     .noiseLogits = floatsOf(noiseLogits_),
                     .indices = indices_->ints(),
                     .scores = scores_->floats(),
                     .weights = weights_->floats(),
                     .lossCounts = loss.counts,
                     .lossTokens = loss.tokens,
                     .importance = loss.importance,
                     .load = loss.load,
                     .values = statistics_.values->floats()};
  BuildPlan plan = planInto(statistics_.block, T_, R_, E_, K_);
  plan.capacity = capacity_;
  plan.indices = indices_->ints();
  plan.mask = intsOf(mask_);
  plan.scores = call.priorities ? call.priorities->floats() : scores_->floats();
  plan.drawKey = noiseKey(layer_->seed, NoisePurpose::Queue, stepOf(call));
  plan.tokenOffset = call.tokenOffset;
  plan.weights = weights_->floats();
  plan.kept = kept_->ints();
  const TensorPtr workspace = device.workspace(route, plan);
  Operands operands;
  reads(operands, {input_, mask_, lossMask_, tokenTypes_, call.routingIndices, call.routingWeights, call.logits,
                   call.noise, call.priorities, layer_->allowedExperts});
  if (ranRouter_)
    for (const ParameterPtr& parameter : {p.routerWeight, p.routerBias, p.routerNoise, p.selectionBias})
      if (parameter) reads(operands, {parameter->value()});
  writes(operands, {logits_, noisy_, noiseLogits_, indices_, weights_, kept_, scores_, lossState_, statistics_.values,
                    statistics_.plan, statistics_.counts});
  device.enqueue("MoELayer.forward", std::move(operands), [route, plan](Backend& backend) {
    backend.routeForward(route);
    backend.buildPlan(plan);
  });
  if (p.selectionBias && training_ && ranRouter_ && call.noiseStep < 0) countAssignments();
}

/// Apart from the forward, so that one that failed adds nothing and poisons nothing.
void MoEPass::countAssignments() {
  const CountAssignments count{
      .E = E_, .counts = statistics_.block.assigned, .totals = static_cast<int64_t*>(layer_->assigned->data())};
  const HealthPtr counts = statistics_.counts->health();
  Operands operands;
  operands.inputs.push_back(counts);
  layer_->device->enqueue("MoELayer.forward", std::move(operands),
                          [count](Backend& backend) { backend.countAssignments(count); });
}

AllowedExperts MoEPass::allowed() const {
  const TensorPtr& table = layer_->allowedExperts;
  if (!table || !ranRouter_) return {};
  return {.table = table->ints(), .types = static_cast<int>(table->size() / E_), .tokenTypes = intsOf(tokenTypes_)};
}

void MoEPass::queueExperts(const ForwardCall& call) {
  Device& device = *layer_->device;
  const LayerParameters& p = layer_->parameters;
  const ActivationOptions& activation = layer_->config.activation;
  if (call.training) {
    if (activation.gated()) savedGate_ = device.empty(dtype_, R_ * F_);
    savedUp_ = device.empty(dtype_, R_ * F_);
  }
  const TensorPtr expertRows = device.empty(dtype_, R_ * H_);
  ExpertsForward experts{.dtype = dtype_,
                         .plan = rows(),
                         .activation = activation,
                         .H = H_,
                         .F = F_,
                         .input = input_->data(),
                         .gate = dataOf(p.gate),
                         .up = dataOf(p.up),
                         .down = dataOf(p.down),
                         .gateBias = dataOf(p.gateBias),
                         .upBias = dataOf(p.upBias),
                         .downBias = dataOf(p.downBias),
                         .savedGate = dataOf(savedGate_),
                         .savedUp = dataOf(savedUp_),
                         .rows = expertRows->data()};
  const Combine combine{.dtype = dtype_,
                        .plan = rows(),
                        .H = H_,
                        .rows = expertRows->data(),
                        .weights = weights_->floats(),
                        .output = output_->data(),
                        .accumulate = false};
  const TensorPtr workspace = device.workspace(experts);
  Operands operands;
  reads(operands, {input_, weights_, statistics_.plan});
  for (const ParameterPtr& parameter : {p.gate, p.up, p.down, p.gateBias, p.upBias, p.downBias})
    if (parameter) reads(operands, {parameter->value()});
  writes(operands, {savedGate_, savedUp_, output_});
  device.enqueue("MoELayer.forward", std::move(operands), [experts, combine](Backend& backend) {
    backend.expertsForward(experts);
    backend.combine(combine);
  });
}

// Shared experts are an expert that every live token chooses: the same stages with E = K = 1.
void MoEPass::queueShared(const ForwardCall& call) {
  Device& device = *layer_->device;
  const LayerParameters& p = layer_->parameters;
  const ActivationOptions& activation = layer_->config.activation;
  const int S = layer_->config.sharedSize;
  sharedPlan_ = device.empty(DType::Int32, sharedBlock_.carve(nullptr, T_, 1, T_));
  sharedBlock_.carve(sharedPlan_->ints(), T_, 1, T_);
  if (p.sharedOutputGate) sharedGates_ = device.empty(DType::Float32, T_);
  if (call.training) {
    if (activation.gated()) sharedSavedGate_ = device.empty(dtype_, T_ * S);
    sharedSavedUp_ = device.empty(dtype_, T_ * S);
  }
  const TensorPtr expertRows = device.empty(dtype_, T_ * H_);
  float* gates = floatsOf(sharedGates_);
  BuildPlan plan = planInto(sharedBlock_, T_, T_, 1, 1);
  plan.mask = intsOf(mask_);
  const SigmoidGateForward gate{.dtype = dtype_,
                                .T = T_,
                                .H = H_,
                                .input = input_->data(),
                                .weight = dataOf(p.sharedOutputGate),
                                .mask = intsOf(mask_),
                                .gates = gates};
  ExpertsForward experts{.dtype = dtype_,
                         .plan = sharedRows(),
                         .activation = activation,
                         .H = H_,
                         .F = S,
                         .input = input_->data(),
                         .gate = dataOf(p.sharedGate),
                         .up = dataOf(p.sharedUp),
                         .down = dataOf(p.sharedDown),
                         .savedGate = dataOf(sharedSavedGate_),
                         .savedUp = dataOf(sharedSavedUp_),
                         .rows = expertRows->data()};
  const Combine combine{.dtype = dtype_,
                        .plan = sharedRows(),
                        .H = H_,
                        .rows = expertRows->data(),
                        .weights = gates,
                        .output = output_->data(),
                        .accumulate = true};
  const TensorPtr workspace = device.workspace(plan, experts);
  Operands operands;
  reads(operands, {input_, mask_, output_});
  for (const ParameterPtr& parameter : {p.sharedGate, p.sharedUp, p.sharedDown, p.sharedOutputGate})
    if (parameter) reads(operands, {parameter->value()});
  writes(operands, {sharedPlan_, sharedGates_, sharedSavedGate_, sharedSavedUp_, output_});
  device.enqueue("MoELayer.forward", std::move(operands), [plan, gate, experts, combine](Backend& backend) {
    backend.buildPlan(plan);
    if (gate.gates) backend.sigmoidGateForward(gate);
    backend.expertsForward(experts);
    backend.combine(combine);
  });
}

PlanRows MoEPass::rows() const { return planRows(statistics_.block, T_, R_, E_, K_); }
PlanRows MoEPass::sharedRows() const { return planRows(sharedBlock_, T_, T_, 1, 1); }

void MoEPass::watch(const TensorPtr& tensor) {
  if (tensor) watched_.emplace_back(tensor, tensor->version);
}

void MoEPass::watchParameters() {
  const LayerParameters& p = layer_->parameters;
  for (const ParameterPtr& parameter :
       {p.routerWeight, p.routerBias, p.routerNoise, p.gate, p.up, p.down, p.gateBias, p.upBias, p.downBias,
        p.sharedGate, p.sharedUp, p.sharedDown, p.sharedOutputGate})
    if (parameter) watch(parameter->value());
}

// ------------------------------------------------------------------------------------------------ backward

MoEGradients MoEPass::backward(const TensorPtr& gradOutput, float lossScale) {
  if (!training_)
    throw Error(ErrorCode::StalePass, "backward() needs a pass made with training: true; this one kept nothing for it");
  if (spent_) throw Error(ErrorCode::StalePass, "backward() of this pass has already run; it runs once");
  for (const auto& [tensor, version] : watched_)
    if (tensor->version != version)
      throw Error(ErrorCode::StalePass, "the input, the routing or a parameter was written since this pass's forward");
  checkTensor(gradOutput, T_ * H_, dtype_, "gradOutput");
  Device& device = *layer_->device;
  device.materialise(gradOutput);
  const LayerParameters& p = layer_->parameters;
  const LayerConfig& config = layer_->config;
  const int S = config.sharedSize;

  MoEGradients gradients;
  gradients.input = device.empty(dtype_, T_ * H_);
  const TensorPtr gradWeights = device.empty(DType::Float32, T_ * K_);
  const TensorPtr gradRows = device.empty(dtype_, R_ * H_);
  const TensorPtr gradLogits = ranRouter_ ? device.empty(DType::Float32, T_ * E_) : nullptr;
  const TensorPtr gradNoiseLogits = noiseLogits_ ? device.empty(DType::Float32, T_ * E_) : nullptr;
  TensorPtr sharedGradRows, sharedGradGates;
  if (S > 0) sharedGradRows = device.empty(dtype_, T_ * H_);
  if (sharedGates_) sharedGradGates = device.empty(DType::Float32, T_);
  if (!ranRouter_) gradients.routingWeights = gradWeights;

  Operands operands;
  reads(operands, {gradOutput,         input_,           mask_,      lossMask_, tokenTypes_, noisy_,
                   noiseLogits_,       indices_,         weights_,   logits_,   scores_,     lossState_,
                   statistics_.values, statistics_.plan, savedGate_, savedUp_,  sharedPlan_, sharedGates_,
                   sharedSavedGate_,   sharedSavedUp_});
  for (const auto& [tensor, version] : watched_) operands.inputs.push_back(tensor->health());
  writes(operands, {gradients.input, gradWeights});

  // Shared experts, with the gradient of their gate.
  ExpertsBackward shared{};
  SigmoidGateBackward gate{};
  if (S > 0) {
    const GradTarget up = gradTarget(p.sharedUp, operands), down = gradTarget(p.sharedDown, operands),
                     gateWeight = gradTarget(p.sharedGate, operands),
                     outputGate = gradTarget(p.sharedOutputGate, operands);
    shared = {.dtype = dtype_,
              .plan = sharedRows(),
              .activation = config.activation,
              .H = H_,
              .F = S,
              .input = input_->data(),
              .gradOutput = gradOutput->data(),
              .weights = floatsOf(sharedGates_),
              .gate = dataOf(p.sharedGate),
              .up = dataOf(p.sharedUp),
              .down = dataOf(p.sharedDown),
              .savedGate = dataOf(sharedSavedGate_),
              .savedUp = dataOf(sharedSavedUp_),
              .gradRows = sharedGradRows->data(),
              .gradWeights = floatsOf(sharedGradGates),
              .gradGate = gateWeight.data,
              .gradUp = up.data,
              .gradDown = down.data,
              .accumulateGate = gateWeight.accumulate,
              .accumulateUp = up.accumulate,
              .accumulateDown = down.accumulate};
    if (sharedGates_)
      gate = {.dtype = dtype_,
              .T = T_,
              .H = H_,
              .input = input_->data(),
              .weight = dataOf(p.sharedOutputGate),
              .mask = intsOf(mask_),
              .gates = sharedGates_->floats(),
              .gradGates = sharedGradGates->floats(),
              .gradInput = gradients.input->data(),
              .gradWeight = outputGate.data,
              .accumulateWeight = outputGate.accumulate};
  }

  // Routed experts.
  const GradTarget gateWeight = gradTarget(p.gate, operands), up = gradTarget(p.up, operands),
                   down = gradTarget(p.down, operands), gateBias = gradTarget(p.gateBias, operands),
                   upBias = gradTarget(p.upBias, operands), downBias = gradTarget(p.downBias, operands);
  ExpertsBackward experts{.dtype = dtype_,
                          .plan = rows(),
                          .activation = config.activation,
                          .H = H_,
                          .F = F_,
                          .input = input_->data(),
                          .gradOutput = gradOutput->data(),
                          .weights = weights_->floats(),
                          .gate = dataOf(p.gate),
                          .up = dataOf(p.up),
                          .down = dataOf(p.down),
                          .downBias = dataOf(p.downBias),
                          .savedGate = dataOf(savedGate_),
                          .savedUp = dataOf(savedUp_),
                          .gradRows = gradRows->data(),
                          .gradWeights = gradWeights->floats(),
                          .gradGate = gateWeight.data,
                          .gradUp = up.data,
                          .gradDown = down.data,
                          .gradGateBias = gateBias.data,
                          .gradUpBias = upBias.data,
                          .gradDownBias = downBias.data,
                          .accumulateGate = gateWeight.accumulate,
                          .accumulateUp = up.accumulate,
                          .accumulateDown = down.accumulate,
                          .accumulateGateBias = gateBias.accumulate,
                          .accumulateUpBias = upBias.accumulate,
                          .accumulateDownBias = downBias.accumulate};

  // Router.
  RouteBackward route{};
  if (ranRouter_) {
    LossBlock loss;
    if (lossState_) loss.carve(lossState_->floats(), losses_, losses_.scopes(T_), E_);
    LossOptions losses = losses_;
    losses.loadBalance *= lossScale;
    losses.importance *= lossScale;
    losses.load *= lossScale;
    losses.z *= lossScale;
    const GradTarget weight = givenLogits_ ? GradTarget{} : gradTarget(p.routerWeight, operands);
    const GradTarget bias = gradTarget(p.routerBias, operands);
    const GradTarget noise = noiseLogits_ ? gradTarget(p.routerNoise, operands) : GradTarget{};
    writes(operands, {gradLogits});
    if (givenLogits_) gradients.routingLogits = gradLogits;
    route = {.dtype = dtype_,
             .router = router_,
             .losses = losses,
             .T = T_,
             .H = H_,
             .E = E_,
             .K = K_,
             .input = givenLogits_ && !noiseLogits_ ? nullptr : input_->data(),
             .weight = givenLogits_ ? nullptr : floatsOf(p.routerWeight),
             .noiseWeight = noiseLogits_ ? floatsOf(p.routerNoise) : nullptr,
             .noise = noise_,
             .allowed = allowed(),
             .mask = intsOf(mask_),
             .lossMask = intsOf(lossMask_),
             .logits = logits_->floats(),
             .noisy = floatsOf(noisy_),
             .noiseLogits = floatsOf(noiseLogits_),
             .indices = indices_->ints(),
             .scores = scores_->floats(),
             .lossCounts = loss.counts,
             .lossTokens = loss.tokens,
             .importance = loss.importance,
             .load = loss.load,
             .values = statistics_.values->floats(),
             .gradWeights = gradWeights->floats(),
             .gradLogits = gradLogits->floats(),
             .gradInput = givenLogits_ && !noiseLogits_ ? nullptr : gradients.input->data(),
             .gradWeight = weight.data,
             .gradBias = bias.data,
             .gradNoiseLogits = floatsOf(gradNoiseLogits),
             .gradNoiseWeight = noise.data,
             .accumulateWeight = weight.accumulate,
             .accumulateBias = bias.accumulate,
             .accumulateNoiseWeight = noise.accumulate};
  }

  const auto combineInto = [&](const PlanRows& plan, const void* rows, bool accumulate) {
    return Combine{.dtype = dtype_,
                   .plan = plan,
                   .H = H_,
                   .rows = rows,
                   .weights = nullptr,
                   .output = gradients.input->data(),
                   .accumulate = accumulate};
  };
  const Combine combine = combineInto(rows(), gradRows->data(), false);
  const Combine combineShared = combineInto(sharedRows(), shared.gradRows, true);
  const TensorPtr workspace = device.workspace(experts, shared, gate, route);
  device.enqueue("MoELayer.backward", std::move(operands),
                 [shared, gate, experts, route, combine, combineShared](Backend& backend) {
                   backend.expertsBackward(experts);
                   backend.combine(combine);
                   if (shared.gradRows) {
                     backend.expertsBackward(shared);
                     backend.combine(combineShared);
                   }
                   if (gate.gates) backend.sigmoidGateBackward(gate);
                   if (route.gradLogits) backend.routeBackward(route);
                 });
  markGradsWritten({p.gate, p.up, p.down, p.gateBias, p.upBias, p.downBias, p.sharedGate, p.sharedUp, p.sharedDown,
                    p.sharedOutputGate});
  if (ranRouter_) markGradsWritten({p.routerBias});
  if (ranRouter_ && !givenLogits_) markGradsWritten({p.routerWeight});
  if (noiseLogits_) markGradsWritten({p.routerNoise});

  spent_ = true;
  watched_.clear();
  for (TensorPtr* saved : {&input_, &mask_, &lossMask_, &tokenTypes_, &scores_, &noisy_, &noiseLogits_, &lossState_,
                           &savedGate_, &savedUp_, &sharedPlan_, &sharedGates_, &sharedSavedGate_, &sharedSavedUp_})
    saved->reset();
  return gradients;
}

}  // namespace moe
