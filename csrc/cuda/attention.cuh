// Attention of few packed rows over a long key/value cache, split over the keys (flash-decoding).
//
// attention_kernel reduces one tile of rows over one split of the keys, or over all of them in turn; in the first case
// attention_merge_kernel puts the splits together. Both merge with the same instructions in the same order, so the two
// ways give the same bits. Scores carry a factor 1 / ln 2: exp2f is what the hardware has.
#pragma once

#include "cuda/portable.cuh"
#include "cuda/reduce.cuh"
#include "cuda/score_tile.cuh"
#include "cuda/vec.cuh"
#include "dlmcache/attention.h"

namespace dlmcache::cuda {

// The weights of two partial results in their merger, and its maximum and sum.
struct Merge {
  float max, sum, weight_a, weight_b;
};

__device__ __forceinline__ Merge merge_stats(float max_a, float sum_a, float max_b, float sum_b) {
  const float largest = fmaxf(max_a, max_b);
  const float weight_a = exp2f(max_a - largest), weight_b = exp2f(max_b - largest);
  return {largest, fmaf(sum_a, weight_a, sum_b * weight_b), weight_a, weight_b};
}

__device__ __forceinline__ float merge_value(const Merge& merge, float a, float b) {
  return fmaf(a, merge.weight_a, b * merge.weight_b);
}

template <typename scalar_t, int kHeadSize, int kRowsPerWarp>
struct AttentionShape {
  static constexpr int kRows = kAttentionWarps * kRowsPerWarp;
  // One vector of padding: lanes that read 16 bytes of 32 rows of keys then meet in no bank.
  static constexpr int kKeyStride = kHeadSize + Vec<scalar_t>::kSize;
  static constexpr int kSharedBytes = kRows * (2 * kHeadSize + kAttentionKeys + 2) * 4 +
                                      kAttentionKeys * (kKeyStride + kHeadSize) * static_cast<int>(sizeof(scalar_t));
  // Columns of the output of a lane: kColumnGroups times kColumns neighbours.
  static constexpr int kColumns = kHeadSize >= 128 ? 4 : kHeadSize / 32;
  static constexpr int kColumnGroups = kHeadSize / 32 / kColumns;
};

// One row's values, held by a warp as AttentionShape says, times `factor`.
template <typename Shape, typename scalar_t>
__device__ __forceinline__ void store_row(scalar_t* row, int head_size,
                                          const float (&value)[Shape::kColumnGroups][Shape::kColumns], float factor) {
  constexpr int kColumns = Shape::kColumns;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int g = 0; g < Shape::kColumnGroups; ++g) {
    const int column = (g * 32 + lane) * kColumns;
    if (head_size % kColumns == 0) {
      Packet<scalar_t, kColumns> packet;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) packet.element[c] = from_float<scalar_t>(value[g][c] * factor);
      if (column < head_size) *reinterpret_cast<Packet<scalar_t, kColumns>*>(row + column) = packet;
    } else {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        if (column + c < head_size) row[column + c] = from_float<scalar_t>(value[g][c] * factor);
      }
    }
  }
}

