// CUDA's functions of f32, f64 and integers against the host's, on random and on special numbers. What
// CUDA promises of its mathematical functions is an error in ulps; arithmetic is exact.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "library.h"

namespace runner {
namespace {

constexpr int kCount = 1024, kBlock = 128;

using Wide = __int128;

// The number of representable numbers between two.
template <class T, class Bits>
double distance(T a, T b) {
  if (a != a || b != b) return (a != a) == (b != b) ? 0 : INFINITY;
  auto place = [](T x) {
    const Bits bits = std::bit_cast<Bits>(x), sign = Bits{1} << (8 * sizeof(Bits) - 1);
    return bits & sign ? -static_cast<Wide>(bits & ~sign) : static_cast<Wide>(bits);
  };
  return std::fabs(static_cast<double>(place(a) - place(b)));
}

struct Function {
  const char* name;
  double (*of)(double x, double y);
  double ulps;
};

// In the order of functionOf in kernels/math.cu.
const Function kFloats[] = {
    {"exp", [](double x, double) { return std::exp(x); }, 2},
    {"exp2", [](double x, double) { return std::exp2(x); }, 2},
    {"expm1", [](double x, double) { return std::expm1(x); }, 2},
    {"log", [](double x, double) { return std::log(std::fabs(x)); }, 2},
    {"log2", [](double x, double) { return std::log2(std::fabs(x)); }, 2},
    {"log10", [](double x, double) { return std::log10(std::fabs(x)); }, 2},
    {"log1p", [](double x, double) { return std::log1p(std::fabs(x)); }, 2},
    {"erf", [](double x, double) { return std::erf(x); }, 2},
    {"erfc", [](double x, double) { return std::erfc(x); }, 4},
    {"tanh", [](double x, double) { return std::tanh(x); }, 2},
    {"sinh", [](double x, double) { return std::sinh(x); }, 3},
    {"cosh", [](double x, double) { return std::cosh(x); }, 2},
    {"asinh", [](double x, double) { return std::asinh(x); }, 3},
    {"pow", [](double x, double y) { return std::pow(std::fabs(x), y); }, 4},
    {"sincos, sine", [](double x, double) { return std::sin(x); }, 2},
    {"sincos, cosine", [](double x, double) { return std::cos(x); }, 2},
    {"tan", [](double x, double) { return std::tan(x); }, 4},
    {"atan", [](double x, double) { return std::atan(x); }, 2},
    {"atan2", [](double x, double y) { return std::atan2(x, y); }, 3},
    {"cbrt", [](double x, double) { return std::cbrt(x); }, 1},
    {"hypot", [](double x, double y) { return std::hypot(x, y); }, 3},
    {"rsqrt", [](double x, double) { return 1 / std::sqrt(std::fabs(x)); }, 2},
    {"sqrt", [](double x, double) { return std::sqrt(std::fabs(x)); }, 0},
    {"fmod", [](double x, double y) { return std::fmod(x, y); }, 0},
    {"remainder", [](double x, double y) { return std::remainder(x, y); }, 0},
    {"round", [](double x, double) { return std::round(x); }, 0},
    {"rint", [](double x, double) { return std::nearbyint(x); }, 0},
    {"quotient", [](double x, double y) { return x / y; }, 0},
    {"fma", [](double x, double y) { return std::fma(x, y, x); }, 1},
    {"ldexp", [](double x, double) { return std::ldexp(x, 7); }, 0},
    {"lgamma", [](double x, double) { return std::lgamma(std::fabs(x)); }, 1 << 12},
    {"asin",
     [](double x, double) { return std::asin(double{static_cast<float>(x) / (std::fabs(static_cast<float>(x)) + 1)}); },
     2},
    {"sin of much", [](double x, double) { return std::sin(double{static_cast<float>(x) * 100000}); }, 2},
    {"nextafter",
     [](double x, double y) { return double{std::nextafter(static_cast<float>(x), static_cast<float>(y))}; }, 0},
    {"__expf", [](double x, double) { return std::exp(x); }, 1 << 8},
    {"__logf", [](double x, double) { return std::log(std::fabs(x)); }, 1 << 12},
    {"__fdividef", [](double x, double y) { return x / y; }, 2},
    {"__saturatef", [](double x, double) { return std::min(1.0, std::max(0.0, x)); }, 0},
    {"__fadd_rd",
     [](double x, double y) {
       const double sum = x + y;
       const float near = static_cast<float>(sum);
       return double{near > sum ? std::nextafter(near, -INFINITY) : near};
     },
     0},
    {"__fmul_ru",
     [](double x, double y) {
       const double product = x * y;
       const float near = static_cast<float>(product);
       return double{near < product ? std::nextafter(near, INFINITY) : near};
     },
     0},
    {"__fdiv_rz",
     [](double x, double y) {
       const double quotient = x / y;
       const float near = static_cast<float>(quotient);
       return double{std::fabs(near) > std::fabs(quotient) ? std::nextafter(near, 0.0f) : near};
     },
     0},
    {"reciprocal", [](double x, double) { return 1 / x; }, 0},
    {"fdim", [](double x, double y) { return std::fdim(x, y); }, 0}};

const Function kDoubles[] = {{"exp", [](double x, double) { return std::exp(x); }, 2},
                             {"log", [](double x, double) { return std::log(std::fabs(x)); }, 2},
                             {"pow", [](double x, double y) { return std::pow(std::fabs(x), y); }, 2},
                             {"sin", [](double x, double) { return std::sin(x); }, 2},
                             {"cos", [](double x, double) { return std::cos(x); }, 2},
                             {"tanh", [](double x, double) { return std::tanh(x); }, 3},
                             {"erf", [](double x, double) { return std::erf(x); }, 2},
                             {"atan2", [](double x, double y) { return std::atan2(x, y); }, 3},
                             {"sqrt", [](double x, double) { return std::sqrt(std::fabs(x)); }, 0},
                             {"rsqrt", [](double x, double) { return 1 / std::sqrt(std::fabs(x)); }, 2},
                             {"cbrt", [](double x, double) { return std::cbrt(x); }, 2},
                             {"fmod", [](double x, double y) { return std::fmod(x, y); }, 0},
                             {"round", [](double x, double) { return std::round(x); }, 0},
                             {"quotient", [](double x, double y) { return x / y; }, 0},
                             {"log1p", [](double x, double) { return std::log1p(std::fabs(x)); }, 2},
                             {"expm1", [](double x, double) { return std::expm1(x); }, 2},
                             {"sin of much", [](double x, double) { return std::sin(x * 1e9); }, 3},
                             {"tgamma", [](double x, double) { return std::tgamma(std::fabs(x)); }, 12},
                             {"through s64", [](double x, double) { return std::trunc(x * 1e6); }, 0},
                             {"hypot", [](double x, double y) { return std::hypot(x, y); }, 3}};

template <class T, class Bits, size_t kFunctions>
bool reals(const Module& module, const char* kernel, const Function (&functions)[kFunctions]) {
  std::mt19937 random(7);
  std::normal_distribution<double> normal(0, 5);
  std::vector<T> x(kCount), y(kCount);
  for (int k = 0; k < kCount; ++k) {
    x[static_cast<size_t>(k)] = static_cast<T>(normal(random));
    y[static_cast<size_t>(k)] = static_cast<T>(normal(random));
  }
  const T special[] = {0, T(-0.0), 1, -1, T(0.5), T(-2.5), 2, T(1e-30), 100, T(-3.75)};
  for (size_t k = 0; k < std::size(special) * std::size(special); ++k) {
    x[k] = special[k % std::size(special)];
    y[k] = special[k / std::size(special)];
  }
  Buffer<T> dx(x), dy(y), result(kCount);
  bool right = true;
  for (size_t which = 0; which < kFunctions; ++which) {
    launch(module.function(kernel), {kCount / kBlock, kBlock}, dx.address(), dy.address(), result.address(), kCount,
           static_cast<int>(which));
    const std::vector<T> got = result.read();
    for (size_t k = 0; k < kCount; ++k) {
      const T want = static_cast<T>(functions[which].of(x[k], y[k]));
      const double error = distance<T, Bits>(got[k], want);
      // Where a function is near zero, CUDA bounds the absolute error of a few instead.
      const bool close = std::fabs(got[k] - want) < 0x1p-21 && functions[which].ulps >= 1 << 12;
      if (error <= functions[which].ulps || close) continue;
      right = complain(functions[which].name, x[k], y[k], got[k], want);
      break;
    }
  }
  return right;
}

using Integer = uint64_t (*)(int64_t x, int64_t y);
#define INTEGERS [](int64_t x, int64_t y) -> uint64_t { \
  [[maybe_unused]] const int32_t a = static_cast<int32_t>(x), b = static_cast<int32_t>(y); \
  [[maybe_unused]] const uint32_t u = static_cast<uint32_t>(x), v = static_cast<uint32_t>(y); \
  [[maybe_unused]] const uint64_t ux = static_cast<uint64_t>(x), uy = static_cast<uint64_t>(y);
// As the kernel returns them: an int is sign-extended, an unsigned is not.
uint64_t word(int32_t x) { return static_cast<uint64_t>(int64_t{x}); }
uint32_t bytewise(uint32_t u, uint32_t v, uint32_t (*of)(uint32_t, uint32_t)) {
  uint32_t r = 0;
  for (int k = 0; k < 32; k += 8) r |= (of(u >> k & 255, v >> k & 255) & 255) << k;
  return r;
}
const Integer kIntegers[] = {INTEGERS return word(a / b);
}
, INTEGERS return word(a % b);
}
, INTEGERS return u / v;
}
, INTEGERS return u % v;
}
, INTEGERS return static_cast<uint64_t>(x / y);
}
, INTEGERS return static_cast<uint64_t>(x % y);
}
, INTEGERS return ux / uy;
}
, INTEGERS return ux % uy;
}
, INTEGERS return word(a / 7);
}
, INTEGERS return u % 10;
}
, INTEGERS return word(static_cast<int16_t>(a) / static_cast<int16_t>(b | 1));
}
, INTEGERS return word(static_cast<int8_t>(a) % static_cast<int8_t>(b | 1));
}
, INTEGERS return word(static_cast<int32_t>(int64_t{a} * b >> 32));
}
, INTEGERS return uint64_t{u} * v >> 32;
}
, INTEGERS return static_cast<uint64_t>(Wide{x} * y >> 64);
}
, INTEGERS return static_cast<uint64_t>(static_cast<unsigned __int128>(ux) * uy >> 64);
}
, INTEGERS return word(static_cast<int32_t>(static_cast<int64_t>(static_cast<int32_t>(u << 8) >> 8) *
                                            (static_cast<int32_t>(v << 8) >> 8)));
}
, INTEGERS return static_cast<uint32_t>(std::llabs(int64_t{a} - b) + u);
}
, INTEGERS return word(static_cast<int32_t>((int64_t{a} + b) >> 1));
}
, INTEGERS return (uint64_t{u} + v + 1) >> 1;
}
, INTEGERS uint32_t r = 0;
for (int k = 0; k < 32; ++k) r = r << 1 | (u >> k & 1);
return r;
}
, INTEGERS return x ? static_cast<uint64_t>(std::countr_zero(ux)) + 1 : 0;
}
, INTEGERS return static_cast<uint64_t>(std::countl_zero(u));
}
, INTEGERS return static_cast<uint64_t>(std::countl_zero(ux));
}
, INTEGERS return static_cast<uint64_t>(std::popcount(ux));
}
, INTEGERS const uint64_t both = uint64_t{v} << 32 | u;
return (both >> 56 & 255) | (both >> 8 & 255) << 8 | (both >> 40 & 255) << 16 | (both >> 24 & 255) << 24;
}
, INTEGERS return (uint64_t{v} << 32 | u) << (v & 31) >> 32;
}
, INTEGERS return static_cast<uint32_t>((uint64_t{v} << 32 | u) >> std::min(v & 63, 32u));
}
, INTEGERS int64_t r = a;
for (int k = 0; k < 32; k += 8) r += int64_t{static_cast<int8_t>(a >> k)} * static_cast<int8_t>(b >> k);
return word(static_cast<int32_t>(r));
}
, INTEGERS return bytewise(u, v, [](uint32_t p, uint32_t q) { return p + q; });
}
, INTEGERS return bytewise(u, v, [](uint32_t p, uint32_t q) { return p > q ? p - q : q - p; });
}
, INTEGERS uint32_t r = 0;
for (int k : {0, 16})
  r |= uint32_t{static_cast<uint16_t>(std::max(static_cast<int16_t>(u >> k), static_cast<int16_t>(v >> k)))} << k;
