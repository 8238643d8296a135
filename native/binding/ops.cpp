// The stages by themselves.
#include "../core/ops.h"

#include "guard.h"

namespace moe::binding {

namespace {

ops::RouteShape toRouteShape(Napi::Object shape) {
  return {count(shape.Get("tokens")), integer(shape.Get("hiddenSize")), integer(shape.Get("numExperts")),
          integer(shape.Get("topK"))};
}

Napi::Object named(Napi::Env env, std::initializer_list<std::pair<const char*, TensorPtr>> tensors) {
  Napi::Object result = Napi::Object::New(env);
  for (const auto& [name, tensor] : tensors) result.Set(name, wrapTensor(env, tensor));
  return result;
}

Napi::Value opsRoute(const Napi::CallbackInfo& info) {
  const TensorPtr input = unwrap<Tensor>(info[0]), weight = unwrap<Tensor>(info[1]);
  checkSameDevice(input->device(), {weight});
  const ops::Routing routing =
      ops::route(input, weight, toRouteShape(info[2].As<Napi::Object>()), toRouterOptions(info[3].As<Napi::Object>()));
  return named(info.Env(), {{"indices", routing.indices},
                            {"weights", routing.weights},
                            {"logits", routing.logits},
                            {"scores", routing.scores}});
}

Napi::Value opsRouteBackward(const Napi::CallbackInfo& info) {
  const TensorPtr input = unwrap<Tensor>(info[0]), weight = unwrap<Tensor>(info[1]);
  const auto saved = info[4].As<Napi::Object>();
  const ops::Routing routing{unwrap<Tensor>(saved.Get("indices")), nullptr, unwrap<Tensor>(saved.Get("logits")),
                             unwrap<Tensor>(saved.Get("scores"))};
  const TensorPtr gradWeights = unwrap<Tensor>(info[5]);
  checkSameDevice(input->device(), {gradWeights});
  const ops::Gradients gradients =
      ops::routeBackward(input, weight, toRouteShape(info[2].As<Napi::Object>()),
                         toRouterOptions(info[3].As<Napi::Object>()), routing, gradWeights);
  return named(info.Env(), {{"input", gradients.first}, {"weight", gradients.second}});
}

Napi::Value opsPlan(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const TensorPtr indices = unwrap<Tensor>(info[0]), weights = unwrap<Tensor>(info[1]);
  checkSameDevice(indices->device(), {weights});
  const auto shape = info[2].As<Napi::Object>();
  const ops::PlanPtr plan = ops::plan(indices, weights, count(shape.Get("tokens")), integer(shape.Get("topK")),
                                      integer(shape.Get("numExperts")), toCapacityRule(info[3].As<Napi::Object>()));
  Napi::Object result = Napi::Object::New(env);
  result.Set("maxRows", static_cast<double>(plan->R));
  result.Set("offsets", wrapTensor(env, plan->offsets));
  result.Set("tokens", wrapTensor(env, plan->tokens));
  result.Set("plan", wrap(env, plan, static_cast<int64_t>(plan->ints->bytes() + plan->weights->bytes())));
  return result;
}

Napi::Value opsDispatch(const Napi::CallbackInfo& info) {
  const TensorPtr input = unwrap<Tensor>(info[0]);
  const auto plan = unwrap<ops::Plan>(info[1]);
  checkSameDevice(plan->ints->device(), {input});
  return wrapTensor(info.Env(), ops::dispatch(input, *plan, integer(info[2])));
}

Napi::Value opsDispatchBackward(const Napi::CallbackInfo& info) {
  const TensorPtr gradRows = unwrap<Tensor>(info[0]);
  const auto plan = unwrap<ops::Plan>(info[1]);
  checkSameDevice(plan->ints->device(), {gradRows});
  return wrapTensor(info.Env(), ops::dispatchBackward(gradRows, *plan, integer(info[2])));
}

Napi::Value opsCombine(const Napi::CallbackInfo& info) {
  const TensorPtr rows = unwrap<Tensor>(info[0]);
  const auto plan = unwrap<ops::Plan>(info[1]);
  checkSameDevice(plan->ints->device(), {rows});
  return wrapTensor(info.Env(), ops::combine(rows, *plan, integer(info[2])));
}

Napi::Value opsCombineBackward(const Napi::CallbackInfo& info) {
  const TensorPtr rows = unwrap<Tensor>(info[0]), gradOutput = unwrap<Tensor>(info[1]);
  const auto plan = unwrap<ops::Plan>(info[2]);
  checkSameDevice(plan->ints->device(), {rows, gradOutput});
  const ops::Gradients gradients = ops::combineBackward(rows, gradOutput, *plan, integer(info[3]));
  return named(info.Env(), {{"rows", gradients.first}, {"weights", gradients.second}});
}

Napi::Value opsGroupedGemm(const Napi::CallbackInfo& info) {
  const TensorPtr rows = unwrap<Tensor>(info[0]), weight = unwrap<Tensor>(info[1]);
  const auto plan = unwrap<ops::Plan>(info[2]);
  checkSameDevice(plan->ints->device(), {rows, weight});
  return wrapTensor(info.Env(), ops::groupedGemm(rows, weight, *plan, integer(info[3]), integer(info[4])));
}

Napi::Value opsGroupedGemmBackward(const Napi::CallbackInfo& info) {
  const TensorPtr rows = unwrap<Tensor>(info[0]), weight = unwrap<Tensor>(info[1]),
                  gradOutput = unwrap<Tensor>(info[2]);
  const auto plan = unwrap<ops::Plan>(info[3]);
  checkSameDevice(plan->ints->device(), {rows, weight, gradOutput});
  const ops::Gradients gradients =
      ops::groupedGemmBackward(rows, weight, gradOutput, *plan, integer(info[4]), integer(info[5]));
  return named(info.Env(), {{"rows", gradients.first}, {"weight", gradients.second}});
}

}  // namespace

void exposeOps(Napi::Object exports) {
  expose<opsRoute>(exports, "opsRoute");
  expose<opsRouteBackward>(exports, "opsRouteBackward");
  expose<opsPlan>(exports, "opsPlan");
  expose<release<ops::Plan>>(exports, "planRelease");
  expose<opsDispatch>(exports, "opsDispatch");
  expose<opsDispatchBackward>(exports, "opsDispatchBackward");
  expose<opsCombine>(exports, "opsCombine");
  expose<opsCombineBackward>(exports, "opsCombineBackward");
  expose<opsGroupedGemm>(exports, "opsGroupedGemm");
  expose<opsGroupedGemmBackward>(exports, "opsGroupedGemmBackward");
}

}  // namespace moe::binding