// Grid: (row tiles, key/value heads, splits or 1). Block: kAttentionThreads. The number of tiles is an upper bound,
// since only the device knows the slots' rows: blocks without a tile, or without keys in their split, leave at once.
// A warp owns kRowsPerWarp rows. It computes their scores with one key per lane and their values with a few columns
// per lane; rows of a group of query heads lie in one tile, so the group reads each key and value once. The number of
// blocks per multiprocessor is given so that ptxas does not spill a few registers in order to fit one more.
template <typename scalar_t, int kHeadSize, int kRowsPerWarp>
__global__ void __launch_bounds__(kAttentionThreads, kRowsPerWarp == 8 ? 2 : 3)
    attention_kernel(AttentionParams p, bool vectorised) {
  using Shape = AttentionShape<scalar_t, kHeadSize, kRowsPerWarp>;
  constexpr int kColumns = Shape::kColumns, kColumnGroups = Shape::kColumnGroups;
  DLMCACHE_DYNAMIC_SHARED(float, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float* q_tile = shared + warp * kRowsPerWarp * kHeadSize;                       // this warp's [rows][kHeadSize]
  float* weights = shared + Shape::kRows * kHeadSize + warp * 32 * kRowsPerWarp;  // this warp's [key][rows]
  // The result of the splits so far. It is touched once per split, so registers would be wasted on it; each lane reads
  // back only what it has written itself.
  float* merged = shared + Shape::kRows * (kHeadSize + kAttentionKeys) + warp * kRowsPerWarp * kHeadSize;
  float* const behind_merged = shared + Shape::kRows * (2 * kHeadSize + kAttentionKeys);
  int64_t* row_heads = reinterpret_cast<int64_t*>(behind_merged) + warp * kRowsPerWarp;  // where this warp's rows lie
  scalar_t* k_tile = reinterpret_cast<scalar_t*>(behind_merged + 2 * Shape::kRows);
  scalar_t* v_tile = k_tile + kAttentionKeys * Shape::kKeyStride;

  const RowTile tile = find_row_tile<Shape::kRows>(p, static_cast<int>(blockIdx.x));
  if (tile.slot < 0) return;
  const int head_size = static_cast<int>(p.head_size);
  const int group = static_cast<int>(p.num_heads / p.num_kv_heads);
  const int kv_head = static_cast<int>(blockIdx.y);
  const int64_t first_row = p.cu_rows[tile.slot];
  const int my_rows = min(max(tile.used_rows - warp * kRowsPerWarp, 0), kRowsPerWarp);
  if (lane < my_rows) {
    const int packed = tile.first_packed + warp * kRowsPerWarp + lane;
    row_heads[lane] = (first_row + packed / group) * p.num_heads + kv_head * group + packed % group;
  }
  __syncwarp();
  scalar_t* out = static_cast<scalar_t*>(p.out);

  const int64_t num_keys = tile.slot < p.num_slots ? p.kv_lens[tile.slot] : 0;
  if (num_keys <= 0) {
    for (int r = 0; blockIdx.z == 0 && r < my_rows; ++r) {
      const int64_t index = row_heads[r];
      for (int i = lane; i < head_size; i += 32) out[index * head_size + i] = from_float<scalar_t>(0.0f);
      if (p.lse && lane == 0) p.lse[index] = tile.slot < p.num_slots ? -INFINITY : 0.0f;
    }
    return;
  }
  const KeySplits splits = attention_splits(num_keys);
  const bool one_split = p.max_splits > 0;
  const int first_split = one_split ? static_cast<int>(blockIdx.z) : 0;
  const int last_split = one_split ? first_split + 1 : static_cast<int>(splits.count);
  if (first_split >= splits.count) return;

#pragma unroll 1
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const int64_t index = r < my_rows ? row_heads[r] : 0;
#pragma unroll 1
    for (int i = lane; i < kHeadSize; i += 32) {
      const bool used = r < my_rows && i < head_size;
      q_tile[r * kHeadSize + i] =
          used ? to_float(static_cast<const scalar_t*>(p.q)[index * head_size + i]) * (p.scale * 1.44269504f) : 0.0f;
    }
  }

  const int64_t stride = p.num_kv_heads * p.head_size;
  const int64_t base = tile.slot * p.capacity * stride + kv_head * p.head_size;
  const scalar_t* k = static_cast<const scalar_t*>(p.k) + base;
  const scalar_t* v = static_cast<const scalar_t*>(p.v) + base;
  float merged_max[kRowsPerWarp], merged_sum[kRowsPerWarp];
  using Columns = Packet<float, kColumns>;
  const auto merged_columns = [&](int r, int g) {
    return reinterpret_cast<Columns*>(merged + r * kHeadSize + (g * 32 + lane) * kColumns);
  };

  for (int split = first_split; split < last_split; ++split) {
    float row_max[kRowsPerWarp], row_sum[kRowsPerWarp];  // row_sum: of this lane's keys
    float value[kRowsPerWarp][kColumnGroups][kColumns];
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      row_max[r] = -INFINITY;
      row_sum[r] = 0.0f;
#pragma unroll
      for (int g = 0; g < kColumnGroups; ++g) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) value[r][g][c] = 0.0f;
      }
    }
    const int64_t begin = split * splits.keys;
    const int64_t end = min(begin + splits.keys, num_keys);
    for (int64_t first = begin; first < end; first += kAttentionKeys) {
      const int count = static_cast<int>(min(end - first, static_cast<int64_t>(kAttentionKeys)));
      __syncthreads();  // everybody is done with the tile before
      load_cache_tile<kHeadSize>(k + first * stride, stride, head_size, count, vectorised, k_tile, Shape::kKeyStride);
      load_cache_tile<kHeadSize>(v + first * stride, stride, head_size, count, vectorised, v_tile, kHeadSize);
      __syncthreads();
      if (my_rows == 0) continue;

      float score[kRowsPerWarp];
      score_rows<kHeadSize>(k_tile + lane * Shape::kKeyStride, q_tile, score);

      Packet<float, 4> lane_weights[kRowsPerWarp / 4];
#pragma unroll
      for (int r = 0; r < kRowsPerWarp; ++r) {
        const float masked = lane < count ? score[r] : -INFINITY;
        const float largest = fmaxf(row_max[r], warp_reduce_max(masked));
        const float decay = exp2f(row_max[r] - largest);
        const float weight = exp2f(masked - largest);
        row_max[r] = largest;
        row_sum[r] = fmaf(row_sum[r], decay, weight);
        lane_weights[r / 4].element[r % 4] = weight;
#pragma unroll
        for (int g = 0; g < kColumnGroups; ++g) {
#pragma unroll
          for (int c = 0; c < kColumns; ++c) value[r][g][c] *= decay;
        }
      }
#pragma unroll
      for (int i = 0; i < kRowsPerWarp / 4; ++i) {
        *reinterpret_cast<Packet<float, 4>*>(weights + lane * kRowsPerWarp + 4 * i) = lane_weights[i];
      }
      __syncwarp();

#pragma unroll 2
      for (int i = 0; i < kAttentionKeys; ++i) {
        float column[kColumnGroups][kColumns];
#pragma unroll
        for (int g = 0; g < kColumnGroups; ++g) {
          const auto loaded =
              *reinterpret_cast<const Packet<scalar_t, kColumns>*>(v_tile + i * kHeadSize + (g * 32 + lane) * kColumns);
#pragma unroll
          for (int c = 0; c < kColumns; ++c) column[g][c] = to_float(loaded.element[c]);
        }
#pragma unroll
        for (int quad = 0; quad < kRowsPerWarp / 4; ++quad) {
          const auto weight = *reinterpret_cast<const Packet<float, 4>*>(weights + i * kRowsPerWarp + 4 * quad);
#pragma unroll
          for (int r = 0; r < 4; ++r) {
#pragma unroll
            for (int g = 0; g < kColumnGroups; ++g) {
#pragma unroll
              for (int c = 0; c < kColumns; ++c) {
                float& sum = value[4 * quad + r][g][c];
                sum = fmaf(weight.element[r], column[g][c], sum);
              }
            }
          }
        }
      }
    }

