// The draws of a forward call, keyed by (seed, purpose, the layer's count of training forwards, token, column): any of
// them can be drawn by itself, again in the backward, and on every device with the same bits.
#pragma once

#include "math.h"
#include "options.h"
#include "random.h"

namespace moe {

/// What draws are for. The numbers are part of what a seed means and never change.
enum class NoisePurpose : uint32_t {
  Router = 1,
  Queue = 2,
  SecondChoice = 3,
  Hash = 4,
  Expert = 5,
  ExpertDropout = 6,
  SharedDropout = 7
};

/// The key of one purpose in one forward.
MOE_HD uint64_t noiseKey(uint64_t seed, NoisePurpose purpose, uint64_t step) {
  const Philox4 bits =
      philox4x32({{static_cast<uint32_t>(step), static_cast<uint32_t>(step >> 32), static_cast<uint32_t>(purpose), 1}},
                 {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}});
  return uint64_t{bits.word[1]} << 32 | bits.word[0];
}

/// The bits of columns [4·block, 4·block + 4) of a token. Parameters are drawn with 0 where this has 2.
MOE_HD Philox4 noiseBits(uint64_t key, int64_t token, uint32_t block) {
  return philox4x32(
      {{static_cast<uint32_t>(token), static_cast<uint32_t>(static_cast<uint64_t>(token) >> 32), block, 2}},
      {{static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)}});
}

/// Where the four features from a multiple of 4 on have their bits among those of a token: the experts side by side,
/// each in whole fours.
MOE_HD uint32_t dropoutBlock(int64_t expert, int F, int feature) {
  return static_cast<uint32_t>(expert * ((F + 3) / 4) + feature / 4);
}

/// What dropout multiplies an activation by.
MOE_HD float dropoutFactor(uint32_t bits, uint32_t threshold, float scale) { return bits < threshold ? 0.0f : scale; }

/// U[1-ε, 1+ε]
MOE_HD float jitterOf(uint32_t bits, float epsilon) {
  return multiplyAdd(2.0f * epsilon, unitInterval(bits), 1.0f - epsilon);
}

/// Gumbel(0, 1) = -ln(-ln u), u = (b + ½)·2^-23 of the 23 highest bits b, which is exact and neither 0 nor 1.
MOE_HD float gumbelOf(uint32_t bits) { return -exactLog(-exactLog((static_cast<float>(bits >> 9) + 0.5f) * 0x1p-23f)); }

/// Four neighbouring columns of the noise on logits, before its deviation.
MOE_HD Normal4 logitNoise(NoiseType type, Philox4 bits) {
  if (type != NoiseType::Gumbel) return normalsOf(bits);
  return {{gumbelOf(bits.word[0]), gumbelOf(bits.word[1]), gumbelOf(bits.word[2]), gumbelOf(bits.word[3])}};
}

/// Whether a token keeps its second choice of this weight: with probability weight / threshold (GShard). By one
/// product, which is rounded alike on every device.
MOE_HD bool keepsSecond(uint64_t key, int64_t token, float weight, float threshold) {
  return unitInterval(noiseBits(key, token, 0).word[0]) * threshold < weight;
}

/// What the hash and the random router compare of an expert: a whole number, so that every device orders them alike.
MOE_HD float drawnValue(uint32_t bits) { return static_cast<float>(bits >> 8); }

/// The standard deviation of learned noise, softplus(n) + 0.01 (Shazeer et al. 2017).
MOE_HD float deviationOf(float n) {
  const float tail = exp(n < 0.0f ? n : -n), sum = 1.0f + tail;
  // log(1 + tail), to the last digits of a small tail.
  const float logarithm = sum > 1.0f ? log(sum) * (tail / (sum - 1.0f)) : tail;
  return (n > 0.0f ? n : 0.0f) + logarithm + RouterOptions::minDeviation;
}

}  // namespace moe
