// The options of a layer as plain structs, the same for the host and every device. What each option means is written in
// lib/config.ts, where it is also validated: values here are trusted.
#pragma once

#include <cstdint>

#include "hd.h"

namespace moe {

enum class RouterType : int32_t { TopK, ExpertChoice, Sinkhorn, Hash, Random };
enum class Scoring : int32_t { Softmax, Sigmoid };
enum class SelectBy : int32_t { Scores, Logits };
enum class NoiseType : int32_t { None, Jitter, Gaussian, Learned, Gumbel };
enum class GroupScore : int32_t { Max, Top2Sum };

struct RouterOptions {
  RouterType type = RouterType::TopK;
  Scoring scoring = Scoring::Softmax;
  SelectBy selectBy = SelectBy::Scores;
  bool renormalize = false;
  float normP = 1, normEpsilon = 1e-20f;  // weights / (‖selected‖_p + epsilon)
  float weightScale = 1;
  float temperature = 1;
  const float* replayedTemperature = nullptr;  // where a step that is replayed finds it, in device memory; or null
  NoiseType noise = NoiseType::None;
  float noiseScale = 0;                   // Jitter: epsilon; Gaussian: the standard deviation
  int32_t groupCount = 0, groupKeep = 0;  // 0: no groups
  GroupScore groupScore = GroupScore::Max;
  bool renormalizeAfterDrop = false;  // weights over the sum of those whose choices found a slot
  float secondThreshold = 0;          // the second choice is kept with probability weight / threshold; 0: always

  MOE_MEMBER float temperatureNow() const { return replayedTemperature ? *replayedTemperature : temperature; }

  /// Whether experts are drawn: there are no logits then, no losses, and all weights are equal.
  MOE_MEMBER bool draws() const { return type == RouterType::Hash || type == RouterType::Random; }

  /// Sinkhorn weighs a single choice by its sigmoid and several by their softmax over all experts, whatever it is told.
  void fixScoring(int topK) {
    if (type != RouterType::Sinkhorn) return;
    scoring = topK == 1 ? Scoring::Sigmoid : Scoring::Softmax;
    selectBy = SelectBy::Scores;
  }

  /// Added to learned noise's softplus, so that its deviation stays away from 0 (Shazeer et al. 2017).
  static constexpr float minDeviation = 0.01f;
};

enum class LossCounts : int32_t { All, FirstChoice, Unbiased };
enum class LoadThreshold : int32_t { ExcludingSelf, Kth };
enum class ImportanceFrom : int32_t { Gates, Softmax };

/// A loss is taken when its `on` is set; the coefficient may be 0.
struct LossOptions {
  bool loadBalanceOn = false, importanceOn = false, loadOn = false, zOn = false;
  float loadBalance = 0, importance = 0, load = 0, z = 0;
  LossCounts counts = LossCounts::All;
  ImportanceFrom importanceFrom = ImportanceFrom::Gates;
  LoadThreshold loadThreshold = LoadThreshold::ExcludingSelf;
  int64_t sequenceLength = 0;  // tokens of one load-balance scope; 0: the whole batch
  int32_t expertGroups = 0;    // the load balance is taken over this many groups of experts; 0: over the experts

  int64_t scopes(int64_t tokens) const { return sequenceLength > 0 ? tokens / sequenceLength : 1; }
};

enum class Priority : int32_t { Position, Score, Random, Given };
enum class Overflow : int32_t { Drop, NextChoice, Residual };

struct CapacityOptions {
  int64_t slots = -1;         // per expert and group of tokens; below 0: dropless
  int64_t buffer = 0;         // further slots of a group, shared by its experts
  int64_t groupSize = 0;      // tokens; 0: all are one group
  double targetDropRate = 0;  // dynamic only
  Priority priority = Priority::Position;
  Overflow overflow = Overflow::Drop;
  bool firstChoicesFirst = true;
  bool dynamic = false;  // as few slots as drop at most targetDropRate of the assignments, and at most `slots`
};

enum class Activation : int32_t { Relu, Gelu, GeluTanh, Silu, SwiGlu, GeGlu, GeGluTanh, ReGlu, ClampedSwiGlu };

struct ActivationOptions {
  Activation kind = Activation::SwiGlu;
  float alpha = 0, limit = 0;  // ClampedSwiGlu only

  MOE_MEMBER bool gated() const { return kind >= Activation::SwiGlu; }
};

}  // namespace moe
