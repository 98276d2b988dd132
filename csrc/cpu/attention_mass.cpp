#include "dlmcache/attention_mass.h"

#include <cmath>

#include "cpu/score_tile.h"
#include "cpu/simd.h"
#include "dlmcache/dispatch.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
namespace {

static_assert(kMassBlockKeys % kGroupKeys == 0 && kAttentionTileRows % kLanes == 0);

thread_local Scratch thread_scratch;

// Memory of a tile of rows against a block of keys.
struct Tile {
  int64_t width;  // head_size rounded up to whole vectors
  float* q;       // [head_size, rows], scaled
  float* keys;    // [kMassBlockKeys, width]: copies, because the rows of a head lie a power of two apart
  float* scores;  // [kMassBlockKeys, rows]
  float* lse;     // [rows]
  float* weight;  // [rows]

  explicit Tile(int64_t head_size) : width(whole_vectors(head_size)) {
    keys = thread_scratch.reserve(kMassBlockKeys * width + kAttentionTileRows * (head_size + kMassBlockKeys + 2));
    q = keys + kMassBlockKeys * width;
    scores = q + kAttentionTileRows * head_size;
    lse = scores + kAttentionTileRows * kMassBlockKeys;
    weight = lse + kAttentionTileRows;
  }
};

// Packed rows [first, first + used) of a slot and one key/value head.
struct PackedRows {
  int64_t slot, kv_head, first, used;

  int64_t row(const AttentionMassParams& p, int64_t i) const {
    return p.cu_rows[slot] + (first + i) / (p.num_heads / p.num_kv_heads);
  }
  int64_t row_head(const AttentionMassParams& p, int64_t i) const {
    const int64_t group = p.num_heads / p.num_kv_heads;
    return row(p, i) * p.num_heads + kv_head * group + (first + i) % group;
  }
};

template <typename scalar_t>
void load_q(const AttentionMassParams& p, const PackedRows& packed, int64_t rows, float* q) {
  for (int64_t r = 0; r < rows; ++r) {
    const bool used = r < packed.used;
    const scalar_t* source =
        static_cast<const scalar_t*>(p.q) + (used ? packed.row_head(p, r) * p.head_size : int64_t{0});
    for (int64_t d = 0; d < p.head_size; ++d) q[d * rows + r] = used ? to_float(source[d]) * p.scale : 0.0f;
  }
}

template <typename scalar_t>
void load_keys(const AttentionMassParams& p, int64_t slot, int64_t kv_head, int64_t first, int64_t count,
               const Tile& tile) {
  const int64_t stride = p.num_kv_heads * p.head_size;
  const scalar_t* k = static_cast<const scalar_t*>(p.k) + (slot * p.capacity + first) * stride + kv_head * p.head_size;
  for (int64_t i = 0; i < count; ++i) convert_row(k + i * stride, p.head_size, tile.keys + i * tile.width);
}

void score_block(const Tile& tile, int64_t count, int64_t rows, int64_t head_size) {
  for (int64_t first = 0; first < count; first += kGroupKeys) {
    const int64_t in_group = count - first < kGroupKeys ? count - first : kGroupKeys;
    score_group(tile.keys + first * tile.width, tile.width, in_group, tile.q, rows, head_size,
                tile.scores + first * rows);
  }
}

// (max, sum) of one split of the keys for one tile of rows.
template <typename scalar_t>
void stats_item(const AttentionMassParams& p, int64_t slot, int64_t kv_head, int64_t item) {
  const int64_t num_keys = p.kv_lens[slot];
  const KeySplits splits = attention_splits(num_keys);
  const int64_t num_packed = (p.cu_rows[slot + 1] - p.cu_rows[slot]) * (p.num_heads / p.num_kv_heads);
  const int64_t first_packed = item / splits.count * kAttentionTileRows;
  const int64_t left = num_packed - first_packed;
  const PackedRows packed{slot, kv_head, first_packed, left < kAttentionTileRows ? left : kAttentionTileRows};
  const int64_t rows = whole_vectors(packed.used);
  const Tile tile(p.head_size);
  load_q<scalar_t>(p, packed, rows, tile.q);

  const int64_t split = item % splits.count;
  const int64_t begin = split * splits.keys;
  const int64_t end = begin + splits.keys < num_keys ? begin + splits.keys : num_keys;
  FloatVec largest[kAttentionTileRows / kLanes], total[kAttentionTileRows / kLanes];
  for (int64_t u = 0; u < rows / kLanes; ++u) largest[u] = broadcast(-__builtin_inff()), total[u] = FloatVec{};
  for (int64_t key = begin; key < end; key += kMassBlockKeys) {
    const int64_t count = end - key < kMassBlockKeys ? end - key : kMassBlockKeys;
    load_keys<scalar_t>(p, slot, kv_head, key, count, tile);
    score_block(tile, count, rows, p.head_size);
    for (int64_t u = 0; u < rows / kLanes; ++u) {
      float* scores = tile.scores + u * kLanes;
      const FloatVec before = largest[u], now = largest_of(scores, rows, count, before);
      const FloatVec sum = exponentials(scores, rows, count, now);
      total[u] = total[u] * exp_nonpositive(before - now) + sum;
      largest[u] = now;
    }
  }
  for (int64_t r = 0; r < packed.used; ++r) {
    float* stats = p.partial_stats + (packed.row_head(p, r) * p.max_splits + split) * 2;
    stats[0] = largest[r / kLanes][r % kLanes];
    stats[1] = total[r / kLanes][r % kLanes];
  }
}

// Adds the weights of the tile's rows, which are at most 1 but for rounding, to the mass of n keys.
template <int n>
inline void add_mass_of_keys(const Tile& tile, int64_t first, int64_t rows, double* mass) {
  FloatVec total[n] = {};
  for (int64_t r = 0; r < rows; r += kLanes) {
    const FloatVec lse = load(tile.lse + r), weight = load(tile.weight + r);
    FloatVec e[n];
#pragma GCC unroll 4
    for (int u = 0; u < n; ++u) e[u] = load(tile.scores + (first + u) * rows + r) - lse;
    exp_nonpositive(e);
#pragma GCC unroll 4
    for (int u = 0; u < n; ++u) total[u] += e[u] * weight;
  }
  for (int u = 0; u < n; ++u) mass[first + u] += sum(total[u]);
}

// Adds the weights that the slot's rows give to the keys [first, first + count) to mass.
template <typename scalar_t>
void add_mass(const AttentionMassParams& p, int64_t slot, int64_t first, int64_t count, double* mass) {
  const int64_t num_packed = (p.cu_rows[slot + 1] - p.cu_rows[slot]) * (p.num_heads / p.num_kv_heads);
  if (num_packed == 0) return;
  const Tile tile(p.head_size);
  for (int64_t kv_head = 0; kv_head < p.num_kv_heads; ++kv_head) {
    load_keys<scalar_t>(p, slot, kv_head, first, count, tile);
    for (int64_t row = 0; row < num_packed; row += kAttentionTileRows) {
      const int64_t left = num_packed - row;
      const PackedRows packed{slot, kv_head, row, left < kAttentionTileRows ? left : kAttentionTileRows};
      const int64_t rows = whole_vectors(packed.used);
      load_q<scalar_t>(p, packed, rows, tile.q);
      for (int64_t r = 0; r < rows; ++r) {
        tile.lse[r] = r < packed.used ? p.lse[packed.row_head(p, r)] : 0.0f;
        tile.weight[r] = r < packed.used ? attention_mass_weight(p, packed.row(p, r)) : 0.0f;
      }
      score_block(tile, count, rows, p.head_size);
      int64_t i = 0;
      for (; i + kSideBySide <= count; i += kSideBySide) add_mass_of_keys<kSideBySide>(tile, i, rows, mass);
      for (; i < count; ++i) add_mass_of_keys<1>(tile, i, rows, mass);
    }
  }
}

// The first entry of the slot's part of the row list at or behind `row`.
int64_t lower_bound(const AttentionMassParams& p, int64_t slot, int64_t row) {
  int64_t low = p.cu_rows[slot], high = p.cu_rows[slot + 1];
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (p.row_index[middle] < row) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace

void attention_mass_stats(const AttentionMassParams& p, int64_t begin, int64_t end) {
  dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const int64_t items_per_head = p.item_start[p.num_slots];
    int64_t slot = 0, head = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t kv_head = i / items_per_head, item = i % items_per_head;
      if (kv_head != head) head = kv_head, slot = 0;
      while (item >= p.item_start[slot + 1]) ++slot;
      stats_item<scalar_t>(p, slot, kv_head, item - p.item_start[slot]);
    }
  });
}

