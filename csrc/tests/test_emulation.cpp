// The emulator against what CUDA documents: every primitive, blocks of all shapes, threads that return early,
// shared memory, atomics, launches.
#include <bit>
#include <cstdint>
#include <numeric>
#include <vector>

#include "cuda/portable.cuh"
#include "tests/test_main.h"

namespace {

using dlmcache::emulation::launch_order;
using dlmcache::emulation::Order;

constexpr unsigned kFull = 0xffffffffu;

// Runs `body` in the given order of threads and blocks, and restores the order.
template <typename Body>
void with_order(Order order, Body body) {
  const Order before = launch_order();
  launch_order() = order;
  body();
  launch_order() = before;
}

// ------------------------------------------------------------------------------------------------------------ indices

__global__ void indices_kernel(int* out) {
  const int threads = blockDim.x * blockDim.y * blockDim.z;
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * threads + thread] +=
      threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z + 1000 * blockIdx.x + 10000 * blockIdx.y + 100000 * blockIdx.z;
}

TEST(indices_of_three_dimensional_blocks_and_grids) {
  const dim3 grid(3, 2, 4), block(5, 7, 3);
  std::vector<int> out(3 * 2 * 4 * 5 * 7 * 3, 0);
  DLMCACHE_LAUNCH(indices_kernel, grid, block, 0, nullptr, out.data());
  size_t i = 0;
  for (unsigned bz = 0; bz < grid.z; ++bz)
    for (unsigned by = 0; by < grid.y; ++by)
      for (unsigned bx = 0; bx < grid.x; ++bx)
        for (unsigned tz = 0; tz < block.z; ++tz)
          for (unsigned ty = 0; ty < block.y; ++ty)
            for (unsigned tx = 0; tx < block.x; ++tx)
              CHECK_EQ(out[i++], tx + 10 * ty + 100 * tz + 1000 * bx + 10000 * by + 100000 * bz);
}

__global__ void warp_of_two_rows_kernel(unsigned* out) {
  const unsigned ballot = __ballot_sync(kFull, threadIdx.y == 1);
  if (threadIdx.x == 0 && threadIdx.y == 0) *out = ballot;
}

TEST(warps_run_along_x_then_y) {
  unsigned ballot = 0;
  DLMCACHE_LAUNCH(warp_of_two_rows_kernel, dim3(1), dim3(16, 2), 0, nullptr, &ballot);
  CHECK_EQ(ballot, 0xffff0000u);
}

// ----------------------------------------------------------------------------------------------------------- shuffles

struct ShuffleResults {
  int indexed[32], up[32], down[32], exclusive_or[32];
};

__global__ void shuffle_kernel(ShuffleResults* out, int width, int argument) {
  const int lane = threadIdx.x;
  out->indexed[lane] = __shfl_sync(kFull, lane * 3, argument, width);
  out->up[lane] = __shfl_up_sync(kFull, lane * 3, argument, width);
  out->down[lane] = __shfl_down_sync(kFull, lane * 3, argument, width);
  out->exclusive_or[lane] = __shfl_xor_sync(kFull, lane * 3, argument, width);
}

// The PTX ISA's pseudo code of `shfl`, with the clamp that CUDA's headers derive from the width.
int ptx_shuffle_source(char mode, int lane, int b, int width) {
  const int clamp = mode == 'u' ? 0 : 31;
  const int segment = 32 - width;
  const int max_lane = (lane & segment) | (clamp & ~segment);
  const int min_lane = lane & segment;
  b &= 31;
  int source = 0;
  bool in_range = false;
  if (mode == 'u') source = lane - b, in_range = source >= max_lane;
  if (mode == 'd') source = lane + b, in_range = source <= max_lane;
  if (mode == 'b') source = lane ^ b, in_range = source <= max_lane;
  if (mode == 'i') source = min_lane | (b & ~segment), in_range = source <= max_lane;
  return in_range ? source : lane;
}

