// The options of a layer as plain structs, the same for the host and every device. What each option means is written in
// lib/config.ts, where it is also validated: values here are trusted.
#pragma once

#include <cstdint>

#include "hd.h"

namespace moe {

enum class SelectBy : int32_t { Scores, Logits };

struct RouterOptions {
  SelectBy selectBy = SelectBy::Scores;
  bool renormalize = false;
  float normP = 1, normEpsilon = 1e-20f;  // weights / (‖selected‖_p + epsilon)
  float weightScale = 1;
  float temperature = 1;
};

enum class LossCounts : int32_t { All, FirstChoice };
enum class ImportanceFrom : int32_t { Gates, Softmax };

/// A loss is taken when its `on` is set; the coefficient may be 0.
struct LossOptions {
  bool loadBalanceOn = false, importanceOn = false, zOn = false;
  float loadBalance = 0, importance = 0, z = 0;
  LossCounts counts = LossCounts::All;
  ImportanceFrom importanceFrom = ImportanceFrom::Gates;
  int64_t sequenceLength = 0;  // tokens of one load-balance scope; 0: the whole batch

  int64_t scopes(int64_t tokens) const { return sequenceLength > 0 ? tokens / sequenceLength : 1; }
};

enum class Priority : int32_t { Position, Score };

struct CapacityOptions {
  int64_t slots = -1;  // per expert; below 0: dropless
  Priority priority = Priority::Position;
  bool firstChoicesFirst = true;
};

enum class Activation : int32_t { Relu, Gelu, GeluTanh, Silu, SwiGlu, GeGlu, GeGluTanh, ReGlu, ClampedSwiGlu };

struct ActivationOptions {
  Activation kind = Activation::SwiGlu;
  float alpha = 0, limit = 0;  // ClampedSwiGlu only

  MOE_MEMBER bool gated() const { return kind >= Activation::SwiGlu; }
};

}  // namespace moe
