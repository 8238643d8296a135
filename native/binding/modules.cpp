// The dense layers and the optimizer.
#include "../core/modules.h"

#include "../core/optim.h"
#include "guard.h"

namespace moe::binding {

namespace {

/// [pass, output]
Napi::Value wrapPass(Napi::Env env, std::shared_ptr<Pass> pass) {
  Napi::Array result = Napi::Array::New(env, 2);
  result.Set(1u, wrapTensor(env, pass->output()));
  result.Set(0u, wrap<Pass>(env, std::move(pass)));
  return result;
}

void checkParameter(const TensorPtr& input, const ParameterPtr& parameter, int64_t size, DType dtype) {
  if (!parameter) return;
  checkSameDevice(input->device(), {parameter->value()});
  checkTensor(parameter->value(), size, dtype, "a parameter");
}

DType dtypeOf(const ParameterPtr& parameter) { return parameter->value()->dtype(); }

Napi::Value linearForward(const Napi::CallbackInfo& info) {
  const TensorPtr input = unwrap<Tensor>(info[0]);
  const auto weight = unwrap<Parameter>(info[1]);
  const auto bias = unwrapOptional<Parameter>(info[2]);
  const int in = integer(info[3]), out = integer(info[4]);
  checkParameter(input, weight, int64_t{in} * out, input->dtype());
  checkParameter(input, bias, out, input->dtype());
  return wrapPass(info.Env(), std::make_shared<LinearPass>(input, weight, bias, in, out));
}

Napi::Value embeddingForward(const Napi::CallbackInfo& info) {
  const TensorPtr indices = unwrap<Tensor>(info[0]);
  const auto weight = unwrap<Parameter>(info[1]);
  const int rows = integer(info[2]), size = integer(info[3]);
  checkParameter(indices, weight, int64_t{rows} * size, dtypeOf(weight));
  return wrapPass(info.Env(), std::make_shared<EmbeddingPass>(indices, weight, rows, size));
}

Napi::Value rmsNormForward(const Napi::CallbackInfo& info) {
  const TensorPtr input = unwrap<Tensor>(info[0]);
  const auto weight = unwrap<Parameter>(info[1]);
  const int size = integer(info[2]);
  checkParameter(input, weight, size, input->dtype());
  return wrapPass(info.Env(), std::make_shared<RmsNormPass>(input, weight, size, real(info[3])));
}

Napi::Value crossEntropyForward(const Napi::CallbackInfo& info) {
  const TensorPtr logits = unwrap<Tensor>(info[0]), targets = unwrap<Tensor>(info[1]);
  checkSameDevice(logits->device(), {targets});
  return wrapPass(info.Env(), std::make_shared<CrossEntropyPass>(logits, targets, integer(info[2])));
}

Napi::Value passBackward(const Napi::CallbackInfo& info) {
  const auto pass = unwrap<Pass>(info[0]);
  const TensorPtr gradOutput = unwrapOptional<Tensor>(info[1]);
  checkSameDevice(pass->output()->device(), {gradOutput});
  return wrapTensor(info.Env(), pass->backward(gradOutput, real(info[2])));
}

Napi::Value addTensors(const Napi::CallbackInfo& info) {
  const TensorPtr a = unwrap<Tensor>(info[0]), b = unwrap<Tensor>(info[1]);
  checkSameDevice(a->device(), {b});
  return wrapTensor(info.Env(), add(a, b));
}

// ------------------------------------------------------------------------------------------------ AdamW

Napi::Value adamwCreate(const Napi::CallbackInfo& info) {
  const auto device = unwrap<Device>(info[0]);
  device->refuseRecording("making an optimizer");
  const auto list = info[1].As<Napi::Array>();
  std::vector<ParameterPtr> parameters;
  for (uint32_t i = 0; i < list.Length(); ++i) {
    parameters.push_back(unwrap<Parameter>(list.Get(i)));
    checkSameDevice(*device, {parameters.back()->value()});
  }
  const auto previous = unwrapOptional<AdamW>(info[2]);
  auto optimizer = std::make_shared<AdamW>(device, std::move(parameters), previous.get());
  int64_t bytes = 0;
  for (const auto* tensors : {&optimizer->means(), &optimizer->variances(), &optimizer->masters()})
    for (const TensorPtr& tensor : *tensors)
      if (tensor) bytes += static_cast<int64_t>(tensor->bytes());
  return wrap(info.Env(), std::move(optimizer), bytes);
}

AdamWScalars toScalars(const Napi::CallbackInfo& info) {
  return {real(info[1]), real(info[2]), real(info[3]), real(info[4]), real(info[5]), real(info[6])};
}

Napi::Value adamwStep(const Napi::CallbackInfo& info) {
  unwrap<AdamW>(info[0])->step(toScalars(info));
  return info.Env().Undefined();
}

Napi::Value adamwSetScalars(const Napi::CallbackInfo& info) {
  unwrap<AdamW>(info[0])->setScalars(toScalars(info));
  return info.Env().Undefined();
}

Napi::Value adamwRefreshMasters(const Napi::CallbackInfo& info) {
  unwrap<AdamW>(info[0])->refreshMasters();
  return info.Env().Undefined();
}

Napi::Value adamwAdoptMasters(const Napi::CallbackInfo& info) {
  unwrap<AdamW>(info[0])->adoptMasters();
  return info.Env().Undefined();
}

Napi::Value adamwState(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto optimizer = unwrap<AdamW>(info[0]);
  const auto list = [&](const std::vector<TensorPtr>& tensors) {
    Napi::Array array = Napi::Array::New(env, tensors.size());
    for (uint32_t i = 0; i < tensors.size(); ++i) array.Set(i, tensors[i] ? wrap(env, tensors[i]) : env.Null());
    return array;
  };
  Napi::Object state = Napi::Object::New(env);
  state.Set("means", list(optimizer->means()));
  state.Set("variances", list(optimizer->variances()));
  state.Set("masters", list(optimizer->masters()));
  state.Set("steps", list(optimizer->steps()));
  state.Set("skipped", wrap(env, optimizer->skipped()));
  state.Set("gradNorm", wrap(env, optimizer->gradNorm()));
  return state;
}

}  // namespace

void exposeModules(Napi::Object exports) {
  expose<linearForward>(exports, "linearForward");
  expose<embeddingForward>(exports, "embeddingForward");
  expose<rmsNormForward>(exports, "rmsNormForward");
  expose<crossEntropyForward>(exports, "crossEntropyForward");
  expose<passBackward>(exports, "passBackward");
  expose<release<Pass>>(exports, "passRelease");
  expose<addTensors>(exports, "add");
  expose<adamwCreate>(exports, "adamwCreate");
  expose<adamwStep>(exports, "adamwStep");
  expose<adamwSetScalars>(exports, "adamwSetScalars");
  expose<adamwState>(exports, "adamwState");
  expose<adamwRefreshMasters>(exports, "adamwRefreshMasters");
  expose<adamwAdoptMasters>(exports, "adamwAdoptMasters");
  expose<release<AdamW>>(exports, "adamwRelease");
}

}  // namespace moe::binding
