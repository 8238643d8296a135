// The shared experts of the layer: the same stages as the routed ones, with E = K = 1, and a gate.
#include "layer-parts.h"

namespace moe {

// ------------------------------------------------------------------------------------------------ forward

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
                         .dropout = sharedDropout_,
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

PlanRows MoEPass::sharedRows() const { return planRows(sharedBlock_, T_, T_, 1, 1, T_); }

// ------------------------------------------------------------------------------------------------ backward

MoEPass::SharedBackward MoEPass::sharedBackward(BackwardCall& call) const {
  if (layer_->config.sharedSize == 0) return {};
  const LayerParameters& p = layer_->parameters;
  const GradTarget up = gradTarget(p.sharedUp, call.operands), down = gradTarget(p.sharedDown, call.operands),
                   gateWeight = gradTarget(p.sharedGate, call.operands),
                   outputGate = gradTarget(p.sharedOutputGate, call.operands);
  const ExpertsBackward experts{.dtype = dtype_,
                                .plan = sharedRows(),
                                .activation = layer_->config.activation,
                                .dropout = sharedDropout_,
                                .H = H_,
                                .F = layer_->config.sharedSize,
                                .input = input_->data(),
                                .gradOutput = call.gradOutput->data(),
                                .weights = floatsOf(sharedGates_),
                                .gate = dataOf(p.sharedGate),
                                .up = dataOf(p.sharedUp),
                                .down = dataOf(p.sharedDown),
                                .savedGate = dataOf(sharedSavedGate_),
                                .savedUp = dataOf(sharedSavedUp_),
                                .gradRows = call.sharedGradRows->data(),
                                .gradWeights = floatsOf(call.sharedGradGates),
                                .gradGate = gateWeight.data,
                                .gradUp = up.data,
                                .gradDown = down.data,
                                .accumulateGate = gateWeight.accumulate,
                                .accumulateUp = up.accumulate,
                                .accumulateDown = down.accumulate};
  SigmoidGateBackward gate{};
  if (sharedGates_)
    gate = {.dtype = dtype_,
            .T = T_,
            .H = H_,
            .input = input_->data(),
            .weight = dataOf(p.sharedOutputGate),
            .mask = intsOf(mask_),
            .gates = sharedGates_->floats(),
            .gradGates = call.sharedGradGates->floats(),
            .gradInput = call.gradients.input->data(),
            .gradWeight = outputGate.data,
            .accumulateWeight = outputGate.accumulate};
  return {experts, gate};
}

}  // namespace moe