TEST(shuffles_of_every_width_and_argument_follow_the_ptx_manual) {
  for (int width : {1, 2, 4, 8, 16, 32}) {
    for (int argument = 0; argument < 32; ++argument) {
      ShuffleResults out;
      DLMCACHE_LAUNCH(shuffle_kernel, dim3(1), dim3(32), 0, nullptr, &out, width, argument);
      for (int lane = 0; lane < 32; ++lane) {
        CHECK_EQ(out.indexed[lane], 3 * ptx_shuffle_source('i', lane, argument, width));
        CHECK_EQ(out.up[lane], 3 * ptx_shuffle_source('u', lane, argument, width));
        CHECK_EQ(out.down[lane], 3 * ptx_shuffle_source('d', lane, argument, width));
        CHECK_EQ(out.exclusive_or[lane], 3 * ptx_shuffle_source('b', lane, argument, width));
      }
    }
  }
}

template <typename T>
__global__ void rotate_kernel(const T* in, T* out) {
  out[threadIdx.x] = __shfl_sync(kFull, in[threadIdx.x], (threadIdx.x + 1) % 32);
}

template <typename T, typename FromInt>
void check_rotation(FromInt from_int) {
  std::vector<T> in(32), out(32);
  for (int i = 0; i < 32; ++i) in[i] = from_int(i);
  DLMCACHE_LAUNCH(rotate_kernel<T>, dim3(1), dim3(32), 0, nullptr, in.data(), out.data());
  for (int i = 0; i < 32; ++i) CHECK(std::memcmp(&out[i], &in[(i + 1) % 32], sizeof(T)) == 0);
}

TEST(shuffles_move_every_type) {
  check_rotation<int>([](int i) { return -i; });
  check_rotation<unsigned>([](int i) { return 0xfffffff0u + i; });
  check_rotation<long>([](int i) { return -(1L << 40) * i; });
  check_rotation<unsigned long>([](int i) { return ~0ul - i; });
  check_rotation<long long>([](int i) { return (1LL << 50) + i; });
  check_rotation<unsigned long long>([](int i) { return ~0ull - i; });
  check_rotation<float>([](int i) { return i * 0.25f; });
  check_rotation<double>([](int i) { return i * 1e-300; });
  check_rotation<__half>([](int i) { return __float2half(i * 0.5f); });
  check_rotation<__nv_bfloat16>([](int i) { return __float2bfloat16(i * 0.5f); });
  check_rotation<__half2>([](int i) { return __floats2half2_rn(i, -i); });
  check_rotation<__nv_bfloat162>([](int i) { return __floats2bfloat162_rn(i, -i); });
}

__global__ void half_warps_kernel(int* out) {
  const int lane = threadIdx.x;
  const unsigned mask = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  int value = lane;
  // The two halves take different numbers of rounds, each with its own mask.
  const int rounds = lane < 16 ? 3 : 7;
  for (int i = 0; i < rounds; ++i) value = __shfl_sync(mask, value, (lane & 16) | ((lane + 1) & 15));
  out[lane] = value;
}

TEST(parts_of_a_warp_run_independently) {
  std::vector<int> out(32);
  DLMCACHE_LAUNCH(half_warps_kernel, dim3(1), dim3(32), 0, nullptr, out.data());
  for (int lane = 0; lane < 32; ++lane) CHECK_EQ(out[lane], (lane & 16) | ((lane + (lane < 16 ? 3 : 7)) & 15));
}

// Lane 0 meets a different partner each time, always as the lowest lane of the mask.
__global__ void changing_masks_kernel(int* out) {
  const int lane = threadIdx.x;
  for (int partner = 1; partner < 32; ++partner) {
    if (lane != 0 && lane != partner) continue;
    const int received = __shfl_xor_sync(1u | 1u << partner, lane + 100 * partner, partner);
    if (lane == 0) out[partner] = received;
    if (lane == partner) out[32 + partner] = received;
  }
}

TEST(masks_that_share_their_lowest_lane_do_not_mix) {
  for (Order order : {Order::kForward, Order::kReverse}) {
    with_order(order, [] {
      std::vector<int> out(64, -1);
      DLMCACHE_LAUNCH(changing_masks_kernel, dim3(1), dim3(32), 0, nullptr, out.data());
      for (int partner = 1; partner < 32; ++partner) {
        CHECK_EQ(out[partner], partner + 100 * partner);
        CHECK_EQ(out[32 + partner], 100 * partner);
      }
    });
  }
}

