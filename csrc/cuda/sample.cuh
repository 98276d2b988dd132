// Scaling and filtering logits, and what is sampled from the reduced rest.
#pragma once

#include "cuda/head.cuh"
#include "cuda/portable.cuh"
#include "cuda/reduce.cuh"
#include "dlmcache/sample.h"

namespace dlmcache::cuda {

// Three sums that a block adds up together: as many barriers as for one.
struct ThreeSums {
  int64_t of[3];

  __device__ __forceinline__ friend ThreeSums operator+(const ThreeSums& a, const ThreeSums& b) {
    return {{a.of[0] + b.of[0], a.of[1] + b.of[1], a.of[2] + b.of[2]}};
  }
  __device__ __forceinline__ friend ThreeSums shuffle_xor(const ThreeSums& sums, int lane_mask) {
    return {{detail::shuffle_xor(sums.of[0], lane_mask), detail::shuffle_xor(sums.of[1], lane_mask),
             detail::shuffle_xor(sums.of[2], lane_mask)}};
  }
};

// The smallest key above which the ids weigh at most `limit`, two bits of it per pass over the row. The passes read
// the row from the L2 cache; sums of whole numbers need no order.
template <int kThreads, typename Weight>
__device__ __forceinline__ uint32_t find_cut(const float* x, int64_t count, int64_t limit, Weight weight,
                                             ThreeSums* scratch) {
  uint32_t cut = 0;
  for (int shift = 30; shift >= 0; shift -= 2) {
    const uint32_t last[3] = {cut + (1u << shift) - 1, cut + (2u << shift) - 1, cut + (3u << shift) - 1};
    ThreeSums sum{{0, 0, 0}};
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
      const float value = x[i];
      if (!(value > -INFINITY)) continue;
      const uint32_t key = order_key(value);
      if (key <= last[0]) continue;
      const int64_t own = weight(value);
      sum.of[0] += own;
      sum.of[1] += key > last[1] ? own : 0;
      sum.of[2] += key > last[2] ? own : 0;
    }
    sum = detail::block_reduce<kThreads>(sum, scratch, ThreeSums{{0, 0, 0}}, detail::Sum{});
    uint32_t digit = 0;
#pragma unroll
    for (int d = 0; d < 3; ++d) digit += sum.of[d] > limit ? 1 : 0;
    cut += digit << shift;
  }
  return cut;
}

// Grid: (num_rows). Block: kThreads, which share one row.
template <typename scalar_t, int kThreads>
__global__ void __launch_bounds__(kThreads) filter_logits_kernel(FilterParams p) {
  __shared__ float float_scratch[kReduceScratch<kThreads>];
  __shared__ int64_t total_scratch[kReduceScratch<kThreads>];
  __shared__ ThreeSums scratch[kReduceScratch<kThreads>];
  const int64_t row = blockIdx.x;
  if (p.row_index && p.row_index[row] < 0) return;  // the whole block leaves
  const scalar_t* logits = static_cast<const scalar_t*>(p.logits) + row * p.logits_stride;
  float* out = p.out + row * p.out_stride;
  float largest = -INFINITY, nan_count = 0.0f;
  // A thread reads back only what it wrote itself, so that no pass has to wait for another thread's stores.
  for (int64_t i = threadIdx.x; i < p.vocab; i += kThreads) {
    float value = to_float(logits[i]);
    if (p.temperature > 0.0f) value /= p.temperature;
    out[i] = value;
    nan_count += value != value ? 1.0f : 0.0f;
    largest = value > largest ? value : largest;
  }
  largest = block_reduce_max<kThreads>(largest, float_scratch);
  nan_count = block_reduce_max<kThreads>(nan_count, float_scratch);
  if (nan_count > 0.0f || largest == -INFINITY || largest == INFINITY) return;
  uint32_t cut = 0;
  if (p.top_p < 1.0) {
    const auto mass = [&](float value) { return mass_of(expf(value - largest)); };
    int64_t total = 0;
    for (int64_t i = threadIdx.x; i < p.vocab; i += kThreads) total += mass(out[i]);
    total = block_reduce_sum<kThreads>(total, total_scratch);
    cut = find_cut<kThreads>(out, p.vocab, mass_limit(p.top_p, total), mass, scratch);
  }
  if (p.top_k > 0) {
    const auto one = [](float) { return int64_t{1}; };
    const uint32_t other = find_cut<kThreads>(out, p.vocab, p.top_k - 1, one, scratch);
    cut = other > cut ? other : cut;
  }
  if (cut == 0) return;
  for (int64_t i = threadIdx.x; i < p.vocab; i += kThreads) out[i] = filtered(out[i], cut);
}

// Grid: (num_rows / warps of a block, rounded up). Block: kThreads. One warp merges the segments of one row.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) sample_finish_kernel(SampleFinishParams p) {
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (row >= p.num_rows) return;
  if (p.row_index && p.row_index[row] < 0) {
    if (lane == 0) write_sample(p, row, -1, 0.0f, 0.0f);
    return;
  }
  VocabState state = empty_state();
  for (int64_t segment = lane; segment < p.num_segments; segment += 32) {
    state = merge_states(state, p.state[row * p.num_segments + segment]);
  }
  state = detail::warp_merge<true, true>(state);
  if (lane == 0) finish_sample(p, row, state);
}

}  // namespace dlmcache::cuda
