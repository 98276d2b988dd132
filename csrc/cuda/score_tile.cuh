// Scores of a tile of rows against a tile of keys, for every kernel that looks at attention weights.
//
// A block has kAttentionWarps warps. Rows of one slot that share a key/value head are packed as attention.h says and
// dealt out to the warps; 32 keys lie in shared memory in their storage type, one per lane. Scores carry a factor
// 1 / ln 2: exp2f is what the hardware has.
#pragma once

#include "cuda/portable.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vec.cuh"

namespace dlmcache::cuda {

inline constexpr int kAttentionWarps = 4;
inline constexpr int kAttentionThreads = 32 * kAttentionWarps;
inline constexpr int kAttentionKeys = 32;  // keys in shared memory at a time, one per lane

inline constexpr float kLog2E = 1.44269504f;

// A few neighbouring elements, moved by one instruction.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Packet {
  T element[kCount];
};

// Which packed rows a block works on. slot is num_slots for the unused rows behind the last slot, -1 for no work.
struct RowTile {
  int slot;
  int first_packed;  // among the packed rows of the slot
  int used_rows;
};

// Every warp finds its block's tile by itself: a scan over the slots' tile counts, 32 slots at a time.
template <int kRows, typename Params>
__device__ RowTile find_row_tile(const Params& p, int tile) {
  const int lane = threadIdx.x % 32;
  const int group = static_cast<int>(p.num_heads / p.num_kv_heads);
  const int num_slots = static_cast<int>(p.num_slots);
  for (int first = 0; first <= num_slots; first += 32) {
    const int slot = first + lane;
    int packed = 0;
    if (slot <= num_slots) {
      const int64_t end = slot < num_slots ? p.cu_rows[slot + 1] : p.num_rows;
      packed = static_cast<int>(end - p.cu_rows[slot]) * group;
    }
    const int tiles = (packed + kRows - 1) / kRows;
    int tiles_to_here = tiles;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int before = __shfl_up_sync(kFullWarp, tiles_to_here, distance);
      if (lane >= distance) tiles_to_here += before;
    }
    const unsigned reached = __ballot_sync(kFullWarp, tiles_to_here > tile);
    if (reached != 0) {
      const int owner = __ffs(static_cast<int>(reached)) - 1;
      const int number = tile - __shfl_sync(kFullWarp, tiles_to_here - tiles, owner);
      const int left = __shfl_sync(kFullWarp, packed, owner) - number * kRows;
      return {first + owner, number * kRows, left < kRows ? left : kRows};
    }
    tile -= __shfl_sync(kFullWarp, tiles_to_here, 31);
  }
  return {-1, 0, 0};
}

// Copies keys [first, end), at most kAttentionKeys, of one head into shared memory; zeros behind the last key and
// behind the head's last element.
template <int kHeadSize, typename scalar_t>
__device__ __forceinline__ void load_cache_tile(const scalar_t* cache, int64_t stride, int head_size, int count,
                                                bool vectorised, scalar_t* tile, int tile_stride) {
  constexpr int kSize = Vec<scalar_t>::kSize;
  if (vectorised) {
    constexpr int kVecs = kHeadSize / kSize;
#pragma unroll 2
    for (int i = threadIdx.x; i < kAttentionKeys * kVecs; i += kAttentionThreads) {
      const int key = i / kVecs, element = i % kVecs * kSize;
      Vec<scalar_t> value{};
      if (key < count && element < head_size) value = load_vec(cache + key * stride + element);
      store_vec(tile + key * tile_stride + element, value);
    }
  } else {
    for (int i = threadIdx.x; i < kAttentionKeys * kHeadSize; i += kAttentionThreads) {
      const int key = i / kHeadSize, element = i % kHeadSize;
      tile[key * tile_stride + element] =
          key < count && element < head_size ? cache[key * stride + element] : from_float<scalar_t>(0.0f);
    }
  }
}

// score[r] = q_rows[r] . key for the rows of a warp, [kRows][kHeadSize] in shared memory, and the key of this lane.
template <int kHeadSize, typename scalar_t, int kRows>
__device__ __forceinline__ void score_rows(const scalar_t* key, const float* q_rows, float (&score)[kRows]) {
#pragma unroll
  for (int r = 0; r < kRows; ++r) score[r] = 0.0f;
#pragma unroll 1  // an iteration holds 4 * kRows multiply-adds and as many registers
  for (int d = 0; d < kHeadSize; d += 4) {
    const Packet<scalar_t, 4> loaded = *reinterpret_cast<const Packet<scalar_t, 4>*>(key + d);
    float element[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) element[i] = to_float(loaded.element[i]);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Packet<float, 4> row = *reinterpret_cast<const Packet<float, 4>*>(q_rows + r * kHeadSize + d);
#pragma unroll
      for (int i = 0; i < 4; ++i) score[r] = fmaf(row.element[i], element[i], score[r]);
    }
  }
}

__device__ __forceinline__ float natural_lse(float max_score, float sum) {
  return (max_score + log2f(sum)) * 0.693147180559945f;
}

// The last slot that begins at or before the row; num_slots for an unused one.
template <typename Params>
__device__ __forceinline__ int64_t find_slot(const Params& p, int64_t row) {
  int64_t slot = 0, above = p.num_slots + 1;
  while (above - slot > 1) {
    const int64_t middle = (slot + above) / 2;
    if (p.cu_rows[middle] <= row) {
      slot = middle;
    } else {
      above = middle;
    }
  }
  return slot;
}

// Where `row` stands in the slot's part of the ascending row list, -1 where it does not.
template <typename Params>
__device__ __forceinline__ int64_t find_listed(const Params& p, int64_t slot, int64_t row) {
  int64_t low = p.cu_rows[slot];
  const int64_t behind = p.cu_rows[slot + 1];
  int64_t high = behind;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (p.row_index[middle] < row) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < behind && p.row_index[low] == row ? low : -1;
}

}  // namespace dlmcache::cuda
