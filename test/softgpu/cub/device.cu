// Somebody else's code on the software GPU: CUB's device-wide radix sort, scan, histogram and reduction, called as a
// program calls them. Prints one line per check; the exit status says whether all were right.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cub/device/device_histogram.cuh>
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_reduce.cuh>
#include <cub/device/device_scan.cuh>
#include <numeric>
#include <random>
#include <vector>

namespace {

int failed = 0;

void check(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  std::printf("FAIL %s: error %d\n", call, static_cast<int>(error));
  std::exit(1);
}
#define CHECK(call) check((call), #call)

void expect(bool right, const char* what, int n) {
  std::printf("%s %s of %d\n", right ? "ok  " : "FAIL", what, n);
  failed += !right;
}

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    CHECK(cudaMalloc(&data_, std::max<size_t>(1, count * sizeof(T))));
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    CHECK(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~DeviceArray() { CHECK(cudaFree(data_)); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  T* data() const { return data_; }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    CHECK(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

// CUB's calls come in pairs: how much scratch memory is needed, then the work.
template <class Call>
void withScratch(Call call) {
  size_t bytes = 0;
  CHECK(call(nullptr, bytes));
  DeviceArray<uint8_t> scratch(bytes);
  CHECK(call(scratch.data(), bytes));
  CHECK(cudaDeviceSynchronize());
}

std::vector<uint32_t> randomWords(int n) {
  std::mt19937 random(static_cast<unsigned>(n));
  std::vector<uint32_t> values(n);
  for (uint32_t& v : values) v = random();
  return values;
}

void sortKeys(int n) {
  std::vector<uint32_t> values = randomWords(n);
  DeviceArray<uint32_t> in(values), out(n);
  withScratch([&](void* scratch, size_t& bytes) {
    return cub::DeviceRadixSort::SortKeys(scratch, bytes, in.data(), out.data(), n);
  });
  std::sort(values.begin(), values.end());
  expect(out.read() == values, "radix sort of keys", n);
}

// Few distinct keys: the sort must be stable.
void sortPairs(int n) {
  std::vector<uint32_t> keys = randomWords(n);
  for (uint32_t& k : keys) k %= 100;
  std::vector<uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  DeviceArray<uint32_t> keysIn(keys), keysOut(n), valuesIn(order), valuesOut(n);
  withScratch([&](void* scratch, size_t& bytes) {
    return cub::DeviceRadixSort::SortPairs(scratch, bytes, keysIn.data(), keysOut.data(), valuesIn.data(),
                                           valuesOut.data(), n, 0, 7);
  });
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return keys[a] < keys[b]; });
  expect(valuesOut.read() == order, "radix sort of pairs", n);
}

void scan(int n) {
  std::vector<uint32_t> values = randomWords(n);
  DeviceArray<uint32_t> in(values), out(n);
  withScratch([&](void* scratch, size_t& bytes) {
    return cub::DeviceScan::ExclusiveSum(scratch, bytes, in.data(), out.data(), n);
  });
  std::exclusive_scan(values.begin(), values.end(), values.begin(), 0u);
  expect(out.read() == values, "scan", n);
}

void histogram(int n) {
  std::vector<uint8_t> samples(n);
  std::vector<int> counts(256);
  const std::vector<uint32_t> random = randomWords(n);
  for (int k = 0; k < n; ++k) ++counts[samples[k] = static_cast<uint8_t>(random[k] % 200)];
  DeviceArray<uint8_t> in(samples);
  DeviceArray<int> out(256);
  withScratch([&](void* scratch, size_t& bytes) {
    return cub::DeviceHistogram::HistogramEven(scratch, bytes, in.data(), out.data(), 257, 0, 256, n);
  });
  expect(out.read() == counts, "histogram", n);
}

void reduce(int n) {
  const std::vector<uint32_t> values = randomWords(n);
  DeviceArray<uint32_t> in(values), out(1);
  withScratch(
      [&](void* scratch, size_t& bytes) { return cub::DeviceReduce::Sum(scratch, bytes, in.data(), out.data(), n); });
  expect(out.read()[0] == std::accumulate(values.begin(), values.end(), 0u), "sum", n);
}

}  // namespace

int main() {
  // One tile, several tiles, and more tiles than blocks that run at once.
  for (int n : {1, 777, 20'000, 150'000}) {
    sortKeys(n);
    sortPairs(n);
    scan(n);
    histogram(n);
    reduce(n);
  }
  return failed ? 1 : 0;
}
