// Counter-based random numbers: Philox4x32-10, the same bits in the CPU loops, the kernels and the torch twin.
//
// J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
// A number depends on nothing but (seed, step, position, stream, index), so a sequence draws the same noise in any
// slot, any batch, on any device, and whatever part of the work a thread owns.
#pragma once

#include <cmath>
#include <cstdint>

#include "dlmcache/macros.h"

namespace dlmcache {

// Streams: what a number is used for. Equal (seed, step, position) never share numbers between two purposes.
inline constexpr uint32_t kGumbelStream = 0;

inline constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
inline constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
inline constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u;  // golden ratio
inline constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85u;  // sqrt(3) - 1
inline constexpr int kPhiloxRounds = 10;

struct PhiloxWords {
  uint32_t word[4];
};

// word[lane] without an index that is known at run time only, which would put the words into memory on a GPU.
DLMCACHE_HOST_DEVICE uint32_t select_word(const PhiloxWords& words, int64_t lane) {
  const uint32_t low = lane == 0 ? words.word[0] : words.word[1];
  const uint32_t high = lane == 2 ? words.word[2] : words.word[3];
  return lane < 2 ? low : high;
}

struct PhiloxKey {
  uint32_t low, high;
};

DLMCACHE_HOST_DEVICE PhiloxKey philox_key(int64_t seed) {
  return {static_cast<uint32_t>(seed), static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32)};
}

DLMCACHE_HOST_DEVICE PhiloxWords philox(PhiloxWords counter, PhiloxKey key) {
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kPhiloxMultiplier0) * counter.word[0];
    const uint64_t product1 = static_cast<uint64_t>(kPhiloxMultiplier1) * counter.word[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key.low, static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key.high, static_cast<uint32_t>(product0)}};
    key.low += kPhiloxWeyl0;
    key.high += kPhiloxWeyl1;
  }
  return counter;
}

// The four words of one draw.
DLMCACHE_HOST_DEVICE PhiloxWords draw(int64_t seed, int64_t step, int64_t position, uint32_t stream, uint32_t index) {
  return philox({{index, static_cast<uint32_t>(position), static_cast<uint32_t>(step), stream}}, philox_key(seed));
}

// (x + 0.5) / 2^32 rounded once to fp32 and kept below 1, so that neither 0 nor 1 occurs.
DLMCACHE_HOST_DEVICE float uniform_from_word(uint32_t x) {
  const float u = static_cast<float>((static_cast<double>(x) + 0.5) * 0x1p-32);
  return u < 1.0f ? u : 0x1.fffffep-1f;
}

// -ln(-ln u) with u = (x + 0.5) / 2^32. For u above a half the exponential comes from 1 - u, which the integer gives
// exactly: u itself, rounded to fp32, has lost it, and the largest noise values live there.
DLMCACHE_HOST_DEVICE float gumbel_from_word(uint32_t x) {
  const bool upper = x >= 0x80000000u;
  const float tail = (static_cast<float>(static_cast<int32_t>(upper ? ~x : x)) + 0.5f) * 0x1p-32f;
  const float exponential = upper ? -log1pf(-tail) : -logf(tail);
  return -logf(exponential);
}

}  // namespace dlmcache
