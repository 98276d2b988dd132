// Threads that do not meet where they have to. The emulator finds these itself, with or without a sanitizer.
#include "tests/faults/fault_main.h"

namespace {

constexpr unsigned kFull = 0xffffffffu;

// Even lanes wait for the block, odd lanes for their warp.
template <bool kBug>
__global__ void divergent_kernel() {
  if (!kBug || threadIdx.x % 2 == 0) __syncthreads();
  __syncwarp();
}

template <bool kBug>
void deadlock() {
  DLMCACHE_LAUNCH(divergent_kernel<kBug>, 1, 64, 0, nullptr);
}

// The second warp skips a barrier and is taken for being at the first one.
template <bool kBug>
__global__ void skipped_barrier_kernel(int* out) {
  if (!kBug || threadIdx.x < 32) {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
  __syncthreads();
}

template <bool kBug>
void different_barriers() {
  int out[64];
  DLMCACHE_LAUNCH(skipped_barrier_kernel<kBug>, 1, 64, 0, nullptr, out);
}

template <bool kBug>
__global__ void outside_mask_kernel(int* out) {
  const unsigned mask = kBug ? 0x0000ffffu : kFull;
  out[threadIdx.x] = __shfl_sync(mask, static_cast<int>(threadIdx.x), 0);
}

template <bool kBug>
void lane_not_in_mask() {
  int out[32];
  DLMCACHE_LAUNCH(outside_mask_kernel<kBug>, 1, 32, 0, nullptr, out);
}

template <bool kBug>
__global__ void different_masks_kernel(int* out) {
  const unsigned mask = kBug && threadIdx.x >= 16 ? 0x7fffffffu : kFull;
  if (mask >> threadIdx.x & 1u) out[threadIdx.x] = __shfl_xor_sync(mask, 1, 1);
}

template <bool kBug>
void different_masks() {
  int out[32];
  DLMCACHE_LAUNCH(different_masks_kernel<kBug>, 1, 32, 0, nullptr, out);
}

template <bool kBug>
__global__ void different_primitives_kernel(int* out) {
  if (kBug && threadIdx.x < 16) {
    out[threadIdx.x] = __any_sync(kFull, 1);
  } else {
    out[threadIdx.x] = __all_sync(kFull, 1);
  }
}

template <bool kBug>
void different_primitives() {
  int out[32];
  DLMCACHE_LAUNCH(different_primitives_kernel<kBug>, 1, 32, 0, nullptr, out);
}

template <bool kBug>
__global__ void width_kernel(int* out) {
  out[threadIdx.x] = __shfl_xor_sync(kFull, 1, 1, kBug ? 12 : 16);
}

template <bool kBug>
void width_not_a_power_of_two() {
  int out[32];
  DLMCACHE_LAUNCH(width_kernel<kBug>, 1, 32, 0, nullptr, out);
}

constexpr Fault kFaults[] = {
    {"deadlock", deadlock<true>, deadlock<false>},
    {"different_barriers", different_barriers<true>, different_barriers<false>},
    {"lane_not_in_mask", lane_not_in_mask<true>, lane_not_in_mask<false>},
    {"different_masks", different_masks<true>, different_masks<false>},
    {"different_primitives", different_primitives<true>, different_primitives<false>},
    {"width_not_a_power_of_two", width_not_a_power_of_two<true>, width_not_a_power_of_two<false>},
};

}  // namespace

int main(int argc, char** argv) { return run_fault(argc, argv, kFaults); }
