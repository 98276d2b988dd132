#include "dlmcache/attention.h"

#include <cmath>
#include <cstdlib>

#include "cpu/score_tile.h"
#include "cpu/simd.h"
#include "dlmcache/dispatch.h"

// Every row's arithmetic is the same wherever it stands in a tile and however large that tile is: scores are as in
// score_tile.h, an output element is one chain of multiply-adds over the keys, and blocks and splits of keys begin at
// multiples of their size.

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
namespace {

constexpr int64_t kBlockKeys = 96;  // keys per softmax update
// Keys whose weighted values are summed before they join the rest: one long chain of additions to a large sum would
// round away what each of them brings.
constexpr int64_t kSumKeys = 16;
static_assert(kBlockKeys % kGroupKeys == 0 && kAttentionTileRows % kLanes == 0);

thread_local Scratch thread_scratch;

// Running softmax of a tile over the keys seen so far.
struct State {
  float* max;     // [rows]
  float* sum;     // [rows]
  float* values;  // [rows, width]
};

// values[row][column] = values[row][column] * decay[row] + sum over keys of weights[key][row] * v[key][column], for
// kRows rows and a panel of kVecs vectors of columns.
template <int kRows, int kVecs>
inline void add_values(const float* weights, int64_t rows, const float* v, int64_t count, const float* decay,
                       float* values, int64_t width) {
  for (int64_t first = 0; first < count; first += kSumKeys) {
    const int64_t last = first + kSumKeys < count ? first + kSumKeys : count;
    FloatVec acc[kRows][kVecs] = {};
    for (int64_t key = first; key < last; ++key) {
      FloatVec column[kVecs];
#pragma GCC unroll 4
      for (int u = 0; u < kVecs; ++u) column[u] = load(v + (key * kVecs + u) * kLanes);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const FloatVec weight = broadcast(weights[key * rows + r]);
#pragma GCC unroll 4
        for (int u = 0; u < kVecs; ++u) acc[r][u] += weight * column[u];
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const FloatVec shrink = broadcast(first == 0 ? decay[r] : 1.0f);
#pragma GCC unroll 4
      for (int u = 0; u < kVecs; ++u) {
        float* sum = values + r * width + u * kLanes;
        store(sum, load(sum) * shrink + acc[r][u]);
      }
    }
  }
}

template <int kVecs>
inline void add_values_panel(const float* weights, int64_t rows, int64_t used_rows, const float* v, int64_t count,
                             const float* decay, float* values, int64_t width) {
  int64_t row = 0;
  for (; row + 4 <= used_rows; row += 4) {
    add_values<4, kVecs>(weights + row, rows, v, count, decay + row, values + row * width, width);
  }
  weights += row, decay += row, values += row * width;
  switch (used_rows - row) {
    case 3:
      return add_values<3, kVecs>(weights, rows, v, count, decay, values, width);
    case 2:
      return add_values<2, kVecs>(weights, rows, v, count, decay, values, width);
    case 1:
      return add_values<1, kVecs>(weights, rows, v, count, decay, values, width);
  }
}

// `count` rows of v as fp32, cut into panels of up to 3 vectors of columns, each panel contiguous: walking one panel
// over all keys then stays within the L1 cache whatever the stride of the cache rows is.
template <typename scalar_t>
inline void pack_values(const scalar_t* v, int64_t stride, int64_t count, int64_t head_size, float* packed) {
  const int64_t vecs = (head_size + kLanes - 1) / kLanes, whole = head_size / kLanes;
  for (int64_t key = 0; key < count; ++key) {
    const scalar_t* row = v + key * stride;
    for (int64_t first = 0; first < vecs;) {
      const int64_t panel = panel_width(vecs - first);
      float* destination = packed + (first * kBlockKeys + key * panel) * kLanes;
      for (int64_t u = 0; u < panel; ++u) {
        if (first + u < whole) {
          store(destination + u * kLanes, load(row + (first + u) * kLanes));
        } else {
          for (int64_t i = 0; i < kLanes; ++i) {
            const int64_t column = whole * kLanes + i;
            destination[u * kLanes + i] = column < head_size ? to_float(row[column]) : 0.0f;
          }
        }
      }
      first += panel;
    }
  }
}

// Turns scores into weights e^(score - max) in place, updates max and sum, and writes by how much older values shrink.
inline void softmax_block(float* scores, int64_t rows, int64_t count, State state, float* decay) {
  for (int64_t row = 0; row < rows; row += kLanes) {
    const FloatVec before = load(state.max + row);
    const FloatVec largest = largest_of(scores + row, rows, count, before);
    const FloatVec shrink = exp_nonpositive(before - largest);
    const FloatVec total = exponentials(scores + row, rows, count, largest);
    store(state.max + row, largest);
    store(state.sum + row, load(state.sum + row) * shrink + total);
    store(decay + row, shrink);
  }
}

// The only place where two partial results meet: out of line, so that both callers run the same instructions.
__attribute__((noinline)) void merge_row(float* max_a, float* sum_a, float* values_a, float max_b, float sum_b,
                                         const float* values_b, int64_t size) {
  const FloatVec a = broadcast(*max_a), b = broadcast(max_b);
  const FloatVec largest = max(a, b);
  const FloatVec weight_a = exp_nonpositive(a - largest), weight_b = exp_nonpositive(b - largest);
  *max_a = largest[0];
  *sum_a = *sum_a * weight_a[0] + sum_b * weight_b[0];
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    store(values_a + i, load(values_a + i) * weight_a + load(values_b + i) * weight_b);
  }
  for (; i < size; ++i) values_a[i] = values_a[i] * weight_a[0] + values_b[i] * weight_b[0];
}

