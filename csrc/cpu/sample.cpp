#include "dlmcache/sample.h"

#include "cpu/simd.h"
#include "dlmcache/dispatch.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
namespace {

// Digits of a key, from the most significant on: three passes over a row find the cut.
constexpr int kLevels = 3;
constexpr int kBits[kLevels] = {11, 11, 10};
constexpr int kShift[kLevels] = {21, 10, 0};
constexpr int kBins = 1 << 11;

// One function for all passes, so that an id weighs the same in each of them.
__attribute__((noinline)) void masses(const float* x, float largest, int64_t* mass) {
  alignas(64) float exponential[kLanes];
  store(exponential, exp_nonpositive(load(x) - broadcast(largest)));
  for (int i = 0; i < kLanes; ++i) mass[i] = mass_of(exponential[i]);
}

// The smallest key above which the ids weigh at most the limit: kMass, top_p of all mass; else top_k - 1 ids.
template <bool kMass>
uint32_t find_cut(const float* x, int64_t count, float largest, double top_p, int64_t top_k) {
  int64_t bins[kBins];
  int64_t above = 0, limit = top_k - 1;
  uint32_t cut = 0;
  for (int level = 0; level < kLevels; ++level) {
    const int shift = kShift[level], end_shift = shift + kBits[level];
    memset(bins, 0, sizeof(bins));
    for (int64_t first = 0; first < count; first += kLanes) {
      alignas(64) float padded[kLanes];
      const int width = static_cast<int>(count - first < kLanes ? count - first : kLanes);
      const float* values = x + first;
      if (width < kLanes) {
        for (int i = 0; i < kLanes; ++i) padded[i] = i < width ? values[i] : -INFINITY;
        values = padded;
      }
      uint32_t keys[kLanes];
      bool inside[kLanes], any = false;
      for (int i = 0; i < kLanes; ++i) {
        keys[i] = order_key(values[i]);
        // A shift by 32 is undefined, and at the first level every key belongs.
        inside[i] = values[i] > -INFINITY && (level == 0 || keys[i] >> end_shift == cut >> end_shift);
        any |= inside[i];
      }
      if (!any) continue;
      int64_t weight[kLanes];
      if constexpr (kMass) {
        masses(values, largest, weight);
      } else {
        for (int i = 0; i < kLanes; ++i) weight[i] = 1;
      }
      for (int i = 0; i < kLanes; ++i) {
        if (inside[i]) bins[keys[i] >> shift & ((1u << kBits[level]) - 1)] += weight[i];
      }
    }
    if (kMass && level == 0) {
      int64_t total = 0;
      for (const int64_t bin : bins) total += bin;
      limit = mass_limit(top_p, total);
    }
    int digit = (1 << kBits[level]) - 1;
    while (digit > 0 && above + bins[digit] <= limit) above += bins[digit--];
    cut |= static_cast<uint32_t>(digit) << shift;
  }
  return cut;
}

template <typename scalar_t>
void filter_row(const FilterParams& p, int64_t row) {
  const auto* logits = static_cast<const scalar_t*>(p.logits) + row * p.logits_stride;
  float* out = p.out + row * p.out_stride;
  float largest = -INFINITY;
  bool has_nan = false;
  for (int64_t i = 0; i < p.vocab; ++i) {
    float value = to_float(logits[i]);
    if (p.temperature > 0.0f) value /= p.temperature;
    out[i] = value;
    has_nan |= value != value;
    largest = value > largest ? value : largest;
  }
  if (has_nan || largest == -INFINITY || largest == INFINITY) return;
  uint32_t cut = 0;
  if (p.top_p < 1.0) cut = find_cut<true>(out, p.vocab, largest, p.top_p, 0);
  if (p.top_k > 0) {
    const uint32_t other = find_cut<false>(out, p.vocab, largest, 0.0, p.top_k);
    cut = other > cut ? other : cut;
  }
  if (cut == 0) return;
  for (int64_t i = 0; i < p.vocab; ++i) out[i] = filtered(out[i], cut);
}

}  // namespace

void filter_logits_rows(const FilterParams& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    if (p.row_index && p.row_index[row] < 0) continue;
    dispatch_float(p.dtype, [&](auto tag) { filter_row<typename decltype(tag)::type>(p, row); });
  }
}

void sample_finish_rows(const SampleFinishParams& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    if (p.row_index && p.row_index[row] < 0) {
      write_sample(p, row, -1, 0.0f, 0.0f);
      continue;
    }
    VocabState merged = p.state[row * p.num_segments];
    for (int64_t segment = 1; segment < p.num_segments; ++segment) {
      merged = merge_states(merged, p.state[row * p.num_segments + segment]);
    }
    finish_sample(p, row, merged);
  }
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
