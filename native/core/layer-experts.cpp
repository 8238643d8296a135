// The routed experts of the layer and the sum of their outputs.
#include "layer-parts.h"

namespace moe {

// ------------------------------------------------------------------------------------------------ forward

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
                         .dropout = dropout_,
                         .H = H_,
                         .F = F_,
                         .input = input_->data(),
                         .gate = dataOf(p.gate),
                         .up = dataOf(p.up),
                         .down = dataOf(p.down),
                         .gateBias = dataOf(p.gateBias),
                         .upBias = dataOf(p.upBias),
                         .downBias = dataOf(p.downBias),
                         .inputWeights = inputWeights(),
                         .savedGate = dataOf(savedGate_),
                         .savedUp = dataOf(savedUp_),
                         .rows = expertRows->data()};
  const Combine combine{.dtype = dtype_,
                        .plan = rows(),
                        .H = H_,
                        .rows = expertRows->data(),
                        .weights = outputWeights(),
                        .output = output_->data(),
                        .accumulate = false};
  const TensorPtr workspace = device.workspace(experts);
  Operands operands;
  reads(operands, {input_, weights_, statistics_.plan});
  for (const ParameterPtr& parameter : {p.gate, p.up, p.down, p.gateBias, p.upBias, p.downBias})
    if (parameter) reads(operands, {parameter->value()});
  reads(operands, {carried_});
  writes(operands, {savedGate_, savedUp_, output_});
  const Carry carry{.dtype = dtype_,
                    .T = T_,
                    .H = H_,
                    .input = input_->data(),
                    .carried = floatsOf(carried_),
                    .output = output_->data()};
  device.enqueue("MoELayer.forward", std::move(operands), [experts, combine, carry](Backend& backend) {
    backend.expertsForward(experts);
    backend.combine(combine);
    if (carry.carried) backend.carry(carry);
  });
}

Dropout MoEPass::dropoutOf(NoisePurpose purpose, const ForwardCall& call) const {
  const double probability = layer_->config.dropout;
  if (!training_ || probability <= 0) return {};
  return {.threshold = static_cast<uint32_t>(probability * 4294967296.0),
          .scale = static_cast<float>(1 / (1 - probability)),
          .key = drawKey(purpose, call),
          .tokenOffset = call.tokenOffset};
}

PlanRows MoEPass::rows() const { return planRows(statistics_.block, T_, R_, E_, choosesTokens() ? E_ : K_, slots_); }

// ------------------------------------------------------------------------------------------------ backward

ExpertsBackward MoEPass::expertsBackward(BackwardCall& call) const {
  const LayerParameters& p = layer_->parameters;
  const GradTarget gateWeight = gradTarget(p.gate, call.operands), up = gradTarget(p.up, call.operands),
                   down = gradTarget(p.down, call.operands), gateBias = gradTarget(p.gateBias, call.operands),
                   upBias = gradTarget(p.upBias, call.operands), downBias = gradTarget(p.downBias, call.operands);
  return {.dtype = dtype_,
          .plan = rows(),
          .activation = layer_->config.activation,
          .dropout = dropout_,
          .H = H_,
          .F = F_,
          .input = input_->data(),
          .gradOutput = call.gradOutput->data(),
          .weights = outputWeights(),
          .gate = dataOf(p.gate),
          .up = dataOf(p.up),
          .down = dataOf(p.down),
          .downBias = dataOf(p.downBias),
          .gateBias = dataOf(p.gateBias),
          .upBias = dataOf(p.upBias),
          .inputWeights = inputWeights(),
          .savedGate = dataOf(savedGate_),
          .savedUp = dataOf(savedUp_),
          .gradRows = call.gradRows->data(),
          .gradWeights = call.gradWeights->floats(),
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
}

CarryBackward MoEPass::carryBackward(const BackwardCall& call) const {
  if (!carried_) return {};
  return {.dtype = dtype_,
          .T = T_,
          .H = H_,
          .K = K_,
          .input = input_->data(),
          .gradOutput = call.gradOutput->data(),
          .carried = carried_->floats(),
          .indices = indices_->ints(),
          .kept = kept_->ints(),
          .withheld = intsOf(withheld_),
          .mask = intsOf(mask_),
          .gradInput = call.gradients.input->data(),
          .gradWeights = call.gradWeights->floats()};
}

}  // namespace moe