return r;
}
, INTEGERS return bytewise(u, v, [](uint32_t p, uint32_t q) { return p > q ? 255u : 0u; });
}
, INTEGERS return bytewise(u, v, [](uint32_t p, uint32_t q) { return (p + q + 1) >> 1; });
}
, INTEGERS uint64_t r = 0;
for (int k = 0; k < 32; k += 8)
  r += static_cast<uint64_t>(std::abs(static_cast<int>(u >> k & 255) - static_cast<int>(v >> k & 255)));
return r;
}
, INTEGERS return static_cast<uint64_t>((static_cast<unsigned __int128>(ux) * uy + u) >> 64);
}
, INTEGERS return static_cast<uint64_t>((Wide{x} * y - static_cast<Wide>(ux)) >> 70);
}
, INTEGERS return static_cast<uint64_t>(Wide{x} * y / (Wide{b} | 1));
}
, INTEGERS return static_cast<uint64_t>(std::llabs(x)) + word(std::min(a, b)) + std::max(u, v);
}
}
;

bool integers(const Module& module) {
  std::mt19937_64 random(8);
  std::vector<int64_t> x(kCount), y(kCount);
  for (size_t k = 0; k < kCount; ++k) {
    x[k] = static_cast<int64_t>(random()) >> random() % 60;
    y[k] = static_cast<int64_t>(random()) >> random() % 60;
    // Division by zero is unspecified, and so is that of the lowest number by -1.
    if (static_cast<int32_t>(y[k]) == 0 || static_cast<int32_t>(y[k]) == -1) y[k] = 3;
  }
  Buffer<int64_t> dx(x), dy(y);
  Buffer<uint64_t> result(kCount);
  bool right = true;
  for (size_t which = 0; which < std::size(kIntegers); ++which) {
    launch(module.function("math_integers"), {kCount / kBlock, kBlock}, dx.address(), dy.address(), result.address(),
           kCount, static_cast<int>(which));
    const std::vector<uint64_t> got = result.read();
    for (size_t k = 0; k < kCount; ++k) {
      const uint64_t want = kIntegers[which](x[k], y[k]);
      if (got[k] == want) continue;
      std::printf("integer function %zu of %llx, %llx gave %llx, expected %llx\n", which,
                  static_cast<unsigned long long>(x[k]), static_cast<unsigned long long>(y[k]),
                  static_cast<unsigned long long>(got[k]), static_cast<unsigned long long>(want));
      right = false;
      break;
    }
  }
  return right;
}

}  // namespace

bool runMath(const Module& module) {
  const bool floats = reals<float, uint32_t>(module, "math_f32", kFloats);
  const bool doubles = reals<double, uint64_t>(module, "math_f64", kDoubles);
  return integers(module) && floats && doubles;
}

}  // namespace runner