__global__ void shuffle_from_absent_lane_kernel(int* integers, float* floats) {
  const int lane = threadIdx.x;
  if (lane >= 8) return;
  integers[lane] = __shfl_sync(0xffu, lane, lane + 8);
  floats[lane] = __shfl_down_sync(0xffu, static_cast<float>(lane), 4);
}

TEST(reading_a_lane_outside_the_mask_gives_all_ones) {
  std::vector<int> integers(8, 0);
  std::vector<float> floats(8, 0.0f);
  DLMCACHE_LAUNCH(shuffle_from_absent_lane_kernel, dim3(1), dim3(32), 0, nullptr, integers.data(), floats.data());
  for (int lane = 0; lane < 8; ++lane) {
    CHECK_EQ(integers[lane], -1);
    CHECK_NEAR(floats[lane], lane < 4 ? lane + 4.0f : NAN, 0);
  }
}

// --------------------------------------------------------------------------------------------------- votes, reductions

struct VoteResults {
  unsigned ballot, match;
  int any_none, any_one, all_but_one, all;
};

__global__ void vote_kernel(VoteResults* out) {
  const int lane = threadIdx.x;
  VoteResults result;
  result.ballot = __ballot_sync(kFull, lane % 3 == 0);
  result.any_none = __any_sync(kFull, lane > 31);
  result.any_one = __any_sync(kFull, lane == 17);
  result.all_but_one = __all_sync(kFull, lane != 17);
  result.all = __all_sync(kFull, lane < 32);
  result.match = __match_any_sync(kFull, lane % 4);
  out[lane] = result;
}

TEST(votes) {
  std::vector<VoteResults> out(32);
  DLMCACHE_LAUNCH(vote_kernel, dim3(1), dim3(32), 0, nullptr, out.data());
  for (int lane = 0; lane < 32; ++lane) {
    CHECK_EQ(out[lane].ballot, 0x49249249u);
    CHECK(!out[lane].any_none);
    CHECK(out[lane].any_one);
    CHECK(!out[lane].all_but_one);
    CHECK(out[lane].all);
    CHECK_EQ(out[lane].match, 0x11111111u << (lane % 4));
  }
}

__global__ void vote_of_some_kernel(unsigned* ballot, int* all) {
  const int lane = threadIdx.x;
  if (lane % 2) return;
  ballot[lane] = __ballot_sync(0x55555555u, lane < 10);
  all[lane] = __all_sync(0x55555555u, lane % 2 == 0);
}

TEST(votes_count_only_the_lanes_in_the_mask) {
  std::vector<unsigned> ballot(32, 0);
  std::vector<int> all(32, 0);
  DLMCACHE_LAUNCH(vote_of_some_kernel, dim3(1), dim3(32), 0, nullptr, ballot.data(), all.data());
  for (int lane = 0; lane < 32; lane += 2) {
    CHECK_EQ(ballot[lane], 0x155u);
    CHECK(all[lane]);
  }
}

struct ReduceResults {
  unsigned add, min, max, all_bits, any_bit, parity;
  int add_signed, min_signed, max_signed;
};

__global__ void reduce_kernel(const unsigned* in, ReduceResults* out) {
  const unsigned value = in[threadIdx.x];
  const int as_signed = static_cast<int>(value);
  ReduceResults result;
  result.add = __reduce_add_sync(kFull, value);
  result.min = __reduce_min_sync(kFull, value);
  result.max = __reduce_max_sync(kFull, value);
  result.all_bits = __reduce_and_sync(kFull, value);
  result.any_bit = __reduce_or_sync(kFull, value);
  result.parity = __reduce_xor_sync(kFull, value);
  result.add_signed = __reduce_add_sync(kFull, as_signed);
  result.min_signed = __reduce_min_sync(kFull, as_signed);
  result.max_signed = __reduce_max_sync(kFull, as_signed);
  out[threadIdx.x] = result;
}

