// CUDA's functions of half and bfloat16, single and in pairs, against the host's, rounded once.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "library.h"

namespace runner {
namespace {

constexpr int kCount = 1024, kBlock = 128;

// A 16-bit format with `kBits` significant bits and `kLeast` as its smallest exponent.
template <int kBits, int kLeast, int kMost>
struct Format {
  static double rounded(double x) {
    if (x == 0 || std::isnan(x) || std::isinf(x)) return x;
    const double unit = std::ldexp(1.0, std::max(std::ilogb(x), kLeast) - kBits + 1);
    const double r = std::nearbyint(x / unit) * unit;
    return std::fabs(r) >= std::ldexp(1.0, kMost + 1) ? std::copysign(INFINITY, x) : r;
  }
};

double halfValue(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}
double bf16Value(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// In the order of functionOf in kernels/half.cu, of numbers that are exact in a double.
double narrowFunction(int which, double x, double y, double (*rounded)(double)) {
  switch (which) {
    case 0:
      return x + y;
    case 1:
      return x - y;
    case 2:
      return x * y;
    case 3:
      return x / y;
    case 4:
      return std::fma(x, y, x);
    case 5:
      return std::fmax(0, std::fma(x, y, x));
    case 6:
      return std::fmin(1, std::fmax(0, rounded(std::fma(x, y, x))));
    case 7:
      return std::fmin(x, y);
    case 8:
      return std::fmax(x, y);
    case 9:
      return -x;
    case 10:
      return std::fabs(x);
    case 11:
      return std::exp(x);
    case 12:
      return std::log(std::fabs(x));
    case 13:
      return std::sqrt(std::fabs(x));
    case 14:
      return std::nearbyint(x);
    case 15:
      return std::floor(x);
    case 16:
      return 1 / x;
    case 17:
      return static_cast<float>(x) * 1.001f;
    case 18:
      return x < y ? x : y;
    case 19:
      return x != y ? x : 1;
    case 20:
      return x >= y;
    default:
      return std::trunc(x);
  }
}

bool narrow(const Module& module, const char* kernel, double (*value)(uint16_t), double (*rounded)(double)) {
  std::mt19937 random(9);
  std::vector<uint16_t> x(kCount), y(kCount);
  for (size_t k = 0; k < kCount; ++k) {
    // Small numbers, many of them equal, so that ties and equalities occur.
    auto draw = [&] {
      const double v =
          static_cast<double>(static_cast<int>(random() % 4096) - 2048) / static_cast<double>(1 << random() % 11);
      uint16_t bits = static_cast<uint16_t>(random());
      if (random() % 4) {
        for (uint32_t b = 0; b < 0x10000; b += 1 + random() % 61) {
          bits = static_cast<uint16_t>(b);
          if (std::fabs(value(bits) - v) <= std::fabs(v) / 16) break;
        }
      }
      return std::isfinite(value(bits)) && value(bits) != 0 ? bits : static_cast<uint16_t>(0x3c00);
    };
    x[k] = draw();
    y[k] = k % 5 == 0 ? x[k] : draw();
  }
  Buffer<uint16_t> dx(x), dy(y), single(kCount), paired(kCount);
  bool right = true;
  for (int which = 0; which < 22; ++which) {
    launch(module.function(kernel), {kCount / 2 / kBlock, kBlock}, dx.address(), dy.address(), single.address(),
           paired.address(), kCount, which);
    const std::vector<uint16_t> one = single.read(), two = paired.read();
    for (size_t k = 0; k < kCount && right; ++k) {
      const double a = value(x[k]), b = value(y[k]), exact = narrowFunction(which, a, b, rounded),
                   want = rounded(exact);
      // Functions may miss the nearest number by one.
      const bool inexact = which == 3 || which == 11 || which == 12 || which == 13 || which == 16;
      for (const uint16_t bits : {one[k], two[k]}) {
        const double got = value(bits);
        const bool same = got == want || (got != got && want != want);
        const bool next = inexact && (value(static_cast<uint16_t>(bits + 1)) == want ||
                                      value(static_cast<uint16_t>(bits - 1)) == want);
        // Conversion to int and back: an int holds what these formats do not.
        const bool beyond = which == 21 && std::fabs(a) > 2147483520.0;
        if (!same && !next && !beyond)
          right = complain((std::string(kernel) + " " + std::to_string(which)).c_str(), a, b, got, want);
      }
    }
  }
  return right;
}

bool narrowAtomics(const Module& module) {
  Buffer<uint16_t> half(std::vector<uint16_t>{0}), bf16(std::vector<uint16_t>{0});
  Buffer<uint16_t> halves(std::vector<uint16_t>{0, 0}), bf16s(std::vector<uint16_t>{0, 0});
  launch(module.function("half_atomics"), {2, 50}, half.address(), halves.address(), bf16.address(), bf16s.address());
  return halfValue(half.read()[0]) == 100 && bf16Value(bf16.read()[0]) == 100 && halfValue(halves.read()[0]) == 100 &&
         halfValue(halves.read()[1]) == 200 && bf16Value(bf16s.read()[0]) == 100 && bf16Value(bf16s.read()[1]) == 200;
}

}  // namespace

bool runHalf(const Module& module) {
  const bool half = narrow(module, "half_functions", halfValue, Format<11, -14, 15>::rounded);
  const bool bf16 = narrow(module, "bf16_functions", bf16Value, Format<8, -126, 127>::rounded);
  return narrowAtomics(module) && half && bf16;
}

}  // namespace runner
