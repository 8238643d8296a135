// What every operation of the seam (core/backend.h) is given, as plain structs: the CPU backend reads them, and the
// CUDA backend passes them to its kernels as they are.
//
// T tokens, H hiddenSize, F ffnSize, E numExperts, K topK, R the number of rows a plan can have at most. All matrices
// are dense and row-major. `void` pointers are in the operation's dtype (activations, and the weights of experts and
// modules); router parameters, scores, gate weights, losses and the gradients of all parameters are float32 whatever
// the dtype. A gradient marked `accumulate` is added to (+=), every other output is overwritten (=).
//
// `workspace` is memory of Backend::workspaceBytes() for the time of the operation; null when that is 0.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dtype.h"
#include "hd.h"
#include "options.h"

namespace moe {

// ------------------------------------------------------------------------------------------------ route

/// Keys the draws of one forward: noiseKey(), or where a step that is replayed finds it.
struct DrawKey {
  uint64_t value = 0;
  const uint64_t* replayed = nullptr;
};

MOE_HD uint64_t valueOf(const DrawKey& key) { return key.replayed ? *key.replayed : key.value; }

/// What the forward draws: nothing in evaluation, and where the caller brings the noise.
struct RouteNoise {
  bool drawn;
  DrawKey key;
  int64_t tokenOffset;  // number of the first token
};

/// Whether the input is multiplied by what is drawn.
MOE_HD bool hasJitter(const RouterOptions& router, const RouteNoise& noise) {
  return noise.drawn && router.noise == NoiseType::Jitter;
}

/// Experts each type of token may use; null table: all.
struct AllowedExperts {
  const int32_t* table;  // [types,E] 0/1
  int types;
  const int32_t* tokenTypes;  // [T]; outside [0,types) is an error naming the token
};

struct RouteForward {
  DType dtype;
  RouterOptions router;
  LossOptions losses;
  int64_t T;
  int H, E, K;
  bool balances;               // the Sinkhorn router balances its choice over the batch, as in training
  const void* input;           // [T,H]; null with givenLogits or givenWeights
  const float* weight;         // [E,H]; null likewise
  const float* bias;           // [E] or null
  const float* noiseWeight;    // [E,H] of learned noise, which needs the input whatever else is given; or null
  const float* selectionBias;  // [E] or null
  const float* givenNoise;     // [T,E] in place of what is drawn, or null
  RouteNoise noise;
  AllowedExperts allowed;
  const float* givenLogits;     // [T,E] in place of the product, or null
  const int32_t* givenIndices;  // [T,K] the caller's choice of experts, or null
  const float* givenWeights;    // [T,K] with givenIndices: nothing is scored and no loss is taken; or null
  const int32_t* mask;          // [T] or null; 0 = padding
  const int32_t* lossMask;      // [T] or null; 0 = counts in no loss
  DrawKey secondKey;            // keys the random second choice, by noise.tokenOffset
  DrawKey expertKey;            // keys the drawn experts: by noise.tokenOffset, or by the id with tokenIds
  const int32_t* tokenIds;      // [T] for the hash router, else null
  int64_t expertSlots;          // C where experts choose: indices and weights are then [E,C], of tokens; else 0

  float* logits;  // [T,E] after bias, before temperature; rows of masked tokens 0; null with givenWeights
  float* noisy;   // [T,E] logits over the temperature, with noise; -inf for experts not allowed; null without noise
  float* noiseLogits;  // [T,E] input·noiseWeight; null without learned noise
  int32_t* indices;    // [T,K] in falling order of the score; -1 for masked tokens, and where no expert is left
  float* scores;       // [T,K] the selected scores, before renormalisation and scale (the 'score' queue priority)
  float* weights;      // [T,K] the final gate weights, before drops
  float* compared;     // [T,E] what the choice compared, minus infinity where nothing may be chosen; null to skip, but
                       // not where experts choose
  int32_t* withheld;   // [T] 1 where the random second choice is not kept; null without
  float* lossCounts;  // [scopes,E] assignments per expert that the load-balance loss counts; null when that loss is off
  float* lossTokens;  // [scopes] tokens that count in it; likewise
  float* importance;  // [E] Σ_t of what the importance loss is taken from; null when it is off
  float* load;        // [E] Σ_t of the chance that the expert is chosen; null when the load loss is off
  float* values;      // [RouteValue::count] the unscaled losses and statistics

