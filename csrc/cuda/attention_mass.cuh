// Attention mass of every cached key, and a step of attention rollout.
//
// attention_lse_kernel and attention_lse_merge_kernel find the rows' log-sum-exps when nobody has them;
// attention_mass_kernel sums the weights of all rows for a tile of keys and one key/value head, and
// attention_mass_finish_kernel adds up the heads. A sum has one writer and one order.
#pragma once

#include "cuda/portable.cuh"
#include "cuda/reduce.cuh"
#include "cuda/score_tile.cuh"
#include "cuda/vec.cuh"
#include "dlmcache/attention_mass.h"

namespace dlmcache::cuda {

inline constexpr int kMassRowsPerWarp = 8;
inline constexpr int kMassRows = kAttentionWarps * kMassRowsPerWarp;
inline constexpr int kMassFinishThreads = 256;

// Kernels name the number of blocks per multiprocessor so that ptxas does not spill registers in order to fit one more.

template <typename scalar_t, int kHeadSize>
struct MassShape {
  // One vector of padding: lanes that read 16 bytes of 32 rows of keys then meet in no bank.
  static constexpr int kKeyStride = kHeadSize + Vec<scalar_t>::kSize;
  static constexpr int kSharedBytes =
      kMassRows * kHeadSize * 4 + kAttentionKeys * kKeyStride * static_cast<int>(sizeof(scalar_t));
};

// Row and head that packed row `packed` of a slot and key/value head stands for.
struct RowHead {
  int64_t row, index;  // index: row * num_heads + head
};

__device__ __forceinline__ RowHead unpack_row(const AttentionMassParams& p, int64_t slot, int kv_head, int packed) {
  const int group = static_cast<int>(p.num_heads / p.num_kv_heads);
  const int64_t row = p.cu_rows[slot] + packed / group;
  return {row, row * p.num_heads + kv_head * group + packed % group};
}

// The rows [first_packed, first_packed + kMassRows) in fp32, scaled; zeros behind the last one. All threads of a block.
template <typename scalar_t, int kHeadSize>
__device__ __forceinline__ void load_query_tile(const AttentionMassParams& p, int64_t slot, int kv_head,
                                                int first_packed, int used_rows, float* tile) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int head_size = static_cast<int>(p.head_size);
#pragma unroll 1
  for (int r = warp; r < kMassRows; r += kAttentionWarps) {
    const int64_t index = r < used_rows ? unpack_row(p, slot, kv_head, first_packed + r).index : 0;
#pragma unroll 1
    for (int i = lane; i < kHeadSize; i += 32) {
      const bool used = r < used_rows && i < head_size;
      tile[r * kHeadSize + i] =
          used ? to_float(static_cast<const scalar_t*>(p.q)[index * head_size + i]) * (p.scale * kLog2E) : 0.0f;
    }
  }
}

