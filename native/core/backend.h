// THE SEAM between the layer and a device. Every stage of a MoE layer, forward and backward, as one pure virtual call
// on raw device pointers; core/layer.cpp and core/modules.cpp decide the order, a backend decides how.
//
// All calls except allocate() and release() come from the device's queue, one at a time and in order. An operation that
// fails throws moe::Error; what it should have written is then poisoned by the queue. T tokens, H hiddenSize, F
// ffnSize, E numExperts, K topK, R the number of rows a plan can have at most. All matrices are dense and row-major,
// all float tensors float32. A gradient marked `accumulate` is added to (+=), every other output is overwritten (=).
#pragma once

#include <cstddef>
#include <cstdint>

#include "../shared/options.h"

namespace moe {

// ------------------------------------------------------------------------------------------------ route

struct RouteForward {
  RouterOptions router;
  LossOptions losses;
  int64_t T;
  int H, E, K;
  const float* input;           // [T,H]; null with givenLogits or givenWeights
  const float* weight;          // [E,H]; null likewise
  const float* bias;            // [E] or null
  const float* givenLogits;     // [T,E] in place of the product, or null
  const int32_t* givenIndices;  // [T,K] the caller's choice of experts, or null
  const float* givenWeights;    // [T,K] with givenIndices: nothing is scored and no loss is taken; or null
  const int32_t* mask;          // [T] or null; 0 = padding
  const int32_t* lossMask;      // [T] or null; 0 = counts in no loss

  float* logits;      // [T,E] after bias, before temperature; rows of masked tokens 0; null with givenWeights
  int32_t* indices;   // [T,K] in falling order of the score; -1 for masked tokens
  float* scores;      // [T,K] the selected scores, before renormalisation and scale (the 'score' queue priority)
  float* weights;     // [T,K] the final gate weights, before drops
  float* lossCounts;  // [scopes,E] assignments per expert that the load-balance loss counts; null when that loss is off
  float* lossTokens;  // [scopes] tokens that count in it; likewise
  float* importance;  // [E] Σ_t of what the importance loss is taken from; null when it is off
  float* values;      // [RouteValue::count] the unscaled losses and statistics
};

/// Layout of RouteForward::values.
struct RouteValue {
  enum { loadBalance, importance, z, entropy, lossTokenCount, count };
};

struct RouteBackward {
  RouterOptions router;
  LossOptions losses;  // coefficients already multiplied by lossScale
  int64_t T;
  int H, E, K;
  const float* input;   // [T,H]; null with given logits
  const float* weight;  // [E,H]; null with given logits
  const int32_t* mask;
  const int32_t* lossMask;
  const float* logits;       // [T,E] what forward wrote
  const int32_t* indices;    // [T,K]
  const float* scores;       // [T,K]
  const float* lossCounts;   // [scopes,E] or null
  const float* lossTokens;   // [scopes] or null
  const float* importance;   // [E] or null
  const float* values;       // forward's
  const float* gradWeights;  // [T,K] dL/d(weight before drops): 0 where dropped

  float* gradLogits;  // [T,E], always written
  float* gradInput;   // [T,H] += the router's share; null to skip
  float* gradWeight;  // [E,H] or null when frozen or logits were given
  float* gradBias;    // [E] or null
  bool accumulateWeight, accumulateBias;
};

// ------------------------------------------------------------------------------------------------ permute

/// The plan of one forward: which rows each expert computes. Rows are sorted by expert, then token, then choice,
/// without padding; R is a bound that follows from shapes alone, the real count is expertOffsets[E].
struct PlanRows {
  int64_t T, R;
  int E, K;
  const int32_t* expertOffsets;  // [E+1]
  const int32_t* rowToken;       // [R] source token, -1 past the end
  const int32_t* rowSlot;        // [R] index into [T,K] of the row's weight, -1 past the end
  const int32_t* tokenOffsets;   // [T+1]
  const int32_t* tokenRows;      // [R] the rows of each token, in order of choice; -1 past the end
};

struct BuildPlan {
  int64_t T, R;
  int E, K;
  CapacityOptions capacity;  // slots < 0: dropless
  const int32_t* indices;    // [T,K]; -1 = no assignment. Anything else outside [0,E) is an error naming the token.
                             // Null: every token has the one assignment to expert 0 (E = K = 1)
  const int32_t* mask;       // [T] or null; 0 = the token has no assignment, whatever its indices say
  const float* scores;       // [T,K] for the 'score' priority, else null

