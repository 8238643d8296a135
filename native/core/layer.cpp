// The order of the stages, and nothing of how they are done: route → plan → experts → combine, shared experts beside
// them; backward is the exact reverse. Each stage's own part is in the file of its name. Each queued closure holds raw
// pointers; see tensor.h for why that is safe.
#include <algorithm>
#include <string>
#include <utility>

#include "../shared/noise.h"
#include "layer-parts.h"

namespace moe {

// ------------------------------------------------------------------------------------------------ forward

MoEPass::MoEPass(std::shared_ptr<Layer> layer, const TensorPtr& input, const ForwardCall& call)
    : layer_(std::move(layer)),
      dtype_(layer_->config.dtype),
      H_(layer_->config.hiddenSize),
      F_(layer_->config.ffnSize),
      E_(layer_->config.numExperts),
      K_(call.topK),
      gate_(call.gate),
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
  scored_ = ranRouter_ && !router_.draws();
  router_.fixScoring(K_);
  if (scored_ && !call.ownTemperature)
    router_.replayedTemperature = layer_->device->replayed<float>([layer = layer_] { return layer->temperature; });
  if (!scored_) losses_ = {};
  checkCall(call);
  const bool ownNoise =
      router_.noise == NoiseType::None || call.noise || (router_.noise == NoiseType::Jitter && call.logits);
  noise_ = {.drawn = training_ && scored_ && !ownNoise, .tokenOffset = call.tokenOffset};
  if (noise_.drawn) noise_.key = drawKey(NoisePurpose::Router, call);
  dropout_ = dropoutOf(NoisePurpose::ExpertDropout, call);
  sharedDropout_ = dropoutOf(NoisePurpose::SharedDropout, call);
  capacity_ = call.capacity.resolve(T_, K_, E_, training_);
  if (call.priorities) capacity_.priority = Priority::Given;
  slots_ = T_ * K_;
  R_ = maxRows(capacity_, T_, K_, E_);
  if (router_.type == RouterType::ExpertChoice) {
    CapacityRule rule = call.capacity;
    rule.limited = true;  // dropless has the factor 1
    expertSlots_ = std::min(T_, rule.resolve(T_, K_, E_, training_).slots);
    R_ = slots_ = E_ * expertSlots_;
    if (slots_ > INT32_MAX) throw Error(ErrorCode::Shape, "experts would choose more than 2^31 - 1 tokens in all");
  }

  Device& device = *layer_->device;
  device.hold(layer_);
  for (const TensorPtr& tensor : {input_, mask_, lossMask_, tokenTypes_, call.tokenIds, call.routingIndices,
                                  call.routingWeights, call.logits, call.noise, call.priorities})
    if (tensor) device.materialise(tensor);

  output_ = device.empty(dtype_, T_ * H_);
  queueRoute(call);
  queueExperts(call);
  if (layer_->config.sharedSize > 0) queueShared(call);
  replayedMemory_ = device.replayedMemory();

  if (training_) {
    if (call.noiseStep < 0) device.nowOrOnReplay([layer = layer_] { ++layer->step; });
    for (const TensorPtr& tensor : {input_, mask_, lossMask_, tokenTypes_, indices_, weights_, kept_, logits_})
      watched_.add(tensor);
    watchParameters();
  } else {
    dropSaved();
  }
}

DrawKey MoEPass::drawKey(NoisePurpose purpose, const ForwardCall& call) const {
  return keyOf([layer = layer_, purpose, own = call.noiseStep] {
    return noiseKey(layer->seed, purpose, own < 0 ? layer->step : static_cast<uint64_t>(own));
  });
}

DrawKey MoEPass::keyOf(std::function<uint64_t()> now) const {
  const uint64_t key = now();
  return {key, layer_->device->replayed(std::move(now))};
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
  checkOptional(call.tokenIds, T_, DType::Int32, "tokenIds");
  checkOptional(call.priorities, T_ * K_, DType::Float32, "priorities");
  if (layer_->allowedExperts && ranRouter_ && !call.tokenTypes)
    throw Error(ErrorCode::InvalidArgument, "tokenTypes must be given to a layer with router.allowedExperts");
  if (router_.type == RouterType::Hash && ranRouter_ && !call.tokenIds)
    throw Error(ErrorCode::InvalidArgument, "tokenIds must be given to a layer with a hash router");
  if (T_ * K_ > INT32_MAX) throw Error(ErrorCode::Shape, "input has more tokens times choices than 2^31 - 1");
  if (losses_.sequenceLength > 0 && T_ % losses_.sequenceLength != 0)
    throw Error(ErrorCode::Shape, "input must have a multiple of losses.loadBalance.sequenceLength (" +
                                      std::to_string(losses_.sequenceLength) + ") tokens, got " + std::to_string(T_));
}

void MoEPass::watchParameters() {
  const LayerParameters& p = layer_->parameters;
  for (const ParameterPtr& parameter :
       {gate().weight, gate().bias, gate().noise, p.gate, p.up, p.down, p.gateBias, p.upBias, p.downBias, p.sharedGate,
        p.sharedUp, p.sharedDown, p.sharedOutputGate})
    if (parameter) watched_.add(parameter->value());
}

