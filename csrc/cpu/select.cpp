#include "dlmcache/select.h"

#include <cstring>

#include "cpu/simd.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
namespace {

// Keys are made so many at a time, in vectors.
constexpr int64_t kChunk = 256;
constexpr int kTables = 2;
constexpr uint32_t kOthers = 256;  // a bit above those of a byte

UintVec bits_of(FloatVec v) { return reinterpret_cast<UintVec>(v); }

// selection_key() of up to kChunk scores; what stands behind them is of no meaning.
void make_keys(const float* score, int64_t count, bool largest, uint32_t* keys) {
  const UintVec flip = UintVec{} + (largest ? 0u : ~0u), sign = UintVec{} + 0x80000000u;
  for (int64_t i = 0; i < count; i += kLanes) {
    float rest[kLanes] = {};
    const bool whole = i + kLanes <= count;
    if (!whole) std::memcpy(rest, score + i, (count - i) * sizeof(float));
    const FloatVec v = load(whole ? score + i : rest);
    const UintVec bits = bits_of(v + 0.0f);
    const UintVec ordered = bits ^ (reinterpret_cast<UintVec>(reinterpret_cast<IntVec>(bits) >> 31) | sign) ^ flip;
    const UintVec key = v == v ? ordered : ~UintVec{};
    std::memcpy(keys + i, &key, sizeof(key));
  }
}

// Entries with a key above `key` are selected, and the first `num_equal` of those with this key.
struct Threshold {
  uint32_t key;
  int64_t num_equal;
};

// The key of the k-th best of `count` scores, 1 <= k <= count, one byte at a time from the top: count the keys that
// begin with the bytes known so far by their next byte, and go down from the largest until k of them are passed.
Threshold find_threshold(const float* score, int64_t count, int64_t k, bool largest) {
  uint32_t prefix = 0, keys[kChunk];
  for (int shift = 24; shift >= 0; shift -= 8) {
    // In turns, because scores share their first bytes: of neighbours that count in one place the second has to wait.
    // Keys that begin otherwise are counted where nobody looks, since no branch could foresee which do.
    int32_t histogram[kTables][2 * kOthers] = {};
    const UintVec known = UintVec{} + (shift == 24 ? 0u : ~0u << (shift + 8)), wanted = UintVec{} + prefix;
    for (int64_t begin = 0; begin < count; begin += kChunk) {
      const int64_t here = count - begin < kChunk ? count - begin : kChunk;
      make_keys(score + begin, here, largest, keys);
      for (int64_t i = 0; i < here; i += kLanes) {
        UintVec key;
        std::memcpy(&key, keys + i, sizeof(key));
        const UintVec other = reinterpret_cast<UintVec>((key & known) != wanted) & kOthers;
        key = (key >> shift & 255u) | other;
        std::memcpy(keys + i, &key, sizeof(key));
      }
      for (int64_t i = 0; i < here; ++i) ++histogram[i % kTables][keys[i]];
    }
    const auto entered = [&](uint32_t digit) {
      int64_t total = 0;
      for (int t = 0; t < kTables; ++t) total += histogram[t][digit];
      return total;
    };
    uint32_t digit = 255;
    for (; entered(digit) < k; --digit) k -= entered(digit);
    prefix |= digit << shift;
  }
  return {prefix, k};
}

}  // namespace

void select_rows(const SelectRowsParams& p, int64_t begin, int64_t end) {
  for (int64_t slot = begin; slot < end; ++slot) {
    const int64_t first = p.cu_rows[slot], behind = p.cu_rows[slot + 1];
    const int64_t k = p.cu_selected[slot + 1] - p.cu_selected[slot];
    if (k == 0) continue;
    // With k = count the last key passes every entry, so that this case needs no branch of its own.
    Threshold threshold = find_threshold(p.score + first, behind - first, k, p.largest);
    // Every entry is written, and the next one over it where it was not selected: no branch to be foreseen.
    int64_t out = p.cu_selected[slot];
    const int64_t out_behind = p.cu_selected[slot + 1];
    uint32_t keys[kChunk];
    for (int64_t begin_chunk = first; out < out_behind; begin_chunk += kChunk) {
      const int64_t here = behind - begin_chunk < kChunk ? behind - begin_chunk : kChunk;
      make_keys(p.score + begin_chunk, here, p.largest, keys);
      for (int64_t i = 0; i < here && out < out_behind; ++i) {
        const bool is_equal = (keys[i] == threshold.key) & (threshold.num_equal > 0);
        threshold.num_equal -= is_equal;
        p.selected[out] = p.row_index[begin_chunk + i];
        p.places[out] = begin_chunk + i;
        out += (keys[i] > threshold.key) | is_equal;
      }
    }
  }
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
