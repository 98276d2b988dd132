// Similarity of the attention of tracked rows before and after keys were replaced.
//
// There are few tracked rows, so nothing is staged: a lane reads the row of its key with 16-byte loads, which it
// consumes whole, and queries are the same address for all lanes. tracked_stats_kernel finds maximum and sum of every
// split of the keys, tracked_products_kernel sums products of weights, tracked_finish_kernel the splits.
#pragma once

#include "cuda/portable.cuh"
#include "cuda/reduce.cuh"
#include "cuda/score_tile.cuh"
#include "cuda/vec.cuh"
#include "dlmcache/tracked_drift.h"

namespace dlmcache::cuda {

inline constexpr int kTrackedWarps = 8;
inline constexpr int kTrackedThreads = 32 * kTrackedWarps;

// Kernels name the number of blocks per multiprocessor so that ptxas does not spill registers in order to fit one more.

struct OldNew {
  float before, after;
};

// The keys of a block: one split of a slot.
struct SplitKeys {
  int64_t slot, first;  // position of the first key
  int count;
};

// count 0: nothing to do for this block.
__device__ __forceinline__ SplitKeys find_split(const TrackedParams& p) {
  const int64_t slot = blockIdx.y, split = blockIdx.x;
  if (p.cu_tracked[slot] == p.cu_tracked[slot + 1]) return {slot, 0, 0};
  const int64_t num_keys = p.kv_lens[slot];
  const KeySplits splits = tracked_splits(num_keys);
  if (split >= splits.count) return {slot, 0, 0};
  const int64_t first = split * splits.keys;
  return {slot, first, static_cast<int>(min(splits.keys, num_keys - first))};
}

// For each key of the split where k_old holds its old row, -1 where it was not replaced. All threads of a block.
__device__ __forceinline__ void find_replaced(const TrackedParams& p, const SplitKeys& keys, int* replaced) {
  const int64_t first_key = keys.slot * p.capacity + keys.first;
  for (int i = threadIdx.x; i < keys.count; i += kTrackedThreads) {
    replaced[i] = static_cast<int>(find_listed(p, keys.slot, first_key + i));
  }
  __syncthreads();
}

// Scores of key i of the split: the old query against the old key and the new against the new, times 1 / ln 2.
template <typename scalar_t, int kCount>
__device__ __forceinline__ OldNew score_key(const TrackedParams& p, const SplitKeys& keys, const int* replaced,
                                            int kv_head, int64_t row_head, int i) {
  const int head_size = static_cast<int>(p.head_size);
  const int64_t stride = p.num_kv_heads * p.head_size, offset = kv_head * p.head_size;
  const scalar_t* k_new =
      static_cast<const scalar_t*>(p.k) + (keys.slot * p.capacity + keys.first + i) * stride + offset;
  const int entry = replaced[i];
  const scalar_t* k_old = entry < 0 ? k_new : static_cast<const scalar_t*>(p.k_old) + entry * stride + offset;
  const scalar_t* q_old = static_cast<const scalar_t*>(p.q_old) + row_head * head_size;
  const scalar_t* q_new = static_cast<const scalar_t*>(p.q_new) + row_head * head_size;
  OldNew score{0.0f, 0.0f};
#pragma unroll 2
  for (int d = 0; d < head_size; d += kCount) {
    float key[kCount], query[kCount];
    load_floats(k_old + d, key);
    load_floats(q_old + d, query);
#pragma unroll
    for (int c = 0; c < kCount; ++c) score.before = fmaf(query[c], key[c], score.before);
    load_floats(k_new + d, key);
    load_floats(q_new + d, query);
#pragma unroll
    for (int c = 0; c < kCount; ++c) score.after = fmaf(query[c], key[c], score.after);
  }
  const float scale = p.scale * kLog2E;
  return {score.before * scale, score.after * scale};
}

// Adds one score to a running maximum and sum.
__device__ __forceinline__ void add_score(float score, float& largest, float& total) {
  const float now = fmaxf(largest, score);
  total = fmaf(total, exp2f(largest - now), exp2f(score - now));
  largest = now;
}

// Grid: (max_splits, slots). Block: kTrackedThreads, a warp per key/value head. Shared: one int per key of a split.
template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kTrackedThreads, 2) tracked_stats_kernel(TrackedParams p) {
  DLMCACHE_DYNAMIC_SHARED(int, replaced);
  const SplitKeys keys = find_split(p);
  if (keys.count == 0) return;
  find_replaced(p, keys, replaced);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int group = static_cast<int>(p.num_heads / p.num_kv_heads);
  for (int kv_head = warp; kv_head < p.num_kv_heads; kv_head += kTrackedWarps) {
    for (int64_t row = p.cu_tracked[keys.slot]; row < p.cu_tracked[keys.slot + 1]; ++row) {
      for (int g = 0; g < group; ++g) {
        const int64_t row_head = row * p.num_heads + kv_head * group + g;
        float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
        for (int i = lane; i < keys.count; i += 32) {
          const OldNew score = score_key<scalar_t, kCount>(p, keys, replaced, kv_head, row_head, i);
          add_score(score.before, largest[0], total[0]);
          add_score(score.after, largest[1], total[1]);
        }
#pragma unroll
        for (int age = 0; age < 2; ++age) {
          const float of_all = warp_reduce_max(largest[age]);
          const float sum = warp_reduce_sum(total[age] * exp2f(largest[age] - of_all));
          if (lane == 0) {
            float* stats = p.partial_stats + ((row_head * 2 + age) * p.max_splits + blockIdx.x) * 2;
            stats[0] = of_all;
            stats[1] = sum;
          }
        }
      }
    }
  }
}