// Grid: (upper bound on row tiles, key/value heads, max_splits). Block: kAttentionThreads. Maximum and sum of one split
// of the keys for a tile of rows; each lane keeps those of its own keys until the split is done.
template <typename scalar_t, int kHeadSize>
__global__ void __launch_bounds__(kAttentionThreads, 4) attention_lse_kernel(AttentionMassParams p, bool vectorised) {
  using Shape = MassShape<scalar_t, kHeadSize>;
  DLMCACHE_DYNAMIC_SHARED(float, q_tile);
  scalar_t* k_tile = reinterpret_cast<scalar_t*>(q_tile + kMassRows * kHeadSize);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const RowTile tile = find_row_tile<kMassRows>(p, static_cast<int>(blockIdx.x));
  if (tile.slot < 0 || tile.slot >= p.num_slots) return;
  const int64_t num_keys = p.kv_lens[tile.slot];
  const KeySplits splits = attention_splits(num_keys);
  const int split = static_cast<int>(blockIdx.z);
  if (split >= splits.count) return;
  const int head_size = static_cast<int>(p.head_size), kv_head = static_cast<int>(blockIdx.y);
  load_query_tile<scalar_t, kHeadSize>(p, tile.slot, kv_head, tile.first_packed, tile.used_rows, q_tile);

  const int64_t stride = p.num_kv_heads * p.head_size;
  const scalar_t* k = static_cast<const scalar_t*>(p.k) + tile.slot * p.capacity * stride + kv_head * p.head_size;
  float largest[kMassRowsPerWarp], total[kMassRowsPerWarp];
#pragma unroll
  for (int r = 0; r < kMassRowsPerWarp; ++r) largest[r] = -INFINITY, total[r] = 0.0f;
  const int64_t begin = split * splits.keys;
  const int64_t end = min(begin + splits.keys, num_keys);
  for (int64_t first = begin; first < end; first += kAttentionKeys) {
    const int count = static_cast<int>(min(end - first, static_cast<int64_t>(kAttentionKeys)));
    __syncthreads();  // everybody is done with the tile before
    load_cache_tile<kHeadSize>(k + first * stride, stride, head_size, count, vectorised, k_tile, Shape::kKeyStride);
    __syncthreads();
    if (warp * kMassRowsPerWarp >= tile.used_rows) continue;
    float score[kMassRowsPerWarp];
    score_rows<kHeadSize>(k_tile + lane * Shape::kKeyStride, q_tile + warp * kMassRowsPerWarp * kHeadSize, score);
    if (lane < count) {
#pragma unroll
      for (int r = 0; r < kMassRowsPerWarp; ++r) {
        const float now = fmaxf(largest[r], score[r]);
        total[r] = fmaf(total[r], exp2f(largest[r] - now), exp2f(score[r] - now));
        largest[r] = now;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kMassRowsPerWarp; ++r) {
    const float of_all = warp_reduce_max(largest[r]);
    const float sum = warp_reduce_sum(total[r] * exp2f(largest[r] - of_all));
    const int packed = warp * kMassRowsPerWarp + r;
    if (lane == 0 && packed < tile.used_rows) {
      const int64_t index = unpack_row(p, tile.slot, kv_head, tile.first_packed + packed).index;
      float* stats = p.partial_stats + (index * p.max_splits + split) * 2;
      stats[0] = of_all;
      stats[1] = sum;
    }
  }
}

// Grid: (rows * query heads / kAttentionThreads). Block: kAttentionThreads. A thread merges the splits of one row and
// head. Nobody reads what unused rows and rows without keys would have.
static __global__ void __launch_bounds__(kAttentionThreads) attention_lse_merge_kernel(AttentionMassParams p) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kAttentionThreads + threadIdx.x;
  if (index >= p.num_rows * p.num_heads) return;
  const int64_t slot = find_slot(p, index / p.num_heads);
  if (slot >= p.num_slots) return;
  const int splits = static_cast<int>(attention_splits(p.kv_lens[slot]).count);
  const float* stats = p.partial_stats + index * p.max_splits * 2;
  float largest = -INFINITY, total = 0.0f;
  for (int split = 0; split < splits; ++split) largest = fmaxf(largest, stats[2 * split]);
  for (int split = 0; split < splits; ++split) total += stats[2 * split + 1] * exp2f(stats[2 * split] - largest);
  p.own_lse[index] = natural_lse(largest, total);
}

// Grid: (slots * key tiles of a slot, key/value heads). Block: kAttentionThreads. The block keeps its keys in shared
// memory and walks over all rows of the slot; each lane of each warp sums the weights of one key over the warp's rows.
template <typename scalar_t, int kHeadSize>
__global__ void __launch_bounds__(kAttentionThreads, 6) attention_mass_kernel(AttentionMassParams p, bool vectorised) {
  using Shape = MassShape<scalar_t, kHeadSize>;
  __shared__ float row_lse[kMassRows], row_weight[kMassRows], warp_mass[kAttentionWarps][32];
  DLMCACHE_DYNAMIC_SHARED(float, q_tile);
  scalar_t* k_tile = reinterpret_cast<scalar_t*>(q_tile + kMassRows * kHeadSize);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t key_tiles = (p.capacity + kAttentionKeys - 1) / kAttentionKeys;
  const int64_t slot = blockIdx.x / key_tiles, first = blockIdx.x % key_tiles * kAttentionKeys;
  const int64_t keys_left = p.kv_lens[slot] - first;
  if (keys_left <= 0) return;
  const int count = static_cast<int>(min(keys_left, static_cast<int64_t>(kAttentionKeys)));
  const int head_size = static_cast<int>(p.head_size), kv_head = static_cast<int>(blockIdx.y);
  const int64_t stride = p.num_kv_heads * p.head_size, first_key = slot * p.capacity + first;
  const scalar_t* k = static_cast<const scalar_t*>(p.k) + first_key * stride + kv_head * p.head_size;
  load_cache_tile<kHeadSize>(k, stride, head_size, count, vectorised, k_tile, Shape::kKeyStride);

  const int group = static_cast<int>(p.num_heads / p.num_kv_heads);
  const int num_packed = static_cast<int>(p.cu_rows[slot + 1] - p.cu_rows[slot]) * group;
  float mass = 0.0f;
  for (int first_packed = 0; first_packed < num_packed; first_packed += kMassRows) {
    const int used_rows = min(num_packed - first_packed, kMassRows);
    __syncthreads();  // everybody is done with the rows before
    load_query_tile<scalar_t, kHeadSize>(p, slot, kv_head, first_packed, used_rows, q_tile);
    if (static_cast<int>(threadIdx.x) < kMassRows) {
      const int r = threadIdx.x;
      const RowHead entry = unpack_row(p, slot, kv_head, first_packed + (r < used_rows ? r : 0));
      row_lse[r] = p.lse[entry.index] * kLog2E;
      row_weight[r] = r < used_rows ? attention_mass_weight(p, entry.row) : 0.0f;
    }
    __syncthreads();
    const int first_row = warp * kMassRowsPerWarp;
    if (first_row >= used_rows) continue;
    float score[kMassRowsPerWarp], of_tile = 0.0f;
    score_rows<kHeadSize>(k_tile + lane * Shape::kKeyStride, q_tile + first_row * kHeadSize, score);
#pragma unroll
    for (int r = 0; r < kMassRowsPerWarp; ++r) {
      // The rows behind the last one are zeros, which may lie above any log-sum-exp.
      if (first_row + r < used_rows) {
        of_tile = fmaf(exp2f(score[r] - row_lse[first_row + r]), row_weight[first_row + r], of_tile);
      }
    }
    mass += of_tile;
  }
  warp_mass[warp][lane] = mass;
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < count) {
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kAttentionWarps; ++w) total += warp_mass[w][threadIdx.x];
    p.partial_mass[kv_head * p.num_slots * p.capacity + first_key + threadIdx.x] = total;
  }
}

// Grid: (positions / kMassFinishThreads). Block: kMassFinishThreads. A thread adds up the heads of one position, and
// for a rollout step what stays there.
static __global__ void __launch_bounds__(kMassFinishThreads) attention_mass_finish_kernel(AttentionMassParams p) {
  const int64_t position = static_cast<int64_t>(blockIdx.x) * kMassFinishThreads + threadIdx.x;
  const int64_t positions = p.num_slots * p.capacity;
  if (position >= positions) return;
  const int64_t slot = position / p.capacity;
  float mass = 0.0f;
  if (position - slot * p.capacity < p.kv_lens[slot]) {
    for (int64_t head = 0; head < p.num_kv_heads; ++head) mass += p.partial_mass[head * positions + position];
  }
  if (p.z) mass += p.z[position] * (find_listed(p, slot, position) >= 0 ? 0.5f : 1.0f);
  p.out[position] = mass;
}

}  // namespace dlmcache::cuda
