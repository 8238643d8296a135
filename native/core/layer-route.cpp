// The router of the layer, its balancing losses, and the plan of what it decides.
#include "../shared/noise.h"
#include "layer-parts.h"

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

}  // namespace

void Layer::updateSelectionBias() {
  for (size_t gate = 0; gate < parameters.gates.size(); ++gate) {
    const TensorPtr& bias = parameters.gates[gate].selectionBias->value();
    const SelectionBiasStep step{
        .E = config.numExperts, .rate = config.selectionBiasRate, .totals = assignedOf(gate), .bias = bias->floats()};
    Operands operands;
    writes(operands, {bias});
    reads(operands, {bias});
    device->enqueue("MoELayer.updateSelectionBias", std::move(operands),
                    [step](Backend& backend) { backend.selectionBiasStep(step); });
    device->nowAndOnReplay([bias] { ++bias->version; });
  }
  device->hold(shared_from_this());
}

// ------------------------------------------------------------------------------------------------ forward

void MoEPass::queueRoute(const ForwardCall& call) {
  Device& device = *layer_->device;
  if (scored_) logits_ = device.empty(DType::Float32, T_ * E_);
  indices_ = device.empty(DType::Int32, slots_);
  weights_ = device.empty(DType::Float32, slots_);
  kept_ = device.empty(DType::Int32, slots_);
  if (!choosesTokens()) scores_ = device.empty(DType::Float32, slots_);
  const bool noisy = scored_ && (call.noise || (noise_.drawn && router_.noise != NoiseType::Jitter));
  if (noisy) noisy_ = device.empty(DType::Float32, T_ * E_);
  const bool drawsLearned = noise_.drawn && router_.noise == NoiseType::Learned;
  if (scored_ && gate().noise && (drawsLearned || losses_.loadOn)) noiseLogits_ = device.empty(DType::Float32, T_ * E_);
  const bool nextChoice = capacity_.slots >= 0 && capacity_.overflow == Overflow::NextChoice;
  if (ranRouter_ && router_.secondThreshold > 0 && K_ > 1) withheld_ = device.empty(DType::Int32, T_);
  if (capacity_.overflow == Overflow::Residual) carried_ = device.empty(DType::Float32, T_);
  if (nextChoice) actual_ = device.empty(DType::Int32, T_ * K_);
  // With the caller's weights nobody knows what comes next.
  TensorPtr compared;
  if (nextChoice && ranRouter_) {
    compared = device.empty(DType::Float32, T_ * E_);
    used_ = device.empty(DType::Int32, T_ * K_);
    usedScores_ = device.empty(DType::Float32, T_ * K_);
  }
  if (choosesTokens()) compared = device.empty(DType::Float32, T_ * E_);
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

  const bool product = scored_ && !givenLogits_;
  const bool isHash = router_.type == RouterType::Hash;
  DrawKey expertKey;
  if (isHash) expertKey = keyOf([layer = layer_] { return noiseKey(layer->seed, NoisePurpose::Hash, 0); });
  if (router_.type == RouterType::Random && ranRouter_) expertKey = drawKey(NoisePurpose::Expert, call);
  RouteForward route{.dtype = dtype_,
                     .router = router_,
                     .losses = losses_,
                     .T = T_,
                     .H = H_,
                     .E = E_,
                     .K = K_,
                     .balances = router_.type == RouterType::Sinkhorn && training_,
                     .input = product || noiseLogits_ ? input_->data() : nullptr,
                     .weight = product ? floatsOf(gate().weight) : nullptr,
                     .bias = scored_ ? floatsOf(gate().bias) : nullptr,
                     .noiseWeight = noiseLogits_ ? floatsOf(gate().noise) : nullptr,
                     .selectionBias = scored_ ? floatsOf(gate().selectionBias) : nullptr,
                     .givenNoise = scored_ ? floatsOf(call.noise) : nullptr,
                     .noise = noise_,
                     .allowed = allowed(),
                     .givenLogits = floatsOf(call.logits),
                     .givenIndices = intsOf(call.routingIndices),
                     .givenWeights = floatsOf(call.routingWeights),
                     .mask = intsOf(mask_),
                     .lossMask = intsOf(lossMask_),
                     .secondKey = withheld_ ? drawKey(NoisePurpose::SecondChoice, call) : DrawKey{},
                     .expertKey = expertKey,
                     .tokenIds = isHash ? intsOf(call.tokenIds) : nullptr,
                     .expertSlots = expertSlots_,
                     .logits = floatsOf(logits_),
                     .noisy = floatsOf(noisy_),
                     .noiseLogits = floatsOf(noiseLogits_),
                     .indices = indices_->ints(),
                     .scores = floatsOf(scores_),
                     .weights = weights_->floats(),
                     .compared = floatsOf(compared),
                     .withheld = withheld_ ? withheld_->ints() : nullptr,
                     .lossCounts = loss.counts,
                     .lossTokens = loss.tokens,
                     .importance = loss.importance,
                     .load = loss.load,
                     .values = statistics_.values->floats()};
  BuildPlan plan = buildPlan(call, compared);
  BuildExpertPlan expertPlan = buildExpertPlan();
  const TensorPtr workspace = device.workspace(route, plan, expertPlan);
  Operands operands;
  reads(operands, {input_, mask_, lossMask_, tokenTypes_, call.tokenIds, call.routingIndices, call.routingWeights,
                   call.logits, call.noise, call.priorities, layer_->allowedExperts});
  if (scored_)
    for (const ParameterPtr& parameter : {gate().weight, gate().bias, gate().noise, gate().selectionBias})
      if (parameter) reads(operands, {parameter->value()});
  writes(operands, {logits_, noisy_, noiseLogits_, indices_, weights_, kept_, scores_, lossState_, statistics_.values,
                    statistics_.plan, statistics_.counts, withheld_, carried_, actual_, compared, used_, usedScores_});
  const SettleWeights settle = settleWeights();
  device.enqueue("MoELayer.forward", std::move(operands), [route, plan, expertPlan, settle](Backend& backend) {
    backend.routeForward(route);
    if (expertPlan.indices)
      backend.buildExpertPlan(expertPlan);
    else
      backend.buildPlan(plan);
    if (settle.weights) backend.settleWeights(settle);
  });
  if (gate().selectionBias && training_ && ranRouter_ && call.noiseStep < 0) countAssignments();
}