// Log-sum-exp, to base 2, of a row and head: a warp merges its splits, up to two per lane.
__device__ __forceinline__ float merge_splits(const float* stats, int splits) {
  static_assert(kTrackedMaxSplits == 64);
  const int lane = threadIdx.x % 32;
  const bool one = lane < splits, two = lane + 32 < splits;
  const float max_one = one ? stats[2 * lane] : -INFINITY, max_two = two ? stats[2 * (lane + 32)] : -INFINITY;
  const float largest = warp_reduce_max(fmaxf(max_one, max_two));
  float sum = one ? stats[2 * lane + 1] * exp2f(max_one - largest) : 0.0f;
  if (two) sum = fmaf(stats[2 * (lane + 32) + 1], exp2f(max_two - largest), sum);
  return largest + log2f(warp_reduce_sum(sum));
}

// Products of an old and a new weight.
struct Products {
  float old_new = 0.0f, old_old = 0.0f, new_new = 0.0f;

  __device__ __forceinline__ void add(float before, float after) {
    old_new = fmaf(before, after, old_new);
    old_old = fmaf(before, before, old_old);
    new_new = fmaf(after, after, new_new);
  }
  __device__ __forceinline__ float cosine() const {
    const float before = sqrtf(old_old), after = sqrtf(new_new);
    // Not fmaxf(): that would turn a NaN into a number.
    return old_new / (before < kMinNorm ? kMinNorm : before) / (after < kMinNorm ? kMinNorm : after);
  }
};

