#include "dlmcache/select.h"

#include "cpu/simd.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
namespace {

// Entries with a key above `key` are selected, and the first `num_equal` of those with this key.
struct Threshold {
  uint32_t key;
  int64_t num_equal;
};

// The key of the k-th best of `count` scores, 1 <= k <= count, one byte at a time from the top: count the keys that
// begin with the bytes known so far by their next byte, and go down from the largest until k of them are passed.
Threshold find_threshold(const float* score, int64_t count, int64_t k, bool largest) {
  uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    int64_t histogram[256] = {};
    const uint32_t known = shift == 24 ? 0u : ~0u << (shift + 8);
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t key = selection_key(score[i], largest);
      if ((key & known) == prefix) ++histogram[key >> shift & 255u];
    }
    uint32_t digit = 255;
    for (; histogram[digit] < k; --digit) k -= histogram[digit];
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
    int64_t out = p.cu_selected[slot];
    for (int64_t entry = first; entry < behind; ++entry) {
      const uint32_t key = selection_key(p.score[entry], p.largest);
      const bool is_equal = key == threshold.key && threshold.num_equal > 0;
      if (key <= threshold.key && !is_equal) continue;
      threshold.num_equal -= is_equal;
      p.selected[out] = p.row_index[entry];
      p.places[out] = entry;
      ++out;
    }
  }
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
