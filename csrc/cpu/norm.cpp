#include "dlmcache/norm.h"

#include <cstring>

#include "cpu/normalise_row.h"
#include "cpu/simd.h"
#include "dlmcache/dispatch.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
void rms_norm_rows(const RmsNormParams& p, int64_t begin, int64_t end) {
  dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const auto* x = static_cast<const scalar_t*>(p.x);
    auto* out = static_cast<scalar_t*>(p.out);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t source = p.row_index ? p.row_index[row] : row;
      if (source < 0) {
        std::memset(out + row * p.width, 0, p.width * sizeof(scalar_t));
        continue;
      }
      normalise_row(x + source * p.x_stride, static_cast<const scalar_t*>(p.weight), p.width, p.eps,
                    out + row * p.width);
    }
  });
}

void add_rms_norm_rows(const AddRmsNormParams& p, int64_t begin, int64_t end) {
  dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    for (int64_t row = begin; row < end; ++row) {
      const scalar_t* x = static_cast<const scalar_t*>(p.x) + row * p.x_stride;
      const scalar_t* y = static_cast<const scalar_t*>(p.y) + row * p.y_stride;
      scalar_t* sum = static_cast<scalar_t*>(p.sum) + row * p.width;
      int64_t i = 0;
      for (; i + kLanes <= p.width; i += kLanes) store(sum + i, load(x + i) + load(y + i));
      for (; i < p.width; ++i) sum[i] = from_float<scalar_t>(to_float(x[i]) + to_float(y[i]));
      normalise_row(sum, static_cast<const scalar_t*>(p.weight), p.width, p.eps,
                    static_cast<scalar_t*>(p.normed) + row * p.width);
    }
  });
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