template <typename scalar_t>
void write_row(const AttentionParams& p, int64_t row_head, float max_score, float sum, const float* values) {
  scalar_t* out = static_cast<scalar_t*>(p.out) + row_head * p.head_size;
  const float inverse = 1.0f / sum;
  int64_t i = 0;
  for (; i + kLanes <= p.head_size; i += kLanes) store(out + i, load(values + i) * inverse);
  for (; i < p.head_size; ++i) out[i] = from_float<scalar_t>(values[i] * inverse);
  if (p.lse) p.lse[row_head] = max_score + logf(sum);
}

// A tile and the memory that its computation needs.
template <typename scalar_t>
struct Tile {
  const AttentionParams& p;
  const int64_t slot, kv_head;
  const int64_t first_packed, used_rows;  // packed rows of the slot
  const int64_t rows;                     // used_rows rounded up to whole vectors
  const int64_t width;                    // head_size rounded up to whole vectors

  float* q;         // [head_size, rows], scaled
  float* scores;    // [kBlockKeys, rows]
  float* decay;     // [rows]
  float* keys;      // [kGroupKeys, head_size], unless the cache is fp32
  float* packed_v;  // [width / kLanes panels, kBlockKeys, ...]
  State merged, split;

  Tile(const AttentionParams& params, int64_t slot, int64_t kv_head, int64_t first_packed, int64_t used_rows)
      : p(params),
        slot(slot),
        kv_head(kv_head),
        first_packed(first_packed),
        used_rows(used_rows),
        rows((used_rows + kLanes - 1) / kLanes * kLanes),
        width((p.head_size + kLanes - 1) / kLanes * kLanes) {}

  int64_t row_head(int64_t packed) const {
    const int64_t group = p.num_heads / p.num_kv_heads;
    const int64_t j = first_packed + packed;
    return (p.cu_rows[slot] + j / group) * p.num_heads + kv_head * group + j % group;
  }

