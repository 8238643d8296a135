// Kernels around cooperative groups, libcu++, asynchronous copies and wmma, against plain loops on the host.
#include "library.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

namespace runner {
namespace {

bool complain(const char* what, size_t at, double got, double want) {
  std::printf("%s %zu: %.17g, expected %.17g\n", what, at, got, want);
  return false;
}

// One warp after the other, one lane after the other.
bool groups(const Module& module) {
  constexpr size_t kThreads = 128, kBlocks = 3, kResults = 20;
  std::mt19937 random(10);
  std::vector<int> x(kThreads * kBlocks);
  for (int& v : x) v = static_cast<int>(random() % 100);
  Buffer<int> input(x), output(x.size() * kResults);
  launch(module.function("groups"), {kBlocks, kThreads}, input.address(), output.address());
  const std::vector<int> got = output.read();
  for (size_t k = 0; k < x.size(); ++k) {
    const size_t lane = k % 32, inTile = k % 8;
    const int* warp = &x[k - lane];
    const int* tile = &x[k - inTile];
    const int mine = x[k];
    int same = 0, sameSum = 0, sameMask = 0, odd = 0, oddXor = 0, firstOdd = -1;
    for (int l = 0; l < 32; ++l) {
      if (warp[l] % 3 == mine % 3) ++same, sameSum += warp[l], sameMask |= static_cast<int>(1u << l);
      if (warp[l] & 1) ++odd, oddXor ^= warp[l], firstOdd = firstOdd < 0 ? warp[l] : firstOdd;
    }
    int ballot = 0;
    for (int l = 0; l < 8; ++l) ballot |= (tile[l] & 1) << l;
    const int sum = std::accumulate(warp, warp + 32, 0);
    const bool isOdd = mine & 1;
    const std::array<int, kResults> want = {sum,
                                            *std::max_element(tile, tile + 8),
                                            std::accumulate(tile, tile + inTile + 1, 0),
                                            std::accumulate(warp, warp + lane, 0),
                                            tile[3],
                                            tile[inTile ^ 1],
                                            lane + 5 < 32 ? warp[lane + 5] : mine,
                                            inTile >= 2 ? tile[inTile - 2] : mine,
                                            ballot,
                                            *std::max_element(warp, warp + 32) > 96,
                                            *std::min_element(tile, tile + 8) > 5,
                                            sameMask,
                                            same,
                                            sameSum,
                                            isOdd ? odd : -1,
                                            isOdd ? oddXor : -1,
                                            isOdd ? firstOdd : -1,
                                            sum,
                                            warp[lane ^ 7],
                                            warp[lane / 16 * 16 + 3]};
    for (size_t j = 0; j < kResults; ++j) {
      if (got[k * kResults + j] != want[j]) return complain("result", j, got[k * kResults + j], want[j]);
    }
  }
  return true;
}

bool atomics(const Module& module) {
  constexpr int kThreads = 64;
  std::vector<int> i(10, 0), order(kThreads);
  i[4] = -1;
  Buffer<int> di(i), dOrder(order);
  Buffer<unsigned> du(std::vector<unsigned>{0, 0, 0});
  Buffer<unsigned long long> dl(std::vector<unsigned long long>(4, 0));
  Buffer<float> df(std::vector<float>{0, 0, -1});
  Buffer<double> dd(std::vector<double>{0});
  Buffer<unsigned short> ds(std::vector<unsigned short>{0, 0, 0, 0});
  launch(module.function("atomics"), {1, kThreads}, di.address(), du.address(), dl.address(), df.address(),
         dd.address(), ds.address(), dOrder.address());
  int exclusive = 0, sum = 0;
  for (int k = 0; k < kThreads; ++k) exclusive ^= k * 77, sum += k;
  const std::vector<int> want = {kThreads,  -sum, -(kThreads - 1), kThreads - 1, 0, -1,
                                 exclusive, sum,  kThreads - 1,    5 * kThreads};
  if (di.read() != want) return complain("words", 0, di.read()[0], want[0]);
  // Each thread got another ticket.
  order = dOrder.read();
  std::sort(order.begin(), order.end());
  for (int k = 0; k < kThreads; ++k) {
    if (order[static_cast<size_t>(k)] != k)
      return complain("ticket", static_cast<size_t>(k), order[static_cast<size_t>(k)], k);
  }
  // inc to 9 has a period of 10, and dec from 0 goes to 9 first.
  const bool unsigneds = du.read() == std::vector<unsigned>{kThreads % 10, (10 - kThreads % 10) % 10, 5};
  const bool longs = dl.read() == std::vector<unsigned long long>{64ull << 33, 63ull << 40, ~0ull, 3ull * kThreads};
  const bool reals = df.read() == std::vector<float>{32, 96, 63} && dd.read()[0] == 16;
  const bool shorts = ds.read() == std::vector<unsigned short>{3, 2 * kThreads, 0xff00, 0};
  Buffer<int> lock(std::vector<int>{0}), total(std::vector<int>{0});
  launch(module.function("locked_sum"), {20, 96}, lock.address(), total.address());
  return unsigneds && longs && reals && shorts && total.read()[0] == 3 * 210;
}

bool copies(const Module& module) {
  constexpr size_t kThreads = 128;
  std::vector<int> x(4 * kThreads);
  std::iota(x.begin(), x.end(), 1);
  Buffer<int> input(x), group(x.size()), primitives(x.size()), all(x.size());
  launch(module.function("copy_group"), {4, kThreads}, input.address(), group.address());
  launch(module.function("copy_primitives"), {1, kThreads}, input.address(), primitives.address());
  launch(module.function("copy_all"), {1, kThreads}, input.address(), all.address());
  std::vector<float> f(x.begin(), x.end());
  Buffer<float> floats(f), doubled(f.size());
  launch(module.function("copy_pipeline"), {1, kThreads}, floats.address(), doubled.address());
  const std::vector<int> turned = group.read(), filled = primitives.read(), waited = all.read();
  const std::vector<float> twice = doubled.read();
  for (size_t k = 0; k < x.size(); ++k) {
    const int reversed = x[k / kThreads * kThreads + kThreads - 1 - k % kThreads];
    const size_t source = kThreads - 1 - k / 4;
    const int kept = k % 4 == 0 || source % 2 == 0 ? x[4 * source + k % 4] : 0;
    if (turned[k] != reversed) return complain("copy of a group", k, turned[k], reversed);
    if (filled[k] != kept) return complain("copy with zero fill", k, filled[k], kept);
    if (waited[k] != kept) return complain("copy with a wait for all", k, waited[k], kept);
    if (twice[k] != 2 * f[k]) return complain("copy through a pipeline", k, twice[k], 2 * f[k]);
  }
  return true;
}

constexpr int kStride = 32;

template <class Element, class Sum>
struct Product {
  const char* kernel;
  int m, n, k;
  bool columnsA, columnsB, columnsC;
  Element (*element)(int);
  Sum (*sum)(int);
};

template <class Element, class Sum>
bool product(const Module& module, const Product<Element, Sum>& p) {
  std::mt19937 random(11);
  // Every product and sum is a small integer, so exact in each type.
  constexpr size_t kSize = 32 * kStride;
  std::vector<int> a(kSize), b(kSize), c(kSize);
  for (auto* matrix : {&a, &b, &c}) {
    for (int& v : *matrix) v = static_cast<int>(random() % 7) - 3;
  }
  std::vector<Element> ea(kSize), eb(kSize);
  std::vector<Sum> ec(kSize);
  std::transform(a.begin(), a.end(), ea.begin(), p.element);
  std::transform(b.begin(), b.end(), eb.begin(), p.element);
  std::transform(c.begin(), c.end(), ec.begin(), p.sum);
  auto at = [](bool columns, int row, int column) {
    return static_cast<size_t>(columns ? column * kStride + row : row * kStride + column);
  };
  for (int row = 0; row < p.m; ++row) {
    for (int column = 0; column < p.n; ++column) {
      int& sum = c[at(p.columnsC, row, column)];
      for (int k = 0; k < p.k; ++k) sum += 2 * a[at(p.columnsA, row, k)] * b[at(p.columnsB, k, column)];
    }
  }
  Buffer<Element> da(ea), db(eb);
  Buffer<Sum> dc(ec);
  launch(module.function(p.kernel), {1, 32}, da.address(), db.address(), dc.address());
  const std::vector<Sum> got = dc.read();
  for (size_t k = 0; k < kSize; ++k) {
    if (got[k] != p.sum(c[k]))
      return complain(p.kernel, k, static_cast<double>(got[k]), static_cast<double>(p.sum(c[k])));
  }
  return true;
}

uint16_t halfOf(int v) {
  if (v == 0) return 0;
  const unsigned size = static_cast<unsigned>(std::abs(v)), exponent = 31 - static_cast<unsigned>(__builtin_clz(size));
  return static_cast<uint16_t>((v < 0 ? 0x8000 : 0) | (exponent + 15) << 10 | ((size << 10 >> exponent) & 0x3ff));
}
uint16_t bf16Of(int v) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(v)) >> 16); }
template <class T>
T same(int v) {
  return static_cast<T>(v);
}

