// The order of the stages, and nothing of how they are done: route → plan → experts → combine, shared experts beside
// them. Each queued closure holds raw pointers; see tensor.h for why that is safe.
#include "layer.h"

#include <string>

namespace moe {

namespace {

/// The float block of what the balancing losses keep for backward. One function both counts and carves.
struct LossBlock {
  float *counts = nullptr, *tokens = nullptr, *importance = nullptr;

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
    return used;
  }
};

const float* floatsOf(const TensorPtr& tensor) { return tensor ? tensor->floats() : nullptr; }
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

PlanRows planRows(const PlanBlock& block, int64_t tokens, int64_t rows, int experts, int topK) {
  return {tokens,         rows, experts, topK, block.expertOffsets, block.rowToken, block.rowSlot, block.tokenOffsets,
          block.tokenRows};
}

}  // namespace

// ------------------------------------------------------------------------------------------------ forward

MoEPass::MoEPass(std::shared_ptr<Layer> layer, const TensorPtr& input, const ForwardCall& call)
    : layer_(std::move(layer)),
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
      lossMask_(call.lossMask) {
  if (input->size() % H_ != 0) throw Error(ErrorCode::Shape, "input must have a whole number of rows");
  T_ = input->size() / H_;
  checkCall(call);
  if (!ranRouter_) losses_ = {};
  capacity_ = call.capacity.resolve(T_, K_, E_, training_);
  R_ = maxRows(capacity_, T_, K_, E_);

  Device& device = *layer_->device;
  for (const TensorPtr& tensor : {input_, mask_, lossMask_, call.routingIndices, call.routingWeights, call.logits})
    if (tensor) device.materialise(tensor);

  output_ = device.empty(DType::Float32, T_ * H_);
  queueRoute(call);
  queueExperts(call);
  if (layer_->config.sharedSize > 0) queueShared(call);

  if (training_) {
    ++layer_->step;
    for (const TensorPtr& tensor : {input_, mask_, lossMask_, indices_, weights_, logits_}) watch(tensor);
    watchParameters();
  } else {
    for (TensorPtr* saved : {&input_, &mask_, &lossMask_, &scores_, &lossState_, &sharedPlan_, &sharedGates_})
      saved->reset();
  }
}

void MoEPass::checkCall(const ForwardCall& call) const {
  checkTensor(input_, T_ * H_, DType::Float32, "input");
  checkOptional(call.mask, T_, DType::Int32, "mask");
  checkOptional(call.lossMask, T_, DType::Int32, "lossMask");
  checkOptional(call.routingIndices, T_ * K_, DType::Int32, "routing.indices");
  checkOptional(call.routingWeights, T_ * K_, DType::Float32, "routing.weights");
  checkOptional(call.logits, T_ * E_, DType::Float32, "logits");
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
  statistics_.values = device.empty(DType::Float32, RouteValue::count);
  LossBlock loss;
  const int64_t scopes = losses_.scopes(T_);
  if (const int64_t size = loss.carve(nullptr, losses_, scopes, E_); size > 0) {
    lossState_ = device.empty(DType::Float32, size);
    loss.carve(lossState_->floats(), losses_, scopes, E_);
  }
  statistics_.plan = device.empty(DType::Int32, statistics_.block.carve(nullptr, T_, E_, R_));
  statistics_.block.carve(statistics_.plan->ints(), T_, E_, R_);
  statistics_.capacity = capacity_.slots;

  const bool product = ranRouter_ && !givenLogits_;
  RouteForward route{router_,
                     losses_,
                     T_,
                     H_,
                     E_,
                     K_,
                     product ? input_->floats() : nullptr,
                     product ? valueOf(p.routerWeight) : nullptr,
                     ranRouter_ ? valueOf(p.routerBias) : nullptr,
                     floatsOf(call.logits),
                     intsOf(call.routingIndices),
                     floatsOf(call.routingWeights),
                     intsOf(mask_),
                     intsOf(lossMask_),
                     ranRouter_ ? logits_->floats() : nullptr,
                     indices_->ints(),
                     scores_->floats(),
                     weights_->floats(),
                     loss.counts,
                     loss.tokens,
                     loss.importance,
                     statistics_.values->floats()};
  const PlanBlock& block = statistics_.block;
  BuildPlan plan{T_,
                 R_,
                 E_,
                 K_,
                 capacity_,
                 indices_->ints(),
                 intsOf(mask_),
                 scores_->floats(),
                 weights_->floats(),
                 kept_->ints(),
                 block.expertOffsets,
                 block.rowToken,
                 block.rowSlot,
                 block.tokenOffsets,
                 block.tokenRows,
                 block.assigned,
                 block.keptCounts,
                 block.totals};
  Operands operands;
  reads(operands, {input_, mask_, lossMask_, call.routingIndices, call.routingWeights, call.logits});
  if (ranRouter_)
    for (const ParameterPtr& parameter : {p.routerWeight, p.routerBias})
      if (parameter) reads(operands, {parameter->value()});
  writes(operands, {logits_, indices_, weights_, kept_, scores_, lossState_, statistics_.values, statistics_.plan});
  device.enqueue("MoELayer.forward", std::move(operands), [route, plan](Backend& backend) {
    backend.routeForward(route);
    backend.buildPlan(plan);
  });
}

