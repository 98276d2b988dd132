#include "dlmcache/rope_cache.h"

#include <cstring>

#include "cpu/simd.h"
#include "dlmcache/dispatch.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
namespace {

// Element i of a head turns together with element i + half, by the angle whose cosine and sine are given.
template <typename scalar_t>
void rotate_head(const scalar_t* x, const float* cosine, const float* sine, int64_t half, scalar_t* out) {
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const FloatVec low = load(x + i), high = load(x + half + i);
    const FloatVec c = load(cosine + i), s = load(sine + i);
    store(out + i, low * c - high * s);
    store(out + half + i, high * c + low * s);
  }
  for (; i < half; ++i) {
    const float low = to_float(x[i]), high = to_float(x[half + i]);
    out[i] = from_float<scalar_t>(low * cosine[i] - high * sine[i]);
    out[half + i] = from_float<scalar_t>(high * cosine[i] + low * sine[i]);
  }
}

}  // namespace

void rope_scatter_kv_rows(const RopeScatterKvParams& p, int64_t begin, int64_t end) {
  const int64_t half = p.head_dim / 2;
  const int64_t q_width = p.num_heads * p.head_dim, kv_width = p.num_kv_heads * p.head_dim;
  dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    for (int64_t row = begin; row < end; ++row) {
      scalar_t* q = static_cast<scalar_t*>(p.q) + row * q_width;
      const int64_t index = p.row_index[row];
      if (index < 0) {
        if (q_width > 0) std::memset(q, 0, q_width * sizeof(scalar_t));
        continue;
      }
      const scalar_t* x = static_cast<const scalar_t*>(p.qkv) + row * p.qkv_stride;
      const float* cosine = p.cos_sin + index % p.capacity * p.head_dim;
      const float* sine = cosine + half;
      for (int64_t h = 0; h < p.num_heads; ++h, x += p.head_dim, q += p.head_dim) {
        rotate_head(x, cosine, sine, half, q);
      }
      scalar_t* k = static_cast<scalar_t*>(p.k_cache) + index * kv_width;
      for (int64_t h = 0; h < p.num_kv_heads; ++h, x += p.head_dim, k += p.head_dim) {
        rotate_head(x, cosine, sine, half, k);
      }
      if (kv_width == 0) continue;
      std::memcpy(static_cast<scalar_t*>(p.v_cache) + index * kv_width, x, kv_width * sizeof(scalar_t));
    }
  });
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
