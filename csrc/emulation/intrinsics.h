// Bit, integer, arithmetic and load intrinsics under their CUDA names. The approximate ones (__expf, rsqrtf, ...) are
// computed exactly here: results agree with a device to its error bounds, not to the bit.
#pragma once

#include <math.h>

#include <bit>
#include <cmath>
#include <cstdint>

// -------------------------------------------------------------------------------------------------------------- bits

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }

inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1u) << (31 - i);
  return reversed;
}

inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  const uint64_t both = uint64_t{high} << 32 | low;
  return static_cast<unsigned>(both << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  const uint64_t both = uint64_t{high} << 32 | low;
  return static_cast<unsigned>(both >> (shift & 31));
}

// Four bytes out of the eight of (x, y), one selector digit each; a digit's top bit asks for the sign of that byte.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned digit = selector >> (4 * i);
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (digit & 7u))) & 0xffu;
    if (digit & 8u) byte = byte & 0x80u ? 0xffu : 0x00u;
    result |= byte << (8 * i);
  }
  return result;
}

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

// ----------------------------------------------------------------------------------------------------------- integers

inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline int __mulhi(int a, int b) { return static_cast<int>(int64_t{a} * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ typedef unsigned __int128 Wide;
  return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
}

// min and max as CUDA overloads them in the global namespace: mixed signedness is compared as unsigned.
#define DLMCACHE_EMULATION_MIN_MAX(T, A, B)                                                                           \
  constexpr T min(A a, B b) { return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b); } \
  constexpr T max(A a, B b) { return static_cast<T>(a) > static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b); }
DLMCACHE_EMULATION_MIN_MAX(int, int, int)
DLMCACHE_EMULATION_MIN_MAX(unsigned, unsigned, unsigned)
DLMCACHE_EMULATION_MIN_MAX(unsigned, int, unsigned)
DLMCACHE_EMULATION_MIN_MAX(unsigned, unsigned, int)
DLMCACHE_EMULATION_MIN_MAX(long, long, long)
DLMCACHE_EMULATION_MIN_MAX(unsigned long, unsigned long, unsigned long)
DLMCACHE_EMULATION_MIN_MAX(unsigned long, long, unsigned long)
DLMCACHE_EMULATION_MIN_MAX(unsigned long, unsigned long, long)
DLMCACHE_EMULATION_MIN_MAX(long long, long long, long long)
DLMCACHE_EMULATION_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
DLMCACHE_EMULATION_MIN_MAX(unsigned long long, long long, unsigned long long)
DLMCACHE_EMULATION_MIN_MAX(unsigned long long, unsigned long long, long long)
#undef DLMCACHE_EMULATION_MIN_MAX
// Floating-point ones ignore a NaN when the other argument is a number.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(a, b); }
inline double max(float a, double b) { return fmax(a, b); }
inline double min(double a, float b) { return fmin(a, b); }
inline double max(double a, float b) { return fmax(a, b); }

// ---------------------------------------------------------------------------------------------------------- arithmetic

inline float rsqrtf(float x) noexcept { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) noexcept { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline void __sincosf(float x, float* sine, float* cosine) {
  *sine = sinf(x);
  *cosine = cosf(x);
}
inline float __fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }  // NaN becomes 0

// Rounded to nearest and never contracted into a fused multiply-add, which is what kernels use these for.
#define DLMCACHE_EMULATION_NO_CONTRACTION __attribute__((noinline))
DLMCACHE_EMULATION_NO_CONTRACTION inline float __fadd_rn(float x, float y) { return x + y; }
DLMCACHE_EMULATION_NO_CONTRACTION inline float __fsub_rn(float x, float y) { return x - y; }
DLMCACHE_EMULATION_NO_CONTRACTION inline float __fmul_rn(float x, float y) { return x * y; }
#undef DLMCACHE_EMULATION_NO_CONTRACTION
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }

inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
inline int __float2int_ru(float x) { return static_cast<int>(ceilf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

// -------------------------------------------------------------------------------------- loads and stores with hints

// A hint changes no value. __ldg is only right for memory that nobody writes during the kernel, which is not
// checked.

template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldca(const T* address) {
  return *address;
}
template <typename T>
T __ldcg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
T __ldlu(const T* address) {
  return *address;
}
template <typename T>
T __ldcv(const T* address) {
  return *address;
}
template <typename T>
void __stwb(T* address, T value) {
  *address = value;
}
template <typename T>
void __stcg(T* address, T value) {
  *address = value;
}
template <typename T>
void __stcs(T* address, T value) {
  *address = value;
}
template <typename T>
void __stwt(T* address, T value) {
  *address = value;
}
