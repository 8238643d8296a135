// The MoE layer on any device: what it is made of, its forward, and the backward that is the exact reverse.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "../shared/noise.h"
#include "parameter.h"
#include "plan.h"
#include "watched.h"

namespace moe {

struct LayerConfig {
  DType dtype;
  int hiddenSize, ffnSize, numExperts, topK;
  RouterOptions router;
  CapacityRule capacity;
  LossOptions losses;
  ActivationOptions activation;
  bool weightInput = false;  // the routing weight multiplies the expert's input, not its output
  double dropout = 0;        // the probability
  int sharedSize = 0;        // 0: no shared experts
  float selectionBiasRate = 0;
};

/// Of one gate; null where the configuration has none.
struct GateParameters {
  ParameterPtr weight, bias;          // [E,H], [E]
  ParameterPtr noise, selectionBias;  // [E,H], [E]; the latter is never trained
};

/// Null where the configuration has none.
struct LayerParameters {
  std::vector<GateParameters> gates;                                // at least one; all route to the same experts
  ParameterPtr gate, up, down, gateBias, upBias, downBias;          // [E,F,H] ×2, [E,H,F], [E,F] ×2, [E,H]
  ParameterPtr sharedGate, sharedUp, sharedDown, sharedOutputGate;  // [S,H] ×2, [H,S], [1,H]
};

/// One call: the layer's configuration with this call's overrides already in it.
struct ForwardCall {
  bool training = true;
  int topK;
  CapacityRule capacity;
  RouterOptions router;
  LossOptions losses;
  TensorPtr mask, lossMask;                  // [T] int32 or null
  TensorPtr routingIndices, routingWeights;  // [T,K] or null
  TensorPtr logits;                          // [T,E] or null
  TensorPtr noise;                           // [T,E] or null
  TensorPtr tokenTypes, tokenIds;            // [T] int32 or null
  TensorPtr priorities;                      // [T,K] or null
  int gate = 0;
  bool ownTemperature = false;  // not the layer's
  int64_t noiseStep = -1;       // keys the draws in place of the layer's count; below 0: the count does
  int64_t tokenOffset = 0;
};

struct Layer : std::enable_shared_from_this<Layer> {
  std::shared_ptr<Device> device;
  LayerConfig config;
  LayerParameters parameters;
  /// Keys noise, with the count of training forwards so far. A recomputation, which names its step, is not counted.
  uint64_t seed = 0, step = 0;
  float temperature = 1;
  TensorPtr allowedExperts;  // [types,E] 0/1 or null
  TensorPtr assigned;  // [gates·2·E] as int64 [gates,E]: assignments since the selection bias was last stepped; or null

  int64_t* assignedOf(size_t gate) const { return static_cast<int64_t*>(assigned->data()) + gate * config.numExperts; }

  /// Queues the step of the selection bias by the imbalance since the last one.
  void updateSelectionBias();
};

/// The unscaled losses and statistics of one forward on the device; see RouteValue and PlanTotal.
struct LayerStatistics {
  TensorPtr plan;    // PlanBlock
  TensorPtr counts;  // [E] assigned, [E] kept, [PlanTotal::count]: apart from the plan, since stats() reads them
  TensorPtr values;  // [RouteValue::count]
  PlanBlock block;
};

struct MoEGradients {
  TensorPtr input, routingWeights, routingLogits;  // the last two only when the caller brought them
};

class MoEPass {
 public:
  /// Queues the forward of `input` [T,H].
  MoEPass(std::shared_ptr<Layer> layer, const TensorPtr& input, const ForwardCall& call);

  /// Queues the backward; lossScale multiplies the balancing losses' gradients. Once: it releases what forward saved.
  MoEGradients backward(const TensorPtr& gradOutput, float lossScale);

