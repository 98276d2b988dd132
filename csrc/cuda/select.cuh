// The best entries of every slot's part of a row list: radix selection of a threshold, then an ordered compaction.
#pragma once

#include "cuda/portable.cuh"
#include "cuda/reduce.cuh"
#include "dlmcache/select.h"

namespace dlmcache::cuda {

inline constexpr int kDigits = 256;  // values of one byte of a key

// Entries with a key above `key` are selected, and the first `num_equal` of those with this key.
struct SelectionThreshold {
  uint32_t key;
  int num_equal;
};

// Shared memory of a block.
template <int kThreads>
struct SelectScratch {
  int64_t sums[kReduceScratch<kThreads>];
  int histogram[kDigits];
  int above[kThreads / 32];  // per warp: entries above the threshold, or a part of the histogram
  int equal[kThreads / 32];  // per warp: entries at the threshold
  uint32_t digit;
  int remaining;
};

// Adds the next byte of all keys that begin with the bytes known so far to the histogram. Scores often differ in their
// low bits only, so lanes with the same byte are counted together instead of queueing at one counter.
template <int kThreads>
__device__ __forceinline__ void count_digits(const SelectRowsParams& p, int64_t first, int count, uint32_t known,
                                             uint32_t prefix, int shift, int* histogram) {
  const int lane = threadIdx.x % 32;
  for (int base = threadIdx.x - lane; base < count; base += kThreads) {
    const int i = base + lane;
    const uint32_t key = i < count ? selection_key(p.score[first + i], p.largest) : 0;
    const bool counts = i < count && (key & known) == prefix;
    const unsigned digit = counts ? key >> shift & (kDigits - 1) : kDigits;
    const unsigned peers = __match_any_sync(kFullWarp, digit);
    if (counts && (peers & ((1u << lane) - 1)) == 0) atomicAdd(&histogram[digit], __popc(peers));
  }
}

// The key of the k-th best of `count` entries from `first` on, 1 <= k <= count, one byte at a time from the top.
template <int kThreads>
__device__ __forceinline__ SelectionThreshold find_threshold(const SelectRowsParams& p, int64_t first, int count, int k,
                                                             SelectScratch<kThreads>& scratch) {
  static_assert(kThreads >= kDigits);
  // No key is 0, the bits of a NaN: everything is above it.
  if (k == count) return {0, 0};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int own_digit = kDigits - 1 - static_cast<int>(threadIdx.x);  // the first thread has the largest digit
  if (own_digit >= 0) scratch.histogram[own_digit] = 0;
  uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    const uint32_t known = shift == 24 ? 0u : ~0u << (shift + 8);
    count_digits<kThreads>(p, first, count, known, prefix, shift, scratch.histogram);
    __syncthreads();
    // How many keys have the own digit or a larger one.
    int own = 0;
    if (own_digit >= 0) {
      own = scratch.histogram[own_digit];
      scratch.histogram[own_digit] = 0;
    }
    int passed = own;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int other = __shfl_up_sync(kFullWarp, passed, distance);
      if (lane >= distance) passed += other;
    }
    if (lane == 31) scratch.above[warp] = passed;
    __syncthreads();
    for (int i = 0; i < warp; ++i) passed += scratch.above[i];
    if (own_digit >= 0 && passed >= k && passed - own < k) {  // true for one thread
      scratch.digit = static_cast<uint32_t>(own_digit);
      scratch.remaining = k - (passed - own);
    }
    __syncthreads();
    prefix |= scratch.digit << shift;
    k = scratch.remaining;
  }
  return {prefix, k};
}

// Lists the selected of `count` entries from `first` on, in their order, from entry `out` of the output on.
template <int kThreads>
__device__ __forceinline__ void list_selected(const SelectRowsParams& p, int64_t first, int count,
                                              SelectionThreshold threshold, int64_t out,
                                              SelectScratch<kThreads>& scratch) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // Equal parts, multiples of 32, one behind the other.
  const int per_warp = (count + kThreads - 1) / kThreads * 32;
  const int begin = warp * per_warp < count ? warp * per_warp : count;
  const int end = begin + per_warp < count ? begin + per_warp : count;
  int num_above = 0, num_equal = 0;
  for (int base = begin; base < end; base += 32) {
    const int i = base + lane;
    const uint32_t key = i < end ? selection_key(p.score[first + i], p.largest) : 0;
    num_above += __popc(__ballot_sync(kFullWarp, i < end && key > threshold.key));
    num_equal += __popc(__ballot_sync(kFullWarp, i < end && key == threshold.key));
  }
  if (lane == 0) {
    scratch.above[warp] = num_above;
    scratch.equal[warp] = num_equal;
  }
  __syncthreads();
  num_above = num_equal = 0;  // from here on: in front of the warp's next entries
  for (int i = 0; i < warp; ++i) {
    num_above += scratch.above[i];
    num_equal += scratch.equal[i];
  }
  const unsigned in_front = (1u << lane) - 1;
  for (int base = begin; base < end; base += 32) {
    const int i = base + lane;
    const uint32_t key = i < end ? selection_key(p.score[first + i], p.largest) : 0;
    const bool is_above = i < end && key > threshold.key, is_equal = i < end && key == threshold.key;
    const unsigned above = __ballot_sync(kFullWarp, is_above), equal = __ballot_sync(kFullWarp, is_equal);
    const int equal_before = num_equal + __popc(equal & in_front);
    if (is_above || (is_equal && equal_before < threshold.num_equal)) {
      const int taken = equal_before < threshold.num_equal ? equal_before : threshold.num_equal;
      const int64_t entry = out + num_above + __popc(above & in_front) + taken;
      if (entry < p.max_rows) {
        p.selected[entry] = p.row_index[first + i];
        p.places[entry] = first + i;
      }
    }
    num_above += __popc(above);
    num_equal += __popc(equal);
  }
}

// Grid: (at least num_slots). Block: kThreads. Block s adds up what the slots before s select and lists the selection
// of slot s behind it; all blocks share the entries behind the last one. Counters are integers and every entry of the
// output has one writer, so the result never varies.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) select_rows_kernel(SelectRowsParams p) {
  __shared__ SelectScratch<kThreads> scratch;
  const int64_t slot = blockIdx.x;
  int64_t before = 0, total = 0;
  for (int64_t i = threadIdx.x; i < p.num_slots; i += kThreads) {
    const int64_t count = num_selected(p, i);
    total += count;
    before += i < slot ? count : 0;
  }
  before = block_reduce_sum<kThreads>(before, scratch.sums);
  total = block_reduce_sum<kThreads>(total, scratch.sums);
  if (total > p.max_rows) total = p.max_rows;

  if (slot < p.num_slots) {
    if (threadIdx.x == 0) p.cu_selected[slot] = before < p.max_rows ? before : p.max_rows;
    const int64_t first = p.cu_rows[slot];
    const int count = static_cast<int>(p.cu_rows[slot + 1] - first), k = static_cast<int>(num_selected(p, slot));
    if (k > 0 && before < p.max_rows) {  // the same for all threads
      const SelectionThreshold threshold = find_threshold<kThreads>(p, first, count, k, scratch);
      list_selected<kThreads>(p, first, count, threshold, before, scratch);
    }
  }
  if (slot == 0 && threadIdx.x == 0) p.cu_selected[p.num_slots] = total;
  for (int64_t entry = total + slot * kThreads + threadIdx.x; entry < p.max_rows;
       entry += static_cast<int64_t>(gridDim.x) * kThreads) {
    p.selected[entry] = -1;
    p.places[entry] = -1;
  }
}

}  // namespace dlmcache::cuda