  void allocate() {
    const int64_t state = kAttentionTileRows * (2 + width);
    float* free_memory = thread_scratch.reserve(kAttentionTileRows * (p.head_size + kBlockKeys + 1) +
                                                kGroupKeys * width + kBlockKeys * width + 2 * state);
    const auto take = [&](int64_t count) {
      float* taken = free_memory;
      free_memory += count;
      return taken;
    };
    packed_v = take(kBlockKeys * width);
    q = take(kAttentionTileRows * p.head_size);
    scores = take(kAttentionTileRows * kBlockKeys);
    decay = take(kAttentionTileRows);
    merged = {take(kAttentionTileRows), take(kAttentionTileRows), take(kAttentionTileRows * width)};
    split = {take(kAttentionTileRows), take(kAttentionTileRows), take(kAttentionTileRows * width)};
    keys = take(kGroupKeys * width);
  }

  void load_q() {
    for (int64_t r = 0; r < rows; ++r) {
      const scalar_t* source = static_cast<const scalar_t*>(p.q) + (r < used_rows ? row_head(r) * p.head_size : 0);
      for (int64_t d = 0; d < p.head_size; ++d) q[d * rows + r] = r < used_rows ? to_float(source[d]) * p.scale : 0.0f;
    }
  }

  void score_block(const scalar_t* k, const scalar_t* v, int64_t stride, int64_t count, int64_t keys_left) {
    for (int64_t group = 0; group < count; group += kGroupKeys) {
      const int64_t in_group = count - group < kGroupKeys ? count - group : kGroupKeys;
      prefetch_rows(v + group * stride, stride, in_group, p.head_size);
      score_cached(k + group * stride, stride, keys_left - group, q, rows, p.head_size, keys, scores + group * rows);
    }
  }

  void add_block(const scalar_t* v, int64_t stride, int64_t count, State state) {
    pack_values(v, stride, count, p.head_size, packed_v);
    const int64_t vecs = width / kLanes;
    for (int64_t first = 0; first < vecs;) {
      const int64_t panel = panel_width(vecs - first);
      const float* panel_v = packed_v + first * kBlockKeys * kLanes;
      float* values = state.values + first * kLanes;
      if (panel == 3) {
        add_values_panel<3>(scores, rows, used_rows, panel_v, count, decay, values, width);
      } else if (panel == 2) {
        add_values_panel<2>(scores, rows, used_rows, panel_v, count, decay, values, width);
      } else {
        add_values_panel<1>(scores, rows, used_rows, panel_v, count, decay, values, width);
      }
      first += panel;
    }
  }

  // (max, sum, values) of keys [begin, end) of the slot.
  void attend(int64_t begin, int64_t end, State state) {
    for (int64_t r = 0; r < rows; ++r) state.max[r] = -__builtin_inff();
    memset(state.sum, 0, rows * sizeof(float));
    memset(state.values, 0, used_rows * width * sizeof(float));
    const int64_t stride = p.num_kv_heads * p.head_size;
    const int64_t base = slot * p.capacity * stride + kv_head * p.head_size;
    const scalar_t* k = static_cast<const scalar_t*>(p.k) + base;
    const scalar_t* v = static_cast<const scalar_t*>(p.v) + base;
    for (int64_t key = begin; key < end; key += kBlockKeys) {
      const int64_t count = end - key < kBlockKeys ? end - key : kBlockKeys;
      score_block(k + key * stride, v + key * stride, stride, count, end - key);
      softmax_block(scores, rows, count, state, decay);
      add_block(v + key * stride, stride, count, state);
    }
  }
};

