// Portable SIMD for the CPU loops: GCC vector extensions, as wide as the instruction set this file is compiled for.
//
// Every file in csrc/cpu is compiled once per instruction set (DLMCACHE_CPU_ARCH names it) and dispatch.cpp picks one
// at run time, so nothing here may be visible across them: all of it lives in the namespace of its instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "dlmcache/dtype.h"

#if defined(__F16C__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef DLMCACHE_CPU_ARCH
#define DLMCACHE_CPU_ARCH baseline
#endif

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {

#ifdef __AVX2__
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

typedef float FloatVec __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t IntVec __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef uint32_t UintVec __attribute__((vector_size(kLanes * sizeof(uint32_t))));
typedef uint16_t ShortVec __attribute__((vector_size(kLanes * sizeof(uint16_t))));

// Minus zero, not plus: x - 0 is x for every x, so that this is one broadcast and no addition.
inline FloatVec broadcast(float value) { return value - FloatVec{}; }

inline FloatVec load(const float* source) {
  FloatVec v;
  memcpy(&v, source, sizeof(v));
  return v;
}

inline FloatVec load(const BFloat16* source) {
#ifdef __AVX2__
  // One widening load; the generic form below costs the compiler two and an insertion.
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
  return reinterpret_cast<FloatVec>(_mm256_slli_epi32(wide, 16));
#else
  ShortVec bits;
  memcpy(&bits, source, sizeof(bits));
  const UintVec wide = __builtin_convertvector(bits, UintVec) << 16;
  FloatVec v;
  memcpy(&v, &wide, sizeof(v));
  return v;
#endif
}

inline FloatVec load(const Half* source) {
#if defined(__F16C__) && defined(__AVX2__)
  return reinterpret_cast<FloatVec>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source))));
#else
  FloatVec v;
  for (int i = 0; i < kLanes; ++i) v[i] = to_float(source[i]);
  return v;
#endif
}

inline void store(float* destination, FloatVec v) { memcpy(destination, &v, sizeof(v)); }

#ifdef __AVX512BF16__
// One instruction in place of eight; it makes zeros of numbers below 2^-126 (1.2e-38), as oneDNN's products do.
inline __m128i to_bfloat16(FloatVec v) { return (__m128i)_mm256_cvtneps_pbh(reinterpret_cast<__m256>(v)); }

inline void store(BFloat16* destination, FloatVec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(destination), to_bfloat16(v));
}
#else
inline void store(BFloat16* destination, FloatVec v) {
  UintVec bits;
  memcpy(&bits, &v, sizeof(bits));
  const UintVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const UintVec quiet_nan = UintVec{} + 0x7fc0u;
  const UintVec result = v == v ? rounded : quiet_nan;
#ifdef __AVX2__
  const __m256i wide = reinterpret_cast<__m256i>(result);
  const __m128i narrow = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(destination), narrow);
#else
  const ShortVec narrow = __builtin_convertvector(result, ShortVec);
  memcpy(destination, &narrow, sizeof(narrow));
#endif
}
#endif

inline void store(Half* destination, FloatVec v) {
#if defined(__F16C__) && defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(destination),
                   _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  for (int i = 0; i < kLanes; ++i) destination[i] = from_float<Half>(v[i]);
#endif
}

// What storing as scalar_t and loading again gives (a NaN may keep another payload), without leaving the registers.
template <typename scalar_t>
inline FloatVec round_to(FloatVec v) {
  if constexpr (sizeof(scalar_t) == sizeof(float)) {
    return v;
  } else {
    scalar_t rounded[kLanes];
    store(rounded, v);
    return load(rounded);
  }
}

template <>
inline FloatVec round_to<BFloat16>(FloatVec v) {
#ifdef __AVX512BF16__
  return reinterpret_cast<FloatVec>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(to_bfloat16(v)), 16));
#else
  UintVec bits;
  memcpy(&bits, &v, sizeof(bits));
  const UintVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  FloatVec result;
  memcpy(&result, &rounded, sizeof(result));
  return v == v ? result : v;
#endif
}

inline float sum(FloatVec v) {
  float total = 0.0f;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

inline float max(FloatVec v) {
  float largest = v[0];
  for (int i = 1; i < kLanes; ++i) largest = v[i] > largest ? v[i] : largest;
  return largest;
}

inline FloatVec max(FloatVec a, FloatVec b) { return a > b ? a : b; }

inline FloatVec square_root(FloatVec v) {
  FloatVec root;
  for (int i = 0; i < kLanes; ++i) root[i] = __builtin_sqrtf(v[i]);
  return root;
}

inline FloatVec round_to_nearest(FloatVec v) {
  const FloatVec magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it leaves no fraction bits
  return (v + magic) - magic;
}

inline constexpr int kExpTerms = 6;
inline constexpr float kExpCoefficients[kExpTerms] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                                      4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};

// x - n ln 2 in two steps, which keeps it exact to fp32.
inline FloatVec exp_argument(FloatVec x, FloatVec n) { return (x - n * 0.693359375f) - n * -2.12194440e-4f; }

