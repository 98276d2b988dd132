#include "dlmcache/tracked_drift.h"

#include <cmath>

#include "cpu/score_tile.h"
#include "cpu/simd.h"
#include "dlmcache/dispatch.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
namespace {

constexpr int64_t kBlockKeys = 96;
static_assert(kBlockKeys % kGroupKeys == 0);

thread_local Scratch thread_scratch;

// A few tracked rows of one slot, with the old queries of one key/value head in the first lanes, the new ones behind.
template <typename scalar_t>
struct Tile {
  const TrackedParams& p;
  const int64_t slot, group;
  const int64_t first_row, num_rows;  // tracked rows
  const int64_t half;                 // lanes of the old queries, num_rows * group
  const int64_t lanes;                // 2 * half, rounded up to whole vectors
  const int64_t width;                // head_size, rounded up to whole vectors

  float* q;        // [head_size, lanes], scaled
  float* keys;     // [kGroupKeys, width], unless the cache is fp32
  float* rescore;  // [kBlockKeys, lanes], of replaced keys and of a last block
  float* lane_a;   // [lanes + kLanes]
  float* lane_b;   // [lanes]
  float* sums;     // [kBlockKeys, 3, half rounded up to whole vectors]: old * new, old * old, new * new
  float* weights;  // [Hkv, max_keys, lanes] of this tile, kept between the passes

  // `number` counts the tiles of the slot.
  Tile(const TrackedParams& params, int64_t slot, int64_t number)
      : p(params),
        slot(slot),
        group(p.num_heads / p.num_kv_heads),
        first_row(p.cu_tracked[slot] + number * tracked_tile_rows(p)),
        num_rows(smaller(p.cu_tracked[slot + 1] - first_row, tracked_tile_rows(p))),
        half(num_rows * group),
        lanes(whole_vectors(2 * half)),
        width(whole_vectors(p.head_size)) {
    const int64_t num_sums = kBlockKeys * 3 * whole_vectors(half);
    keys = thread_scratch.reserve(kGroupKeys * width + lanes * (p.head_size + kBlockKeys + 2) + kLanes + num_sums);
    rescore = keys + kGroupKeys * width;
    lane_a = rescore + kBlockKeys * lanes;
    lane_b = lane_a + lanes + kLanes;
    q = lane_b + lanes;
    sums = q + p.head_size * lanes;
    const int64_t tile = p.cu_tracked[slot] / tracked_tile_rows(p) + slot + number;
    weights = p.weights + tile * p.num_kv_heads * p.max_keys * tracked_lanes(p);
  }

  static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

  // Where a lane's row, head and age (old: 0, new: 1) stand in [T, H, 2].
  int64_t entry(int64_t kv_head, int64_t lane) const {
    const int64_t age = lane < half ? 0 : 1, packed = lane - age * half;
    const int64_t row = first_row + packed / group, head = kv_head * group + packed % group;
    return (row * p.num_heads + head) * 2 + age;
  }

  void load_q(int64_t kv_head) {
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const bool used = lane < 2 * half;
      const scalar_t* source = static_cast<const scalar_t*>(lane < half ? p.q_old : p.q_new);
      if (used) source += entry(kv_head, lane) / 2 * p.head_size;
      for (int64_t d = 0; d < p.head_size; ++d) q[d * lanes + lane] = used ? to_float(source[d]) * p.scale : 0.0f;
    }
  }

  // Scores of `count` keys, the rows of a head `stride` apart, into result; what lies behind a last group that is not
  // full is overwritten.
  void score_keys_of(const scalar_t* k, int64_t stride, int64_t count, float* result) const {
    for (int64_t first = 0; first < count; first += kGroupKeys) {
      score_cached(k + first * stride, stride, count - first, q, lanes, p.head_size, keys, result + first * lanes);
    }
  }