BuildPlan MoEPass::buildPlan(const ForwardCall& call, const TensorPtr& compared) const {
  BuildPlan plan = planInto(statistics_.block, T_, R_, E_, K_);
  plan.capacity = capacity_;
  plan.indices = indices_->ints();
  plan.mask = intsOf(mask_);
  plan.scores = call.priorities ? call.priorities->floats() : floatsOf(scores_);
  plan.withheld = intsOf(withheld_);
  plan.compared = floatsOf(compared);
  if (capacity_.priority == Priority::Random) plan.drawKey = drawKey(NoisePurpose::Queue, call);
  plan.tokenOffset = call.tokenOffset;
  plan.weights = weights_->floats();
  plan.kept = kept_->ints();
  plan.actual = actual_ ? actual_->ints() : nullptr;
  plan.carried = floatsOf(carried_);
  return plan;
}

/// Nothing unless experts choose.
BuildExpertPlan MoEPass::buildExpertPlan() const {
  if (!choosesTokens()) return {};
  const PlanBlock& block = statistics_.block;
  return {.T = T_,
          .C = expertSlots_,
          .E = E_,
          .indices = indices_->ints(),
          .mask = intsOf(mask_),
          .kept = kept_->ints(),
          .expertOffsets = block.expertOffsets,
          .rowToken = block.rowToken,
          .rowSlot = block.rowSlot,
          .tokenOffsets = block.tokenOffsets,
          .tokenRows = block.tokenRows,
          .assigned = block.assigned,
          .keptCounts = block.keptCounts,
          .totals = block.totals};
}

