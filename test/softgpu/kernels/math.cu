// CUDA's mathematical functions and its integer arithmetic, one function per number, for comparison with the host's.
// Test kernel of the software GPU.

__device__ float functionOf(int which, float x, float y) {
  const float size = fabsf(x);
  float s, c;
  switch (which) {
    case 0:
      return expf(x);
    case 1:
      return exp2f(x);
    case 2:
      return expm1f(x);
    case 3:
      return logf(size);
    case 4:
      return log2f(size);
    case 5:
      return log10f(size);
    case 6:
      return log1pf(size);
    case 7:
      return erff(x);
    case 8:
      return erfcf(x);
    case 9:
      return tanhf(x);
    case 10:
      return sinhf(x);
    case 11:
      return coshf(x);
    case 12:
      return asinhf(x);
    case 13:
      return powf(size, y);
    case 14:
      sincosf(x, &s, &c);
      return s;
    case 15:
      sincosf(x, &s, &c);
      return c;
    case 16:
      return tanf(x);
    case 17:
      return atanf(x);
    case 18:
      return atan2f(x, y);
    case 19:
      return cbrtf(x);
    case 20:
      return hypotf(x, y);
    case 21:
      return rsqrtf(size);
    case 22:
      return sqrtf(size);
    case 23:
      return fmodf(x, y);
    case 24:
      return remainderf(x, y);
    case 25:
      return roundf(x);
    case 26:
      return rintf(x);
    case 27:
      return x / y;
    case 28:
      return fmaf(x, y, x);
    case 29:
      return ldexpf(x, 7);
    case 30:
      return lgammaf(size);
    case 31:
      return asinf(x / (size + 1));
    case 32:
      return sinf(x * 100000);
    case 33:
      return nextafterf(x, y);
    case 34:
      return __expf(x);
    case 35:
      return __logf(size);
    case 36:
      return __fdividef(x, y);
    case 37:
      return __saturatef(x);
    case 38:
      return __fadd_rd(x, y);
    case 39:
      return __fmul_ru(x, y);
    case 40:
      return __fdiv_rz(x, y);
    case 41:
      return 1 / x;
    default:
      return fdimf(x, y);
  }
}

extern "C" __global__ void math_f32(const float* x, const float* y, float* result, int n, int which) {
  const int k = blockIdx.x * blockDim.x + threadIdx.x;
  if (k < n) result[k] = functionOf(which, x[k], y[k]);
}

__device__ double functionOf(int which, double x, double y) {
  const double size = fabs(x);
  switch (which) {
    case 0:
      return exp(x);
    case 1:
      return log(size);
    case 2:
      return pow(size, y);
    case 3:
      return sin(x);
    case 4:
      return cos(x);
    case 5:
      return tanh(x);
    case 6:
      return erf(x);
    case 7:
      return atan2(x, y);
    case 8:
      return sqrt(size);
    case 9:
      return rsqrt(size);
    case 10:
      return cbrt(x);
    case 11:
      return fmod(x, y);
    case 12:
      return round(x);
    case 13:
      return x / y;
    case 14:
      return log1p(size);
    case 15:
      return expm1(x);
    case 16:
      return sin(x * 1e9);
    case 17:
      return tgamma(size);
    case 18:
      return static_cast<double>(static_cast<long long>(x * 1e6));
    default:
      return hypot(x, y);
  }
}

extern "C" __global__ void math_f64(const double* x, const double* y, double* result, int n, int which) {
  const int k = blockIdx.x * blockDim.x + threadIdx.x;
  if (k < n) result[k] = functionOf(which, x[k], y[k]);
}

__device__ unsigned long long functionOf(int which, long long x, long long y) {
  const int a = static_cast<int>(x), b = static_cast<int>(y);
  const unsigned u = static_cast<unsigned>(x), v = static_cast<unsigned>(y);
  const unsigned long long ux = x, uy = y;
  switch (which) {
    case 0:
      return a / b;
    case 1:
      return a % b;
    case 2:
      return u / v;
    case 3:
      return u % v;
    case 4:
      return x / y;
    case 5:
      return x % y;
    case 6:
      return ux / uy;
    case 7:
      return ux % uy;
    case 8:
      return a / 7;
    case 9:
      return u % 10;
    case 10:
      return static_cast<short>(a) / static_cast<short>(b | 1);
    case 11:
      return static_cast<signed char>(a) % static_cast<signed char>(b | 1);
    case 12:
      return __mulhi(a, b);
    case 13:
      return __umulhi(u, v);
    case 14:
      return __mul64hi(x, y);
    case 15:
      return __umul64hi(x, y);
    case 16:
      return __mul24(a, b);
    case 17:
      return __sad(a, b, u);
    case 18:
      return __hadd(a, b);
    case 19:
      return __urhadd(u, v);
    case 20:
      return __brev(u);
    case 21:
      return __ffsll(x);
    case 22:
      return __clz(a);
    case 23:
      return __clzll(x);
    case 24:
      return __popcll(x);
    case 25:
      return __byte_perm(u, v, 0x3517);
    case 26:
      return __funnelshift_l(u, v, v);
    case 27:
      return __funnelshift_rc(u, v, v & 63);
    case 28:
      return __dp4a(a, b, a);
    case 29:
      return __vadd4(u, v);
    case 30:
      return __vabsdiffu4(u, v);
    case 31:
      return __vmaxs2(u, v);
    case 32:
      return __vcmpgtu4(u, v);
    case 33:
      return __vavgu4(u, v);
    case 34:
      return __vsadu4(u, v);
    case 35:
      return static_cast<unsigned long long>((static_cast<unsigned __int128>(ux) * uy + u) >> 64);
    case 36:
      return static_cast<unsigned long long>((static_cast<__int128>(x) * y - ux) >> 70);
    case 37:
      return static_cast<unsigned long long>((static_cast<__int128>(x) * y) / (static_cast<__int128>(b) | 1));
    default:
      return llabs(x) + min(a, b) + max(u, v);
  }
}

extern "C" __global__ void math_integers(const long long* x, const long long* y, unsigned long long* result, int n,
                                         int which) {
  const int k = blockIdx.x * blockDim.x + threadIdx.x;
  if (k < n) result[k] = functionOf(which, x[k], y[k]);
}
