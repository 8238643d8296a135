// Runs the kernels of test/softgpu/kernels on ragged shapes and checks their results against plain loops on the host.
#include "kernels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iterator>
#include <random>

#include "gpu.h"
#include "library.h"

namespace runner {
namespace {

uint16_t toBf16(float x) {
  uint32_t bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float fromBf16(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

// Of all threads: what other processes do to the clock on the wall does not matter.
double processorSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

bool topk(const Module& module) {
  constexpr int kRows = 777, kExperts = 64, kTop = 4;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> x(kRows * kExperts);
  for (auto& v : x) v = toBf16(normal(random));
  Buffer<uint16_t> input(x);
  Buffer<float> weights(kRows * kTop);
  Buffer<int> indices(kRows * kTop);
  launch(module.function("softmax_topk"), {(kRows + 3) / 4, 128}, input.address(), weights.address(), indices.address(),
         kRows);
  std::vector<float> w = weights.read();
  std::vector<int> index = indices.read();
  for (int row = 0; row < kRows; ++row) {
    std::vector<double> p(kExperts);
    std::vector<int> order(kExperts);
    for (int e = 0; e < kExperts; ++e) p[e] = std::exp(fromBf16(x[row * kExperts + e])), order[e] = e;
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return p[a] > p[b]; });
    double sum = 0;
    for (int k = 0; k < kTop; ++k) sum += p[order[k]];
    for (int k = 0; k < kTop; ++k) {
      if (index[row * kTop + k] != order[k] || std::fabs(w[row * kTop + k] - p[order[k]] / sum) > 1e-5) return false;
    }
  }
  return true;
}

// Histogram, scan and stable permutation of expert numbers.
bool permute(const Module& module) {
  int n = 10'007, experts = 300, blocks = 13;
  std::mt19937 random(2);
  std::vector<int> ids(static_cast<size_t>(n));
  for (int& id : ids) id = static_cast<int>(random() % static_cast<unsigned>(experts));
  Buffer<int> input(ids), counts(static_cast<size_t>(blocks * experts)), offsets(static_cast<size_t>(experts) + 1),
      order(static_cast<size_t>(n)), totals(static_cast<size_t>(experts));
  CHECK(cuMemsetD32(totals.address(), 0, static_cast<size_t>(experts)));
  const unsigned grid = static_cast<unsigned>(blocks), shared = static_cast<unsigned>(experts) * 4;
  launch(module.function("histogram"), {grid, 256, shared}, input.address(), n, experts, counts.address(),
         totals.address());
  launch(module.function("scan"), {1, 256}, totals.address(), experts, blocks, counts.address(), offsets.address());
  launch(module.function("permute"), {grid, 256, shared}, input.address(), n, experts, counts.address(),
         order.address());
  std::vector<int> expected(ids.size());
  for (int k = 0; k < n; ++k) expected[static_cast<size_t>(k)] = k;
  std::stable_sort(expected.begin(), expected.end(),
                   [&](int a, int b) { return ids[static_cast<size_t>(a)] < ids[static_cast<size_t>(b)]; });
  return order.read() == expected && offsets.read().back() == n;
}

bool gemm(const Module& module, int m, int n, int k, double* seconds = nullptr) {
  std::mt19937 random(3);
  std::vector<uint16_t> a(static_cast<size_t>(m) * k), b(static_cast<size_t>(n) * k);
  // Small integers: every partial sum is exact, so the order of the additions does not matter.
  for (auto& v : a) v = toBf16(static_cast<float>(static_cast<int>(random() % 7) - 3));
  for (auto& v : b) v = toBf16(static_cast<float>(static_cast<int>(random() % 7) - 3));
  Buffer<uint16_t> da(a), db(b);
  Buffer<float> dc(static_cast<size_t>(m) * n);
  const double start = processorSeconds();
  launch(module.function("gemm_bf16"),
         {static_cast<unsigned>(n + 127) / 128, 128, 4 * 2 * 128 * 32 * 2, static_cast<unsigned>(m + 127) / 128},
         da.address(), db.address(), dc.address(), m, n, k);
  if (seconds) *seconds = processorSeconds() - start;
  const std::vector<float> c = dc.read();
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      if (m * n > 100'000 && (i * n + j) % 97) continue;
      float sum = 0;
      for (int p = 0; p < k; ++p)
        sum += fromBf16(a[static_cast<size_t>(i) * k + p]) * fromBf16(b[static_cast<size_t>(j) * k + p]);
      if (c[static_cast<size_t>(i) * n + j] != sum) return false;
    }
  }
  return true;
}

bool pipeline(const Module& module) {
  constexpr int kBlock = 64, kCount = 1000;
  std::vector<float> x(kCount);
  for (int k = 0; k < kCount; ++k) x[static_cast<size_t>(k)] = static_cast<float>(k % 13);
  Buffer<float> input(x), output(kCount);
  launch(module.function("neighbour_sums"), {(kCount + kBlock - 1) / kBlock, kBlock}, input.address(), output.address(),
         kCount);
  const std::vector<float> y = output.read();
  for (int k = 0; k < kCount; ++k) {
    const int block = k / kBlock * kBlock, next = block + (k + 1 - block) % kBlock;
    const float expected = x[static_cast<size_t>(k)] + (next < kCount ? x[static_cast<size_t>(next)] : 0);
    if (y[static_cast<size_t>(k)] != expected) return false;
  }
  return true;
}

// Blocks that wait for each other: a cooperative launch.
bool gridBarrier(const Module& module) {
  constexpr unsigned kBlocks = 24, kThreads = 32;
  std::vector<int> x(kBlocks * kThreads), sums(kBlocks, 0);
  for (unsigned k = 0; k < x.size(); ++k) sums[k / kThreads] += x[k] = static_cast<int>(k * k % 101);
  Buffer<int> input(x), partial(kBlocks), output(x.size());
  CUdeviceptr addresses[] = {input.address(), partial.address(), output.address()};
  void* arguments[] = {&addresses[0], &addresses[1], &addresses[2]};
  CHECK(cuLaunchCooperativeKernel(module.function("neighbour_blocks"), kBlocks, 1, 1, kThreads, 1, 1, 0, nullptr,
                                  arguments));
  CHECK(cuCtxSynchronize());
  for (unsigned k = 0; k < x.size(); ++k) x[k] += sums[(k / kThreads + 1) % kBlocks];
  return output.read() == x;
}

// Kernels around CUB's block-wide algorithms, from the toolkit's headers.
bool cubBlocks(const Module& module) {
  constexpr unsigned kThreads = 128, kItems = 512;
  std::mt19937 random(4);
  std::vector<int> values(kItems);
  for (int& v : values) v = static_cast<int>(random());
  Buffer<int> input(values), sorted(kItems), sums(kItems);
  launch(module.function("block_sort"), {1, kThreads}, input.address(), sorted.address());
  launch(module.function("block_scan"), {1, kThreads}, input.address(), sums.address());
  std::vector<unsigned> counts(256);
  std::vector<uint8_t> bytes(kItems);
  for (auto& b : bytes) ++counts[b = static_cast<uint8_t>(random() % 200)];
  Buffer<uint8_t> samples(bytes);
  Buffer<unsigned> histogram(256);
  launch(module.function("block_histogram"), {1, kThreads}, samples.address(), histogram.address());
  std::vector<int> ordered = values, before(kItems);
  std::sort(ordered.begin(), ordered.end());
  unsigned sum = 0;
  for (unsigned k = 0; k < kItems; ++k) {
    before[k] = static_cast<int>(sum);
    sum += static_cast<unsigned>(values[k]);
  }
  return sorted.read() == ordered && sums.read() == before && histogram.read() == counts;
}

// Twice, with the same ticket: the kernel must leave it as it was.
bool reduce(const Module& module) {
  constexpr int kCount = 20'003;
  constexpr unsigned kBlocks = 12;
  std::vector<float> x(kCount);
  float expected = 0;
  for (int k = 0; k < kCount; ++k) expected += x[static_cast<size_t>(k)] = static_cast<float>(k % 7 - 1);
  Buffer<float> input(x), partial(kBlocks);
  Buffer<unsigned> ticket(std::vector<unsigned>{0});
  for (int round = 0; round < 2; ++round) {
    Buffer<float> result(std::vector<float>{-1});
    launch(module.function("sum"), {kBlocks, 256}, input.address(), kCount, partial.address(), ticket.address(),
           result.address());
    if (result.read()[0] != expected) return false;
  }
  return true;
}

// More tiles than twice the stages.
bool stages(const Module& module) {
  constexpr int kTiles = 11, kColumns = 64;
  std::vector<int> x(kTiles * kColumns);
  std::mt19937 random(5);
  for (int& v : x) v = static_cast<int>(random() % 1000);
  Buffer<int> input(x), output(x.size());
  launch(module.function("running_maximum"), {1, 128}, input.address(), kTiles, output.address());
  std::vector<int> expected(x.size());
  for (int tile = 0; tile < kTiles; ++tile) {
    for (int column = 0; column < kColumns; ++column) {
      int& here = expected[static_cast<size_t>(tile * kColumns + column)];
      here = x[static_cast<size_t>(tile * kColumns + kColumns - 1 - column)];
      if (tile > 0) here = std::max(here, expected[static_cast<size_t>((tile - 1) * kColumns + column)]);
    }
  }
  return output.read() == expected;
}

bool transpose(const Module& module) {
  constexpr unsigned kRows = 70, kColumns = 99;
  std::vector<uint16_t> x(kRows * kColumns), expected(x.size());
  for (unsigned k = 0; k < x.size(); ++k) x[k] = static_cast<uint16_t>(k * 7);
  for (unsigned r = 0; r < kRows; ++r) {
    for (unsigned c = 0; c < kColumns; ++c) expected[c * kRows + r] = x[r * kColumns + c];
  }
  Buffer<uint16_t> input(x), output(x.size());
  CUdeviceptr from = input.address(), to = output.address();
  int rows = kRows, columns = kColumns;
  void* arguments[] = {&from, &rows, &columns, &to};
  CHECK(cuLaunchKernel(module.function("transpose"), (kColumns + 31) / 32, (kRows + 31) / 32, 1, 32, 8, 1, 0, nullptr,
                       arguments, nullptr));
  CHECK(cuCtxSynchronize());
  if (output.read() != expected) return false;
  constexpr int kWords = 1024;
  std::vector<int> words(kWords), reversed(kWords);
  for (int k = 0; k < kWords; ++k) words[static_cast<size_t>(k)] = k;
  for (int k = 0; k < kWords; ++k) reversed[static_cast<size_t>(k)] = k / 32 * 32 + 31 - k % 32;
  Buffer<int> in(words), out(kWords);
  launch(module.function("reverse_warps"), {2, 128, 512}, in.address(), kWords, out.address());
  return out.read() == reversed;
}

}  // namespace