  void* workspace;
};

/// Layout of RouteForward::values.
struct RouteValue {
  enum { loadBalance, importance, load, z, entropy, lossTokenCount, count };
};

struct RouteBackward {
  DType dtype;
  RouterOptions router;
  LossOptions losses;  // coefficients already multiplied by lossScale
  int64_t T;
  int H, E, K;
  const void* input;         // [T,H]; null with given logits
  const float* weight;       // [E,H]; null with given logits
  const float* noiseWeight;  // [E,H] or null
  RouteNoise noise;
  AllowedExperts allowed;
  const int32_t* mask;
  const int32_t* lossMask;
  const float* logits;       // [T,E] what forward wrote
  const float* noisy;        // [T,E] or null
  const float* noiseLogits;  // [T,E] or null
  const int32_t* indices;    // [T,K]
  const float* scores;       // [T,K]
  const float* lossCounts;   // [scopes,E] or null
  const float* lossTokens;   // [scopes] or null
  const float* importance;   // [E] or null
  const float* load;         // [E] or null
  const float* values;       // forward's
  const int32_t* used;       // [T,K] the experts whose scores made the weights; null: `indices`
  const float* usedScores;   // [T,K] their scores; null: `scores`
  const int32_t* kept;       // [T,K] 0/1; for renormalizeAfterDrop, else null
  // Where experts choose, C and the plan's rows of each token tell its experts; else 0 and null.
  int64_t expertSlots;
  const int32_t *tokenOffsets, *tokenRows, *rowSlot;
  const float* gradWeights;  // [T,K] or [E,C] dL/d(weight): 0 where dropped, unless the residual path carries it

  float* gradLogits;       // [T,E], always written
  void* gradInput;         // [T,H] += the router's share; null to skip
  float* gradWeight;       // [E,H] or null when frozen or logits were given
  float* gradBias;         // [E] or null
  float* gradNoiseLogits;  // [T,E] written with learned noise; null without
  float* gradNoiseWeight;  // [E,H] or null
  bool accumulateWeight, accumulateBias, accumulateNoiseWeight;

  void* workspace;
};

/// After the plan, the weights that depend on which choices found a slot: of other experts than those first chosen, and
/// over the sum of the kept ones (renormalizeAfterDrop).
struct SettleWeights {
  RouterOptions router;
  int64_t T;
  int E, K;
  AllowedExperts allowed;
  const int32_t* mask;
  const float* logits;     // [T,E]
  const float* noisy;      // [T,E] or null
  const int32_t* indices;  // [T,K]
  const int32_t* actual;   // [T,K] the experts used, -1 where dropped; null: `indices` where kept
  const int32_t* kept;     // [T,K]
  const float* scores;     // [T,K] of the indices

  int32_t* used;      // [T,K] actual where kept, else the index; null without `actual`
  float* usedScores;  // [T,K] their scores; null without `actual`
  float* weights;     // [T,K] 0 where dropped
};

/// totals[e] += counts[e]: the assignments of all forwards since the selection bias was last stepped.
struct CountAssignments {
  int E;
  const int32_t* counts;  // [E]
  int64_t* totals;        // [E]
};

/// bias_e += rate · sign(mean(totals) - totals_e); then totals = 0.
struct SelectionBiasStep {
  int E;
  float rate;
  int64_t* totals;  // [E]
  float* bias;      // [E]
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
  int64_t slots;                 // T·K, or E·C where experts choose; a token then has up to K = E rows
};

struct BuildPlan {
  int64_t T, R;
  int E, K;
  CapacityOptions capacity;  // slots < 0: dropless
  const int32_t* indices;    // [T,K]; -1 = no assignment. Anything else outside [0,E) is an error naming the token.
                             // Null: every token has the one assignment to expert 0 (E = K = 1)
  const int32_t* mask;       // [T] or null; 0 = the token has no assignment, whatever its indices say
  const float* scores;       // [T,K] for the priorities 'score' and 'given', else null
  const int32_t* withheld;   // [T] 1: the second choice queues for no slot and is dropped; null: all queue
  const float* compared;  // [T,E] for the overflow 'next-choice': the better expert has the larger; null: none is taken
  DrawKey drawKey;        // for the priority 'random': keys a draw per token and expert
  int64_t tokenOffset;    // the number that the first token's draws are for