/// Nothing when the plan has no say in the weights beyond dropping them.
SettleWeights MoEPass::settleWeights() const {
  if (!ranRouter_ || !(used_ || router_.renormalizeAfterDrop)) return {};
  return {.router = router_,
          .T = T_,
          .E = E_,
          .K = K_,
          .allowed = allowed(),
          .mask = intsOf(mask_),
          .logits = floatsOf(logits_),
          .noisy = floatsOf(noisy_),
          .indices = indices_->ints(),
          .actual = used_ ? actual_->ints() : nullptr,
          .kept = kept_->ints(),
          .scores = scores_->floats(),
          .used = used_ ? used_->ints() : nullptr,
          .usedScores = floatsOf(usedScores_),
          .weights = weights_->floats()};
}

/// Apart from the forward, so that one that failed adds nothing and poisons nothing.
void MoEPass::countAssignments() {
  const CountAssignments count{.E = E_, .counts = statistics_.block.assigned, .totals = layer_->assignedOf(gate_)};
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

// ------------------------------------------------------------------------------------------------ backward

RouteBackward MoEPass::routeBackward(BackwardCall& call) const {
  if (!scored_) return {};
  LossBlock loss;
  if (lossState_) loss.carve(lossState_->floats(), losses_, losses_.scopes(T_), E_);
  LossOptions losses = losses_;
  losses.loadBalance *= call.lossScale;
  losses.importance *= call.lossScale;
  losses.load *= call.lossScale;
  losses.z *= call.lossScale;
  const GradTarget weight = givenLogits_ ? GradTarget{} : gradTarget(gate().weight, call.operands);
  const GradTarget bias = gradTarget(gate().bias, call.operands);
  const GradTarget noise = noiseLogits_ ? gradTarget(gate().noise, call.operands) : GradTarget{};
  writes(call.operands, {call.gradLogits});
  if (givenLogits_) call.gradients.routingLogits = call.gradLogits;
  return {.dtype = dtype_,
          .router = router_,
          .losses = losses,
          .T = T_,
          .H = H_,
          .E = E_,
          .K = K_,
          .input = givenLogits_ && !noiseLogits_ ? nullptr : input_->data(),
          .weight = givenLogits_ ? nullptr : floatsOf(gate().weight),
          .noiseWeight = noiseLogits_ ? floatsOf(gate().noise) : nullptr,
          .noise = noise_,
          .allowed = allowed(),
          .mask = intsOf(mask_),
          .lossMask = intsOf(lossMask_),
          .logits = logits_->floats(),
          .noisy = floatsOf(noisy_),
          .noiseLogits = floatsOf(noiseLogits_),
          .indices = indices_->ints(),
          .scores = floatsOf(scores_),
          .lossCounts = loss.counts,
          .lossTokens = loss.tokens,
          .importance = loss.importance,
          .load = loss.load,
          .values = statistics_.values->floats(),
          .used = intsOf(used_),
          .usedScores = floatsOf(usedScores_),
          .kept = router_.renormalizeAfterDrop ? kept_->ints() : nullptr,
          .expertSlots = expertSlots_,
          .tokenOffsets = choosesTokens() ? statistics_.block.tokenOffsets : nullptr,
          .tokenRows = choosesTokens() ? statistics_.block.tokenRows : nullptr,
          .rowSlot = choosesTokens() ? statistics_.block.rowSlot : nullptr,
          .gradWeights = call.gradWeights->floats(),
          .gradLogits = call.gradLogits->floats(),
          .gradInput = givenLogits_ && !noiseLogits_ ? nullptr : call.gradients.input->data(),
          .gradWeight = weight.data,
          .gradBias = bias.data,
          .gradNoiseLogits = floatsOf(call.gradNoiseLogits),
          .gradNoiseWeight = noise.data,
          .accumulateWeight = weight.accumulate,
          .accumulateBias = bias.accumulate,
          .accumulateNoiseWeight = noise.accumulate};
}

}  // namespace moe