std::span<const MoEPass::SavedTensor> MoEPass::savedTensors() {
  static constexpr SavedTensor all[] = {
      {"input", &MoEPass::input_},
      {"mask", &MoEPass::mask_},
      {"lossMask", &MoEPass::lossMask_},
      {"tokenTypes", &MoEPass::tokenTypes_},
      {"scores", &MoEPass::scores_},
      {"noisy", &MoEPass::noisy_},
      {"noiseLogits", &MoEPass::noiseLogits_},
      {"lossState", &MoEPass::lossState_},
      {"withheld", &MoEPass::withheld_},
      {"carried", &MoEPass::carried_},
      {"used", &MoEPass::used_},
      {"usedScores", &MoEPass::usedScores_},
      {"savedGate", &MoEPass::savedGate_},
      {"savedUp", &MoEPass::savedUp_},
      {"sharedPlan", &MoEPass::sharedPlan_},
      {"sharedGates", &MoEPass::sharedGates_},
      {"sharedSavedGate", &MoEPass::sharedSavedGate_},
      {"sharedSavedUp", &MoEPass::sharedSavedUp_},
  };
  return all;
}

void MoEPass::dropSaved() {
  for (const SavedTensor& saved : savedTensors()) (this->*saved.tensor).reset();
}

// ------------------------------------------------------------------------------------------------ backward

MoEGradients MoEPass::backward(const TensorPtr& gradOutput, float lossScale) {
  if (!training_)
    throw Error(ErrorCode::StalePass, "backward() needs a pass made with training: true; this one kept nothing for it");
  if (spent_) throw Error(ErrorCode::StalePass, "backward() of this pass has already run; it runs once");
  watched_.check(*output_, "the input, the routing or a parameter");
  checkTensor(gradOutput, T_ * H_, dtype_, "gradOutput");
  Device& device = *layer_->device;
  device.materialise(gradOutput);
  const LayerParameters& p = layer_->parameters;

  BackwardCall call{.gradOutput = gradOutput, .lossScale = lossScale};
  MoEGradients& gradients = call.gradients;
  gradients.input = device.empty(dtype_, T_ * H_);
  call.gradWeights = device.empty(DType::Float32, slots_);
  call.gradRows = device.empty(dtype_, R_ * H_);
  if (scored_) call.gradLogits = device.empty(DType::Float32, T_ * E_);
  if (noiseLogits_) call.gradNoiseLogits = device.empty(DType::Float32, T_ * E_);
  if (layer_->config.sharedSize > 0) call.sharedGradRows = device.empty(dtype_, T_ * H_);
  if (sharedGates_) call.sharedGradGates = device.empty(DType::Float32, T_);
  if (!ranRouter_) gradients.routingWeights = call.gradWeights;

  Operands& operands = call.operands;
  reads(operands, {gradOutput, indices_, weights_, logits_, kept_, statistics_.values, statistics_.plan});
  for (const SavedTensor& saved : savedTensors()) reads(operands, {this->*saved.tensor});
  for (const Watched::Seen& seen : watched_.seen()) operands.inputs.push_back(seen.tensor->health());
  writes(operands, {gradients.input, call.gradWeights});

  auto [shared, sharedGate] = sharedBackward(call);
  ExpertsBackward experts = expertsBackward(call);
  RouteBackward route = routeBackward(call);
  const CarryBackward carry = carryBackward(call);

  const auto combineInto = [&](const PlanRows& plan, const void* rows, bool accumulate) {
    return Combine{.dtype = dtype_,
                   .plan = plan,
                   .H = H_,
                   .rows = rows,
                   .weights = nullptr,
                   .output = gradients.input->data(),
                   .accumulate = accumulate};
  };
  Combine combine = combineInto(rows(), call.gradRows->data(), false);
  // Where nothing stands between the two, the router's share joins the sum over rows, and the gradient is written once.
  const bool joins = route.gradInput && !carry.carried && !noiseLogits_ && !hasJitter(router_, noise_);
  if (joins) {
    combine.router = {route.gradLogits, route.weight, route.mask, E_};
    route.gradInput = nullptr;
  }
  const Combine combineShared = combineInto(sharedRows(), shared.gradRows, true);
  const TensorPtr workspace = device.workspace(experts, shared, sharedGate, route);
  device.enqueue("MoELayer.backward", std::move(operands),
                 [shared = shared, sharedGate = sharedGate, experts, route, carry, joins, combine,
                  combineShared](Backend& backend) {
                   backend.expertsBackward(experts);
                   if (joins) backend.routeBackward(route);
                   backend.combine(combine);
                   if (carry.carried) backend.carryBackward(carry);
                   if (shared.gradRows) {
                     backend.expertsBackward(shared);
                     backend.combine(combineShared);
                   }
                   if (sharedGate.gates) backend.sigmoidGateBackward(sharedGate);
                   if (route.gradLogits && !joins) backend.routeBackward(route);
                 });
  markGradsWritten({p.gate, p.up, p.down, p.gateBias, p.upBias, p.downBias, p.sharedGate, p.sharedUp, p.sharedDown,
                    p.sharedOutputGate});
  if (scored_) markGradsWritten({gate().bias});
  if (scored_ && !givenLogits_) markGradsWritten({gate().weight});
  if (noiseLogits_) markGradsWritten({gate().noise});

  spent_ = true;
  watched_.clear();
  dropSaved();
  return gradients;
}

}  // namespace moe
