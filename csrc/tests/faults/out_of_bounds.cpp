// Accesses outside of buffers, which AddressSanitizer or UndefinedBehaviorSanitizer has to report.
#include <memory>

#include "cuda/vec.cuh"
#include "tests/faults/fault_main.h"

namespace {

template <bool kBug>
__global__ void global_kernel(float* data, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (kBug || i < count) data[i] = 1.0f;
}

template <bool kBug>
void global_memory() {
  constexpr int kCount = 100;  // not a multiple of the block
  const std::unique_ptr<float[]> data(new float[kCount]);
  DLMCACHE_LAUNCH(global_kernel<kBug>, 4, 32, 0, nullptr, data.get(), kCount);
}

template <bool kBug>
__global__ void dynamic_shared_kernel(float* out) {
  DLMCACHE_DYNAMIC_SHARED(float, tile);
  tile[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x + (kBug ? 1 : 0)];
}

template <bool kBug>
void dynamic_shared_memory() {
  const std::unique_ptr<float[]> out(new float[64]);
  DLMCACHE_LAUNCH(dynamic_shared_kernel<kBug>, 1, 64, 64 * sizeof(float), nullptr, out.get());
}

// Of static arrays, AddressSanitizer guards those of plain kernels but not those of templates.
template <bool kBug>
__global__ void static_shared_kernel(float* out) {
  __shared__ float partial[4];
  const int warp = threadIdx.x / 32;
  if (threadIdx.x % 32 == 0) partial[warp + (kBug ? 1 : 0)] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = partial[warp];
}

template <bool kBug>
void static_shared_memory_of_a_template() {
  const std::unique_ptr<float[]> out(new float[128]);
  DLMCACHE_LAUNCH(static_shared_kernel<kBug>, 1, 128, 0, nullptr, out.get());
}

// Not out of bounds but off by one all the same: found without a sanitizer, as a device would fault.
template <bool kBug>
__global__ void vector_kernel(const float* in, float* out) {
  float value[4];
  dlmcache::cuda::load_floats<4>(in + (kBug ? 1 : 0), value);
  dlmcache::cuda::store_floats<4>(out, value);
}

template <bool kBug>
void misaligned_vector() {
  alignas(16) float in[8] = {}, out[4];
  DLMCACHE_LAUNCH(vector_kernel<kBug>, 1, 1, 0, nullptr, in, out);
}

constexpr Fault kFaults[] = {
    {"global_memory", global_memory<true>, global_memory<false>},
    {"dynamic_shared_memory", dynamic_shared_memory<true>, dynamic_shared_memory<false>},
    {"static_shared_memory_of_a_template", static_shared_memory_of_a_template<true>,
     static_shared_memory_of_a_template<false>},
    {"misaligned_vector", misaligned_vector<true>, misaligned_vector<false>},
};

}  // namespace

int main(int argc, char** argv) { return run_fault(argc, argv, kFaults); }