TEST(warp_reductions_wrap_and_tell_signed_from_unsigned) {
  std::vector<unsigned> in(32);
  for (int i = 0; i < 32; ++i) in[i] = (0x9e3779b9u * static_cast<unsigned>(i + 1)) | 0x40u;
  ReduceResults expected{0, ~0u, 0, ~0u, 0, 0, 0, INT32_MAX, INT32_MIN};
  for (unsigned value : in) {
    expected.add += value;
    expected.min = std::min(expected.min, value);
    expected.max = std::max(expected.max, value);
    expected.all_bits &= value;
    expected.any_bit |= value;
    expected.parity ^= value;
    expected.min_signed = std::min(expected.min_signed, static_cast<int>(value));
    expected.max_signed = std::max(expected.max_signed, static_cast<int>(value));
  }
  expected.add_signed = static_cast<int>(expected.add);
  std::vector<ReduceResults> out(32);
  DLMCACHE_LAUNCH(reduce_kernel, dim3(1), dim3(32), 0, nullptr, in.data(), out.data());
  for (const ReduceResults& result : out) CHECK(std::memcmp(&result, &expected, sizeof(expected)) == 0);
}

// ----------------------------------------------------------------------------------------------------------- barriers

template <int kThreads>
__global__ void block_sum_kernel(const int* in, int* out) {
  __shared__ int partial[kThreads];
  partial[threadIdx.x] = in[blockIdx.x * kThreads + threadIdx.x];
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) out[blockIdx.x] = partial[0];
}

template <int kThreads>
void check_block_sum() {
  constexpr int kBlocks = 9;
  std::vector<int> in(kBlocks * kThreads), out(kBlocks, -1);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int>(i * 7 % 101);
  DLMCACHE_LAUNCH((block_sum_kernel<kThreads>), kBlocks, kThreads, 0, nullptr, in.data(), out.data());
  for (int b = 0; b < kBlocks; ++b) {
    CHECK_EQ(out[b], std::accumulate(in.begin() + b * kThreads, in.begin() + (b + 1) * kThreads, 0));
  }
}

TEST(tree_reductions_in_shared_memory) {
  for (Order order : {Order::kForward, Order::kReverse}) {
    with_order(order, [] {
      check_block_sum<2>();
      check_block_sum<32>();
      check_block_sum<128>();
      check_block_sum<1024>();
    });
  }
}

// Whole warps return before, between and after barriers; those that stay must not wait for them.
__global__ void early_return_kernel(int* out) {
  __shared__ int sum;
  const int warp = threadIdx.x / 32;
  if (threadIdx.x == 64) sum = 0;
  if (warp == 0) return;
  __syncthreads();
  if (warp == 1) return;
  atomicAdd(&sum, 1);
  __syncthreads();
  out[threadIdx.x] = sum;
}

TEST(threads_that_returned_are_not_waited_for_at_a_barrier) {
  for (Order order : {Order::kForward, Order::kReverse}) {
    with_order(order, [] {
      std::vector<int> out(160, -1);
      DLMCACHE_LAUNCH(early_return_kernel, dim3(1), dim3(160), 0, nullptr, out.data());
      for (int i = 0; i < 160; ++i) CHECK_EQ(out[i], i < 64 ? -1 : 96);
    });
  }
}

__global__ void early_return_in_warp_kernel(unsigned* out, int keep) {
  const int lane = threadIdx.x % 32;
  if (lane >= keep) return;
  const unsigned ballot = __ballot_sync(kFull, 1);
  __syncwarp();
  out[threadIdx.x] = ballot;
}

TEST(lanes_that_returned_are_not_waited_for_in_a_warp) {
  for (Order order : {Order::kForward, Order::kReverse}) {
    with_order(order, [] {
      for (int keep : {1, 5, 31}) {
        std::vector<unsigned> out(64, 0);
        DLMCACHE_LAUNCH(early_return_in_warp_kernel, dim3(1), dim3(64), 0, nullptr, out.data(), keep);
        for (int i = 0; i < 64; ++i) CHECK_EQ(out[i], i % 32 < keep ? (1u << keep) - 1 : 0u);
      }
    });
  }
}