  // Scores of the keys [first, first + count) into result: the old queries' against the old keys.
  void score_block(int64_t kv_head, int64_t first, int64_t count, float* result) {
    const int64_t stride = p.num_kv_heads * p.head_size, first_key = slot * p.capacity + first;
    const scalar_t* k = static_cast<const scalar_t*>(p.k) + first_key * stride + kv_head * p.head_size;
    if (count % kGroupKeys == 0) {
      score_keys_of(k, stride, count, result);
    } else {
      // Another thread may own what lies behind.
      score_keys_of(k, stride, count, rescore);
      memcpy(result, rescore, count * lanes * sizeof(float));
    }

    int64_t begin = p.cu_rows[slot], end = p.cu_rows[slot + 1];
    while (begin < end) {  // the first replaced key at or behind first_key
      const int64_t middle = begin + (end - begin) / 2;
      if (p.row_index[middle] < first_key) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    end = begin;
    while (end < p.cu_rows[slot + 1] && p.row_index[end] < first_key + count) ++end;
    if (begin == end) return;
    const scalar_t* k_old = static_cast<const scalar_t*>(p.k_old) + begin * stride + kv_head * p.head_size;
    score_keys_of(k_old, stride, end - begin, rescore);
    for (int64_t i = begin; i < end; ++i) {
      memcpy(result + (p.row_index[i] - first_key) * lanes, rescore + (i - begin) * lanes, half * sizeof(float));
    }
  }

  float* weights_of(int64_t kv_head, int64_t key) const { return weights + (kv_head * p.max_keys + key) * lanes; }

  float* stats_of(int64_t kv_head, int64_t lane, int64_t split) const {
    return p.partial_stats + (entry(kv_head, lane) * p.max_splits + split) * 2;
  }

  // Largest score and sum of e^(score - largest) over the keys [begin, end), and keeps these weights.
  void find_stats(int64_t split, int64_t begin, int64_t end) {
    float *largest = lane_a, *total = lane_b;
    for (int64_t kv_head = 0; kv_head < p.num_kv_heads; ++kv_head) {
      load_q(kv_head);
      for (int64_t lane = 0; lane < lanes; ++lane) largest[lane] = -__builtin_inff();
      for (int64_t key = begin; key < end; key += kBlockKeys) {
        const int64_t count = smaller(end - key, kBlockKeys);
        float* scores = weights_of(kv_head, key);
        score_block(kv_head, key, count, scores);
        for (int64_t lane = 0; lane < lanes; lane += kLanes) {
          store(largest + lane, largest_of(scores + lane, lanes, count, load(largest + lane)));
        }
      }
      for (int64_t lane = 0; lane < lanes; lane += kLanes) {
        float* kept = weights_of(kv_head, begin) + lane;
        store(total + lane, exponentials(kept, lanes, end - begin, load(largest + lane)));
      }
      for (int64_t lane = 0; lane < 2 * half; ++lane) {
        float* stats = stats_of(kv_head, lane, split);
        stats[0] = largest[lane];
        stats[1] = total[lane];
      }
    }
  }

  // What the kept weights of a split are to be multiplied with, in lane_a.
  void load_factors(int64_t kv_head, int64_t split) {
    for (int64_t lane = 0; lane < lanes + kLanes; ++lane) {
      const bool used = lane < 2 * half;
      lane_a[lane] = used ? stats_of(kv_head, lane, split)[0] - p.lse[entry(kv_head, lane)] : 0.0f;
    }
    for (int64_t lane = 0; lane < lanes; lane += kLanes) store(lane_a + lane, exp_nonpositive(load(lane_a + lane)));
  }

  // sum[0], sum[1] and sum[2], `stride` apart, += the products of the old and new weights of kLanes lanes from `lane`
  // on. The lanes behind `half` read other weights than their own; nobody looks at what becomes of these.
  void add_products(const float* weight, int64_t lane, float* sum, int64_t stride) const {
    const FloatVec before = load(weight + lane) * load(lane_a + lane);
    const FloatVec after = load(weight + half + lane) * load(lane_a + half + lane);
    store(sum, load(sum) + before * after);
    store(sum + stride, load(sum + stride) + before * before);
    store(sum + 2 * stride, load(sum + 2 * stride) + after * after);
  }

  // Sum over this tile's rows and the keys [begin, end) of the cosines over heads.
  double sum_cosines(int64_t split, int64_t begin, int64_t end) {
    const int64_t stride = whole_vectors(half);
    double total = 0.0;
    for (int64_t key = begin; key < end; key += kBlockKeys) {
      const int64_t count = smaller(end - key, kBlockKeys);
      memset(sums, 0, count * 3 * stride * sizeof(float));
      for (int64_t kv_head = 0; kv_head < p.num_kv_heads; ++kv_head) {
        load_factors(kv_head, split);
        for (int64_t i = 0; i < count; ++i) {
          const float* weight = weights_of(kv_head, key + i);
          for (int64_t lane = 0; lane < half; lane += kLanes) {
            add_products(weight, lane, sums + i * 3 * stride + lane, stride);
          }
        }
      }
      for (int64_t i = 0; i < count; ++i) {
        float* of_key = sums + i * 3 * stride;
        if (group > 1) {
          for (int64_t c = 0; c < 3; ++c) add_groups(of_key + c * stride);
        }
        for (int64_t row = 0; row < num_rows; row += kLanes) {
          const FloatVec alike =
              cosine(load(of_key + row), load(of_key + stride + row), load(of_key + 2 * stride + row));
          const int64_t used = smaller(num_rows - row, kLanes);
          for (int64_t u = 0; u < used; ++u) total += alike[u];
        }
      }
    }
    return total;
  }

  // The products of old and new weights, summed over the keys [begin, end), of each row and head.
  void sum_products(int64_t split, int64_t begin, int64_t end) {
    const int64_t stride = whole_vectors(half);
    for (int64_t kv_head = 0; kv_head < p.num_kv_heads; ++kv_head) {
      load_factors(kv_head, split);
      memset(sums, 0, 3 * stride * sizeof(float));
      for (int64_t lane = 0; lane < half; lane += kLanes) {
        for (int64_t key = begin; key < end; ++key) add_products(weights_of(kv_head, key), lane, sums + lane, stride);
      }
      for (int64_t lane = 0; lane < half; ++lane) {
        float* dots = p.partial_dots + (entry(kv_head, lane) / 2 * p.max_splits + split) * 3;
        for (int64_t c = 0; c < 3; ++c) dots[c] = sums[c * stride + lane];
      }
    }
  }

  // The sums over the heads of every row's group, in the places of the first rows.
  void add_groups(float* of_heads) const {
    for (int64_t row = 0; row < num_rows; ++row) {
      float sum = 0.0f;
      for (int64_t g = 0; g < group; ++g) sum += of_heads[row * group + g];
      of_heads[row] = sum;
    }
  }

  // Of sums of old * new, old * old and new * new.
  static FloatVec cosine(FloatVec product, FloatVec before, FloatVec after) {
    const FloatVec least = broadcast(kMinNorm);
    before = square_root(before);
    after = square_root(after);
    // Not max(): that would turn a NaN into a number.
    return product / ((before < least ? least : before) * (after < least ? least : after));
  }
};

// body(tile, split, begin, end) for the tiles of tracked rows of each work item, with the keys of its split;
// finish(slot, split) behind the last tile.
template <typename Body, typename Finish>
void for_each_tile(const TrackedParams& p, int64_t first_item, int64_t last_item, Body&& body, Finish&& finish) {
  dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    for (int64_t item = first_item; item < last_item; ++item) {
      const int64_t slot = item / p.max_splits, split = item % p.max_splits;
      const KeySplits splits = tracked_splits(p.kv_lens[slot]);
      if (split >= splits.count) continue;
      const int64_t begin = split * splits.keys;
      const int64_t end = begin + splits.keys < p.kv_lens[slot] ? begin + splits.keys : p.kv_lens[slot];
      const int64_t tracked = p.cu_tracked[slot + 1] - p.cu_tracked[slot], most = tracked_tile_rows(p);
      for (int64_t number = 0; number * most < tracked; ++number) {
        Tile<scalar_t> tile(p, slot, number);
        body(tile, split, begin, end);
      }
      finish(slot, split);
    }
  });
}

}  // namespace

