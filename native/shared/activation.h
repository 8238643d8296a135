// The activations of the experts: f and f' of every kind, written once for the CPU's vector loops and for CUDA. Scalar,
// branch-free float32 without libm; relative error about 2e-7, at most 2e-5 far out in a tail; finite for every finite
// input that has a finite result; NaN in gives NaN out. Which rows and buffers they run over is the callers' business.
#pragma once

#include "math.h"
#include "options.h"

namespace moe {

MOE_HD constexpr bool isGated(Activation kind) { return kind >= Activation::SwiGlu; }

/// A function of one variable at a point.
struct Curve {
  float value, slope;
};

/// a = act(gate, up) and its partial derivatives. Kinds without gate leave dGate 0.
struct ActivationPoint {
  float value, dGate, dUp;
};

// A GPU has its own e^x and 1/x, right to a few units in the last place: the activations run in the epilogues of
// products and must not hold these up.
#if defined(__CUDA_ARCH__)
MOE_HD float activationExp(float x) { return __expf(x); }
MOE_HD float reciprocal(float x) { return __fdividef(1.0f, x); }
#else
MOE_HD float activationExp(float x) { return exp(x); }
MOE_HD float reciprocal(float x) { return 1.0f / x; }
#endif

MOE_HD float sigmoid(float x) { return reciprocal(1.0f + activationExp(-x)); }

MOE_HD Curve relu(float x) {
  const float slope = x > 0.0f ? 1.0f : 0.0f;
  return {x <= 0.0f ? 0.0f : x, x != x ? x : slope};
}

MOE_HD Curve silu(float x) {
  const float s = sigmoid(x);
  const float value = x * s;
  return {value, s + value * (1.0f - s)};
}

/// x·Φ(x). With t = |x|/√2 the small tail of Φ is ½·erfc(t) = ½·e^(-t²)·u·q(u), u = 1/(1 + 0.4t), q a minimax
/// polynomial of relative error 1e-8.
MOE_HD Curve gelu(float x) {
  const float t = (x < 0.0f ? -x : x) * 0.707106781f;
  const float u = reciprocal(1.0f + 0.4f * t);
  float q = -0.0286368015f;
  q = q * u + 0.192821887f;
  q = q * u - 0.486628814f;
  q = q * u + 0.531227375f;
  q = q * u - 0.270923921f;
  q = q * u + 0.264874304f;
  q = q * u + 0.132156257f;
  q = q * u + 0.214390779f;
  q = q * u + 0.225015269f;
  q = q * u + 0.225703676f;
  const float bell = activationExp(-0.5f * x * x);
  const float tail = 0.5f * bell * (u * q);
  const float cdf = x < 0.0f ? tail : 1.0f - tail;
  return {x * cdf, cdf + x * (bell * 0.398942280f)};
}

/// ½x·(1 + tanh(√(2/π)(x + 0.044715x³))) = x·σ(2√(2/π)(x + 0.044715x³)).
MOE_HD Curve geluTanh(float x) {
  const float scale = 1.59576912f;
  // Beyond ±12 σ is exactly 0 or 1 and the second term of the slope vanishes: the clamp only keeps 0·∞ away.
  const float c = clampTo(x, -12.0f, 12.0f);
  const float s = sigmoid(scale * (c + 0.044715f * c * c * c));
  const float inner = scale * (1.0f + 3.0f * 0.044715f * c * c);
  return {x * s, s + c * inner * (s * (1.0f - s))};
}

template <Activation kind>
MOE_HD Curve curveOf(float x) {
  if constexpr (kind == Activation::Relu || kind == Activation::ReGlu) return relu(x);
  if constexpr (kind == Activation::Gelu || kind == Activation::GeGlu) return gelu(x);
  if constexpr (kind == Activation::GeluTanh || kind == Activation::GeGluTanh) return geluTanh(x);
  return silu(x);
}

/// act(gate)·up, or act(up) without gate. The clamped kind is (clamp(up, ±limit) + 1)·g·σ(alpha·g), g = min(gate,
/// limit); its gradient passes at the bounds themselves.
template <Activation kind>
MOE_HD ActivationPoint activationAt(float gate, float up, float alpha, float limit) {
  if constexpr (kind == Activation::ClampedSwiGlu) {
    const float g = gate > limit ? limit : gate;
    const float linear = clampTo(up, -limit, limit) + 1.0f;
    const float s = sigmoid(alpha * g);
    const float value = g * s;
    const float slope = s + alpha * value * (1.0f - s);
    const bool upPasses = !(up < -limit) && !(up > limit);
    return {linear * value, gate > limit ? 0.0f : linear * slope, upPasses ? value : 0.0f};
  } else if constexpr (isGated(kind)) {
    const Curve curve = curveOf<kind>(gate);
    return {curve.value * up, curve.slope * up, curve.value};
  } else {
    const Curve curve = curveOf<kind>(up);
    return {curve.value, 0.0f, curve.slope};
  }
}

}  // namespace moe
