// Reductions over warps and blocks against plain loops.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "cuda/reduce.cuh"
#include "tests/test_main.h"

namespace {

using dlmcache::cuda::ArgMax;
using dlmcache::cuda::argmax_identity;
using dlmcache::cuda::better;
using dlmcache::cuda::kReduceScratch;

__global__ void warp_reduce_kernel(const float* in, float* sums, float* maxima, int* integer_sums, ArgMax* winners) {
  const int i = threadIdx.x;
  sums[i] = dlmcache::cuda::warp_reduce_sum(in[i]);
  maxima[i] = dlmcache::cuda::warp_reduce_max(in[i]);
  integer_sums[i] = dlmcache::cuda::warp_reduce_sum(i);
  winners[i] = dlmcache::cuda::warp_reduce_argmax({in[i], i});
}

TEST(warp_reductions_reach_every_lane) {
  constexpr int kThreads = 96;
  std::vector<float> in(kThreads), sums(kThreads), maxima(kThreads);
  std::vector<int> integer_sums(kThreads);
  std::vector<ArgMax> winners(kThreads);
  for (int i = 0; i < kThreads; ++i) in[i] = static_cast<float>((i * 37) % 53 - 60);  // negative: 0 is no maximum
  DLMCACHE_LAUNCH(warp_reduce_kernel, 1, kThreads, 0, nullptr, in.data(), sums.data(), maxima.data(),
                  integer_sums.data(), winners.data());
  for (int i = 0; i < kThreads; ++i) {
    const auto first = in.begin() + i / 32 * 32;
    float sum = 0.0f;
    int integer_sum = 0;
    for (int lane = 0; lane < 32; ++lane) {
      sum += first[lane];
      integer_sum += i / 32 * 32 + lane;
    }
    const auto largest = std::max_element(first, first + 32);
    CHECK_EQ(sums[i], sum);
    CHECK_EQ(maxima[i], *largest);
    CHECK_EQ(integer_sums[i], integer_sum);
    CHECK_EQ(winners[i].value, *largest);
    CHECK_EQ(winners[i].index, largest - in.begin());
  }
}

// Reduces blocks of kThreads values, each kind twice with the same scratch and no barrier between.
template <int kThreads>
__global__ void block_reduce_kernel(const float* in, float* sums, float* maxima, int64_t* wide_sums, ArgMax* winners) {
  __shared__ float scratch[kReduceScratch<kThreads>];
  __shared__ long long wide_scratch[kReduceScratch<kThreads>];
  __shared__ ArgMax argmax_scratch[kReduceScratch<kThreads>];
  const int i = blockIdx.x * kThreads + threadIdx.x;
  const float sum = dlmcache::cuda::block_reduce_sum<kThreads>(in[i], scratch);
  const float largest = dlmcache::cuda::block_reduce_max<kThreads>(in[i], scratch);
  sums[i] = dlmcache::cuda::block_reduce_sum<kThreads>(sum, scratch);
  maxima[i] = dlmcache::cuda::block_reduce_max<kThreads>(largest, scratch);
  wide_sums[i] = dlmcache::cuda::block_reduce_sum<kThreads>((1LL << 40) + i, wide_scratch);
  winners[i] = dlmcache::cuda::block_reduce_argmax<kThreads>({in[i], i}, argmax_scratch);
}

template <int kThreads>
void check_block_reductions() {
  constexpr int kBlocks = 3, kCount = kBlocks * kThreads;
  std::vector<float> in(kCount), sums(kCount), maxima(kCount);
  std::vector<int64_t> wide_sums(kCount);
  std::vector<ArgMax> winners(kCount);
  std::mt19937 random(kThreads);
  for (float& value : in)
    value = static_cast<float>(static_cast<int>(random() % 64) - 100) / 64.0f;  // exact sums, ties
  DLMCACHE_LAUNCH(block_reduce_kernel<kThreads>, kBlocks, kThreads, 0, nullptr, in.data(), sums.data(), maxima.data(),
                  wide_sums.data(), winners.data());
  for (int b = 0; b < kBlocks; ++b) {
    const auto first = in.begin() + b * kThreads;
    float sum = 0.0f;
    int64_t wide_sum = 0;
    for (int t = 0; t < kThreads; ++t) {
      sum += first[t];
      wide_sum += (1LL << 40) + b * kThreads + t;
    }
    const auto largest = std::max_element(first, first + kThreads);  // the first of equals
    for (int i = b * kThreads; i < (b + 1) * kThreads; ++i) {
      CHECK_EQ(sums[i], sum * kThreads);
      CHECK_EQ(maxima[i], *largest);
      CHECK_EQ(wide_sums[i], wide_sum);
      CHECK_EQ(winners[i].value, *largest);
      CHECK_EQ(winners[i].index, largest - in.begin());
    }
  }
}

TEST(block_reductions_of_any_number_of_warps) {
  check_block_reductions<32>();
  check_block_reductions<64>();
  check_block_reductions<96>();
  check_block_reductions<128>();
  check_block_reductions<160>();
  check_block_reductions<256>();
  check_block_reductions<672>();
  check_block_reductions<1024>();
}

template <int kThreads>
__global__ void block_sum_kernel(const float* in, float* out) {
  __shared__ float scratch[kReduceScratch<kThreads>];
  out[threadIdx.x] = dlmcache::cuda::block_reduce_sum<kThreads>(in[threadIdx.x], scratch);
}

TEST(every_thread_gets_the_same_bits_of_an_inexact_sum) {
  constexpr int kThreads = 352;
  std::vector<float> in(kThreads), out(kThreads);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (float& value : in) value = normal(random) * 1e3f;
  double exact = 0.0;
  for (float value : in) exact += value;
  DLMCACHE_LAUNCH(block_sum_kernel<kThreads>, 1, kThreads, 0, nullptr, in.data(), out.data());
  for (float value : out) CHECK(std::memcmp(&value, &out[0], sizeof(float)) == 0);
  CHECK_NEAR(out[0], exact, 1e-2);
}

template <int kThreads>
__global__ void argmax_kernel(const float* in, const int64_t* index, ArgMax* out) {
  __shared__ ArgMax scratch[kReduceScratch<kThreads>];
  const ArgMax mine{in[threadIdx.x], index[threadIdx.x]};
  out[threadIdx.x] = dlmcache::cuda::block_reduce_argmax<kThreads>(mine, scratch);
}

template <int kThreads>
ArgMax argmax_of(const std::vector<float>& in, const std::vector<int64_t>& index) {
  std::vector<ArgMax> out(kThreads);
  DLMCACHE_LAUNCH(argmax_kernel<kThreads>, 1, kThreads, 0, nullptr, in.data(), index.data(), out.data());
  for (const ArgMax& winner : out) {
    CHECK_EQ(winner.index, out[0].index);
    CHECK_EQ(winner.value, out[0].value);
  }
  return out[0];
}

TEST(argmax_prefers_the_lowest_index_wherever_it_stands) {
  constexpr int kThreads = 128;
  std::vector<float> in(kThreads, 1.0f);
  std::vector<int64_t> index(kThreads);
  for (int rotation : {0, 1, 31, 32, 77, 127}) {
    for (int i = 0; i < kThreads; ++i) index[i] = (int64_t{1} << 35) + (i + rotation) % kThreads;
    CHECK_EQ(argmax_of<kThreads>(in, index).index, int64_t{1} << 35);
  }
}

TEST(argmax_of_special_values) {
  constexpr int kThreads = 64;
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  std::vector<int64_t> index(kThreads);
  for (int i = 0; i < kThreads; ++i) index[i] = i;

  std::vector<float> in(kThreads, -inf);  // even -inf is a candidate
  CHECK_EQ(argmax_of<kThreads>(in, index).index, 0);

  in.assign(kThreads, nan);  // NaN never is
  CHECK_EQ(argmax_of<kThreads>(in, index).index, argmax_identity().index);
  in[63] = -inf;
  CHECK_EQ(argmax_of<kThreads>(in, index).index, 63);
  in[40] = in[50] = 3.0f;
  CHECK_EQ(argmax_of<kThreads>(in, index).index, 40);
  in[60] = inf;
  CHECK_EQ(argmax_of<kThreads>(in, index).index, 60);

  in.assign(kThreads, 0.0f);
  in[0] = -0.0f;  // equal to 0
  CHECK_EQ(argmax_of<kThreads>(in, index).index, 0);
  CHECK_EQ(better({0.0f, 5}, {-0.0f, 4}).index, 4);
}

TEST(argmax_of_fewer_candidates_than_threads) {
  constexpr int kThreads = 96;
  std::vector<float> in(kThreads, argmax_identity().value);
  std::vector<int64_t> index(kThreads, argmax_identity().index);
  in[70] = -5.0f;
  index[70] = 123;
  CHECK_EQ(argmax_of<kThreads>(in, index).index, 123);
}

template <int kThreads>
__global__ void max_kernel(const float* in, float* out) {
  __shared__ float scratch[kReduceScratch<kThreads>];
  out[threadIdx.x] = dlmcache::cuda::block_reduce_max<kThreads>(in[threadIdx.x], scratch);
}

TEST(maximum_ignores_nan_beside_numbers) {
  constexpr int kThreads = 96;
  std::vector<float> in(kThreads, NAN), out(kThreads);
  in[95] = -7.0f;
  DLMCACHE_LAUNCH(max_kernel<kThreads>, 1, kThreads, 0, nullptr, in.data(), out.data());
  for (float value : out) CHECK_EQ(value, -7.0f);
}

}  // namespace
