// Philox and Gumbel noise for whole vectors; the scalar definitions are in dlmcache/philox.h.
#pragma once

#include <cstdint>

#include "cpu/simd.h"
#include "dlmcache/philox.h"

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {

// Numbers of one call of fill_gumbel are multiples of this.
inline constexpr int kNoiseStep = 4 * kLanes;

// High and low halves of the 64-bit products.
inline void multiply(UintVec a, uint32_t b, UintVec& high, UintVec& low) {
#if defined(__SSE2__)
  // The instruction multiplies the even lanes only: once for those, once for the odd ones shifted down.
#if defined(__AVX2__)
  using Register = __m256i;
  const Register factor = _mm256_set1_epi64x(b);
  const Register even = _mm256_mul_epu32(reinterpret_cast<Register>(a), factor);
  const Register odd = _mm256_mul_epu32(_mm256_srli_epi64(reinterpret_cast<Register>(a), 32), factor);
#else
  using Register = __m128i;
  const Register factor = _mm_set1_epi64x(b);
  const Register even = _mm_mul_epu32(reinterpret_cast<Register>(a), factor);
  const Register odd = _mm_mul_epu32(_mm_srli_epi64(reinterpret_cast<Register>(a), 32), factor);
#endif
  typedef uint64_t LongVec __attribute__((vector_size(sizeof(UintVec))));
  const LongVec even_long = reinterpret_cast<LongVec>(even), odd_long = reinterpret_cast<LongVec>(odd);
  low = reinterpret_cast<UintVec>((even_long & 0xffffffffu) | (odd_long << 32));
  high = reinterpret_cast<UintVec>((even_long >> 32) | (odd_long & 0xffffffff00000000u));
#else
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t product = static_cast<uint64_t>(a[i]) * b;
    high[i] = static_cast<uint32_t>(product >> 32);
    low[i] = static_cast<uint32_t>(product);
  }
#endif
}

inline FloatVec gumbel_from_words(UintVec x) {
  const IntVec upper = reinterpret_cast<IntVec>(x) < 0;
  const IntVec folded = reinterpret_cast<IntVec>(x) ^ upper;
  const FloatVec tail = (__builtin_convertvector(folded, FloatVec) + 0.5f) * 0x1p-32f;
  const FloatVec y = upper ? 1.0f - tail : tail;
  const FloatVec negative_log = -log(y);
  // log1p(-tail) from log(1 - tail): the quotient takes back what rounding 1 - tail did.
  const FloatVec from_tail = y == 1.0f ? tail : negative_log * (tail / (1.0f - y));
  return -log(upper ? from_tail : negative_log);
}

// out[i] = Gumbel noise of index 4 * first_group + i, for i < count (a multiple of kNoiseStep).
inline void fill_gumbel(int64_t seed, int64_t step, int64_t position, uint32_t first_group, int count, float* out) {
  UintVec lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  for (int begin = 0; begin < count; begin += kNoiseStep) {
    UintVec c0 = lane + (first_group + begin / 4);
    UintVec c1 = UintVec{} + static_cast<uint32_t>(position);
    UintVec c2 = UintVec{} + static_cast<uint32_t>(step);
    UintVec c3 = UintVec{} + kGumbelStream;
    PhiloxKey key = philox_key(seed);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      UintVec high0, low0, high1, low1;
      multiply(c0, kPhiloxMultiplier0, high0, low0);
      multiply(c2, kPhiloxMultiplier1, high1, low1);
      c0 = high1 ^ c1 ^ key.low;
      c1 = low1;
      c2 = high0 ^ c3 ^ key.high;
      c3 = low0;
      key.low += kPhiloxWeyl0;
      key.high += kPhiloxWeyl1;
    }
    const UintVec words[4] = {c0, c1, c2, c3};
    for (int word = 0; word < 4; ++word) {
      const FloatVec noise = gumbel_from_words(words[word]);
      for (int i = 0; i < kLanes; ++i) out[begin + 4 * i + word] = noise[i];
    }
  }
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
