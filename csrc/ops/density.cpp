#include "dlmcache/density.h"

#include <torch/csrc/stable/library.h>

#include <cmath>

#include "ops/check.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kOp = "density";

// On a CPU: begin and end must be positions of the canvas (end may stand behind its last one).
void check_positions(const char* name, const Tensor& tensor, int64_t capacity) {
  if (!tensor.is_cpu()) return;
  const int64_t* position = static_cast<const int64_t*>(tensor.data_ptr());
  const int64_t count = tensor.numel();
  for (int64_t i = 0; i < count; ++i) {
    STD_TORCH_CHECK(position[i] >= 0 && position[i] <= capacity, kOp, ": ", name, "[", i, "] is ", position[i],
                    ", allowed are 0 to ", capacity, " (capacity)");
  }
}

template <typename Run>
Tensor density(const Tensor& known, const Tensor& begin, const Tensor& end, int64_t capacity, double sigma, Run&& run) {
  check_shape(kOp, "begin", begin, {-1});
  const int64_t num_slots = begin.size(0);
  STD_TORCH_CHECK(capacity >= 0, kOp, ": capacity must not be negative, got ", capacity);
  STD_TORCH_CHECK(sigma > 0.0 && std::isfinite(sigma), kOp, ": sigma must be positive and finite, got ", sigma);
  check_shape(kOp, "known", known, {count_positions(kOp, num_slots, capacity)});
  check_dtype(kOp, "known", known, ScalarType::Bool);
  check_contiguous(kOp, "known", known);
  DensityParams p{};
  p.begin = check_index(kOp, "begin", begin, num_slots, known, "known");
  p.end = check_index(kOp, "end", end, num_slots, known, "known");
  check_positions("begin", begin, capacity);
  check_positions("end", end, capacity);

  Tensor out = torch::stable::new_empty(known, {num_slots * capacity}, ScalarType::Float);
  p.num_slots = num_slots;
  p.capacity = capacity;
  p.inv_two_sigma2 = std::fmin(0.5 / sigma / sigma, 1e30);  // not infinite: the distance 0 has weight 1
  // e^-104 is below the smallest float; the farthest positions are two regions apart.
  p.reach = static_cast<int64_t>(std::fmin(sigma * std::sqrt(208.0), static_cast<double>(2 * capacity)));
  p.known = static_cast<const bool*>(known.data_ptr());
  p.out = static_cast<float*>(out.data_ptr());
  run(p);
  return out;
}

Tensor density_cpu(const Tensor& known, const Tensor& begin, const Tensor& end, int64_t capacity, double sigma) {
  return density(known, begin, end, capacity, sigma, [](const DensityParams& p) {
    const int64_t most = 2 * p.reach + 1 < p.capacity ? 2 * p.reach + 1 : p.capacity;
    run_cpu(cpu::density_rows, p, p.num_slots * p.capacity, most);
  });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) { DLMCACHE_IMPL(m, "density", density_cpu); }

#ifdef DLMCACHE_WITH_CUDA
Tensor density_cuda(const Tensor& known, const Tensor& begin, const Tensor& end, int64_t capacity, double sigma) {
  return density(known, begin, end, capacity, sigma,
                 [&](const DensityParams& p) { run_cuda(kOp, cuda::launch_density, p, known); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) { DLMCACHE_IMPL(m, "density", density_cuda); }
#endif

}  // namespace
}  // namespace dlmcache::ops
