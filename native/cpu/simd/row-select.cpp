// The K largest of a row: a router chooses experts with it, one token at a time.
#include "row-select.h"

namespace moe::cpu::MOE_ISA {

namespace {

constexpr float lowest = -__builtin_inff();

/// One value after the other takes its place among the chosen. Each that gets one costs a mispredicted branch.
void insertTopK(const float* values, int64_t n, int K, int32_t* indices) {
  int filled = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!(values[i] > lowest) || (filled == K && values[i] <= values[indices[K - 1]])) continue;
    int at = filled < K ? filled++ : K - 1;
    for (; at > 0 && values[i] > values[indices[at - 1]]; --at) indices[at] = indices[at - 1];
    indices[at] = static_cast<int32_t>(i);
  }
  for (int k = filled; k < K; ++k) indices[k] = -1;
}

// Values that one mask tells of, and the longest row that is searched K times: there is a copy of it.
constexpr int64_t maskLanes = 64, longestSearched = 1024;
constexpr int mostSearches = 16;

/// The first index of `value`, or -1; n is a multiple of maskLanes.
int64_t find(const float* values, int64_t n, Vec value) {
  for (int64_t i = 0; i < n; i += maskLanes) {
    uint64_t lanes = 0;
    for (int64_t v = 0; v < maskLanes; v += vecLanes) lanes |= uint64_t{equalLanes(load(values + i + v), value)} << v;
    if (lanes) return i + __builtin_ctzll(lanes);
  }
  return -1;
}

/// The maximum of what is left, K times.
void searchTopK(const float* values, int64_t n, int K, int32_t* indices) {
  float left[longestSearched];
  const int64_t padded = (n + maskLanes - 1) / maskLanes * maskLanes;
  for (int64_t i = 0; i < n; ++i) left[i] = values[i] > lowest ? values[i] : lowest;
  for (int64_t i = n; i < padded; ++i) left[i] = lowest;
  int k = 0;
  for (; k < K; ++k) {
    Vec maxima[2] = {load(left), load(left + vecLanes)};
    for (int64_t i = 2 * vecLanes; i < padded; i += 2 * vecLanes)
      for (int v = 0; v < 2; ++v) maxima[v] = larger(maxima[v], load(left + i + v * vecLanes));
    const Vec maximum = spreadMaximum(larger(maxima[0], maxima[1]));
    const int64_t at = maximum[0] == lowest ? -1 : find(left, padded, maximum);
    if (at < 0) break;
    indices[k] = static_cast<int32_t>(at);
    left[at] = lowest;
  }
  for (; k < K; ++k) indices[k] = -1;
}

}  // namespace

void selectTopK(const float* values, int64_t n, int K, int32_t* indices) {
  if (vecLanes >= 8 && n >= vecLanes && n <= longestSearched && K <= mostSearches)
    searchTopK(values, n, K, indices);
  else
    insertTopK(values, n, K, indices);
}

}  // namespace moe::cpu::MOE_ISA