  float* weights;   // [T,K] set to 0 where dropped or unassigned; null to skip
  int32_t* kept;    // [T,K] 0/1; null to skip
  int32_t* actual;  // [T,K] the expert used, -1 where dropped; null unless the overflow is 'next-choice'
  float* carried;   // [T] Σ of the weights of choices that found no slot; null unless the overflow is 'residual'
  int32_t* expertOffsets;  // [E+1]
  int32_t* rowToken;       // [R]
  int32_t* rowSlot;        // [R]
  int32_t* tokenOffsets;   // [T+1]
  int32_t* tokenRows;      // [R]
  int32_t* assigned;       // [E] before drops
  int32_t* keptCounts;     // [E]
  int32_t* totals;         // [PlanTotal::count]

  void* workspace;
};

/// The plan of what experts chose: every choice is a row, in order of expert and choice.
struct BuildExpertPlan {
  int64_t T, C;
  int E;
  const int32_t* indices;  // [E,C] tokens, each at most once for an expert; -1 = none, after all others
  const int32_t* mask;     // [T] or null; for the count of tokens

  int32_t* kept;           // [E,C] 0/1
  int32_t* expertOffsets;  // [E+1]
  int32_t* rowToken;       // [E·C]
  int32_t* rowSlot;        // [E·C]
  int32_t* tokenOffsets;   // [T+1]
  int32_t* tokenRows;      // [E·C]
  int32_t* assigned;       // [E]
  int32_t* keptCounts;     // [E]
  int32_t* totals;         // [PlanTotal::count]; a token that nobody chose counts as dropped

  void* workspace;
};

/// Layout of BuildPlan::totals. A token is one with at least one assignment; slots per expert and group, -1: no limit.
struct PlanTotal {
  enum { tokens, droppedAssignments, droppedTokens, slots, count };
};

/// rows[r] = input[rowToken[r]]; rows past the end are zero.
struct Dispatch {
  DType dtype;
  PlanRows plan;
  int H;
  const void* input;  // [T,H]
  void* rows;         // [R,H]
};

/// What the router adds to the gradient of its input: gradLogits·weight for live tokens.
struct RouterShare {
  const float* gradLogits;  // [T,E]; null: nothing
  const float* weight;      // [E,H]
  const int32_t* mask;      // [T] or null
  int E;
};

/// output[t] = Σ over the token's rows of weight·row, in order of choice, and the router's share. Backward of Dispatch
/// with weights = null.
struct Combine {
  DType dtype;
  PlanRows plan;
  int H;
  const void* rows;      // [R,H]
  const float* weights;  // [T,K] by slot; null: all 1
  void* output;          // [T,H]
  bool accumulate;       // += instead of =
  RouterShare router;    // not with `accumulate`
};

/// output[t] += carried[t] · input[t]: the residual path of choices that found no slot.
struct Carry {
  DType dtype;
  int64_t T;
  int H;
  const void* input;     // [T,H]
  const float* carried;  // [T]
  void* output;          // [T,H]
};

/// gradInput[t] += carried[t] · gradOutput[t]; gradWeights[t,k] = ⟨gradOutput_t, input_t⟩ for the choices carried.
struct CarryBackward {
  DType dtype;
  int64_t T;
  int H, K;
  const void* input;        // [T,H]
  const void* gradOutput;   // [T,H]
  const float* carried;     // [T]
  const int32_t* indices;   // [T,K]
  const int32_t* kept;      // [T,K]
  const int32_t* withheld;  // [T] or null
  const int32_t* mask;      // [T] or null
  void* gradInput;          // [T,H]
  float* gradWeights;       // [T,K]
};

struct CombineBackward {
  DType dtype;
  PlanRows plan;
  int H;
  const void* gradOutput;  // [T,H]
  const void* rows;        // [R,H]
  const float* weights;    // [T,K]
  void* gradRows;          // [R,H]; rows past the end zero
  float* gradWeights;      // [T,K]; 0 where dropped
};

// ------------------------------------------------------------------------------------------------ experts

/// Of activations between up and down, drawn by token, expert and feature: see dropoutFactor() in noise.h.
struct Dropout {
  uint32_t threshold;  // probability · 2^32: lower bits drop; 0: nothing is drawn
  float scale;         // of what stays, 1/(1 - probability)
  DrawKey key;
  int64_t tokenOffset;
};

/// y[r] = down_e · dropout(act(gate_e·x, up_e·x)) for every row r of every expert e, x = v·input[rowToken[r]] with
/// v = inputWeights[rowSlot[r]], or 1 without.
struct ExpertsForward {
  DType dtype;
  PlanRows plan;
  ActivationOptions activation;
  Dropout dropout;
  int H, F;
  const void* input;                         // [T,H]
  const void *gate, *up, *down;              // [E,F,H] (gate null when not gated), [E,F,H], [E,H,F]
  const void *gateBias, *upBias, *downBias;  // [E,F], [E,F], [E,H]; null without
  const float* inputWeights;                 // [T,K] by slot, or null
  void *savedGate, *savedUp;  // [R,F] kept for backward, null in inference: pre-activations with bias; with
                              // inputWeights the products of the unweighted input, without bias
  void* rows;                 // [R,H]; rows past the end are left as they are