void attention_mass_merge_rows(const AttentionMassParams& p, int64_t begin, int64_t end) {
  int64_t slot = 0;
  for (int64_t row = begin; row < end; ++row) {
    while (row >= p.cu_rows[slot + 1]) ++slot;
    const int64_t splits = attention_splits(p.kv_lens[slot]).count;
    for (int64_t row_head = row * p.num_heads; row_head < (row + 1) * p.num_heads; ++row_head) {
      const float* stats = p.partial_stats + row_head * p.max_splits * 2;
      float largest = -__builtin_inff(), total = 0.0f;
      for (int64_t split = 0; split < splits; ++split) largest = fmaxf(largest, stats[2 * split]);
      for (int64_t split = 0; split < splits; ++split) {
        total += stats[2 * split + 1] * expf(stats[2 * split] - largest);
      }
      p.own_lse[row_head] = splits > 0 ? largest + logf(total) : -__builtin_inff();
    }
  }
}

void attention_mass_blocks(const AttentionMassParams& p, int64_t begin, int64_t end) {
  dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const int64_t blocks = (p.capacity + kMassBlockKeys - 1) / kMassBlockKeys;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t slot = i / blocks, first = i % blocks * kMassBlockKeys;
      const int64_t positions = p.capacity - first < kMassBlockKeys ? p.capacity - first : kMassBlockKeys;
      const int64_t keys_left = p.kv_lens[slot] - first;
      const int64_t count = keys_left < positions ? keys_left : positions;
      double mass[kMassBlockKeys] = {};
      if (count > 0) add_mass<scalar_t>(p, slot, first, count, mass);

      const int64_t first_row = slot * p.capacity + first;
      int64_t entry = p.z ? lower_bound(p, slot, first_row) : 0;
      for (int64_t j = 0; j < positions; ++j) {
        if (p.z) {
          const bool listed = entry < p.cu_rows[slot + 1] && p.row_index[entry] == first_row + j;
          if (listed) ++entry;
          mass[j] += static_cast<double>(p.z[first_row + j]) * (listed ? 0.5 : 1.0);
        }
        p.out[first_row + j] = static_cast<float>(mass[j]);
      }
    }
  });
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