TEST(the_last_warp_may_be_partial) {
  std::vector<unsigned> out(40, 0);
  DLMCACHE_LAUNCH(early_return_in_warp_kernel, dim3(1), dim3(40), 0, nullptr, out.data(), 32);
  for (int i = 0; i < 40; ++i) CHECK_EQ(out[i], i < 32 ? kFull : 0xffu);
}

struct BarrierVotes {
  int count, any, all, none;
};

__global__ void barrier_votes_kernel(BarrierVotes* out) {
  if (threadIdx.x >= 90) return;
  for (int round = 0; round < 3; ++round) {
    BarrierVotes votes;
    votes.count = __syncthreads_count(threadIdx.x % 3 == 0);
    votes.any = __syncthreads_or(threadIdx.x == 50);
    votes.all = __syncthreads_and(threadIdx.x < 90);
    votes.none = __syncthreads_or(threadIdx.x > 90);
    out[threadIdx.x] = votes;
  }
}

TEST(reducing_barriers) {
  std::vector<BarrierVotes> out(100);
  DLMCACHE_LAUNCH(barrier_votes_kernel, dim3(1), dim3(100), 0, nullptr, out.data());
  for (int i = 0; i < 90; ++i) {
    CHECK_EQ(out[i].count, 30);
    CHECK_EQ(out[i].any, 1);
    CHECK_EQ(out[i].all, 1);
    CHECK_EQ(out[i].none, 0);
  }
}

__global__ void syncwarp_kernel(int* out) {
  __shared__ int value[64];
  value[threadIdx.x] = threadIdx.x;
  for (int round = 0; round < 5; ++round) {
    __syncwarp();
    const int next = value[(threadIdx.x & 32) | ((threadIdx.x + 1) & 31)];
    __syncwarp();
    value[threadIdx.x] = next;
  }
  out[threadIdx.x] = value[threadIdx.x];
}

TEST(syncwarp_orders_shared_memory) {
  for (Order order : {Order::kForward, Order::kReverse}) {
    with_order(order, [] {
      std::vector<int> out(64);
      DLMCACHE_LAUNCH(syncwarp_kernel, dim3(1), dim3(64), 0, nullptr, out.data());
      for (int i = 0; i < 64; ++i) CHECK_EQ(out[i], (i & 32) | ((i + 5) & 31));
    });
  }
}

// ------------------------------------------------------------------------------------------------------ shared memory

__global__ void dynamic_shared_kernel(const float* in, float* out) {
  DLMCACHE_DYNAMIC_SHARED(float, tile);
  __shared__ float offset;
  if (threadIdx.x == 0) offset = static_cast<float>(blockIdx.x);
  tile[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x] + offset;
}

TEST(dynamic_and_static_shared_memory_belong_to_the_block) {
  std::vector<float> in(96), out(96 * 50);
  std::iota(in.begin(), in.end(), 0.0f);
  DLMCACHE_LAUNCH(dynamic_shared_kernel, dim3(50), dim3(96), 96 * sizeof(float), nullptr, in.data(), out.data());
  for (int b = 0; b < 50; ++b) {
    for (int i = 0; i < 96; ++i) CHECK_EQ(out[b * 96 + i], static_cast<float>(95 - i + b));
  }
}

__global__ void uninitialised_shared_kernel(float* floats, uint16_t* halves, uintptr_t* address) {
  DLMCACHE_DYNAMIC_SHARED(float, tile);
  *floats = tile[31];
  *halves = reinterpret_cast<const uint16_t*>(tile)[3];
  *address = reinterpret_cast<uintptr_t>(tile);
  tile[31] = 1.0f;  // must not be seen by the next block
}

TEST(dynamic_shared_memory_starts_as_nan_in_every_block) {
  float value = 0.0f;
  uint16_t half_bits = 0;
  uintptr_t address = 1;
  DLMCACHE_LAUNCH(uninitialised_shared_kernel, dim3(3), dim3(1), 128, nullptr, &value, &half_bits, &address);
  CHECK(std::isnan(value));
  CHECK_EQ(half_bits, 0xffffu);
  CHECK_EQ(address % dlmcache::emulation::kSharedAlignment, 0u);
}

