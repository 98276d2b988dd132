// Committing the candidates of every slot, and what is left to do there.
#pragma once

#include "cuda/portable.cuh"
#include "cuda/reduce.cuh"
#include "dlmcache/commit.h"

namespace dlmcache::cuda {

// Sorts keys[0..count) in ascending order with all threads of the block: a bitonic network in which every comparison
// moves the smaller key to the lower place. Keys behind `count` would be the largest and never move, so they need not
// exist, and count need not be a power of two. Ends with a barrier.
template <int kThreads>
__device__ __forceinline__ void sort_keys(uint64_t* keys, int count) {
  const auto order = [&](int low, int high) {
    if (high >= count) return;
    const uint64_t a = keys[low], b = keys[high];
    if (b < a) {
      keys[low] = b;
      keys[high] = a;
    }
  };
  for (int log_size = 1; (1 << (log_size - 1)) < count; ++log_size) {
    // Two sorted halves of 2^log_size keys, the second one read backwards.
    const int half = 1 << (log_size - 1);
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const int low = (i >> (log_size - 1) << log_size) | (i & (half - 1));
      if (low >= count) break;
      order(low, low ^ (2 * half - 1));
    }
    __syncthreads();
    for (int log_step = log_size - 2; log_step >= 0; --log_step) {
      const int step = 1 << log_step;
      for (int i = threadIdx.x; i < count; i += kThreads) {
        const int low = (i >> log_step << (log_step + 1)) | (i & (step - 1));
        if (low >= count) break;
        order(low, low + step);
      }
      __syncthreads();
    }
  }
}

// Two counts below 2^31 in one number, so that one reduction adds up both.
__device__ __forceinline__ int64_t pair_of(bool first, bool second) {
  return (first ? 1 : 0) + (second ? int64_t{1} << 32 : 0);
}
__device__ __forceinline__ int64_t first_of(int64_t pair) { return pair & 0xffffffff; }
__device__ __forceinline__ int64_t second_of(int64_t pair) { return pair >> 32; }

// The smallest of the threads' values.
template <int kThreads>
__device__ __forceinline__ int64_t block_reduce_min(int64_t value, int64_t* scratch) {
  return -block_reduce_max<kThreads>(-value, scratch);
}

// Commits candidates of one slot; returns how many were written. The keys are sorted unless nothing may be committed.
template <int kThreads>
__device__ __forceinline__ int64_t commit_candidates(const CommitParams& p, int64_t slot, uint64_t* keys,
                                                     int64_t* scratch, int64_t* num_invalid) {
  const int64_t first = p.cu_rows[slot];
  const int count = static_cast<int>(p.cu_rows[slot + 1] - first);
  int64_t valid_and_invalid = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const int64_t entry = first + i, row = p.row_index[entry];
    const uint64_t key = commit_key(row, p.token[entry], p.log_confidence[entry], p.score[entry], i);
    keys[i] = key;
    valid_and_invalid += pair_of(key != kInvalidKey, key == kInvalidKey && row >= 0);
  }
  valid_and_invalid = block_reduce_sum<kThreads>(valid_and_invalid, scratch);
  *num_invalid = second_of(valid_and_invalid);
  const int64_t num_valid = first_of(valid_and_invalid), num_commit = p.num_commit[slot];
  if (num_commit <= 0 || num_valid == 0) return 0;
  __syncthreads();  // the keys are written
  sort_keys<kThreads>(keys, count);

  // The length of the prefix that passes: the number of the first candidate that does not.
  int64_t num_chosen = num_valid;
  for (int64_t i = threadIdx.x; i < num_valid; i += kThreads) {
    if (!passes_rule(p, i + 1, p.log_confidence[first + commit_key_place(keys[i])], num_commit)) {
      num_chosen = i;
      break;
    }
  }
  num_chosen = block_reduce_min<kThreads>(num_chosen, scratch);

  int64_t num_committed = 0;
  for (int64_t i = threadIdx.x; i < num_chosen; i += kThreads) {
    const int64_t entry = first + commit_key_place(keys[i]);
    if (p.token[entry] == p.mask_id) continue;  // chosen, but the position stays masked
    const int64_t row = p.row_index[entry];
    p.tokens[row] = p.token[entry];
    p.commit_step[row] = p.steps[slot];
    p.commit_log_confidence[row] = p.log_confidence[entry];
    p.committed[entry] = true;
    ++num_committed;
  }
  return block_reduce_sum<kThreads>(num_committed, scratch);
}

template <int kThreads>
__device__ __forceinline__ void write_status(const CommitParams& p, int64_t slot, int64_t num_committed,
                                             int64_t num_invalid, int64_t* scratch) {
  const int64_t* tokens = p.tokens + slot * p.capacity;
  const int64_t gen_begin = p.spans[4 * slot], gen_end = p.spans[4 * slot + 1];
  const int64_t block_begin = p.spans[4 * slot + 2], block_end = p.spans[4 * slot + 3];
  int64_t first_end = gen_end;
  for (int64_t position = gen_begin + threadIdx.x; position < gen_end; position += kThreads) {
    if (is_end(p, tokens[position])) {
      first_end = position;
      break;
    }
  }
  first_end = block_reduce_min<kThreads>(first_end, scratch);

  int64_t masks = 0;  // before the first end, and in the block
  const int64_t from = gen_begin < block_begin ? gen_begin : block_begin;
  const int64_t to = first_end > block_end ? first_end : block_end;
  for (int64_t position = from + threadIdx.x; position < to; position += kThreads) {
    if (tokens[position] != p.mask_id) continue;
    masks += pair_of(gen_begin <= position && position < first_end, block_begin <= position && position < block_end);
  }
  masks = block_reduce_sum<kThreads>(masks, scratch);
  if (threadIdx.x == 0) {
    int64_t* status = p.status + kStatusSize * slot;
    status[kNumCommitted] = num_committed;
    status[kMasksInBlock] = second_of(masks);
    status[kMasksBeforeEnd] = first_of(masks);
    status[kFirstEnd] = first_end;
    status[kNumInvalid] = num_invalid;
  }
}

// Grid: (num_slots + 1). Block: kThreads. One block owns one slot, its candidates and its canvas; the last block clears
// the flags of the unused entries. Up to kSharedKeys candidates are sorted in shared memory, more in p.keys.
template <int kThreads, int kSharedKeys>
__global__ void __launch_bounds__(kThreads) commit_kernel(CommitParams p) {
  __shared__ uint64_t shared_keys[kSharedKeys];
  __shared__ int64_t scratch[kReduceScratch<kThreads>];
  const int64_t slot = blockIdx.x;
  const int64_t first = p.cu_rows[slot];
  const int64_t behind = slot < p.num_slots ? p.cu_rows[slot + 1] : p.num_rows;
  for (int64_t entry = first + threadIdx.x; entry < behind; entry += kThreads) p.committed[entry] = false;
  if (slot == p.num_slots) return;
  if (p.spans[4 * slot] >= p.spans[4 * slot + 1]) {  // no sequence in this slot
    if (threadIdx.x < kStatusSize) p.status[kStatusSize * slot + threadIdx.x] = 0;
    return;
  }
  uint64_t* keys = behind - first <= kSharedKeys ? shared_keys : p.keys + first;
  int64_t num_invalid = 0;
  const int64_t num_committed = commit_candidates<kThreads>(p, slot, keys, scratch, &num_invalid);
  __syncthreads();  // the tokens are written
  write_status<kThreads>(p, slot, num_committed, num_invalid, scratch);
}

}  // namespace dlmcache::cuda