  float* weights;          // [T,K] set to 0 where dropped or unassigned; null to skip
  int32_t* kept;           // [T,K] 0/1; null to skip
  int32_t* expertOffsets;  // [E+1]
  int32_t* rowToken;       // [R]
  int32_t* rowSlot;        // [R]
  int32_t* tokenOffsets;   // [T+1]
  int32_t* tokenRows;      // [R]
  int32_t* assigned;       // [E] before drops
  int32_t* keptCounts;     // [E]
  int32_t* totals;         // [PlanTotal::count]
};

/// Layout of BuildPlan::totals. A token is one with at least one assignment.
struct PlanTotal {
  enum { tokens, droppedAssignments, droppedTokens, count };
};

/// rows[r] = input[rowToken[r]]; rows past the end are zero.
struct Dispatch {
  PlanRows plan;
  int H;
  const float* input;  // [T,H]
  float* rows;         // [R,H]
};

/// output[t] = Σ over the token's rows of weight·row, in order of choice. Backward of Dispatch with weights = null.
struct Combine {
  PlanRows plan;
  int H;
  const float* rows;     // [R,H]
  const float* weights;  // [T,K] by slot; null: all 1
  float* output;         // [T,H]
  bool accumulate;       // += instead of =
};

struct CombineBackward {
  PlanRows plan;
  int H;
  const float* gradOutput;  // [T,H]
  const float* rows;        // [R,H]
  const float* weights;     // [T,K]
  float* gradRows;          // [R,H]; rows past the end zero
  float* gradWeights;       // [T,K]; 0 where dropped
};

// ------------------------------------------------------------------------------------------------ experts

/// y[r] = down_e · act(gate_e·x, up_e·x) for every row r of every expert e, x = input[rowToken[r]].
struct ExpertsForward {
  PlanRows plan;
  ActivationOptions activation;
  int H, F;
  const float* input;                         // [T,H]
  const float *gate, *up, *down;              // [E,F,H] (gate null when not gated), [E,F,H], [E,H,F]
  const float *gateBias, *upBias, *downBias;  // [E,F], [E,F], [E,H]; null without
  float *savedGate, *savedUp;                 // [R,F] pre-activations with bias, kept for backward; null in inference
  float* rows;                                // [R,H]; rows past the end are left as they are
};

/// Rows weigh in as rowWeight = weights[rowSlot[r]] (1 when weights is null): with dO gathered by rowToken,
/// dA = dO·down, rowDot[r] = ⟨dA, a⟩ + ⟨dO, downBias⟩ = dL/d(weight), dz = w·dA·act'(z), dDown = Σ w·dO ⊗ a.
struct ExpertsBackward {
  PlanRows plan;
  ActivationOptions activation;
  int H, F;
  const float* input;       // [T,H]
  const float* gradOutput;  // [T,H]
  const float* weights;     // [T,K] by slot, or null
  const float *gate, *up, *down;
  const float* downBias;
  const float *savedGate, *savedUp;  // [R,F]