// ------------------------------------------------------------------------------------------------------------ atomics

struct Counters {
  int add, sub, largest, smallest;
  unsigned add_unsigned, largest_unsigned, smallest_unsigned, bits_or, bits_and, bits_xor;
  unsigned long long add_wide, largest_wide, smallest_wide;
  float add_float;
  double add_double;
  unsigned swapped;  // compare-and-swap winners
};

__global__ void atomics_kernel(Counters* c, unsigned* lock, unsigned* order) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  order[i] = atomicAdd(&c->add_unsigned, 1);
  atomicAdd(&c->add, -i);
  atomicSub(&c->sub, i);
  atomicMax(&c->largest, i - 5);
  atomicMin(&c->smallest, -i);
  atomicMax(&c->largest_unsigned, 0x80000000u + i);
  atomicMin(&c->smallest_unsigned, 0xffffffffu - i);
  atomicOr(&c->bits_or, 1u << (i % 32));
  atomicAnd(&c->bits_and, ~(1u << (i % 7)));
  atomicXor(&c->bits_xor, static_cast<unsigned>(i));
  atomicAdd(&c->add_wide, 1ull << 32);
  atomicMax(&c->largest_wide, (1ull << 40) + i);
  atomicMin(&c->smallest_wide, (1ull << 40) - i);
  atomicAdd(&c->add_float, 0.5f);
  atomicAdd(&c->add_double, 0.25);
  if (atomicCAS(lock, 0u, static_cast<unsigned>(i) + 1u) == 0u) atomicAdd(&c->swapped, 1u);
}

TEST(atomics_on_global_memory) {
  constexpr int kBlocks = 8, kThreads = 96, kCount = kBlocks * kThreads;
  Counters c{};
  c.smallest_unsigned = ~0u;
  c.bits_and = ~0u;
  c.smallest_wide = ~0ull;
  unsigned lock = 0;
  std::vector<unsigned> order(kCount);
  DLMCACHE_LAUNCH(atomics_kernel, dim3(kBlocks), dim3(kThreads), 0, nullptr, &c, &lock, order.data());
  CHECK_EQ(c.add, -kCount * (kCount - 1) / 2);
  CHECK_EQ(c.sub, -kCount * (kCount - 1) / 2);
  CHECK_EQ(c.add_unsigned, kCount);
  CHECK_EQ(c.largest, kCount - 6);
  CHECK_EQ(c.smallest, -(kCount - 1));
  CHECK_EQ(c.largest_unsigned, 0x80000000u + kCount - 1);
  CHECK_EQ(c.smallest_unsigned, 0xffffffffu - (kCount - 1));
  CHECK_EQ(c.bits_or, ~0u);
  CHECK_EQ(c.bits_and, ~0x7fu);
  unsigned parity = 0;
  for (unsigned i = 0; i < kCount; ++i) parity ^= i;
  CHECK_EQ(c.bits_xor, parity);
  CHECK_EQ(c.add_wide, static_cast<unsigned long long>(kCount) << 32);
  CHECK_EQ(c.largest_wide, (1ull << 40) + kCount - 1);
  CHECK_EQ(c.smallest_wide, (1ull << 40) - (kCount - 1));
  CHECK_EQ(c.add_float, kCount * 0.5f);
  CHECK_EQ(c.add_double, kCount * 0.25);
  CHECK_EQ(c.swapped, 1u);
  std::vector<int> seen(kCount, 0);
  for (unsigned ticket : order) {
    REQUIRE(ticket < kCount);
    ++seen[ticket];
  }
  for (int count : seen) CHECK_EQ(count, 1);
}

__global__ void exchange_kernel(int* slot, unsigned long long* wide, float* real, int* returned) {
  returned[0] = atomicExch(slot, 7);
  returned[1] = static_cast<int>(atomicExch(wide, 9ull));
  returned[2] = static_cast<int>(atomicExch(real, 2.5f));
  returned[3] = atomicCAS(slot, 6, 100);  // not equal: stays 7
  returned[4] = atomicCAS(slot, 7, 8);
  returned[5] = static_cast<int>(atomicCAS(wide, 9ull, 10ull));
}