bool runKernel(const std::string& name, const std::string& ptx) {
  Module module(ptx);
  if (name == "topk") return topk(module);
  if (name == "permute") return permute(module);
  if (name == "gemm") return gemm(module, 200, 136, 328);
  if (name == "neighbours") return pipeline(module);
  if (name == "grid") return gridBarrier(module);
  if (name == "cub") return cubBlocks(module);
  if (const std::optional<bool> right = runLibrary(name, module)) return *right;
  if (name == "reduce") return reduce(module);
  if (name == "stages") return stages(module);
  if (name == "transpose") return transpose(module);
  throw std::runtime_error("unknown kernel '" + name + "'");
}

// Of an odd number of runs, so that one which another program disturbed does not count.
constexpr int kBenchRuns = 5;

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

void benchGemm(const std::string& ptx) {
  Module module(ptx);
  for (int size : {512, 1024}) {
    bool right = true;
    std::vector<double> seconds(kBenchRuns);
    for (double& s : seconds) right = gemm(module, size, size, size, &s) && right;
    std::printf("gemm_bf16 %d³: %.3f s, %s\n", size, median(seconds), right ? "right" : "WRONG");
  }
}

// A counter of the last launch in a report.
double lastCount(const std::string& report, const std::string& counter) {
  std::ifstream file(report);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const std::string key = "\"" + counter + "\":";
  const size_t at = text.rfind(key);
  return at == std::string::npos ? 0 : std::stod(text.substr(at + key.size()));
}

// The rate of ordinary instructions: integer and float arithmetic, shuffles, comparisons, branches, as they come.
void benchTopk(const std::string& ptx, const std::string& report) {
  Module module(ptx);
  constexpr int kRows = 40'000;
  Buffer<uint16_t> input(std::vector<uint16_t>(kRows * 64, 0x3f80));
  Buffer<float> weights(kRows * 4);
  Buffer<int> indices(kRows * 4);
  std::vector<double> runs(kBenchRuns);
  for (double& s : runs) {
    const double start = processorSeconds();
    launch(module.function("softmax_topk"), {kRows / 4, 128}, input.address(), weights.address(), indices.address(),
           kRows);
    s = processorSeconds() - start;
  }
  const double seconds = median(runs);
  std::printf("softmax_topk, %d rows: %.3f s, %.1f million warp instructions a second\n", kRows, seconds,
              lastCount(report, "warpInstructions") / seconds / 1e6);
}

}  // namespace runner