  float* gradRows;                      // [R,H] gradient of the gathered input; rows past the end are left as they are
  float* gradWeights;                   // [T,K] by slot: rowDot of each kept assignment, 0 elsewhere; null to skip
  float *gradGate, *gradUp, *gradDown;  // like the weights; null when frozen. Experts without rows give zeros
  float *gradGateBias, *gradUpBias, *gradDownBias;  // null when frozen or absent
  bool accumulateGate, accumulateUp, accumulateDown;
  bool accumulateGateBias, accumulateUpBias, accumulateDownBias;
};

/// output[r] = weight_e · input[r] + bias for rows grouped by expertOffsets; null offsets: one group of all R rows.
struct GroupedGemmForward {
  int64_t R;
  int E, in, out;
  const int32_t* expertOffsets;  // [E+1] or null
  const float* input;            // [R,in]
  const float* weight;           // [E,out,in]
  const float* bias;             // [E,out] or null
  float* output;                 // [R,out]; rows past the end are zero
};

struct GroupedGemmBackward {
  int64_t R;
  int E, in, out;
  const int32_t* expertOffsets;
  const float* input;       // [R,in]
  const float* weight;      // [E,out,in]
  const float* gradOutput;  // [R,out]
  float* gradInput;         // [R,in] or null; rows past the end are zero
  float* gradWeight;        // [E,out,in] or null when frozen
  float* gradBias;          // [E,out] or null
  bool accumulateWeight, accumulateBias;
};

// ------------------------------------------------------------------------------------------------ modules

/// The sigmoid gate of shared experts: gates[t] = σ(⟨input_t, weight⟩); masked tokens give 0.
struct SigmoidGateForward {
  int64_t T;
  int H;
  const float* input;
  const float* weight;  // [H]
  const int32_t* mask;  // [T] or null
  float* gates;         // [T]
};

struct SigmoidGateBackward {
  int64_t T;
  int H;
  const float* input;
  const float* weight;
  const int32_t* mask;
  const float* gates;      // [T]
  const float* gradGates;  // [T]
  float* gradInput;        // [T,H] +=
  float* gradWeight;       // [H] or null
  bool accumulateWeight;
};

struct EmbeddingForward {
  int64_t N;
  int count, size;
  const int32_t* indices;  // [N]; outside [0,count) is an error naming the position
  const float* weight;     // [count,size]
  float* output;           // [N,size]
};

struct EmbeddingBackward {
  int64_t N;
  int count, size;
  const int32_t* indices;
  const float* gradOutput;
  float* gradWeight;
  bool accumulateWeight;
};

/// output = input · rsqrt(mean(input²) + epsilon) · weight, per row (Zhang & Sennrich 2019).
struct RmsNormForward {
  int64_t N;
  int size;
  float epsilon;
  const float *input, *weight;  // [N,size], [size]
  float* output;                // [N,size]
  float* inverseRms;            // [N]
};

struct RmsNormBackward {
  int64_t N;
  int size;
  const float *input, *weight, *inverseRms, *gradOutput;
  float* gradInput;   // [N,size]
  float* gradWeight;  // [size] or null
  bool accumulateWeight;
};

/// Mean negative log-likelihood over targets that are not -1 (0 when there are none).
struct CrossEntropyForward {
  int64_t N;
  int classes;
  const float* logits;     // [N,classes]
  const int32_t* targets;  // [N]; -1 = ignored; else outside [0,classes) is an error naming the position
  float* logSumExp;        // [N]
  float* loss;             // [2]: the mean, and the number of targets that count
};

struct CrossEntropyBackward {
  int64_t N;
  int classes;
  float scale;
  const float* logits;
  const int32_t* targets;
  const float *logSumExp, *loss;
  float* gradLogits;  // [N,classes]
};

struct Add {
  int64_t n;
  const float *a, *b;
  float* output;
};

// ------------------------------------------------------------------------------------------------ optimizer

struct AdamWTensor {
  int64_t n;
  float* value;
  const float* grad;
  float *mean, *variance;  // first and second moment
  int32_t* steps;          // [1] updates of this tensor so far: its bias correction counts those alone
};

/// Decoupled weight decay (Loshchilov & Hutter 2019). A non-finite global norm skips the update and counts it.
struct AdamWStep {
  const AdamWTensor* tensors;
  int count;
  float learningRate, beta1, beta2, epsilon, weightDecay;
  float maxGradNorm;  // 0: no clipping
  int32_t* skipped;   // [1] steps that a non-finite norm has skipped
  float* gradNorm;    // [1] before clipping
};

// ------------------------------------------------------------------------------------------------ the interface

/// What the device can do at best, measured: the floor beside which a bench puts its figures.
struct DeviceLimits {
  double flopsPerSecond;      // float32 multiply-adds from registers, all threads
  double readBytesPerSecond;  // from main memory, all threads
};

class Backend {
 public:
  virtual ~Backend() = default;

  /// Null when the system has no such block; any thread. Blocks are aligned to 256 bytes.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* block, size_t bytes) = 0;

  virtual void write(void* device, const void* host, size_t bytes) = 0;
  virtual void read(void* host, const void* device, size_t bytes) = 0;
  virtual void copy(void* to, const void* from, size_t bytes) = 0;
  virtual void zero(void* block, size_t bytes) = 0;
  virtual void randomNormal(float* out, int64_t n, uint64_t seed, uint32_t purpose, float std) = 0;
  virtual DeviceLimits measureLimits() = 0;
  virtual void toFloat(float* out, const int32_t* in, int64_t n) = 0;
  virtual void toInt(int32_t* out, const float* in, int64_t n) = 0;  // towards zero, saturating, NaN gives 0

  virtual void routeForward(const RouteForward&) = 0;
  virtual void routeBackward(const RouteBackward&) = 0;

  virtual void buildPlan(const BuildPlan&) = 0;
  virtual void dispatch(const Dispatch&) = 0;
  virtual void combine(const Combine&) = 0;
  virtual void combineBackward(const CombineBackward&) = 0;

  virtual void expertsForward(const ExpertsForward&) = 0;
  virtual void expertsBackward(const ExpertsBackward&) = 0;
  virtual void groupedGemmForward(const GroupedGemmForward&) = 0;
  virtual void groupedGemmBackward(const GroupedGemmBackward&) = 0;

  virtual void sigmoidGateForward(const SigmoidGateForward&) = 0;
  virtual void sigmoidGateBackward(const SigmoidGateBackward&) = 0;
  virtual void embeddingForward(const EmbeddingForward&) = 0;
  virtual void embeddingBackward(const EmbeddingBackward&) = 0;
  virtual void rmsNormForward(const RmsNormForward&) = 0;
  virtual void rmsNormBackward(const RmsNormBackward&) = 0;
  virtual void crossEntropyForward(const CrossEntropyForward&) = 0;
  virtual void crossEntropyBackward(const CrossEntropyBackward&) = 0;
  virtual void add(const Add&) = 0;

  virtual void adamwStep(const AdamWStep&) = 0;
};

}  // namespace moe