  void* workspace;
};

/// Rows weigh in as rowWeight = weights[rowSlot[r]] (1 when weights is null): with dO gathered by rowToken,
/// dA = dO·down, rowDot[r] = ⟨dA, a⟩ + ⟨dO, downBias⟩ = dL/d(weight), dz = w·dA·act'(z), dDown = Σ w·dO ⊗ a.
/// With inputWeights v and no weights, u the saved products: z = v·u + bias, rowDot[r] = ⟨dz, u⟩, and v·dz takes the
/// place of dz but in the gradients of biases. Dropped activations are 0 in a and dA.
struct ExpertsBackward {
  DType dtype;
  PlanRows plan;
  ActivationOptions activation;
  Dropout dropout;
  int H, F;
  const void* input;       // [T,H]
  const void* gradOutput;  // [T,H]
  const float* weights;    // [T,K] by slot, or null
  const void *gate, *up, *down;
  const void* downBias;
  const void *gateBias, *upBias;    // for inputWeights
  const float* inputWeights;        // [T,K] by slot, or null
  const void *savedGate, *savedUp;  // [R,F]

  void* gradRows;                       // [R,H] gradient of the gathered input; rows past the end are left as they are
  float* gradWeights;                   // [T,K] by slot: rowDot of each kept assignment, 0 elsewhere; null to skip
  float *gradGate, *gradUp, *gradDown;  // like the weights; null when frozen. Experts without rows give zeros
  float *gradGateBias, *gradUpBias, *gradDownBias;  // null when frozen or absent
  bool accumulateGate, accumulateUp, accumulateDown;
  bool accumulateGateBias, accumulateUpBias, accumulateDownBias;

  void* workspace;
};

/// output[r] = weight_e · input[r] + bias for rows grouped by expertOffsets; null offsets: one group of all R rows.
struct GroupedGemmForward {
  DType dtype;
  int64_t R;
  int E, in, out;
  const int32_t* expertOffsets;  // [E+1] or null
  const void* input;             // [R,in]
  const void* weight;            // [E,out,in]
  const void* bias;              // [E,out] or null
  void* output;                  // [R,out]; rows past the end are zero

  void* workspace;
};

struct GroupedGemmBackward {
  DType dtype;
  int64_t R;
  int E, in, out;
  const int32_t* expertOffsets;
  const void* input;       // [R,in]
  const void* weight;      // [E,out,in]
  const void* gradOutput;  // [R,out]
  void* gradInput;         // [R,in] or null; rows past the end are zero
  float* gradWeight;       // [E,out,in] or null when frozen
  float* gradBias;         // [E,out] or null
  bool accumulateWeight, accumulateBias;

