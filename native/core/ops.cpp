#include "ops.h"

namespace moe::ops {

namespace {

void check(const TensorPtr& tensor, int64_t size, DType dtype, const char* name) {
  checkTensor(tensor, size, dtype, name);
  tensor->device().materialise(tensor);
}

Operands operands(std::initializer_list<TensorPtr> inputs, std::initializer_list<TensorPtr> outputs) {
  Operands result;
  for (const TensorPtr& tensor : inputs) result.inputs.push_back(tensor->health());
  for (const TensorPtr& tensor : outputs) result.outputs.push_back(tensor->health());
  return result;
}

}  // namespace

Routing route(const TensorPtr& input, const TensorPtr& weight, const RouteShape& s, const RouterOptions& router) {
  Device& device = input->device();
  if (s.T > INT32_MAX / s.K) throw Error(ErrorCode::Shape, "input has more tokens times choices than 2^31 - 1");
  check(input, s.T * s.H, input->dtype(), "input");
  check(weight, int64_t{s.E} * s.H, DType::Float32, "weight");
  const Routing routing{device.empty(DType::Int32, s.T * s.K), device.empty(DType::Float32, s.T * s.K),
                        device.empty(DType::Float32, s.T * s.E), device.empty(DType::Float32, s.T * s.K)};
  const TensorPtr values = device.empty(DType::Float32, RouteValue::count);
  RouteForward op{};
  op.dtype = input->dtype();
  op.router = router;
  op.router.fixScoring(s.K);
  op.balances = router.type == RouterType::Sinkhorn;
  op.T = s.T;
  op.H = s.H;
  op.E = s.E;
  op.K = s.K;
  op.input = input->data();
  op.weight = weight->floats();
  op.logits = routing.logits->floats();
  op.indices = routing.indices->ints();
  op.scores = routing.scores->floats();
  op.weights = routing.weights->floats();
  op.values = values->floats();
  const TensorPtr workspace = device.workspace(op);
  device.enqueue("ops.route",
                 operands({input, weight}, {routing.indices, routing.weights, routing.logits, routing.scores}),
                 [op](Backend& backend) { backend.routeForward(op); });
  return routing;
}

Gradients routeBackward(const TensorPtr& input, const TensorPtr& weight, const RouteShape& s,
                        const RouterOptions& router, const Routing& routing, const TensorPtr& gradWeights) {
  Device& device = input->device();
  check(input, s.T * s.H, input->dtype(), "input");
  check(weight, int64_t{s.E} * s.H, DType::Float32, "weight");
  check(routing.logits, s.T * s.E, DType::Float32, "logits");
  check(routing.indices, s.T * s.K, DType::Int32, "indices");
  check(routing.scores, s.T * s.K, DType::Float32, "scores");
  check(gradWeights, s.T * s.K, DType::Float32, "gradWeights");
  for (const TensorPtr& tensor : {routing.indices, routing.logits})
    if (tensor->version != 0) throw Error(ErrorCode::StalePass, "the routing was written since this route's forward");
  const Gradients gradients{device.empty(input->dtype(), s.T * s.H), device.empty(DType::Float32, int64_t{s.E} * s.H)};
  const TensorPtr gradLogits = device.empty(DType::Float32, s.T * s.E);
  const TensorPtr values = device.empty(DType::Float32, RouteValue::count);
  RouteBackward op{};
  op.dtype = input->dtype();
  op.router = router;
  op.router.fixScoring(s.K);
  op.T = s.T;
  op.H = s.H;
  op.E = s.E;
  op.K = s.K;
  op.input = input->data();
  op.weight = weight->floats();
  op.logits = routing.logits->floats();
  op.indices = routing.indices->ints();
  op.scores = routing.scores->floats();
  op.values = values->floats();
  op.gradWeights = gradWeights->floats();
  op.gradLogits = gradLogits->floats();
  op.gradInput = gradients.first->data();
  op.gradWeight = gradients.second->floats();
  const TensorPtr workspace = device.workspace(op);
  device.enqueue("ops.route.backward",
                 operands({input, weight, routing.logits, routing.indices, routing.scores, gradWeights},
                          {gradients.first, gradients.second}),
                 [op, values = values->floats(), bytes = gradients.first->bytes()](Backend& backend) {
                   backend.zero(values, RouteValue::count * sizeof(float));
                   backend.zero(op.gradInput, bytes);
                   backend.routeBackward(op);
                 });
  return gradients;
}

PlanRows Plan::rows() const {
  return {T, R, E, K, block.expertOffsets, block.rowToken, block.rowSlot, block.tokenOffsets, block.tokenRows, T * K};
}

PlanPtr plan(const TensorPtr& indices, const TensorPtr& weights, int64_t T, int K, int E, const CapacityRule& rule) {
  Device& device = indices->device();
  check(indices, T * K, DType::Int32, "indices");
  check(weights, T * K, DType::Float32, "weights");
  if (T * K > INT32_MAX) throw Error(ErrorCode::Shape, "indices has more than 2^31 - 1 elements");
  const CapacityOptions capacity = rule.resolve(T, K, E, true);
  auto result = std::make_shared<Plan>();
  Plan& p = *result;
  p.T = T;
  p.E = E;
  p.K = K;
  p.R = maxRows(capacity, T, K, E);
  p.weights = device.empty(DType::Float32, T * K);
  p.ints = device.empty(DType::Int32, p.block.carve(nullptr, T, E, p.R));
  p.block.carve(p.ints->ints(), T, E, p.R);
  p.offsets = device.empty(DType::Int32, int64_t{E} + 1);
  p.tokens = device.empty(DType::Int32, p.R);
  const TensorPtr kept = device.empty(DType::Int32, T * K);
  BuildPlan op{.T = T,
               .R = p.R,
               .E = E,
               .K = K,
               .capacity = capacity,
               .indices = indices->ints(),
               .scores = weights->floats(),
               .weights = p.weights->floats(),
               .kept = kept->ints(),
               .expertOffsets = p.block.expertOffsets,
               .rowToken = p.block.rowToken,
               .rowSlot = p.block.rowSlot,
               .tokenOffsets = p.block.tokenOffsets,
               .tokenRows = p.block.tokenRows,
               .assigned = p.block.assigned,
               .keptCounts = p.block.keptCounts,
               .totals = p.block.totals};
  const TensorPtr workspace = device.workspace(op);
  device.enqueue(
      "ops.plan", operands({indices, weights}, {p.weights, p.ints, p.offsets, p.tokens}),
      [op, offsets = p.offsets->ints(), tokens = p.tokens->ints(), bytes = weights->bytes()](Backend& backend) {
        backend.copy(op.weights, op.scores, bytes);
        backend.buildPlan(op);
        backend.copy(offsets, op.expertOffsets, (int64_t{op.E} + 1) * sizeof(int32_t));
        backend.copy(tokens, op.rowToken, static_cast<size_t>(op.R) * sizeof(int32_t));
      });
  return result;
}

TensorPtr dispatch(const TensorPtr& input, const Plan& plan, int H) {
  Device& device = input->device();
  check(input, plan.T * H, input->dtype(), "input");
  const TensorPtr rows = device.empty(input->dtype(), plan.R * H);
  const Dispatch op{.dtype = input->dtype(), .plan = plan.rows(), .H = H, .input = input->data(), .rows = rows->data()};
  device.enqueue("ops.dispatch", operands({input, plan.ints}, {rows}),
                 [op](Backend& backend) { backend.dispatch(op); });
  return rows;
}

namespace {

TensorPtr queueCombine(const char* name, const TensorPtr& rows, const TensorPtr& weights, const Plan& plan, int H) {
  Device& device = rows->device();
  const TensorPtr output = device.empty(rows->dtype(), plan.T * H);
  const Combine op{.dtype = rows->dtype(),
                   .plan = plan.rows(),
                   .H = H,
                   .rows = rows->data(),
                   .weights = weights ? weights->floats() : nullptr,
                   .output = output->data(),
                   .accumulate = false};
  Operands read = operands({rows, plan.ints}, {output});
  if (weights) read.inputs.push_back(weights->health());
  device.enqueue(name, std::move(read), [op](Backend& backend) { backend.combine(op); });
  return output;
}

}  // namespace

TensorPtr dispatchBackward(const TensorPtr& gradRows, const Plan& plan, int H) {
  check(gradRows, plan.R * H, gradRows->dtype(), "gradRows");
  return queueCombine("ops.dispatch.backward", gradRows, nullptr, plan, H);
}

TensorPtr combine(const TensorPtr& rows, const Plan& plan, int H) {
  check(rows, plan.R * H, rows->dtype(), "rows");
  return queueCombine("ops.combine", rows, plan.weights, plan, H);
}

Gradients combineBackward(const TensorPtr& rows, const TensorPtr& gradOutput, const Plan& plan, int H) {
  Device& device = rows->device();
  check(rows, plan.R * H, rows->dtype(), "rows");
  check(gradOutput, plan.T * H, rows->dtype(), "gradOutput");
  const Gradients gradients{device.empty(rows->dtype(), plan.R * H), device.empty(DType::Float32, plan.T * plan.K)};
  const CombineBackward op{.dtype = rows->dtype(),
                           .plan = plan.rows(),
                           .H = H,
                           .gradOutput = gradOutput->data(),
                           .rows = rows->data(),
                           .weights = plan.weights->floats(),
                           .gradRows = gradients.first->data(),
                           .gradWeights = gradients.second->floats()};
  device.enqueue("ops.combine.backward",
                 operands({rows, gradOutput, plan.ints, plan.weights}, {gradients.first, gradients.second}),
                 [op](Backend& backend) { backend.combineBackward(op); });
  return gradients;
}

TensorPtr groupedGemm(const TensorPtr& rows, const TensorPtr& weight, const Plan& plan, int in, int out) {
  Device& device = rows->device();
  check(rows, plan.R * in, rows->dtype(), "rows");
  check(weight, int64_t{plan.E} * in * out, rows->dtype(), "weight");
  const TensorPtr output = device.empty(rows->dtype(), plan.R * out);
  GroupedGemmForward op{.dtype = rows->dtype(),
                        .R = plan.R,
                        .E = plan.E,
                        .in = in,
                        .out = out,
                        .expertOffsets = plan.block.expertOffsets,
                        .input = rows->data(),
                        .weight = weight->data(),
                        .output = output->data()};
  const TensorPtr workspace = device.workspace(op);
  device.enqueue("ops.groupedGemm", operands({rows, weight, plan.ints}, {output}),
                 [op](Backend& backend) { backend.groupedGemmForward(op); });
  return output;
}

Gradients groupedGemmBackward(const TensorPtr& rows, const TensorPtr& weight, const TensorPtr& gradOutput,
                              const Plan& plan, int in, int out) {
  Device& device = rows->device();
  check(rows, plan.R * in, rows->dtype(), "rows");
  check(weight, int64_t{plan.E} * in * out, rows->dtype(), "weight");
  check(gradOutput, plan.R * out, rows->dtype(), "gradOutput");
  const Gradients gradients{device.empty(rows->dtype(), plan.R * in),
                            device.empty(DType::Float32, int64_t{plan.E} * in * out)};
  GroupedGemmBackward op{.dtype = rows->dtype(),
                         .R = plan.R,
                         .E = plan.E,
                         .in = in,
                         .out = out,
                         .expertOffsets = plan.block.expertOffsets,
                         .input = rows->data(),
                         .weight = weight->data(),
                         .gradOutput = gradOutput->data(),
                         .gradInput = gradients.first->data(),
                         .gradWeight = gradients.second->floats()};
  const TensorPtr workspace = device.workspace(op);
  device.enqueue("ops.groupedGemm.backward",
                 operands({rows, weight, gradOutput, plan.ints}, {gradients.first, gradients.second}),
                 [op](Backend& backend) { backend.groupedGemmBackward(op); });
  return gradients;
}

}  // namespace moe::ops
