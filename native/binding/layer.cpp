// The MoE layer: option objects to plain structs, passes, statistics.
#include "../core/layer.h"

#include <cmath>
#include <string>

#include "guard.h"

namespace moe::binding {

RouterOptions toRouterOptions(Napi::Object object) {
  RouterOptions router;
  router.type = static_cast<RouterType>(integer(object.Get("type")));
  router.selectBy = boolean(object.Get("selectByLogits")) ? SelectBy::Logits : SelectBy::Scores;
  router.renormalize = boolean(object.Get("renormalize"));
  router.normP = real(object.Get("normP"));
  router.normEpsilon = real(object.Get("normEpsilon"));
  router.weightScale = real(object.Get("weightScale"));
  router.temperature = real(object.Get("temperature"));
  router.scoring = static_cast<Scoring>(integer(object.Get("scoring")));
  router.noise = static_cast<NoiseType>(integer(object.Get("noise")));
  router.noiseScale = real(object.Get("noiseScale"));
  router.renormalizeAfterDrop = boolean(object.Get("renormalizeAfterDrop"));
  router.secondThreshold = real(object.Get("secondThreshold"));
  router.groupCount = integer(object.Get("groupCount"));
  router.groupKeep = integer(object.Get("groupKeep"));
  router.groupScore = boolean(object.Get("groupsByTop2Sum")) ? GroupScore::Top2Sum : GroupScore::Max;
  return router;
}

CapacityRule toCapacityRule(Napi::Object object) {
  CapacityRule rule;
  rule.limited = boolean(object.Get("limited"));
  rule.factor = number(object.Get("factor"));
  rule.evalFactor = number(object.Get("evalFactor"));
  rule.slots = count(object.Get("slots"));
  rule.min = count(object.Get("min"));
  rule.multipleOf = count(object.Get("multipleOf"));
  rule.buffer = number(object.Get("buffer"));
  rule.groupSize = count(object.Get("groupSize"));
  rule.dynamic = boolean(object.Get("dynamic"));
  rule.targetDropRate = number(object.Get("targetDropRate"));
  rule.priority = static_cast<Priority>(integer(object.Get("priority")));
  rule.overflow = static_cast<Overflow>(integer(object.Get("overflow")));
  rule.firstChoicesFirst = boolean(object.Get("firstChoicesFirst"));
  return rule;
}

namespace {

void setLoss(bool& on, float& coefficient, double value) {
  on = !std::isnan(value);
  coefficient = on ? static_cast<float>(value) : 0;
}

LossOptions toLossOptions(Napi::Object object) {
  LossOptions losses;
  setLoss(losses.loadBalanceOn, losses.loadBalance, number(object.Get("loadBalance")));
  setLoss(losses.importanceOn, losses.importance, number(object.Get("importance")));
  setLoss(losses.loadOn, losses.load, number(object.Get("load")));
  setLoss(losses.zOn, losses.z, number(object.Get("z")));
  losses.counts = static_cast<LossCounts>(integer(object.Get("counts")));
  losses.loadThreshold = boolean(object.Get("loadThresholdKth")) ? LoadThreshold::Kth : LoadThreshold::ExcludingSelf;
  losses.expertGroups = integer(object.Get("expertGroups"));
  losses.importanceFrom =
      boolean(object.Get("importanceFromSoftmax")) ? ImportanceFrom::Softmax : ImportanceFrom::Gates;
  losses.sequenceLength = count(object.Get("sequenceLength"));
  return losses;
}

Napi::Value layerCreate(const Napi::CallbackInfo& info) {
  auto layer = std::make_shared<Layer>();
  layer->device = unwrap<Device>(info[0]);
  const auto config = info[1].As<Napi::Object>();
  LayerConfig& c = layer->config;
  c.dtype = static_cast<DType>(integer(config.Get("dtype")));
  c.hiddenSize = integer(config.Get("hiddenSize"));
  c.ffnSize = integer(config.Get("ffnSize"));
  c.numExperts = integer(config.Get("numExperts"));
  c.topK = integer(config.Get("topK"));
  c.router = toRouterOptions(config.Get("router").As<Napi::Object>());
  layer->temperature = c.router.temperature;
  c.capacity = toCapacityRule(config.Get("capacity").As<Napi::Object>());
  c.losses = toLossOptions(config.Get("losses").As<Napi::Object>());
  c.activation = {static_cast<Activation>(integer(config.Get("activation"))), real(config.Get("activationAlpha")),
                  real(config.Get("activationLimit"))};
  c.weightInput = boolean(config.Get("weightInput"));
  c.dropout = number(config.Get("dropout"));
  c.sharedSize = integer(config.Get("sharedSize"));

  const auto given = info[2].As<Napi::Object>();
  const int64_t H = c.hiddenSize, F = c.ffnSize, E = c.numExperts, S = c.sharedSize;
  const auto parameter = [&](const char* name, int64_t size, DType dtype) -> ParameterPtr {
    const ParameterPtr found = unwrapOptional<Parameter>(given.Get(name));
    if (!found) return nullptr;
    checkTensor(found->value(), size, dtype, name);
    checkSameDevice(*layer->device, {found->value()});
    return found;
  };
  LayerParameters& p = layer->parameters;
  const int gates = integer(config.Get("gates"));
  for (int i = 0; i < gates; ++i) {
    const std::string prefix = gates == 1 ? "router." : "router." + std::to_string(i) + ".";
    const auto of = [&](const char* name, int64_t size) {
      return parameter((prefix + name).c_str(), size, DType::Float32);
    };
    GateParameters gate{of("weight", E * H), of("bias", E), of("noise", E * H), of("selectionBias", E)};
    if (c.router.draws() != !gate.weight || (i > 0 && !gate.selectionBias != !p.gates[0].selectionBias))
      throw Error(ErrorCode::Internal, "the gates do not match the layer's configuration");
    p.gates.push_back(std::move(gate));
  }
  if (gates < 1) throw Error(ErrorCode::Internal, "a layer has at least one gate");
  p.gate = parameter("experts.gate", E * F * H, c.dtype);
  p.up = parameter("experts.up", E * F * H, c.dtype);
  p.down = parameter("experts.down", E * H * F, c.dtype);
  p.gateBias = parameter("experts.gateBias", E * F, c.dtype);
  p.upBias = parameter("experts.upBias", E * F, c.dtype);
  p.downBias = parameter("experts.downBias", E * H, c.dtype);
  p.sharedGate = parameter("shared.gate", S * H, c.dtype);
  p.sharedUp = parameter("shared.up", S * H, c.dtype);
  p.sharedDown = parameter("shared.down", H * S, c.dtype);
  p.sharedOutputGate = parameter("shared.outputGate", H, c.dtype);
  const bool gated = c.activation.gated(), shared = S > 0;
  if (!p.up || !p.down || gated != (p.gate != nullptr) || shared != (p.sharedUp != nullptr) ||
      shared != (p.sharedDown != nullptr) || (shared && gated) != (p.sharedGate != nullptr))
    throw Error(ErrorCode::Internal, "the layer's parameters do not match its configuration");
  layer->seed = seedOf(info[3]);
  c.selectionBiasRate = real(config.Get("selectionBiasRate"));
  if (p.gates[0].selectionBias) layer->assigned = layer->device->zeros(DType::Int32, gates * 2 * E);
  layer->allowedExperts = unwrapOptional<Tensor>(config.Get("allowedExperts"));
  if (layer->allowedExperts) checkSameDevice(*layer->device, {layer->allowedExperts});
  return wrap(info.Env(), std::move(layer));
}

void overrideLoss(Napi::Object options, const char* name, bool& on, float& coefficient) {
  if (const Napi::Value value = options.Get(name); value.IsNumber()) setLoss(on, coefficient, number(value));
}

Napi::Value layerForward(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto layer = unwrap<Layer>(info[0]);
  const TensorPtr input = unwrap<Tensor>(info[1]);
  const auto options = info[2].As<Napi::Object>();
  ForwardCall call;
  call.training = boolean(options.Get("training"));
  call.topK = layer->config.topK;
  call.capacity = layer->config.capacity;
  call.router = layer->config.router;
  call.losses = layer->config.losses;
  call.mask = unwrapOptional<Tensor>(options.Get("mask"));
  call.lossMask = unwrapOptional<Tensor>(options.Get("lossMask"));
  call.routingIndices = unwrapOptional<Tensor>(options.Get("routingIndices"));
  call.routingWeights = unwrapOptional<Tensor>(options.Get("routingWeights"));
  call.logits = unwrapOptional<Tensor>(options.Get("logits"));
  call.noise = unwrapOptional<Tensor>(options.Get("noise"));
  call.tokenTypes = unwrapOptional<Tensor>(options.Get("tokenTypes"));
  call.tokenIds = unwrapOptional<Tensor>(options.Get("tokenIds"));
  call.priorities = unwrapOptional<Tensor>(options.Get("priorities"));
  checkSameDevice(*layer->device, {input, call.mask, call.lossMask, call.routingIndices, call.routingWeights,
                                   call.logits, call.noise, call.tokenTypes, call.tokenIds, call.priorities});
  if (const Napi::Value value = options.Get("noiseStep"); value.IsNumber()) call.noiseStep = count(value);
  if (const Napi::Value value = options.Get("tokenOffset"); value.IsNumber()) call.tokenOffset = count(value);
  if (const Napi::Value value = options.Get("topK"); value.IsNumber()) call.topK = integer(value);
  if (const Napi::Value value = options.Get("capacityFactor"); value.IsNumber()) {
    call.capacity.factor = call.capacity.evalFactor = number(value);
    call.capacity.slots = 0;
  }
  const Napi::Value temperature = options.Get("temperature");
  call.ownTemperature = temperature.IsNumber();
  call.router.temperature = call.ownTemperature ? real(temperature) : layer->temperature;
  overrideLoss(options, "loadBalance", call.losses.loadBalanceOn, call.losses.loadBalance);
  overrideLoss(options, "importance", call.losses.importanceOn, call.losses.importance);
  overrideLoss(options, "load", call.losses.loadOn, call.losses.load);
  overrideLoss(options, "z", call.losses.zOn, call.losses.z);
  if (const Napi::Value value = options.Get("gate"); value.IsNumber()) call.gate = integer(value);
  if (call.gate < 0 || call.gate >= static_cast<int>(layer->parameters.gates.size()))
    throw Error(ErrorCode::InvalidArgument, "gate must be one of the layer's");
  if (call.topK < 1 || call.topK > layer->config.numExperts)
    throw Error(ErrorCode::InvalidArgument, "topK must be from 1 to numExperts");

  const size_t before = layer->device->pool().use().allocated;
  auto pass = std::make_shared<MoEPass>(layer, input, call);
  size_t visible = 0;
  for (const TensorPtr& tensor :
       {pass->output(), pass->indices(), pass->weights(), pass->kept(), pass->actual(), pass->logits()})
    if (tensor) visible += tensor->bytes();
  const size_t held = layer->device->pool().use().allocated - before - visible;

  Napi::Object result = Napi::Object::New(env);
  result.Set("output", wrapTensor(env, pass->output()));
  result.Set("indices", wrapTensor(env, pass->indices()));
  result.Set("weights", wrapTensor(env, pass->weights()));
  result.Set("kept", wrapTensor(env, pass->kept()));
  result.Set("expertSlots", static_cast<double>(pass->expertSlots()));
  result.Set("actual", wrapTensorOrNull(env, pass->actual()));
  result.Set("logits", wrapTensorOrNull(env, pass->logits()));
  result.Set("pass", wrap(env, std::move(pass), static_cast<int64_t>(held)));
  return result;
}

Napi::Value layerStep(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(unwrap<Layer>(info[0])->step));
}

Napi::Value layerRestore(const Napi::CallbackInfo& info) {
  const auto layer = unwrap<Layer>(info[0]);
  layer->step = static_cast<uint64_t>(count(info[1]));
  layer->seed = seedOf(info[2]);
  return info.Env().Undefined();
}

Napi::Value layerSetTemperature(const Napi::CallbackInfo& info) {
  const auto layer = unwrap<Layer>(info[0]);
  layer->device->checkOpen();
  layer->temperature = real(info[1]);
  return info.Env().Undefined();
}

Napi::Value layerAssigned(const Napi::CallbackInfo& info) {
  return wrapTensorOrNull(info.Env(), unwrap<Layer>(info[0])->assigned);
}

Napi::Value layerUpdateSelectionBias(const Napi::CallbackInfo& info) {
  const auto layer = unwrap<Layer>(info[0]);
  if (!layer->assigned) throw Error(ErrorCode::Internal, "the layer has no selection bias");
  layer->updateSelectionBias();
  return info.Env().Undefined();
}

Napi::Value moePassBackward(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto pass = unwrap<MoEPass>(info[0]);
  const TensorPtr gradOutput = unwrap<Tensor>(info[1]);
  checkSameDevice(pass->output()->device(), {gradOutput});
  const MoEGradients gradients = pass->backward(gradOutput, real(info[2]));
  Napi::Object result = Napi::Object::New(env);
  result.Set("input", wrapTensor(env, gradients.input));
  result.Set("routingWeights", wrapTensorOrNull(env, gradients.routingWeights));
  result.Set("routingLogits", wrapTensorOrNull(env, gradients.routingLogits));
  return result;
}

/// For tests: the floats that forward has left for backward, by name, each with its dtype and size. Not the integers:
/// native code reads memory by them.
Napi::Value moePassSaved(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto pass = unwrap<MoEPass>(info[0]);
  Napi::Object result = Napi::Object::New(env);
  for (const auto& [name, member] : MoEPass::savedTensors()) {
    const TensorPtr& tensor = pass.get()->*member;
    if (!tensor || tensor->dtype() == DType::Int32) continue;
    Napi::Object saved = Napi::Object::New(env);
    saved.Set("dtype", static_cast<int>(tensor->dtype()));
    saved.Set("size", static_cast<double>(tensor->size()));
    saved.Set("tensor", wrapTensor(env, tensor));
    result.Set(name, saved);
  }
  return result;
}

/// Reads the plan's counts and the route's values in two copies, and answers when both have arrived.
Napi::Value moePassStats(const Napi::CallbackInfo& info) {
  const auto pass = unwrap<MoEPass>(info[0]);
  const LayerStatistics& statistics = pass->statistics();
  Device& device = pass->output()->device();
  device.checkReadable("stats()");
  struct Copies {
    std::vector<int32_t> ints;
    std::vector<float> floats;
    FailurePtr failure;
  };
  auto copies = std::make_shared<Copies>();
  copies->ints.resize(statistics.counts->size());
  copies->floats.resize(RouteValue::count);
  const auto result = [copies, losses = pass->losses()](Napi::Env env) -> Napi::Value {
    const size_t counts = copies->ints.size();
    Napi::Int32Array ints = Napi::Int32Array::New(env, counts);
    for (size_t i = 0; i < counts; ++i) ints[i] = copies->ints[i];
    const std::vector<float>& values = copies->floats;
    constexpr int total = RouteValue::entropy + 1;
    Napi::Float32Array floats = Napi::Float32Array::New(env, total + 1);
    for (int i = 0; i < total; ++i) floats[i] = values[i];
    floats[total] = losses.loadBalance * values[RouteValue::loadBalance] +
                    losses.importance * values[RouteValue::importance] + losses.load * values[RouteValue::load] +
                    losses.z * values[RouteValue::z];
    Napi::Object stats = Napi::Object::New(env);
    stats.Set("ints", ints);
    stats.Set("floats", floats);
    return stats;
  };
  auto pending = Environment::of(info.Env()).expect(info.Env(), result);
  device.read(statistics.values, copies->floats.data(), DType::Float32,
              [copies](FailurePtr failure) { copies->failure = failure; });
  device.read(statistics.counts, copies->ints.data(), DType::Int32,
              [copies, completion = std::move(pending.completion)](FailurePtr failure) {
                completion(failure ? failure : copies->failure);
              });
  return pending.promise;
}

}  // namespace

void exposeLayer(Napi::Object exports) {
  expose<layerCreate>(exports, "layerCreate");
  expose<release<Layer>>(exports, "layerRelease");
  expose<layerForward>(exports, "layerForward");
  expose<layerStep>(exports, "layerStep");
  expose<layerRestore>(exports, "layerRestore");
  expose<layerSetTemperature>(exports, "layerSetTemperature");
  expose<layerAssigned>(exports, "layerAssigned");
  expose<layerUpdateSelectionBias>(exports, "layerUpdateSelectionBias");
  expose<moePassBackward>(exports, "moePassBackward");
  expose<moePassSaved>(exports, "moePassSaved");
  expose<moePassStats>(exports, "moePassStats");
  expose<release<MoEPass>>(exports, "moePassRelease");
}

}  // namespace moe::binding