  void* workspace;
};

// ------------------------------------------------------------------------------------------------ modules

/// The sigmoid gate of shared experts: gates[t] = σ(⟨input_t, weight⟩); masked tokens give 0.
struct SigmoidGateForward {
  DType dtype;
  int64_t T;
  int H;
  const void* input;
  const void* weight;   // [H]
  const int32_t* mask;  // [T] or null
  float* gates;         // [T]
};

struct SigmoidGateBackward {
  DType dtype;
  int64_t T;
  int H;
  const void* input;
  const void* weight;
  const int32_t* mask;
  const float* gates;      // [T]
  const float* gradGates;  // [T]
  void* gradInput;         // [T,H] +=
  float* gradWeight;       // [H] or null
  bool accumulateWeight;

  void* workspace;
};

struct EmbeddingForward {
  DType dtype;
  int64_t N;
  int count, size;
  const int32_t* indices;  // [N]; outside [0,count) is an error naming the position
  const void* weight;      // [count,size]
  void* output;            // [N,size]
};

struct EmbeddingBackward {
  DType dtype;
  int64_t N;
  int count, size;
  const int32_t* indices;
  const void* gradOutput;
  float* gradWeight;
  bool accumulateWeight;

  void* workspace;
};

/// output = input · rsqrt(mean(input²) + epsilon) · weight, per row (Zhang & Sennrich 2019).
struct RmsNormForward {
  DType dtype;
  int64_t N;
  int size;
  float epsilon;
  const void *input, *weight;  // [N,size], [size]
  void* output;                // [N,size]
  float* inverseRms;           // [N]
};

struct RmsNormBackward {
  DType dtype;
  int64_t N;
  int size;
  const void *input, *weight;
  const float* inverseRms;
  const void* gradOutput;
  void* gradInput;    // [N,size]
  float* gradWeight;  // [size] or null
  bool accumulateWeight;

  void* workspace;
};

/// Mean negative log-likelihood over targets that are not -1 (0 when there are none).
struct CrossEntropyForward {
  DType dtype;
  int64_t N;
  int classes;
  const void* logits;      // [N,classes]
  const int32_t* targets;  // [N]; -1 = ignored; else outside [0,classes) is an error naming the position
  float* logSumExp;        // [N]
  float* loss;             // [2]: the mean, and the number of targets that count

  void* workspace;
};

struct CrossEntropyBackward {
  DType dtype;
  int64_t N;
  int classes;
  float scale;
  const void* logits;
  const int32_t* targets;
  const float *logSumExp, *loss;
  void* gradLogits;  // [N,classes]
};

struct Add {
  DType dtype;
  int64_t n;
  const void *a, *b;
  void* output;
};

// ------------------------------------------------------------------------------------------------ optimizer

struct AdamWTensor {
  DType dtype;
  int64_t n;
  void* value;
  float* master;  // the float32 value that `value` is the rounding of; null when dtype is float32
  const float* grad;
  float *mean, *variance;  // first and second moment
  int32_t* steps;          // [1] updates of this tensor so far: its bias correction counts those alone
};

struct AdamWScalars {
  float learningRate, beta1, beta2, epsilon, weightDecay;
  float maxGradNorm;  // 0: no clipping
};

/// Decoupled weight decay (Loshchilov & Hutter 2019). A non-finite global norm skips the update and counts it.
struct AdamWStep {
  const AdamWTensor* tensors;
  int count;
  AdamWScalars scalars;
  const AdamWScalars* replayed;  // where a step that is replayed finds them, in device memory; or null
  int32_t* skipped;              // [1] steps that a non-finite norm has skipped
  float* gradNorm;               // [1] before clipping

  void* workspace;
};

// ------------------------------------------------------------------------------------------------ element-wise

/// To int32: towards zero, saturating, NaN gives 0. To 16 bits: to nearest even.
struct Convert {
  DType from, to;
  int64_t n;
  const void* input;
  void* output;
};

/// Normal(0, std) drawn in float32 and rounded to dtype.
struct RandomNormal {
  DType dtype;
  int64_t n;
  uint64_t seed;
  uint32_t purpose;
  float std;
  void* output;
};

}  // namespace moe
