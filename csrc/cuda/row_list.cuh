// Row lists: counting and listing the flagged positions of every slot, and finding rows in a list.
#pragma once

#include "cuda/portable.cuh"
#include "cuda/reduce.cuh"
#include "dlmcache/row_list.h"

namespace dlmcache::cuda {

__device__ __forceinline__ int64_t limited_count(const BuildRowsParams& p, int64_t slot, int64_t count) {
  if (!p.limit || count <= p.limit[slot]) return count;
  return p.limit[slot] > 0 ? p.limit[slot] : 0;
}

// Without flags the range itself tells the number of rows; with flags count_rows_kernel has counted.
__device__ __forceinline__ int64_t num_rows_of(const BuildRowsParams& p, int64_t slot) {
  if (p.flags) return p.counts[slot];
  const int64_t length = p.end[slot] - p.begin[slot];
  return limited_count(p, slot, length > 0 ? length : 0);
}

// Grid: (num_slots). Block: kThreads. One block counts the flagged positions of one slot.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) count_rows_kernel(BuildRowsParams p) {
  __shared__ int64_t scratch[kReduceScratch<kThreads>];
  const int64_t slot = blockIdx.x;
  const bool* flags = p.flags + slot * p.capacity;
  int64_t count = 0;
  for (int64_t position = p.begin[slot] + threadIdx.x; position < p.end[slot]; position += kThreads) {
    count += flags[position] ? 1 : 0;
  }
  count = block_reduce_sum<kThreads>(count, scratch);
  if (threadIdx.x == 0) p.counts[slot] = limited_count(p, slot, count);
}

// The part of the positions [begin, end) that one warp lists: a multiple of 32, so that the warps' parts follow each
// other in order.
struct WarpRange {
  int64_t begin;
  int64_t end;
};

template <int kThreads>
__device__ __forceinline__ WarpRange warp_range(int64_t begin, int64_t end) {
  constexpr int kWarps = kThreads / 32;
  const int warp = threadIdx.x / 32;
  const int64_t length = end > begin ? end - begin : 0;
  const int64_t per_warp = (length + kThreads - 1) / kThreads * (kThreads / kWarps);
  const int64_t first = begin + warp * per_warp;
  const int64_t last = first + per_warp;
  return {first < end ? first : end, last < end ? last : end};
}

// Lists the flagged positions of `slot` from entry `first` on, at most `count` of them, ascending.
template <int kThreads>
__device__ __forceinline__ void list_flagged(const BuildRowsParams& p, int64_t slot, int64_t first, int64_t count,
                                             int* warp_counts) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool* flags = p.flags + slot * p.capacity;
  const WarpRange range = warp_range<kThreads>(p.begin[slot], p.end[slot]);
  int in_warp = 0;
  for (int64_t base = range.begin; base < range.end; base += 32) {
    const int64_t position = base + lane;
    in_warp += __popc(__ballot_sync(kFullWarp, position < range.end && flags[position]));
  }
  if (lane == 0) warp_counts[warp] = in_warp;
  __syncthreads();
  int64_t rank = 0;  // of the warp's next flagged position within the slot
  for (int i = 0; i < warp; ++i) rank += warp_counts[i];
  for (int64_t base = range.begin; base < range.end && rank < count; base += 32) {
    const int64_t position = base + lane;
    const bool listed = position < range.end && flags[position];
    const unsigned ballot = __ballot_sync(kFullWarp, listed);
    const int64_t own = rank + __popc(ballot & ((1u << lane) - 1));
    if (listed && own < count && first + own < p.max_rows) p.row_index[first + own] = slot * p.capacity + position;
    rank += __popc(ballot);
  }
}

// Grid: (at least num_slots). Block: kThreads. Block s adds up the counts of the slots before s and lists slot s behind
// them; all blocks share the entries behind the last row. Every entry has one writer, so the result never varies.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) build_rows_kernel(BuildRowsParams p) {
  __shared__ int64_t scratch[kReduceScratch<kThreads>];
  __shared__ int warp_counts[kThreads / 32];
  const int64_t slot = blockIdx.x;
  int64_t before = 0, total = 0;
  for (int64_t i = threadIdx.x; i < p.num_slots; i += kThreads) {
    const int64_t count = num_rows_of(p, i);
    total += count;
    before += i < slot ? count : 0;
  }
  before = block_reduce_sum<kThreads>(before, scratch);
  total = block_reduce_sum<kThreads>(total, scratch);
  if (total > p.max_rows) total = p.max_rows;

  if (slot < p.num_slots) {
    const int64_t count = num_rows_of(p, slot);
    if (threadIdx.x == 0) p.cu_rows[slot] = before < p.max_rows ? before : p.max_rows;
    if (p.flags) {
      list_flagged<kThreads>(p, slot, before, count, warp_counts);
    } else {
      const int64_t first_row = slot * p.capacity + p.begin[slot];
      for (int64_t i = threadIdx.x; i < count && before + i < p.max_rows; i += kThreads) {
        p.row_index[before + i] = first_row + i;
      }
    }
  }
  if (slot == 0 && threadIdx.x == 0) p.cu_rows[p.num_slots] = total;
  for (int64_t entry = total + slot * kThreads + threadIdx.x; entry < p.max_rows;
       entry += static_cast<int64_t>(gridDim.x) * kThreads) {
    p.row_index[entry] = -1;
  }
}

// Grid: (num_queries / kThreads). Block: kThreads. One thread searches for one row.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) find_rows_kernel(FindRowsParams p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.num_queries) return;
  const int64_t row = p.query[i];
  int64_t place = -1;
  if (row >= 0) {
    const int64_t slot = row / p.capacity;
    const int64_t behind = p.cu_rows[slot + 1];
    int64_t low = p.cu_rows[slot], high = behind;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (p.row_index[middle] < row) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    if (low < behind && p.row_index[low] == row) place = low;
  }
  p.place[i] = place;
}

}  // namespace dlmcache::cuda