TEST(exchange_and_compare_return_the_old_value) {
  int slot = 5;
  unsigned long long wide = 6;
  float real = 3.0f;
  std::vector<int> returned(6);
  DLMCACHE_LAUNCH(exchange_kernel, 1, 1, 0, nullptr, &slot, &wide, &real, returned.data());
  const std::vector<int> expected = {5, 6, 3, 7, 7, 9};
  for (int i = 0; i < 6; ++i) CHECK_EQ(returned[i], expected[i]);
  CHECK_EQ(slot, 8);
  CHECK_EQ(wide, 10u);
  CHECK_EQ(real, 2.5f);
}

// Each block adds its share; the one that finishes last, as its ticket tells, reads all of them.
__global__ void last_block_kernel(int* shares, unsigned* tickets, int* total) {
  __shared__ bool is_last;
  if (threadIdx.x == 0) {
    shares[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
    __threadfence();
    is_last = atomicAdd(tickets, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (is_last) {
    __threadfence();
    atomicAdd(total, shares[threadIdx.x]);
  }
}

TEST(the_last_block_sees_the_others) {
  std::vector<int> shares(64, 0);
  unsigned tickets = 0;
  int total = 0;
  DLMCACHE_LAUNCH(last_block_kernel, dim3(64), dim3(64), 0, nullptr, shares.data(), &tickets, &total);
  CHECK_EQ(total, 64 * 65 / 2);
}

// --------------------------------------------------------------------------------------------------------- intrinsics

TEST(bit_intrinsics) {
  CHECK_EQ(__popc(0xf0f0u), 8);
  CHECK_EQ(__popcll(~0ull), 64);
  CHECK_EQ(__ffs(0), 0);
  CHECK_EQ(__ffs(0x80), 8);
  CHECK_EQ(__ffsll(1ll << 40), 41);
  CHECK_EQ(__clz(0), 32);
  CHECK_EQ(__clz(1), 31);
  CHECK_EQ(__clzll(1), 63);
  CHECK_EQ(__brev(1u), 0x80000000u);
  CHECK_EQ(__brev(0x0000ffffu), 0xffff0000u);
  CHECK_EQ(__funnelshift_l(0x80000000u, 1u, 1), 3u);
  CHECK_EQ(__funnelshift_l(1u, 2u, 0), 2u);
  CHECK_EQ(__funnelshift_r(2u, 1u, 1), 0x80000001u);
  CHECK_EQ(__byte_perm(0x33221100u, 0x77665544u, 0x7520u), 0x77552200u);
  CHECK_EQ(__byte_perm(0x00008000u, 0u, 0x9999u), 0xffffffffu);
  CHECK_EQ(__float_as_uint(1.0f), 0x3f800000u);
  CHECK_EQ(__uint_as_float(0xbf800000u), -1.0f);
}

TEST(integer_intrinsics) {
  CHECK_EQ(__umulhi(0xd2511f53u, 0x12345678u), static_cast<unsigned>(0xd2511f53ull * 0x12345678ull >> 32));
  CHECK_EQ(__mulhi(-2, 1), -1);
  CHECK_EQ(__umul64hi(~0ull, ~0ull), ~0ull - 1);
  CHECK_EQ(min(-1, 2), -1);
  CHECK_EQ(max(-1, 2u), 0xffffffffu);  // mixed: compared as unsigned, as CUDA does
  CHECK_EQ(min(3LL, -4LL), -4LL);
  CHECK_EQ(max(1.0f, NAN), 1.0f);
}

TEST(arithmetic_intrinsics) {
  CHECK_NEAR(rsqrtf(4.0f), 0.5f, 0);
  CHECK_NEAR(__expf(1.0f), 2.7182818f, 1e-6);
  CHECK_NEAR(__logf(10.0f), 2.3025851f, 1e-6);
  CHECK_NEAR(__frcp_rn(8.0f), 0.125f, 0);
  CHECK_NEAR(__fdividef(1.0f, 4.0f), 0.25f, 0);
  CHECK_EQ(__saturatef(-0.5f), 0.0f);
  CHECK_EQ(__saturatef(1.5f), 1.0f);
  CHECK_EQ(__saturatef(NAN), 0.0f);
  CHECK_EQ(__float2int_rn(2.5f), 2);
  CHECK_EQ(__float2int_rn(-3.5f), -4);
  // 1 + 2^-12 squared needs more bits than a float has: rounding before the subtraction must happen.
  const float a = 1.0f + 0x1p-12f;
  CHECK_EQ(__fadd_rn(__fmul_rn(a, a), -1.0f), 0x1p-11f);
  CHECK(__fmaf_rn(a, a, -1.0f) != 0x1p-11f);
}

__global__ void hinted_access_kernel(const float4* in, float4* out) {
  const float4 v = __ldg(in + threadIdx.x);
  __stcs(out + threadIdx.x, make_float4(v.w, v.z, v.y, v.x));
}

TEST(vector_types_and_hinted_accesses) {
  std::vector<float4> in(33), out(33);
  for (int i = 0; i < 33; ++i) in[i] = make_float4(i, i + 1, i + 2, i + 3);
  DLMCACHE_LAUNCH(hinted_access_kernel, dim3(1), dim3(33), 0, nullptr, in.data(), out.data());
  for (int i = 0; i < 33; ++i) {
    CHECK_EQ(out[i].x, i + 3.0f);
    CHECK_EQ(out[i].w, i + 0.0f);
  }
}

// ------------------------------------------------------------------------------------------------------------ launches

__global__ void no_arguments_kernel() { __syncthreads(); }

struct Parameters {
  int* out;
  int64_t offset;
  float scale;
};

__global__ void structure_kernel(Parameters p, double factor) {
  p.out[threadIdx.x] = static_cast<int>(static_cast<float>(threadIdx.x + p.offset) * p.scale * factor);
  p.offset = 1000;  // each thread has its own copy
}

TEST(arguments_are_converted_and_copied_per_thread) {
  DLMCACHE_LAUNCH(no_arguments_kernel, dim3(2), dim3(32), 0, nullptr);
  std::vector<int> out(64);
  cudaStream_t stream = nullptr;
  DLMCACHE_LAUNCH(structure_kernel, 1, 64, 0, stream, Parameters{out.data(), 3, 2.0f}, 5);  // int to double
  for (int i = 0; i < 64; ++i) CHECK_EQ(out[i], (i + 3) * 10);
}

__global__ void count_blocks_kernel(unsigned* count, unsigned* last_x) {
  atomicAdd(count, 1u);
  atomicMax(last_x, blockIdx.x);
}

TEST(many_small_blocks) {
  unsigned count = 0, last_x = 0;
  DLMCACHE_LAUNCH(count_blocks_kernel, dim3(70000), dim3(1), 0, nullptr, &count, &last_x);
  CHECK_EQ(count, 70000u);
  CHECK_EQ(last_x, 69999u);
}

__global__ void first_to_come_kernel(int* first) { atomicCAS(first, -1, static_cast<int>(threadIdx.x)); }

TEST(the_order_of_threads_can_be_reversed) {
  int first = -1;
  with_order(Order::kForward, [&] { DLMCACHE_LAUNCH(first_to_come_kernel, 1, 50, 0, nullptr, &first); });
  CHECK_EQ(first, 0);
  first = -1;
  with_order(Order::kReverse, [&] { DLMCACHE_LAUNCH(first_to_come_kernel, 1, 50, 0, nullptr, &first); });
  CHECK_EQ(first, 49);
}

__global__ void deep_stack_kernel(int* out) {
  volatile char local[100 * 1024];
  local[0] = static_cast<char>(threadIdx.x);
  local[sizeof(local) - 1] = 1;
  __syncthreads();
  out[threadIdx.x] = local[0] + local[sizeof(local) - 1];
}

TEST(threads_keep_large_local_arrays) {
  std::vector<int> out(64);
  DLMCACHE_LAUNCH(deep_stack_kernel, 1, 64, 0, nullptr, out.data());
  for (int i = 0; i < 64; ++i) CHECK_EQ(out[i], i + 1);
}

}  // namespace