#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      const float sum = warp_reduce_sum(row_sum[r]);
      if (one_split && splits.count > 1) {
        if (r >= my_rows) continue;
        const int64_t entry = row_heads[r] * p.max_splits + split;
        store_row<Shape>(p.partial_values + entry * head_size, head_size, value[r], 1.0f);
        if (lane == 0) {
          p.partial_stats[2 * entry] = row_max[r];
          p.partial_stats[2 * entry + 1] = sum;
        }
      } else if (split == first_split) {
        merged_max[r] = row_max[r];
        merged_sum[r] = sum;
#pragma unroll
        for (int g = 0; g < kColumnGroups; ++g) {
          Columns columns;
#pragma unroll
          for (int c = 0; c < kColumns; ++c) columns.element[c] = value[r][g][c];
          *merged_columns(r, g) = columns;
        }
      } else {
        const Merge merge = merge_stats(merged_max[r], merged_sum[r], row_max[r], sum);
        merged_max[r] = merge.max;
        merged_sum[r] = merge.sum;
#pragma unroll
        for (int g = 0; g < kColumnGroups; ++g) {
          Columns columns = *merged_columns(r, g);
#pragma unroll
          for (int c = 0; c < kColumns; ++c)
            columns.element[c] = merge_value(merge, columns.element[c], value[r][g][c]);
          *merged_columns(r, g) = columns;
        }
      }
    }
  }
  if (one_split && splits.count > 1) return;
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    if (r >= my_rows) continue;
    const int64_t index = row_heads[r];
    float value[kColumnGroups][kColumns];
#pragma unroll
    for (int g = 0; g < kColumnGroups; ++g) {
      const Columns columns = *merged_columns(r, g);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) value[g][c] = columns.element[c];
    }
    store_row<Shape>(out + index * head_size, head_size, value, 1.0f / merged_sum[r]);
    if (p.lse && lane == 0) p.lse[index] = natural_lse(merged_max[r], merged_sum[r]);
  }
}

// Grid: (rows * query heads / kAttentionWarps). Block: kAttentionThreads. A warp merges the splits of one row and head,
// each lane every 32nd column; rows that attention_kernel has finished alone are left as they are.
template <typename scalar_t>
__global__ void __launch_bounds__(kAttentionThreads) attention_merge_kernel(AttentionParams p) {
  constexpr int kColumns = static_cast<int>(kMaxAttentionHeadSize) / 32;
  const int lane = threadIdx.x % 32;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kAttentionWarps + threadIdx.x / 32;
  const int64_t row = index / p.num_heads;
  if (row >= p.num_rows || p.num_slots == 0) return;
  const int64_t slot = find_slot(p, row);
  if (slot == p.num_slots) return;
  const int splits = static_cast<int>(attention_splits(p.kv_lens[slot]).count);
  if (splits < 2) return;

  const int head_size = static_cast<int>(p.head_size);
  const float* stats = p.partial_stats + index * p.max_splits * 2;
  const float* partial = p.partial_values + index * p.max_splits * head_size;
  float merged_max = stats[0], merged_sum = stats[1], merged[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) merged[c] = lane + 32 * c < head_size ? partial[lane + 32 * c] : 0.0f;
  for (int split = 1; split < splits; ++split) {
    const Merge merge = merge_stats(merged_max, merged_sum, stats[2 * split], stats[2 * split + 1]);
    merged_max = merge.max;
    merged_sum = merge.sum;
    partial += head_size;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int column = lane + 32 * c;
      if (column < head_size) merged[c] = merge_value(merge, merged[c], partial[column]);
    }
  }
  scalar_t* out = static_cast<scalar_t*>(p.out) + index * head_size;
  const float inverse = 1.0f / merged_sum;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (lane + 32 * c < head_size) out[lane + 32 * c] = from_float<scalar_t>(merged[c] * inverse);
  }
  if (p.lse && lane == 0) p.lse[index] = natural_lse(merged_max, merged_sum);
}

}  // namespace dlmcache::cuda
