// f32 and f64 arithmetic: PTX ISA 9.7.3. Approximate instructions are nearly correctly rounded here, well within the
// bounds that the ISA promises, and follow its tables of special cases; tests must not expect more of a GPU.
#include <cmath>
#include <limits>

#include "isa/isa.h"
#include "isa/lanes.h"
#include "isa/numbers.h"

// fma is a function call unless the machine has the instruction; this picks it at load time.
#if defined(__x86_64__) && !defined(__FMA__)
#define SOFTGPU_WITH_FMA __attribute__((target_clones("fma", "default")))
#else
#define SOFTGPU_WITH_FMA
#endif

namespace softgpu::isa {
namespace {

// The modifiers of one instruction, kept in immediate[0].
struct Mode {
  Rounding rounding = Rounding::kNearestEven;
  bool ftz = false, sat = false, nan = false, xorsign = false;
  bool plain() const { return rounding == Rounding::kNearestEven && !ftz && !sat && !nan && !xorsign; }
  u32 pack() const { return static_cast<u32>(rounding) | ftz << 8 | sat << 9 | nan << 10 | xorsign << 11; }
  static Mode of(const Instruction& i) {
    u32 m = i.immediate[0];
    return {static_cast<Rounding>(m & 255), (m >> 8 & 1) != 0, (m >> 9 & 1) != 0, (m >> 10 & 1) != 0,
            (m >> 11 & 1) != 0};
  }
};

// The one NaN that arithmetic gives: 9.7.3.
template <class T>
T canonical(T x) {
  if constexpr (std::is_same_v<T, float>) return x != x ? std::bit_cast<float>(0x7fffffff) : x;
  return x != x ? std::numeric_limits<T>::quiet_NaN() : x;
}

SOFTGPU_WITH_FMA void fmaF32(Warp& w, const Instruction& i, LaneMask lanes) {
  float* r = lanesOf<float>(w, i.slot[0]);
  const float *a = lanesOf<float>(w, i.slot[1]), *b = lanesOf<float>(w, i.slot[2]), *c = lanesOf<float>(w, i.slot[3]);
  if (lanes == kAllLanes) {
#pragma GCC ivdep
    for (u32 l = 0; l < kWarpSize; ++l) r[l] = canonical(std::fma(a[l], b[l], c[l]));
  } else {
    for (; lanes; lanes &= lanes - 1) {
      u32 l = lowestLane(lanes);
      r[l] = canonical(std::fma(a[l], b[l], c[l]));
    }
  }
}

template <class T>
T flushed(T x, const Mode& mode) {
  if constexpr (std::is_same_v<T, float>) return mode.ftz ? flushSubnormal(x) : x;
  return x;
}
template <class T>
T finished(T x, const Mode& mode) {
  x = flushed(x, mode);
  if (mode.sat) return saturate(x);
  return canonical(x);
}

// With modifiers: rounding mode, flushing, saturation. Op gets the mode as its last argument.
template <class T, int kSources, class Op>
Execute general(Op) {
  return [](Warp& w, const Instruction& i, LaneMask lanes) {
    const Mode mode = Mode::of(i);
    RoundingScope scope(mode.rounding);
    for (; lanes; lanes &= lanes - 1) {
      const u32 l = lowestLane(lanes);
      auto source = [&](u32 k) { return flushed(lanesOf<T>(w, i.slot[k])[l], mode); };
      T result;
      if constexpr (kSources == 1) result = Op()(source(1), mode);
      if constexpr (kSources == 2) result = Op()(source(1), source(2), mode);
      if constexpr (kSources == 3) result = Op()(source(1), source(2), source(3), mode);
      lanesOf<T>(w, i.slot[0])[l] = finished(result, mode);
    }
  };
}

// .xorsign: the sign that a product would have.
template <class T>
T withProductSign(T a, T b, T magnitude) {
  return std::copysign(magnitude, std::signbit(a) != std::signbit(b) ? T{-1} : T{1});
}

template <class T>
Execute twoSources(std::string_view op, bool plain) {
  if (op == "add")
    return plain ? binary<T>([](T a, T b) { return canonical(a + b); })
                 : general<T, 2>([](T a, T b, const Mode&) { return a + b; });
  if (op == "sub")
    return plain ? binary<T>([](T a, T b) { return canonical(a - b); })
                 : general<T, 2>([](T a, T b, const Mode&) { return a - b; });
  if (op == "mul")
    return plain ? binary<T>([](T a, T b) { return canonical(a * b); })
                 : general<T, 2>([](T a, T b, const Mode&) { return a * b; });
  if (op == "div")
    return plain ? binary<T>([](T a, T b) { return canonical(a / b); })
                 : general<T, 2>([](T a, T b, const Mode&) { return a / b; });
  // The common minimum without NaN propagation, in a form that vectorises.
  if (op == "min" && plain) {
    return binary<T>([](T a, T b) { return a < b ? a : b != b ? canonical(a) : a == b && std::signbit(a) ? a : b; });
  }
  if (op == "max" && plain) {
    return binary<T>([](T a, T b) { return a > b ? a : b != b ? canonical(a) : a == b && !std::signbit(a) ? a : b; });
  }
  if (op == "min") {
    return general<T, 2>([](T a, T b, const Mode& m) {
      if (!m.xorsign) return minimum(a, b, m.nan);
      return withProductSign(a, b, minimum(std::fabs(a), std::fabs(b), m.nan));
    });
  }
  if (op == "max") {
    return general<T, 2>([](T a, T b, const Mode& m) {
      if (!m.xorsign) return maximum(a, b, m.nan);
      return withProductSign(a, b, maximum(std::fabs(a), std::fabs(b), m.nan));
    });
  }
  if (op == "copysign") return binary<T>([](T a, T b) { return std::copysign(b, a); });
  return nullptr;
}

template <class T>
Execute oneSource(std::string_view op, bool plain) {
  if (op == "abs")
    return plain ? unary<T>([](T a) { return std::fabs(a); })
                 : general<T, 1>([](T a, const Mode&) { return std::fabs(a); });
  if (op == "neg") return plain ? unary<T>([](T a) { return -a; }) : general<T, 1>([](T a, const Mode&) { return -a; });
  if (op == "sqrt")
    return plain ? unary<T>([](T a) { return canonical(std::sqrt(a)); })
                 : general<T, 1>([](T a, const Mode&) { return std::sqrt(a); });
  if (op == "rcp")
    return plain ? unary<T>([](T a) { return canonical(T{1} / a); })
                 : general<T, 1>([](T a, const Mode&) { return T{1} / a; });
  if (op == "rsqrt")
    return general<T, 1>([](T a, const Mode&) { return static_cast<T>(1 / std::sqrt(static_cast<long double>(a))); });
  if constexpr (std::is_same_v<T, float>) {
    if (op == "ex2") return general<T, 1>([](T a, const Mode&) { return std::exp2(a); });
    if (op == "lg2") return general<T, 1>([](T a, const Mode&) { return std::log2(a); });
    if (op == "sin") return general<T, 1>([](T a, const Mode&) { return std::sin(a); });
    if (op == "cos") return general<T, 1>([](T a, const Mode&) { return std::cos(a); });
    if (op == "tanh") return general<T, 1>([](T a, const Mode&) { return std::tanh(a); });
  }
  return nullptr;
}

// .approx and .full bound the error; the result here is within any such bound.
enum class Precision : u8 { kExact, kApproximate, kFullRange };

struct Form {
  Mode mode;
  Precision precision = Precision::kExact;
};

// Takes the modifiers that the operation has; another one stays, and is an error.
Form takeForm(Decoding& d) {
  const std::string_view op = d.opcode();
  const bool sum = op == "add" || op == "sub" || op == "mul" || op == "fma" || op == "mad";
  const bool extremum = op == "min" || op == "max";
  const bool quotient = op == "div" || op == "rcp" || op == "sqrt";
  Form form;
  if (sum || quotient) form.mode.rounding = takeRounding(d);
  if (d.peekType() == Type::kF32) {
    form.mode.ftz = op != "tanh" && op != "copysign" && d.take("ftz");
    form.mode.sat = sum && d.take("sat");
    form.mode.nan = extremum && d.take("NaN");
    if (extremum && d.take("xorsign")) {
      form.mode.xorsign = d.take("abs");
      if (!form.mode.xorsign) d.fail(".xorsign without .abs");
    }
  }
  if (!sum && !extremum && op != "abs" && op != "neg" && op != "copysign") {
    if (op == "div" && d.take("full")) form.precision = Precision::kFullRange;
    if (d.take("approx")) form.precision = Precision::kApproximate;
    if (!quotient && form.precision != Precision::kApproximate) d.fail("'" + std::string(op) + "' needs .approx");
  }
  return form;
}

// div.approx: a · (1/b), so that divisors beyond 2^126, whose reciprocal is flushed, give zero, or NaN for an infinite
// dividend: 9.7.3.8.
float divideApproximately(float a, float b) {
  const float size = std::fabs(b);
  return size > 0x1p126f && size < HUGE_VALF ? a * std::copysign(0.0f, b) : a / b;
}

// rcp.approx.ftz.f64 and rsqrt.approx.ftz.f64 see and write the upper word alone: 9.7.3.14 and 9.7.3.17.
template <class Op>
Execute upperWord(Op) {
  return unary<u64>([](u64 bits) {
    bits &= ~u64{0xffffffff};
    if ((bits >> 52 & 0x7ff) == 0) bits &= u64{1} << 63;
    const double result = Op()(std::bit_cast<double>(bits));
    if (result != result) return u64{0x7fffffff00000000};
    const u64 upper = std::bit_cast<u64>(result) & ~u64{0xffffffff};
    return (upper >> 52 & 0x7ff) == 0 ? upper & u64{1} << 63 : upper;
  });
}

Execute approximateDouble(Decoding& d, std::string_view op) {
  if (!d.take("ftz")) {
    return op == "rsqrt" ? unary<double>([](double a) {
      return canonical(static_cast<double>(1 / std::sqrt(static_cast<long double>(a))));
    })
                         : nullptr;
  }
  if (op == "rcp") return upperWord([](double a) { return 1 / a; });
  return op == "rsqrt" ? upperWord([](double a) { return a == 0 ? 1 / a : 1 / std::sqrt(a); }) : nullptr;
}

// testp: 9.7.3.1.
void testProperty(Decoding& d) {
  const int property = d.takeOneOf({"finite", "infinite", "number", "notanumber", "normal", "subnormal"});
  if (property < 0) d.fail("testp without a property");
  const Type type = d.takeType();
  d.writePredicate(0, d.operand(0).name);
  d.read(1, 1, type);
  d.out().immediate[0] = static_cast<u32>(property);
  auto form = []<class T>(T) -> Execute {
    return [](Warp& w, const Instruction& i, LaneMask lanes) {
      LaneMask yes = 0;
      for (u32 l = 0; l < kWarpSize; ++l) {
        const T a = lanesOf<T>(w, i.slot[1])[l];
        const int kind = std::fpclassify(a);
        const bool answers[] = {std::isfinite(a),
                                kind == FP_INFINITE,
                                kind != FP_NAN,
                                kind == FP_NAN,
                                kind == FP_NORMAL || kind == FP_ZERO,
                                kind == FP_SUBNORMAL};
        yes |= static_cast<LaneMask>(answers[i.immediate[0]]) << l;
      }
      setPredicate(w, i.slot[0], lanes, yes);
    };
  };
  execute(d, type == Type::kF32 ? form(float()) : type == Type::kF64 ? form(double()) : nullptr);
}

void fusedMultiplyAdd(Decoding& d) {
  const Mode mode = takeForm(d).mode;
  const Type type = d.takeType();
  sameType(d, type, 3);
  d.out().immediate[0] = mode.pack();
  if (type == Type::kF32 && mode.plain()) return execute(d, fmaF32);
  if (type == Type::kF32)
    return execute(d, general<float, 3>([](float a, float b, float c, const Mode&) { return std::fma(a, b, c); }));
  execute(d, type == Type::kF64
                 ? general<double, 3>([](double a, double b, double c, const Mode&) { return std::fma(a, b, c); })
                 : nullptr);
}

}  // namespace

bool decodeFloat(Decoding& d) {
  const std::string_view op = d.opcode();
  if (op == "testp") {
    testProperty(d);
    return true;
  }
  const bool two =
      op == "add" || op == "sub" || op == "mul" || op == "div" || op == "min" || op == "max" || op == "copysign";
  const bool one = op == "abs" || op == "neg" || op == "sqrt" || op == "rcp" || op == "rsqrt" || op == "ex2" ||
                   op == "lg2" || op == "sin" || op == "cos" || op == "tanh";
  if (!two && !one && op != "fma" && op != "mad") return false;
  const Type type = d.peekType();
  if (type != Type::kF32 && type != Type::kF64) return false;
  if (op == "fma" || op == "mad") {
    fusedMultiplyAdd(d);
    return true;
  }
  const auto [mode, precision] = takeForm(d);
  d.takeType();
  const bool threeInputs = (op == "min" || op == "max") && d.operandCount() == 4;
  if (threeInputs) d.fail("min and max of three values");
  sameType(d, type, two ? 2 : 1);
  d.out().immediate[0] = mode.pack();
  if (precision == Precision::kApproximate && type == Type::kF64) {
    execute(d, approximateDouble(d, op));
    return true;
  }
  if (precision == Precision::kApproximate && op == "div") {
    execute(d, general<float, 2>([](float a, float b, const Mode&) { return divideApproximately(a, b); }));
    return true;
  }
  auto form = [&]<class T>(T) { return two ? twoSources<T>(op, mode.plain()) : oneSource<T>(op, mode.plain()); };
  execute(d, type == Type::kF32 ? form(float()) : form(double()));
  return true;
}

}  // namespace softgpu::isa