bool wmma(const Module& module) {
  return product<uint16_t, float>(module, {"wmma_half", 16, 16, 16, false, true, false, halfOf, same}) &&
         product<uint16_t, float>(module, {"wmma_half_tall", 32, 8, 16, true, false, true, halfOf, same}) &&
         product<uint16_t, uint16_t>(module, {"wmma_half_wide", 8, 32, 16, false, false, false, halfOf, halfOf}) &&
         product<uint16_t, float>(module, {"wmma_bf16", 16, 16, 16, true, true, false, bf16Of, same}) &&
         product<float, float>(module, {"wmma_tf32", 16, 16, 8, false, true, true, same, same}) &&
         product<int8_t, int>(module, {"wmma_s8", 16, 16, 16, false, false, false, same, same}) &&
         product<double, double>(module, {"wmma_f64", 8, 8, 4, false, true, false, same, same}) &&
         product<uint16_t, float>(module, {"wmma_shared", 16, 16, 16, false, true, false, halfOf, same});
}

bool control(const Module& module) {
  struct Big {
    int values[9];
    double scale;
  };
  constexpr int kCount = 100;
  const int table[16] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3}, chosen[] = {5, 9, 1, 77, 4, 12, 3, 33, -1};
  const char* names[] = {"a", "bc", "def"};
  Big big{};
  for (int j = 0; j < 9; ++j) big.values[j] = j * j - 5;
  big.scale = 2.5;
  std::vector<int> x(kCount);
  for (int k = 0; k < kCount; ++k) x[static_cast<size_t>(k)] = k * 13 % 29;
  Buffer<int> input(x), output(kCount);
  launch(module.function("control"), {4, 32}, input.address(), output.address(), kCount, big);
  const std::vector<int> y = output.read();
  for (int k = 0; k < kCount; ++k) {
    const int by = x[static_cast<size_t>(k)];
    int sum = 0;
    for (int j = 0; j < by; ++j) {
      const int at = (j * 7 + k) % 33;
      sum += (big.values[at % 9] + by * (at % 9)) * at + chosen[j % 9];
    }
    // In local memory, in global memory, in constant memory but not in global: 2 + 4 + 8.
    sum += static_cast<int>(big.scale * by) + table[k % 16] + names[k % 3][0] + 14 + 5 * by;
    if (y[static_cast<size_t>(k)] != sum)
      return complain("control", static_cast<size_t>(k), y[static_cast<size_t>(k)], sum);
  }
  return true;
}

}  // namespace

std::optional<bool> runLibrary(const std::string& name, const Module& module) {
  if (name == "groups") return groups(module);
  if (name == "atomics") return atomics(module);
  if (name == "copies") return copies(module);
  if (name == "wmma") return wmma(module);
  if (name == "control") return control(module);
  if (name == "math") return runMath(module);
  if (name == "half") return runHalf(module);
  return std::nullopt;
}

}  // namespace runner