void MoEPass::queueExperts(const ForwardCall& call) {
  Device& device = *layer_->device;
  const LayerParameters& p = layer_->parameters;
  const ActivationOptions& activation = layer_->config.activation;
  if (call.training) {
    if (activation.gated()) savedGate_ = device.empty(DType::Float32, R_ * F_);
    savedUp_ = device.empty(DType::Float32, R_ * F_);
  }
  const TensorPtr expertRows = device.empty(DType::Float32, R_ * H_);
  ExpertsForward experts{rows(),
                         activation,
                         H_,
                         F_,
                         input_->floats(),
                         valueOf(p.gate),
                         valueOf(p.up),
                         valueOf(p.down),
                         valueOf(p.gateBias),
                         valueOf(p.upBias),
                         valueOf(p.downBias),
                         savedGate_ ? savedGate_->floats() : nullptr,
                         savedUp_ ? savedUp_->floats() : nullptr,
                         expertRows->floats()};
  Combine combine{rows(), H_, expertRows->floats(), weights_->floats(), output_->floats(), false};
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
    if (activation.gated()) sharedSavedGate_ = device.empty(DType::Float32, T_ * S);
    sharedSavedUp_ = device.empty(DType::Float32, T_ * S);
  }
  const TensorPtr expertRows = device.empty(DType::Float32, T_ * H_);
  float* gates = sharedGates_ ? sharedGates_->floats() : nullptr;

  const PlanBlock& block = sharedBlock_;
  BuildPlan plan{T_,
                 T_,
                 1,
                 1,
                 {},
                 nullptr,
                 intsOf(mask_),
                 nullptr,
                 nullptr,
                 nullptr,
                 block.expertOffsets,
                 block.rowToken,
                 block.rowSlot,
                 block.tokenOffsets,
                 block.tokenRows,
                 block.assigned,
                 block.keptCounts,
                 block.totals};
  SigmoidGateForward gate{T_, H_, input_->floats(), valueOf(p.sharedOutputGate), intsOf(mask_), gates};
  ExpertsForward experts{sharedRows(),
                         activation,
                         H_,
                         S,
                         input_->floats(),
                         valueOf(p.sharedGate),
                         valueOf(p.sharedUp),
                         valueOf(p.sharedDown),
                         nullptr,
                         nullptr,
                         nullptr,
                         sharedSavedGate_ ? sharedSavedGate_->floats() : nullptr,
                         sharedSavedUp_ ? sharedSavedUp_->floats() : nullptr,
                         expertRows->floats()};
  Combine combine{sharedRows(), H_, expertRows->floats(), gates, output_->floats(), true};
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
       {p.routerWeight, p.gate, p.up, p.down, p.downBias, p.sharedGate, p.sharedUp, p.sharedDown, p.sharedOutputGate})
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
  checkTensor(gradOutput, T_ * H_, DType::Float32, "gradOutput");
  Device& device = *layer_->device;
  device.materialise(gradOutput);
  const LayerParameters& p = layer_->parameters;
  const LayerConfig& config = layer_->config;
  const int S = config.sharedSize;

  MoEGradients gradients;
  gradients.input = device.empty(DType::Float32, T_ * H_);
  const TensorPtr gradWeights = device.empty(DType::Float32, T_ * K_);
  const TensorPtr gradRows = device.empty(DType::Float32, R_ * H_);
  const TensorPtr gradLogits = ranRouter_ ? device.empty(DType::Float32, T_ * E_) : nullptr;
  TensorPtr sharedGradRows, sharedGradGates;
  if (S > 0) sharedGradRows = device.empty(DType::Float32, T_ * H_);
  if (sharedGates_) sharedGradGates = device.empty(DType::Float32, T_);
  makeGrads({p.gate, p.up, p.down, p.gateBias, p.upBias, p.downBias, p.sharedGate, p.sharedUp, p.sharedDown,
             p.sharedOutputGate});
  if (ranRouter_) makeGrads({p.routerBias});
  if (ranRouter_ && !givenLogits_) makeGrads({p.routerWeight});
  if (!ranRouter_) gradients.routingWeights = gradWeights;

  Operands operands;
  reads(operands,
        {gradOutput, input_, mask_, lossMask_, indices_, weights_, logits_, scores_, lossState_, statistics_.values,
         statistics_.plan, savedGate_, savedUp_, sharedPlan_, sharedGates_, sharedSavedGate_, sharedSavedUp_});
  for (const auto& [tensor, version] : watched_) operands.inputs.push_back(tensor->health());
  writes(operands, {gradients.input, gradWeights});

  // Shared experts, with the gradient of their gate.
  ExpertsBackward shared{};
  SigmoidGateBackward gate{};
  if (S > 0) {
    const GradTarget up = gradTarget(p.sharedUp, operands), down = gradTarget(p.sharedDown, operands),
                     gateWeight = gradTarget(p.sharedGate, operands),
                     outputGate = gradTarget(p.sharedOutputGate, operands);
    shared = {sharedRows(),
              config.activation,
              H_,
              S,
              input_->floats(),
              gradOutput->floats(),
              floatsOf(sharedGates_),
              valueOf(p.sharedGate),
              valueOf(p.sharedUp),
              valueOf(p.sharedDown),
              nullptr,
              floatsOf(sharedSavedGate_),
              floatsOf(sharedSavedUp_),
              sharedGradRows->floats(),
              sharedGradGates ? sharedGradGates->floats() : nullptr,
              gateWeight.data,
              up.data,
              down.data,
              nullptr,
              nullptr,
              nullptr,
              gateWeight.accumulate,
              up.accumulate,
              down.accumulate,
              false,
              false,
              false};
    if (sharedGates_)
      gate = {T_,
              H_,
              input_->floats(),
              valueOf(p.sharedOutputGate),
              intsOf(mask_),
              sharedGates_->floats(),
              sharedGradGates->floats(),
              gradients.input->floats(),
              outputGate.data,
              outputGate.accumulate};
  }

  // Routed experts.
  const GradTarget gateWeight = gradTarget(p.gate, operands), up = gradTarget(p.up, operands),
                   down = gradTarget(p.down, operands), gateBias = gradTarget(p.gateBias, operands),
                   upBias = gradTarget(p.upBias, operands), downBias = gradTarget(p.downBias, operands);
  const ExpertsBackward experts{rows(),
                                config.activation,
                                H_,
                                F_,
                                input_->floats(),
                                gradOutput->floats(),
                                weights_->floats(),
                                valueOf(p.gate),
                                valueOf(p.up),
                                valueOf(p.down),
                                valueOf(p.downBias),
                                floatsOf(savedGate_),
                                floatsOf(savedUp_),
                                gradRows->floats(),
                                gradWeights->floats(),
                                gateWeight.data,
                                up.data,
                                down.data,
                                gateBias.data,
                                upBias.data,
                                downBias.data,
                                gateWeight.accumulate,
                                up.accumulate,
                                down.accumulate,
                                gateBias.accumulate,
                                upBias.accumulate,
                                downBias.accumulate};

  // Router.
  RouteBackward route{};
  if (ranRouter_) {
    LossBlock loss;
    if (lossState_) loss.carve(lossState_->floats(), losses_, losses_.scopes(T_), E_);
    LossOptions losses = losses_;
    losses.loadBalance *= lossScale;
    losses.importance *= lossScale;
    losses.z *= lossScale;
    const GradTarget weight = givenLogits_ ? GradTarget{} : gradTarget(p.routerWeight, operands);
    const GradTarget bias = gradTarget(p.routerBias, operands);
    writes(operands, {gradLogits});
    if (givenLogits_) gradients.routingLogits = gradLogits;
    route = {router_,
             losses,
             T_,
             H_,
             E_,
             K_,
             givenLogits_ ? nullptr : input_->floats(),
             givenLogits_ ? nullptr : valueOf(p.routerWeight),
             intsOf(mask_),
             intsOf(lossMask_),
             logits_->floats(),
             indices_->ints(),
             scores_->floats(),
             loss.counts,
             loss.tokens,
             loss.importance,
             statistics_.values->floats(),
             gradWeights->floats(),
             gradLogits->floats(),
             givenLogits_ ? nullptr : gradients.input->floats(),
             weight.data,
             bias.data,
             weight.accumulate,
             bias.accumulate};
  }

  const Combine combine{rows(), H_, gradRows->floats(), nullptr, gradients.input->floats(), false};
  const Combine combineShared{sharedRows(), H_, shared.gradRows, nullptr, gradients.input->floats(), true};
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

  spent_ = true;
  watched_.clear();
  for (TensorPtr* saved : {&input_, &mask_, &lossMask_, &scores_, &lossState_, &savedGate_, &savedUp_, &sharedPlan_,
                           &sharedGates_, &sharedSavedGate_, &sharedSavedUp_})
    saved->reset();
  return gradients;
}

}  // namespace moe
