// Missing synchronisation, which ThreadSanitizer has to report. Results are often right all the same: the emulator
// runs threads in order.
#include <vector>

#include "tests/faults/fault_main.h"

namespace {

// Each thread reads what another one wrote.
template <bool kBug>
__global__ void reverse_kernel(int* data) {
  __shared__ int tile[128];
  tile[threadIdx.x] = data[threadIdx.x];
  if (!kBug) __syncthreads();
  data[threadIdx.x] = tile[127 - threadIdx.x];
}

template <bool kBug>
void missing_syncthreads() {
  std::vector<int> data(128, 1);
  DLMCACHE_LAUNCH(reverse_kernel<kBug>, 1, 128, 0, nullptr, data.data());
}

// The scratch is written again while others may still read it.
template <bool kBug>
__global__ void reuse_kernel(int* data) {
  __shared__ int scratch;
  for (int round = 0; round < 3; ++round) {
    if (static_cast<int>(threadIdx.x) == round) scratch = data[round];
    __syncthreads();
    data[threadIdx.x] += scratch;
    if (!kBug) __syncthreads();
  }
}

template <bool kBug>
void missing_syncthreads_before_reuse() {
  std::vector<int> data(64, 1);
  DLMCACHE_LAUNCH(reuse_kernel<kBug>, 1, 64, 0, nullptr, data.data());
}

template <bool kBug>
__global__ void neighbour_kernel(int* data) {
  __shared__ int tile[32];
  tile[threadIdx.x] = data[threadIdx.x];
  if (!kBug) __syncwarp();
  data[threadIdx.x] = tile[threadIdx.x ^ 1];
}

template <bool kBug>
void missing_syncwarp() {
  std::vector<int> data(32, 1);
  DLMCACHE_LAUNCH(neighbour_kernel<kBug>, 1, 32, 0, nullptr, data.data());
}

// A shuffle makes lanes meet, but promises nothing about memory.
template <bool kBug>
__global__ void shuffle_as_fence_kernel(int* data) {
  __shared__ int tile[32];
  tile[threadIdx.x] = data[threadIdx.x];
  const int other = __shfl_xor_sync(0xffffffffu, data[threadIdx.x], 1);
  if (!kBug) __syncwarp();
  data[threadIdx.x] = other + tile[threadIdx.x ^ 1];
}

template <bool kBug>
void shuffle_instead_of_syncwarp() {
  std::vector<int> data(32, 1);
  DLMCACHE_LAUNCH(shuffle_as_fence_kernel<kBug>, 1, 32, 0, nullptr, data.data());
}

template <bool kBug>
__global__ void count_kernel(int* count) {
  if (kBug) {
    *count = *count + 1;
  } else {
    atomicAdd(count, 1);
  }
}

template <bool kBug>
void plain_update_of_global_memory() {
  int count = 0;
  DLMCACHE_LAUNCH(count_kernel<kBug>, 1, 64, 0, nullptr, &count);
}

// Half-warps that never met, although both met with their own halves.
template <bool kBug>
__global__ void half_warps_kernel(int* data) {
  __shared__ int tile[32];
  tile[threadIdx.x] = data[threadIdx.x];
  __syncwarp(threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u);
  if (!kBug) __syncwarp();
  data[threadIdx.x] = tile[31 - threadIdx.x];
}

template <bool kBug>
void syncwarp_of_too_few_lanes() {
  std::vector<int> data(32, 1);
  DLMCACHE_LAUNCH(half_warps_kernel<kBug>, 1, 32, 0, nullptr, data.data());
}

constexpr Fault kFaults[] = {
    {"missing_syncthreads", missing_syncthreads<true>, missing_syncthreads<false>},
    {"missing_syncthreads_before_reuse", missing_syncthreads_before_reuse<true>,
     missing_syncthreads_before_reuse<false>},
    {"missing_syncwarp", missing_syncwarp<true>, missing_syncwarp<false>},
    {"shuffle_instead_of_syncwarp", shuffle_instead_of_syncwarp<true>, shuffle_instead_of_syncwarp<false>},
    {"plain_update_of_global_memory", plain_update_of_global_memory<true>, plain_update_of_global_memory<false>},
    {"syncwarp_of_too_few_lanes", syncwarp_of_too_few_lanes<true>, syncwarp_of_too_few_lanes<false>},
};

}  // namespace

int main(int argc, char** argv) { return run_fault(argc, argv, kFaults); }
