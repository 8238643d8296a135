#include "narrow.h"

#include <algorithm>

namespace moe::cpu {

namespace {

constexpr int expertsPerPiece = 64;

}  // namespace

std::vector<int32_t> liveTokens(const int32_t* mask, int64_t T) {
  std::vector<int32_t> tokens;
  tokens.reserve(static_cast<size_t>(T));
  for (int64_t t = 0; t < T; ++t)
    if (!mask || mask[t] != 0) tokens.push_back(static_cast<int32_t>(t));
  return tokens;
}

template <class T>
void Narrow<T>::forward(const T* input, const float* weight, const float* bias, float* output) const {
  pool.parallelRanges(std::ssize(tokens), tokensPerPiece, [&](int64_t begin, int64_t end, int) {
    row.of<T>().product(tokens.data() + begin, end - begin, input, weight, bias, H, E, output);
  });
}

template <class T>
void Narrow<T>::backwardInput(const float* gradOutput, const float* weight, T* gradInput) const {
  pool.parallelRanges(std::ssize(tokens), tokensPerPiece, [&](int64_t begin, int64_t end, int) {
    row.of<T>().productInput(tokens.data() + begin, end - begin, gradOutput, weight, H, E, gradInput);
  });
}

template <class T>
void Narrow<T>::backwardWeight(const float* gradOutput, const T* input, float* gradWeight, bool accumulate) const {
  // Split over the result, so that every element sums all tokens in one order.
  const int64_t strips = (H + row.stripColumns - 1) / row.stripColumns;
  const int64_t groups = (E + expertsPerPiece - 1) / expertsPerPiece;
  pool.parallelFor(strips * groups, [&](int64_t piece, int) {
    const int h = static_cast<int>(piece / groups) * row.stripColumns;
    const int e = static_cast<int>(piece % groups) * expertsPerPiece;
    row.of<T>().productWeight(tokens.data(), std::ssize(tokens), gradOutput, input, H, E, h, e,
                              std::min(e + expertsPerPiece, E), gradWeight, accumulate);
  });
}

template struct Narrow<float>;
template struct Narrow<BFloat16>;
template struct Narrow<Float16>;

}  // namespace moe::cpu