  /// C where experts choose, else 0: routing is then [E,C].
  int64_t expertSlots() const { return expertSlots_; }
  const TensorPtr& output() const { return output_; }
  const TensorPtr& indices() const { return indices_; }
  const TensorPtr& weights() const { return weights_; }
  const TensorPtr& kept() const { return kept_; }
  const TensorPtr& actual() const { return actual_; }  // null unless the overflow is 'next-choice'
  const TensorPtr& logits() const { return logits_; }  // null with the caller's weights
  const LayerStatistics& statistics() const { return statistics_; }
  const LossOptions& losses() const { return losses_; }
  int numExperts() const { return layer_->config.numExperts; }

  struct SavedTensor {
    const char* name;
    TensorPtr MoEPass::*tensor;
  };
  /// What forward keeps for backward alone: a training pass lets go of it after backward, others never have it. Each is
  /// null where the configuration has no use for it.
  static std::span<const SavedTensor> savedTensors();

 private:
  void checkCall(const ForwardCall& call) const;
  DrawKey drawKey(NoisePurpose purpose, const ForwardCall& call) const;
  DrawKey keyOf(std::function<uint64_t()> now) const;
  void queueRoute(const ForwardCall& call);
  void countAssignments();
  void queueExperts(const ForwardCall& call);
  void queueShared(const ForwardCall& call);

  struct BackwardCall;
  struct SharedBackward {
    ExpertsBackward experts;
    SigmoidGateBackward gate;
  };
  // What each stage is given, and its gradients as operands; nothing when it did not run.
  RouteBackward routeBackward(BackwardCall& call) const;
  ExpertsBackward expertsBackward(BackwardCall& call) const;
  SharedBackward sharedBackward(BackwardCall& call) const;

  void watchParameters();
  void dropSaved();
  bool choosesTokens() const { return router_.type == RouterType::ExpertChoice; }  // instead of tokens choosing experts
  const GateParameters& gate() const { return layer_->parameters.gates[gate_]; }
  AllowedExperts allowed() const;
  Dropout dropoutOf(NoisePurpose purpose, const ForwardCall& call) const;
  const float* inputWeights() const { return layer_->config.weightInput ? weights_->floats() : nullptr; }
  const float* outputWeights() const { return layer_->config.weightInput ? nullptr : weights_->floats(); }
  SettleWeights settleWeights() const;
  BuildPlan buildPlan(const ForwardCall& call, const TensorPtr& compared) const;
  BuildExpertPlan buildExpertPlan() const;
  CarryBackward carryBackward(const BackwardCall& call) const;
  PlanRows rows() const;
  PlanRows sharedRows() const;

  std::shared_ptr<Layer> layer_;
  DType dtype_;
  int64_t T_, R_ = 0;
  int64_t expertSlots_ = 0, slots_ = 0;  // C or 0; T·K or E·C
  int H_, F_, E_, K_;
  int gate_;
  bool training_, ranRouter_, givenLogits_;
  bool scored_;  // by logits, which have losses and gradients
  bool spent_ = false;
  RouterOptions router_;
  RouteNoise noise_{};
  Dropout dropout_{}, sharedDropout_{};
  LossOptions losses_;
  CapacityOptions capacity_;

  TensorPtr input_, mask_, lossMask_, tokenTypes_;
  TensorPtr output_, indices_, weights_, kept_, logits_;
  TensorPtr scores_;               // [T,K]
  TensorPtr noisy_, noiseLogits_;  // [T,E] or null
  TensorPtr withheld_, carried_;   // [T] or null
  TensorPtr actual_;               // [T,K] or null
  TensorPtr used_, usedScores_;    // [T,K] or null
  TensorPtr lossState_;            // lossCounts [scopes,E], lossTokens [scopes], importance [E], load [E]
  LayerStatistics statistics_;
  TensorPtr savedGate_, savedUp_;  // [R,F]

  TensorPtr sharedPlan_;  // PlanBlock of every live token on the one shared expert
  PlanBlock sharedBlock_;
  TensorPtr sharedGates_;                      // [T] or null
  TensorPtr sharedSavedGate_, sharedSavedUp_;  // [T,S]

  Watched watched_;
  std::vector<TensorPtr> replayedMemory_;  // of keys and of the temperature
};

}  // namespace moe
