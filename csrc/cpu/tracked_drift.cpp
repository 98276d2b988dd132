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
  float* keys;     // [kBlockKeys, width]
  float* scores;   // [kBlockKeys, lanes]
  float* rescore;  // [kBlockKeys, lanes], of replaced keys
  float* lane_a;   // [lanes]
  float* lane_b;   // [lanes]
  double* sums;    // kHeads: [num_rows, kBlockKeys, 3]; kRows: [num_rows, H, 3]

  static int64_t max_rows(const TrackedParams& p) {
    const int64_t rows = 16 / (p.num_heads / p.num_kv_heads);
    return rows > 1 ? rows : 1;
  }

  Tile(const TrackedParams& params, int64_t slot, int64_t first_row, int64_t num_rows)
      : p(params),
        slot(slot),
        group(p.num_heads / p.num_kv_heads),
        first_row(first_row),
        num_rows(num_rows),
        half(num_rows * group),
        lanes(whole_vectors(2 * half)),
        width(whole_vectors(p.head_size)) {
    const int64_t most_sums = 3 * num_rows * (p.num_heads > kBlockKeys ? p.num_heads : kBlockKeys);
    keys = thread_scratch.reserve(kBlockKeys * width + lanes * (p.head_size + 2 * kBlockKeys + 2) + 2 * most_sums);
    scores = keys + kBlockKeys * width;
    rescore = scores + kBlockKeys * lanes;
    lane_a = rescore + kBlockKeys * lanes;
    lane_b = lane_a + lanes;
    q = lane_b + lanes;
    sums = reinterpret_cast<double*>(q + p.head_size * lanes);
  }

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

  void score_keys_of(int64_t count, float* result) const {
    for (int64_t first = 0; first < count; first += kGroupKeys) {
      const int64_t in_group = count - first < kGroupKeys ? count - first : kGroupKeys;
      score_group(keys + first * width, width, in_group, q, lanes, p.head_size, result + first * lanes);
    }
  }

  // scores of the keys [first, first + count): the old queries' against the old keys.
  void score_block(int64_t kv_head, int64_t first, int64_t count) {
    const int64_t stride = p.num_kv_heads * p.head_size, first_key = slot * p.capacity + first;
    const scalar_t* k = static_cast<const scalar_t*>(p.k) + first_key * stride + kv_head * p.head_size;
    for (int64_t i = 0; i < count; ++i) convert_row(k + i * stride, p.head_size, keys + i * width);
    score_keys_of(count, scores);

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
    const scalar_t* k_old = static_cast<const scalar_t*>(p.k_old) + kv_head * p.head_size;
    for (; end < p.cu_rows[slot + 1] && p.row_index[end] < first_key + count; ++end) {
      convert_row(k_old + end * stride, p.head_size, keys + (end - begin) * width);
    }
    if (begin == end) return;
    score_keys_of(end - begin, rescore);
    for (int64_t i = begin; i < end; ++i) {
      memcpy(scores + (p.row_index[i] - first_key) * lanes, rescore + (i - begin) * lanes, half * sizeof(float));
    }
  }

  void find_stats(int64_t split, int64_t begin, int64_t end) {
    float *largest = lane_a, *total = lane_b;
    for (int64_t kv_head = 0; kv_head < p.num_kv_heads; ++kv_head) {
      load_q(kv_head);
      for (int64_t lane = 0; lane < lanes; ++lane) largest[lane] = -__builtin_inff(), total[lane] = 0.0f;
      for (int64_t key = begin; key < end; key += kBlockKeys) {
        const int64_t count = end - key < kBlockKeys ? end - key : kBlockKeys;
        score_block(kv_head, key, count);
        for (int64_t lane = 0; lane < lanes; lane += kLanes) {
          const FloatVec before = load(largest + lane);
          FloatVec now = before, sum = {};
          for (int64_t i = 0; i < count; ++i) now = max(now, load(scores + i * lanes + lane));
          for (int64_t i = 0; i < count; ++i) sum += exp_nonpositive(load(scores + i * lanes + lane) - now);
          store(total + lane, load(total + lane) * exp_nonpositive(before - now) + sum);
          store(largest + lane, now);
        }
      }
      for (int64_t lane = 0; lane < 2 * half; ++lane) {
        float* stats = p.partial_stats + (entry(kv_head, lane) * p.max_splits + split) * 2;
        stats[0] = largest[lane];
        stats[1] = total[lane];
      }
    }
  }

  // Turns the scores of a block into weights.
  void softmax_block(int64_t kv_head, int64_t count) {
    for (int64_t lane = 0; lane < lanes; ++lane) lane_a[lane] = lane < 2 * half ? p.lse[entry(kv_head, lane)] : 0.0f;
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t lane = 0; lane < lanes; lane += kLanes) {
        float* score = scores + i * lanes + lane;
        store(score, exp_nonpositive(load(score) - load(lane_a + lane)));
      }
    }
  }

  static void add_products(double* sum, double before, double after) {
    sum[0] += before * after;
    sum[1] += before * before;
    sum[2] += after * after;
  }

  // Sum over this tile's rows and the keys [begin, end) of the cosines over heads.
  double sum_cosines(int64_t begin, int64_t end) {
    double total = 0.0;
    for (int64_t key = begin; key < end; key += kBlockKeys) {
      const int64_t count = end - key < kBlockKeys ? end - key : kBlockKeys;
      memset(sums, 0, num_rows * kBlockKeys * 3 * sizeof(double));
      for (int64_t kv_head = 0; kv_head < p.num_kv_heads; ++kv_head) {
        load_q(kv_head);
        score_block(kv_head, key, count);
        softmax_block(kv_head, count);
        for (int64_t i = 0; i < count; ++i) {
          const float* weights = scores + i * lanes;
          for (int64_t lane = 0; lane < half; ++lane) {
            add_products(sums + (lane / group * kBlockKeys + i) * 3, weights[lane], weights[half + lane]);
          }
        }
      }
      for (int64_t row = 0; row < num_rows; ++row) {
        for (int64_t i = 0; i < count; ++i) total += cosine(sums + (row * kBlockKeys + i) * 3);
      }
    }
    return total;
  }

  // The products of old and new weights, summed over the keys [begin, end), of each row and head.
  void sum_products(int64_t split, int64_t begin, int64_t end) {
    memset(sums, 0, num_rows * p.num_heads * 3 * sizeof(double));
    for (int64_t kv_head = 0; kv_head < p.num_kv_heads; ++kv_head) {
      load_q(kv_head);
      for (int64_t key = begin; key < end; key += kBlockKeys) {
        const int64_t count = end - key < kBlockKeys ? end - key : kBlockKeys;
        score_block(kv_head, key, count);
        softmax_block(kv_head, count);
        for (int64_t i = 0; i < count; ++i) {
          const float* weights = scores + i * lanes;
          for (int64_t lane = 0; lane < half; ++lane) {
            const int64_t head = kv_head * group + lane % group;
            add_products(sums + (lane / group * p.num_heads + head) * 3, weights[lane], weights[half + lane]);
          }
        }
      }
    }
    for (int64_t i = 0; i < num_rows * p.num_heads; ++i) {
      float* dots = p.partial_dots + ((first_row * p.num_heads + i) * p.max_splits + split) * 3;
      for (int64_t c = 0; c < 3; ++c) dots[c] = static_cast<float>(sums[3 * i + c]);
    }
  }

  static double cosine(const double* sum) {
    const double before = sqrt(sum[1]), after = sqrt(sum[2]);
    // Not fmax(): that would turn a NaN into a number.
    return sum[0] / ((before < kMinNorm ? double{kMinNorm} : before) * (after < kMinNorm ? double{kMinNorm} : after));
  }
};

