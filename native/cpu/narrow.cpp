#include "narrow.h"

#include <algorithm>
#include <type_traits>

namespace moe::cpu {

namespace {

constexpr int expertsPerPiece = 64;

// Sums go through tileDepth columns at a time, of which a panel stays in the first cache, and are added up after
// sumDepth of them: that bounds the rounding of long sums.
constexpr int64_t tileDepth = 128, sumDepth = 4 * tileDepth;

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
  // Half a vector of experts is where tiles begin to win over dot products of rows. How many tokens there are must not
  // decide it: a batch may be cut, and each token keeps its bits.
  if (2 * E > gemm.width) return forwardTiled(input, weight, bias, output);
  pool.parallelRanges(std::ssize(tokens), tokensPerPiece, [&](int64_t begin, int64_t end, int) {
    row.of<T>().product(tokens.data() + begin, end - begin, input, weight, bias, H, E, output);
  });
}

template <class T>
void Narrow<T>::forwardTiled(const T* input, const float* weight, const float* bias, float* output) const {
  constexpr bool widens = !std::is_same_v<T, float>;
  const int64_t L = gemm.lanes, panels = (E + L - 1) / L;
  struct Own {
    float* sums;  // [panels][tokensPerPiece][L]
    float* wide;  // [tokensPerPiece][tileDepth] of 16-bit input
  };
  float* packed;  // [panels][H][L]
  std::vector<Own> own(pool.threads());
  scratch.layOut([&](Carver& carver) {
    packed = carver.take(panels * H * L);
    for (auto& [sums, wide] : own) {
      sums = carver.take(panels * tokensPerPiece * L);
      wide = widens ? carver.take(tokensPerPiece * tileDepth) : nullptr;
    }
  });
  pool.parallelFor(panels, [&](int64_t panel, int) {
    const int experts = static_cast<int>(std::min(L, E - panel * L));
    gemm.float32.packTransposed(weight + panel * L * H, H, nullptr, experts, H, packed + panel * H * L);
  });

  pool.parallelRanges(std::ssize(tokens), tokensPerPiece, [&](int64_t begin, int64_t end, int worker) {
    const auto [sums, wide] = own[worker];
    const int32_t* listed = tokens.data() + begin;
    GemmProduct product{.rows = end - begin,
                        .columns = E,
                        .left = Left::Rows,
                        .bPanel = H * L,
                        .c = sums,
                        .cRow = L,
                        .cPanel = tokensPerPiece * L,
                        .cPadded = true};
    for (int64_t first = 0; first < H; first += sumDepth) {
      const int64_t last = std::min<int64_t>(first + sumDepth, H);
      for (int64_t h = first; h < last; h += tileDepth) {
        product.depth = std::min(tileDepth, last - h);
        if constexpr (widens) {
          for (int64_t i = 0; i < product.rows; ++i)
            gemm.of<T>().widen(input + int64_t{listed[i]} * H + h, product.depth, wide + i * tileDepth);
          product.a = wide;
          product.aRow = tileDepth;
        } else {
          product.a = input + h;
          product.aRow = H;
          product.aIndex = listed;
        }
        product.b = packed + h * L;
        product.accumulate = h > first;
        gemm.multiply(product);
      }
      for (int64_t i = 0; i < product.rows; ++i)
        for (int64_t e = 0; e < E; e += L) {
          float* to = output + int64_t{listed[i]} * E + e;
          const float* sum = sums + (e / L * tokensPerPiece + i) * L;
          const float* before = first > 0 ? to : bias ? bias + e : nullptr;
          const int64_t n = std::min(L, E - e);
          if (before)
            row.float32.add(before, sum, n, to);
          else
            std::copy_n(sum, n, to);
        }
    }
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