void tracked_stats(const TrackedParams& p, int64_t begin, int64_t end) {
  for_each_tile(
      p, begin, end,
      [](auto& tile, int64_t split, int64_t first, int64_t last) { tile.find_stats(split, first, last); },
      [](int64_t, int64_t) {});
}

void tracked_merge_rows(const TrackedParams& p, int64_t begin, int64_t end) {
  int64_t slot = 0;
  for (int64_t row = begin; row < end; ++row) {
    while (row >= p.cu_tracked[slot + 1]) ++slot;
    const int64_t splits = tracked_splits(p.kv_lens[slot]).count;
    for (int64_t i = row * p.num_heads * 2; i < (row + 1) * p.num_heads * 2; ++i) {
      const float* stats = p.partial_stats + i * p.max_splits * 2;
      float largest = -__builtin_inff(), total = 0.0f;
      for (int64_t split = 0; split < splits; ++split) largest = fmaxf(largest, stats[2 * split]);
      for (int64_t split = 0; split < splits; ++split) {
        total += stats[2 * split + 1] * expf(stats[2 * split] - largest);
      }
      p.lse[i] = largest + logf(total);
    }
  }
}

void tracked_products(const TrackedParams& p, int64_t begin, int64_t end) {
  double cosines = 0.0;
  for_each_tile(
      p, begin, end,
      [&](auto& tile, int64_t split, int64_t first, int64_t last) {
        if (p.similarity == Similarity::kHeads) {
          cosines += tile.sum_cosines(split, first, last);
        } else {
          tile.sum_products(split, first, last);
        }
      },
      [&](int64_t slot, int64_t split) {
        if (p.similarity != Similarity::kHeads) return;
        p.partial_cosine[slot * p.max_splits + split] = static_cast<float>(cosines);
        cosines = 0.0;
      });
}

void tracked_finish(const TrackedParams& p, int64_t begin, int64_t end) {
  for (int64_t slot = begin; slot < end; ++slot) {
    const int64_t first = p.cu_tracked[slot], last = p.cu_tracked[slot + 1];
    const int64_t splits = tracked_splits(p.kv_lens[slot]).count;
    double total = 0.0, count = 0.0;
    if (p.similarity == Similarity::kHeads) {
      count = static_cast<double>(last - first) * static_cast<double>(p.kv_lens[slot]);
      for (int64_t split = 0; split < splits; ++split) total += p.partial_cosine[slot * p.max_splits + split];
    } else if (splits > 0) {
      count = static_cast<double>((last - first) * p.num_heads);
      for (int64_t i = first * p.num_heads; i < last * p.num_heads; ++i) {
        float sum[3] = {};
        for (int64_t split = 0; split < splits; ++split) {
          for (int64_t c = 0; c < 3; ++c) sum[c] += p.partial_dots[(i * p.max_splits + split) * 3 + c];
        }
        total += Tile<float>::cosine(broadcast(sum[0]), broadcast(sum[1]), broadcast(sum[2]))[0];
      }
    }
    p.out[slot] = count > 0.0 ? static_cast<float>(total / count) : 1.0f;
  }
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