// body(tile, split, begin, end) for the tiles of tracked rows of each work item, with the keys of its split;
// finish(slot, split) behind the last tile.
template <typename Body, typename Finish>
void for_each_tile(const TrackedParams& p, int64_t first_item, int64_t last_item, Body&& body, Finish&& finish) {
  dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const int64_t most_rows = Tile<scalar_t>::max_rows(p);
    for (int64_t item = first_item; item < last_item; ++item) {
      const int64_t slot = item / p.max_splits, split = item % p.max_splits;
      const KeySplits splits = tracked_splits(p.kv_lens[slot]);
      if (split >= splits.count) continue;
      const int64_t begin = split * splits.keys;
      const int64_t end = begin + splits.keys < p.kv_lens[slot] ? begin + splits.keys : p.kv_lens[slot];
      for (int64_t row = p.cu_tracked[slot]; row < p.cu_tracked[slot + 1]; row += most_rows) {
        const int64_t left = p.cu_tracked[slot + 1] - row;
        Tile<scalar_t> tile(p, slot, row, left < most_rows ? left : most_rows);
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
          cosines += tile.sum_cosines(first, last);
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
        double sum[3] = {};
        for (int64_t split = 0; split < splits; ++split) {
          for (int64_t c = 0; c < 3; ++c) sum[c] += p.partial_dots[(i * p.max_splits + split) * 3 + c];
        }
        total += Tile<float>::cosine(sum);
      }
    }
    p.out[slot] = count > 0.0 ? static_cast<float>(total / count) : 1.0f;
  }
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