// e^(x - n ln 2) for the n that brings the argument into [-ln 2 / 2, ln 2 / 2].
inline FloatVec exp_remainder(FloatVec x, FloatVec n) {
  const FloatVec r = exp_argument(x, n);
  FloatVec poly = broadcast(kExpCoefficients[0]);
  for (int c = 1; c < kExpTerms; ++c) poly = poly * r + kExpCoefficients[c];
  return poly * r * r + r + 1.0f;
}

// e^x to about one unit in the last place; 0 below -87.3 (no subnormals), +inf above 88.7, NaN stays NaN.
inline FloatVec exp(FloatVec x) {
  const FloatVec low = broadcast(-87.33654f), high = broadcast(88.72283f);
  const FloatVec clamped = x < low ? low : (x > high ? high : x);
  const FloatVec n = round_to_nearest(clamped * 1.44269504f);
  const FloatVec mantissa = exp_remainder(clamped, n);
  // Two half-sized powers of two: 2^n itself overflows at n = 128 although the product does not.
  const IntVec exponent = __builtin_convertvector(n, IntVec);
  const IntVec half_exponent = exponent >> 1;
  const IntVec first = (half_exponent + 127) << 23, second = (exponent - half_exponent + 127) << 23;
  FloatVec first_scale, second_scale;
  memcpy(&first_scale, &first, sizeof(first));
  memcpy(&second_scale, &second, sizeof(second));
  const FloatVec value = mantissa * first_scale * second_scale;
  const FloatVec infinity = broadcast(__builtin_inff());
  return x < low ? FloatVec{} : (x > high ? infinity : (x == x ? value : x));
}

// Vectors whose long chains of operations are computed side by side, step by step: the processor looks only so far
// ahead that with one at a time it would wait for its own results.
inline constexpr int kSideBySide = 4;

// e^x in place for x <= 0, about half the work of exp(): 0 below -87.3 and for -inf, NaN stays NaN; wrong above 88.
template <int n>
inline void exp_nonpositive(FloatVec (&x)[n]) {
  // The bits of x / ln 2 + 1.5 * 2^23 + 127 end in the biased exponent of the nearest power of two.
  const FloatVec magic = broadcast(12582912.0f + 127.0f);
  FloatVec shifted[n], nearest[n], r[n], poly[n];
#pragma GCC unroll 4
  for (int u = 0; u < n; ++u) shifted[u] = x[u] * 1.44269504f + magic;
#pragma GCC unroll 4
  for (int u = 0; u < n; ++u) nearest[u] = shifted[u] - magic;
#pragma GCC unroll 4
  for (int u = 0; u < n; ++u) r[u] = exp_argument(x[u], nearest[u]);
#pragma GCC unroll 4
  for (int u = 0; u < n; ++u) poly[u] = broadcast(kExpCoefficients[0]);
#pragma GCC unroll 8
  for (int c = 1; c < kExpTerms; ++c) {
#pragma GCC unroll 4
    for (int u = 0; u < n; ++u) poly[u] = poly[u] * r[u] + kExpCoefficients[c];
  }
#pragma GCC unroll 4
  for (int u = 0; u < n; ++u) poly[u] = poly[u] * r[u] * r[u] + r[u] + 1.0f;
#pragma GCC unroll 4
  for (int u = 0; u < n; ++u) {
    UintVec bits;
    memcpy(&bits, &shifted[u], sizeof(bits));
    bits <<= 23;
    FloatVec power;
    memcpy(&power, &bits, sizeof(power));
    x[u] = x[u] < broadcast(-87.33654f) ? FloatVec{} : poly[u] * power;
  }
}

inline FloatVec exp_nonpositive(FloatVec x) {
  FloatVec values[1] = {x};
  exp_nonpositive(values);
  return values[0];
}

// ln x to about one unit in the last place, for positive normal x only.
inline FloatVec log(FloatVec x) {
  UintVec bits;
  memcpy(&bits, &x, sizeof(bits));
  // Split x = 2^e m with m in [sqrt(1/2), sqrt(2)), where the series around 1 converges fastest.
  const UintVec offset = bits - 0x3f3504f3u;
  const IntVec exponent = reinterpret_cast<IntVec>(offset) >> 23;
  const UintVec mantissa_bits = bits - (reinterpret_cast<UintVec>(exponent) << 23);
  FloatVec m;
  memcpy(&m, &mantissa_bits, sizeof(m));
  const FloatVec e = __builtin_convertvector(exponent, FloatVec);
  const FloatVec f = m - 1.0f;
  const FloatVec square = f * f;
  FloatVec poly = broadcast(7.0376836292e-2f);
  poly = poly * f - 1.1514610310e-1f;
  poly = poly * f + 1.1676998740e-1f;
  poly = poly * f - 1.2420140846e-1f;
  poly = poly * f + 1.4249322787e-1f;
  poly = poly * f - 1.6668057665e-1f;
  poly = poly * f + 2.0000714765e-1f;
  poly = poly * f - 2.4999993993e-1f;
  poly = poly * f + 3.3333331174e-1f;
  const FloatVec correction = poly * f * square + e * -2.12194440e-4f - 0.5f * square;
  return f + correction + e * 0.693359375f;
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
