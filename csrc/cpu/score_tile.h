// Scores of a tile of rows against keys, for every operator that looks at attention weights.
//
// Queries are transposed, [head_size, rows] with rows a multiple of kLanes, so that a vector holds one element of
// several rows. A score is one chain of multiply-adds over the head's elements: it has the same bits wherever its row
// stands in a tile and however large that tile is. Register blocking only decides how many chains run side by side.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "cpu/simd.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {

inline constexpr int64_t kGroupKeys = 24;  // keys scored at a time; a multiple of every kKeys of score_keys()

// Memory of one thread, kept between calls.
struct Scratch {
  float* data = nullptr;
  int64_t size = 0;
  ~Scratch() { free(data); }

  float* reserve(int64_t floats) {
    if (floats > size) {
      free(data);
      const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + 63) / 64 * 64;
      data = static_cast<float*>(aligned_alloc(64, bytes));
      if (data == nullptr) abort();
      size = floats;
    }
    return data;
  }
};

inline int64_t whole_vectors(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// The largest panel, 1 to 3 vectors wide, that does not leave a remainder of 1.
inline int64_t panel_width(int64_t vecs_left) {
  return vecs_left == 3 || vecs_left >= 5 ? 3 : (vecs_left >= 2 ? 2 : 1);
}

// scores[key][row] = sum over d of keys[key][d] * q[d][row], for kKeys keys and kVecs vectors of rows.
template <int kKeys, int kVecs>
inline void score_keys(const float* const (&keys)[kKeys], const float* q, int64_t rows, int64_t head_size,
                       float* scores) {
  FloatVec acc[kKeys][kVecs] = {};
  for (int64_t d = 0; d < head_size; ++d) {
    FloatVec column[kVecs];
#pragma GCC unroll 4
    for (int u = 0; u < kVecs; ++u) column[u] = load(q + d * rows + u * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kKeys; ++i) {
      const FloatVec element = broadcast(keys[i][d]);
#pragma GCC unroll 4
      for (int u = 0; u < kVecs; ++u) acc[i][u] += element * column[u];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kKeys; ++i) {
#pragma GCC unroll 4
    for (int u = 0; u < kVecs; ++u) store(scores + i * rows + u * kLanes, acc[i][u]);
  }
}

// The scores of `count` keys (at most kGroupKeys) against kVecs vectors of rows. Behind the last key its scores are
// repeated up to a multiple of kKeys; nobody reads them.
template <int kKeys, int kVecs>
inline void score_panel(const float* keys, int64_t key_stride, int64_t count, const float* q, int64_t rows,
                        int64_t head_size, float* scores) {
  static_assert(kGroupKeys % kKeys == 0);
  for (int64_t first = 0; first < count; first += kKeys) {
    const float* key[kKeys];
    for (int i = 0; i < kKeys; ++i) key[i] = keys + (first + i < count ? first + i : count - 1) * key_stride;
    score_keys<kKeys, kVecs>(key, q, rows, head_size, scores + first * rows);
  }
}

// The same against all vectors of rows: scores [count rounded up to 8, rows].
inline void score_group(const float* keys, int64_t key_stride, int64_t count, const float* q, int64_t rows,
                        int64_t head_size, float* scores) {
  const int64_t vecs = rows / kLanes;
  for (int64_t first = 0; first < vecs;) {
    const int64_t panel = panel_width(vecs - first);
    const float* panel_q = q + first * kLanes;
    float* panel_scores = scores + first * kLanes;
    if (panel == 3) {
      score_panel<4, 3>(keys, key_stride, count, panel_q, rows, head_size, panel_scores);
    } else if (panel == 2) {
      score_panel<6, 2>(keys, key_stride, count, panel_q, rows, head_size, panel_scores);
    } else {
      score_panel<8, 1>(keys, key_stride, count, panel_q, rows, head_size, panel_scores);
    }
    first += panel;
  }
}

template <typename scalar_t>
inline void convert_row(const scalar_t* row, int64_t size, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) store(out + i, load(row + i));
  for (; i < size; ++i) out[i] = to_float(row[i]);
}

// The rows of a head lie far apart in a cache, which hardware prefetchers do not see through.
template <typename scalar_t>
inline void prefetch_rows(const scalar_t* rows, int64_t stride, int64_t count, int64_t size) {
  for (int64_t row = 0; row < count; ++row) {
    const char* bytes = reinterpret_cast<const char*>(rows + row * stride);
    for (int64_t i = 0; i < size * static_cast<int64_t>(sizeof(scalar_t)); i += 64) {
      __builtin_prefetch(bytes + i, 0, 2);
    }
  }
}

// score_group() of a head's keys in a cache, `stride` apart: of the first kGroupKeys of the `keys_left` that will be
// scored one after the other. `converted` is memory for [kGroupKeys, head_size rounded up to whole vectors], unless the
// cache is fp32.
template <typename scalar_t>
inline void score_cached(const scalar_t* k, int64_t stride, int64_t keys_left, const float* q, int64_t rows,
                         int64_t head_size, float* converted, float* scores) {
  const int64_t count = keys_left < kGroupKeys ? keys_left : kGroupKeys, next = keys_left - count;
  prefetch_rows(k + count * stride, stride, next < kGroupKeys ? next : kGroupKeys, head_size);
  if constexpr (sizeof(scalar_t) == sizeof(float)) {
    score_group(k, stride, count, q, rows, head_size, scores);
  } else {
    const int64_t width = whole_vectors(head_size);
    for (int64_t i = 0; i < count; ++i) convert_row(k + i * stride, head_size, converted + i * width);
    score_group(converted, width, count, q, rows, head_size, scores);
  }
}

// Turns `count` vectors of scores, `stride` elements apart, into e^(score - largest); returns their sum, added in
// order.
inline FloatVec exponentials(float* scores, int64_t stride, int64_t count, FloatVec largest) {
  FloatVec total = {};
  int64_t i = 0;
  for (; i + kSideBySide <= count; i += kSideBySide) {
    FloatVec weight[kSideBySide];
#pragma GCC unroll 4
    for (int u = 0; u < kSideBySide; ++u) weight[u] = load(scores + (i + u) * stride) - largest;
    exp_nonpositive(weight);
#pragma GCC unroll 4
    for (int u = 0; u < kSideBySide; ++u) {
      store(scores + (i + u) * stride, weight[u]);
      total += weight[u];
    }
  }
  for (; i < count; ++i) {
    const FloatVec weight = exp_nonpositive(load(scores + i * stride) - largest);
    store(scores + i * stride, weight);
    total += weight;
  }
  return total;
}

// The largest of `count` vectors of scores, `stride` elements apart, and of `start`.
inline FloatVec largest_of(const float* scores, int64_t stride, int64_t count, FloatVec start) {
  FloatVec largest[kSideBySide] = {start, start, start, start};
  int64_t i = 0;
  for (; i + kSideBySide <= count; i += kSideBySide) {
#pragma GCC unroll 4
    for (int u = 0; u < kSideBySide; ++u) largest[u] = max(largest[u], load(scores + (i + u) * stride));
  }
  for (; i < count; ++i) largest[0] = max(largest[0], load(scores + i * stride));
  return max(max(largest[0], largest[1]), max(largest[2], largest[3]));
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