// Grid: (max_splits, slots). Block: kTrackedThreads, a warp per key/value head. Shared: the log-sum-exps of one tracked
// row, [H, 2], and one int per key of a split. With kHeads the warps' products of 32 keys at a time meet in shared
// memory, where one warp adds them up in order; with kRows each warp finishes its own heads.
template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kTrackedThreads, 2) tracked_products_kernel(TrackedParams p) {
  __shared__ float of_warps[kTrackedWarps][3][32];
  DLMCACHE_DYNAMIC_SHARED(float, lse);
  int* replaced = reinterpret_cast<int*>(lse + 2 * p.num_heads);
  const SplitKeys keys = find_split(p);
  if (keys.count == 0) return;
  find_replaced(p, keys, replaced);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int group = static_cast<int>(p.num_heads / p.num_kv_heads);
  const int splits = static_cast<int>(tracked_splits(p.kv_lens[keys.slot]).count);
  const bool over_heads = p.similarity == Similarity::kHeads;
  float cosines = 0.0f;
  for (int64_t row = p.cu_tracked[keys.slot]; row < p.cu_tracked[keys.slot + 1]; ++row) {
    for (int kv_head = warp; kv_head < p.num_kv_heads; kv_head += kTrackedWarps) {
      for (int i = 2 * kv_head * group; i < 2 * (kv_head + 1) * group; ++i) {
        const float merged = merge_splits(p.partial_stats + (row * p.num_heads * 2 + i) * p.max_splits * 2, splits);
        if (lane == 0) lse[i] = merged;
      }
    }
    __syncwarp();  // a warp reads only what it has written itself
    const auto weights = [&](int kv_head, int g, int i) -> OldNew {
      const int head = kv_head * group + g;
      const OldNew score = score_key<scalar_t, kCount>(p, keys, replaced, kv_head, row * p.num_heads + head, i);
      return {exp2f(score.before - lse[2 * head]), exp2f(score.after - lse[2 * head + 1])};
    };

    if (over_heads) {
      for (int first = 0; first < keys.count; first += 32) {
        const int i = first + lane;
        Products products;
        if (i < keys.count) {
          for (int kv_head = warp; kv_head < p.num_kv_heads; kv_head += kTrackedWarps) {
            for (int g = 0; g < group; ++g) {
              const OldNew weight = weights(kv_head, g, i);
              products.add(weight.before, weight.after);
            }
          }
        }
        __syncthreads();  // the first warp is done with the keys before
        of_warps[warp][0][lane] = products.old_new;
        of_warps[warp][1][lane] = products.old_old;
        of_warps[warp][2][lane] = products.new_new;
        __syncthreads();
        if (warp == 0 && i < keys.count) {
          Products sum;
          for (int w = 0; w < kTrackedWarps; ++w) {
            sum.old_new += of_warps[w][0][lane];
            sum.old_old += of_warps[w][1][lane];
            sum.new_new += of_warps[w][2][lane];
          }
          cosines += sum.cosine();
        }
      }
    } else {
      for (int kv_head = warp; kv_head < p.num_kv_heads; kv_head += kTrackedWarps) {
        for (int g = 0; g < group; ++g) {
          Products products;
          for (int i = lane; i < keys.count; i += 32) {
            const OldNew weight = weights(kv_head, g, i);
            products.add(weight.before, weight.after);
          }
          const float old_new = warp_reduce_sum(products.old_new), old_old = warp_reduce_sum(products.old_old);
          const float new_new = warp_reduce_sum(products.new_new);
          if (lane == 0) {
            const int64_t index = row * p.num_heads + kv_head * group + g;
            float* dots = p.partial_dots + (index * p.max_splits + blockIdx.x) * 3;
            dots[0] = old_new;
            dots[1] = old_old;
            dots[2] = new_new;
          }
        }
      }
    }
    __syncwarp();  // before the next row's log-sum-exps
  }
  if (over_heads && warp == 0) {
    cosines = warp_reduce_sum(cosines);
    if (lane == 0) p.partial_cosine[keys.slot * p.max_splits + blockIdx.x] = cosines;
  }
}

// Grid: (slots). Block: kTrackedThreads. Adds up the splits of a slot, and takes the mean.
static __global__ void __launch_bounds__(kTrackedThreads) tracked_finish_kernel(TrackedParams p) {
  __shared__ float scratch[kReduceScratch<kTrackedThreads>];
  const int64_t slot = blockIdx.x;
  const int64_t first = p.cu_tracked[slot], rows = p.cu_tracked[slot + 1] - first, num_keys = p.kv_lens[slot];
  const int splits = static_cast<int>(tracked_splits(num_keys).count);
  float total = 0.0f;
  if (p.similarity == Similarity::kHeads) {
    if (rows > 0 && static_cast<int>(threadIdx.x) < splits) total = p.partial_cosine[slot * p.max_splits + threadIdx.x];
  } else if (splits > 0) {
    for (int64_t i = threadIdx.x; i < rows * p.num_heads; i += kTrackedThreads) {
      const float* dots = p.partial_dots + (first * p.num_heads + i) * p.max_splits * 3;
      Products sum;
      for (int split = 0; split < splits; ++split) {
        sum.old_new += dots[3 * split];
        sum.old_old += dots[3 * split + 1];
        sum.new_new += dots[3 * split + 2];
      }
      total += sum.cosine();
    }
  }
  total = block_reduce_sum<kTrackedThreads>(total, scratch);
  if (threadIdx.x == 0) {
    const int64_t count = rows * (p.similarity == Similarity::kHeads ? num_keys : p.num_heads);
    p.out[slot] = count > 0 && num_keys > 0 ? total / static_cast<float>(count) : 1.0f;
  }
}

}  // namespace dlmcache::cuda