template <typename scalar_t>
void attend_item(const AttentionParams& p, int64_t slot, int64_t kv_head, int64_t item) {
  const int64_t num_keys = p.kv_lens[slot];
  const KeySplits splits = attention_splits(num_keys);
  const bool one_split = p.max_splits > 0 && splits.count > 1;  // of several, computed by several workers
  const int64_t number = one_split ? item / splits.count : item;
  const int64_t packed = (p.cu_rows[slot + 1] - p.cu_rows[slot]) * (p.num_heads / p.num_kv_heads);
  const int64_t tiles = attention_tiles(packed);
  // Tiles of equal height: a last one of a few rows would read all keys for little.
  const int64_t height = ((packed + tiles - 1) / tiles + kLanes - 1) / kLanes * kLanes;

  const int64_t first_packed = number * height;
  const int64_t used_rows = packed - first_packed < height ? packed - first_packed : height;
  if (used_rows <= 0) return;
  Tile<scalar_t> tile(p, slot, kv_head, first_packed, used_rows);
  if (num_keys == 0) {
    for (int64_t r = 0; r < tile.used_rows; ++r) {
      const int64_t row_head = tile.row_head(r);
      memset(static_cast<scalar_t*>(p.out) + row_head * p.head_size, 0, p.head_size * sizeof(scalar_t));
      if (p.lse) p.lse[row_head] = -__builtin_inff();
    }
    return;
  }
  tile.allocate();
  tile.load_q();
  if (one_split) {
    const int64_t split = item % splits.count;
    const int64_t begin = split * splits.keys;
    tile.attend(begin, begin + splits.keys < num_keys ? begin + splits.keys : num_keys, tile.split);
    for (int64_t r = 0; r < tile.used_rows; ++r) {
      const int64_t entry = tile.row_head(r) * p.max_splits + split;
      p.partial_stats[2 * entry] = tile.split.max[r];
      p.partial_stats[2 * entry + 1] = tile.split.sum[r];
      memcpy(p.partial_values + entry * p.head_size, tile.split.values + r * tile.width, p.head_size * sizeof(float));
    }
    return;
  }
  for (int64_t split = 0; split < splits.count; ++split) {
    const int64_t begin = split * splits.keys;
    const int64_t end = begin + splits.keys < num_keys ? begin + splits.keys : num_keys;
    tile.attend(begin, end, split == 0 ? tile.merged : tile.split);
    for (int64_t r = 0; split > 0 && r < tile.used_rows; ++r) {
      merge_row(tile.merged.max + r, tile.merged.sum + r, tile.merged.values + r * tile.width, tile.split.max[r],
                tile.split.sum[r], tile.split.values + r * tile.width, p.head_size);
    }
  }
  for (int64_t r = 0; r < tile.used_rows; ++r) {
    write_row<scalar_t>(p, tile.row_head(r), tile.merged.max[r], tile.merged.sum[r],
                        tile.merged.values + r * tile.width);
  }
}

}  // namespace

void attention_rows(const AttentionParams& p, int64_t begin, int64_t end) {
  dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const int64_t items_per_head = p.item_start[p.num_slots];
    int64_t slot = 0, head = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t kv_head = i / items_per_head, item = i % items_per_head;
      if (kv_head != head) head = kv_head, slot = 0;
      while (item >= p.item_start[slot + 1]) ++slot;
      attend_item<scalar_t>(p, slot, kv_head, item - p.item_start[slot]);
    }
  });
}

void attention_merge_rows(const AttentionParams& p, int64_t begin, int64_t end) {
  dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    int64_t slot = 0;
    for (int64_t row = begin; row < end; ++row) {
      while (slot < p.num_slots && row >= p.cu_rows[slot + 1]) ++slot;
      if (slot == p.num_slots) return;
      const int64_t splits = attention_splits(p.kv_lens[slot]).count;
      if (splits < 2) continue;
      for (int64_t row_head = row * p.num_heads; row_head < (row + 1) * p.num_heads; ++row_head) {
        float* values = p.partial_values + row_head * p.max_splits * p.head_size;
        float* stats = p.partial_stats + row_head * p.max_splits * 2;
        for (int64_t split = 1; split < splits; ++split) {
          merge_row(stats, stats + 1, values, stats[2 * split], stats[2 * split + 1], values + split * p.head_size,
                    p.head_size);
        }
        write_row<scalar_t>(p, row_head, stats[0], stats[1], values);
      }
    }
  });
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
