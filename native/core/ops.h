// The stages of a MoE layer by themselves, on the caller's own tensors.
#pragma once

#include <cstdint>
#include <memory>

#include "device.h"
#include "plan.h"

namespace moe::ops {

struct RouteShape {
  int64_t T;
  int H, E, K;
};

struct Routing {
  TensorPtr indices, weights, logits, scores;  // [T,K], [T,K], [T,E], [T,K]
};

struct Gradients {
  TensorPtr first, second;
};

Routing route(const TensorPtr& input, const TensorPtr& weight, const RouteShape& shape, const RouterOptions& router);
/// Gradients of input and weight.
Gradients routeBackward(const TensorPtr& input, const TensorPtr& weight, const RouteShape& shape,
                        const RouterOptions& router, const Routing& routing, const TensorPtr& gradWeights);

/// A plan that outlives the call; the weights are those of the kept assignments.
struct Plan {
  int64_t T, R;
  int E, K;
  TensorPtr weights;  // [T,K], 0 where dropped
  TensorPtr ints;     // PlanBlock
  PlanBlock block;
  TensorPtr offsets, tokens;  // copies for the user: [E+1], [R]

  PlanRows rows() const;
};
using PlanPtr = std::shared_ptr<Plan>;

PlanPtr plan(const TensorPtr& indices, const TensorPtr& weights, int64_t T, int K, int E, const CapacityRule& capacity);

TensorPtr dispatch(const TensorPtr& input, const Plan& plan, int H);
TensorPtr dispatchBackward(const TensorPtr& gradRows, const Plan& plan, int H);
TensorPtr combine(const TensorPtr& rows, const Plan& plan, int H);
/// Gradients of rows and weights.
Gradients combineBackward(const TensorPtr& rows, const TensorPtr& gradOutput, const Plan& plan, int H);
TensorPtr groupedGemm(const TensorPtr& rows, const TensorPtr& weight, const Plan& plan, int in, int out);
/// Gradients of rows and weight.
Gradients groupedGemmBackward(const TensorPtr& rows, const TensorPtr& weight, const TensorPtr& gradOutput,
                              const Plan& plan, int in, int out);

}  // namespace moe::ops
