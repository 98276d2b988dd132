// Reduces a chunk of logits into the running state of each row.
#pragma once

#include "cuda/portable.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vec.cuh"
#include "dlmcache/head.h"

namespace dlmcache::cuda {
namespace detail {

// A state as words: what a shuffle moves. The fields that a kernel does not use stay behind.
template <bool kExtras, bool kNoise>
__device__ __forceinline__ VocabState shuffle_state(const VocabState& s, int lane_mask) {
  VocabState other = empty_state();
  other.max = __shfl_xor_sync(kFullWarp, s.max, lane_mask);
  other.max_id = __shfl_xor_sync(kFullWarp, s.max_id, lane_mask);
  other.rest = __shfl_xor_sync(kFullWarp, s.rest, lane_mask);
  if constexpr (kExtras) {
    other.rest_gap = __shfl_xor_sync(kFullWarp, s.rest_gap, lane_mask);
    other.second = __shfl_xor_sync(kFullWarp, s.second, lane_mask);
    other.second_id = __shfl_xor_sync(kFullWarp, s.second_id, lane_mask);
  }
  if constexpr (kNoise) {
    other.choice = __shfl_xor_sync(kFullWarp, s.choice, lane_mask);
    other.choice_id = __shfl_xor_sync(kFullWarp, s.choice_id, lane_mask);
    other.choice_logit = __shfl_xor_sync(kFullWarp, s.choice_logit, lane_mask);
  }
  return other;
}

template <bool kExtras, bool kNoise>
__device__ __forceinline__ VocabState warp_merge(VocabState s) {
#pragma unroll
  for (int lane_mask = 16; lane_mask > 0; lane_mask /= 2) {
    s = merge_states(s, shuffle_state<kExtras, kNoise>(s, lane_mask));
  }
  return s;
}

// One more id of the softmax, one exponential: the larger of the two logits is the reference of either case.
template <bool kExtras>
__device__ __forceinline__ void add_id(VocabState& s, float logit, int32_t id) {
  if (logit == -INFINITY) return;
  const float difference = logit - s.max;
  const float scale = expf(-fabsf(difference));
  if (difference > 0.0f) {
    if constexpr (kExtras) {
      // Against the first id the difference is infinite and the scale 0, whose product is no number.
      s.rest_gap = scale > 0.0f ? scale * (s.rest_gap + difference * (1.0f + s.rest)) : 0.0f;
      s.second = s.max;
      s.second_id = s.max_id;
    }
    // (1 + rest) stays NaN when it was: scale is a number here, or rest becomes NaN.
    s.rest = scale * (1.0f + s.rest);
    s.max = logit;
    s.max_id = id;
  } else {
    s.rest += scale;
    if constexpr (kExtras) {
      if (scale > 0.0f) s.rest_gap -= scale * difference;
      if (logit > s.second) {  // ids of a thread ascend: of equal ones the first stays
        s.second = logit;
        s.second_id = id;
      }
    }
  }
}

}  // namespace detail

// Grid: (num_rows * num_segments). Block: kThreads. One block reduces one segment of one row's chunk, reading the
// logits once, kStep ids a thread at a time (kStep 4: any alignment; more: 16-byte loads), and merges the result into
// the state of that row and segment; with one segment the block of the last chunk writes the row's outputs.
// Five blocks a multiprocessor (three with noise) hide the latency; left alone, ptxas aims for eight on sm_100, and
// spills.
template <typename scalar_t, int kThreads, bool kVectorised, bool kExtras, bool kNoise>
__global__ void __launch_bounds__(kThreads, kNoise ? 3 : 5) vocab_reduce_kernel(VocabReduceParams p) {
  constexpr int kStep = kVectorised ? Vec<scalar_t>::kSize : 4;
  static_assert(kStep % 4 == 0, "one Philox call serves four ids");
  __shared__ VocabState partial[kThreads / 32];
  const int64_t unit = blockIdx.x;
  const int64_t row = unit / p.num_segments;
  const bool finishes = p.last && p.num_segments == 1;
  const int64_t place = p.row_index ? p.row_index[row] : 0;
  if (place < 0) {  // the whole block leaves
    if (finishes && threadIdx.x == 0) write_unused_row(p, row);
    return;
  }
  int64_t seed = 0, step = 0, position = 0;
  if constexpr (kNoise) {
    const int64_t slot = place / p.capacity;
    seed = p.seeds[slot];
    step = p.steps[slot];
    position = place - slot * p.capacity;
  }
  // Not const, not restrict: suppressed ids are overwritten below, so the read-only path must not be used.
  scalar_t* logits = static_cast<scalar_t*>(p.logits) + row * p.logits_stride;
  const int64_t width = segment_width(p);
  const int64_t begin = (unit - row * p.num_segments) * width;
  const int64_t end = begin + width < p.chunk_width ? begin + width : p.chunk_width;
  VocabState state = empty_state();

  if (p.num_suppress > 0) {
    for (int64_t i = threadIdx.x; i < p.num_suppress; i += kThreads) {
      const int64_t offset = p.suppress_ids[i] - p.chunk_begin;
      if (offset >= begin && offset < end) logits[offset] = from_float<scalar_t>(-INFINITY);
    }
    __syncthreads();
  }
  if (p.num_confidence_suppress > 0) {
    for (int64_t i = threadIdx.x; i < p.num_confidence_suppress; i += kThreads) {
      const int64_t id = p.confidence_suppress_ids[i], offset = id - p.chunk_begin;
      if (offset < begin || offset >= end) continue;
      const float logit = to_float(logits[offset]);
      float value = logit;
      if constexpr (kNoise) {
        const PhiloxWords words = draw(seed, step, position, kGumbelStream, static_cast<uint32_t>(id / 4));
        value += p.temperature * gumbel_from_word(select_word(words, id % 4));
      }
      offer_outside(state, value, static_cast<int32_t>(id), logit);
    }
    __syncthreads();  // the list may name an id twice
    for (int64_t i = threadIdx.x; i < p.num_confidence_suppress; i += kThreads) {
      const int64_t offset = p.confidence_suppress_ids[i] - p.chunk_begin;
      if (offset >= begin && offset < end) logits[offset] = from_float<scalar_t>(-INFINITY);
    }
    __syncthreads();
  }

  for (int64_t first = begin + threadIdx.x * kStep; first < end; first += kThreads * kStep) {
    float value[kStep];
    bool is_loaded = false;
    if constexpr (kVectorised) {
      if (first + kStep <= end) {
        load_floats<kStep>(logits + first, value);
        is_loaded = true;
      }
    }
    if (!is_loaded) {
#pragma unroll
      for (int k = 0; k < kStep; ++k) value[k] = first + k < end ? to_float(logits[first + k]) : -INFINITY;
    }
    const int32_t first_id = static_cast<int32_t>(p.chunk_begin + first);
#pragma unroll
    for (int k = 0; k < kStep; ++k) detail::add_id<kExtras>(state, value[k], first_id + k);
    if constexpr (kNoise) {
#pragma unroll
      for (int group = 0; group < kStep; group += 4) {
        const PhiloxWords words =
            draw(seed, step, position, kGumbelStream, static_cast<uint32_t>(first_id + group) / 4);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const float logit = value[group + k];
          if (logit == -INFINITY) continue;
          offer_choice(state, logit + p.temperature * gumbel_from_word(words.word[k]), first_id + group + k, logit);
        }
      }
    }
  }

  // Without noise, too, an id outside the softmax may stand in `choice`, so it always travels along.
  state = detail::warp_merge<kExtras, true>(state);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = state;
  __syncthreads();
  if (threadIdx.x != 0) return;
  VocabState merged = p.first ? empty_state() : p.state[unit];
  for (int warp = 0; warp < kThreads / 32; ++warp) merged = merge_states(merged, partial[warp]);
  if (finishes) {
    finish_row(p, row, merged);
  } else {
    p.state[unit] = merged;
  }
}

// Grid: (num_rows / warps of a block, rounded up). Block: kThreads. One warp merges the segments of one row.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) vocab_finish_kernel(VocabReduceParams p) {
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (row >= p.num_rows) return;
  if (p.row_index && p.row_index[row] < 0) {
    if (lane == 0) write_unused_row(p, row);
    return;
  }
  VocabState state = empty_state();
  for (int64_t segment = lane; segment < p.num_segments; segment += 32) {
    state = merge_states(state, p.state[row * p.num_segments + segment]);
  }
  state = detail::warp_merge<true, true>(state);
  if (lane == 0) finish_row(p, row, state);
}

}  // namespace dlmcache::cuda
