#include "dlmcache/delta.h"

#include <cstring>

#include "cpu/normalise_row.h"
#include "cpu/simd.h"
#include "dlmcache/dispatch.h"

namespace dlmcache::cpu::DLMCACHE_CPU_ARCH {
namespace {

// Every sum of two is rounded to the storage type, as torch's additions round: a computed row is what the layer itself
// would have given, bit for bit.
template <typename scalar_t>
FloatVec add(FloatVec a, FloatVec b) {
  return round_to<scalar_t>(a + b);
}

template <typename scalar_t>
float add(float a, float b) {
  return to_float(from_float<scalar_t>(a + b));
}

// A row that was computed: delta anew, and h behind the layer.
template <typename scalar_t>
void update_row(const scalar_t* h, const scalar_t* attn, const scalar_t* ff, bool absolute, int64_t width,
                scalar_t* delta, scalar_t* out) {
  const auto update = [&](auto h_, auto attn_, auto ff_, auto store_delta, auto store_out) {
    if (absolute) {
      const auto value = add<scalar_t>(add<scalar_t>(h_, attn_), ff_);
      store_delta(value);
      store_out(value);
    } else {
      const auto value = add<scalar_t>(attn_, ff_);
      store_delta(value);
      store_out(add<scalar_t>(h_, value));
    }
  };
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    update(
        load(h + i), load(attn + i), load(ff + i), [&](FloatVec v) { store(delta + i, v); },
        [&](FloatVec v) { store(out + i, v); });
  }
  for (; i < width; ++i) {
    update(
        to_float(h[i]), to_float(attn[i]), to_float(ff[i]), [&](float v) { delta[i] = from_float<scalar_t>(v); },
        [&](float v) { out[i] = from_float<scalar_t>(v); });
  }
}

// A row that was not: its delta of an earlier step stands for the layer.
template <typename scalar_t>
void reuse_row(const scalar_t* h, const scalar_t* delta, bool absolute, int64_t width, scalar_t* out) {
  if (absolute) {
    std::memcpy(out, delta, width * sizeof(scalar_t));
    return;
  }
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(out + i, load(h + i) + load(delta + i));
  for (; i < width; ++i) out[i] = from_float<scalar_t>(to_float(h[i]) + to_float(delta[i]));
}

}  // namespace

void delta_update_rows(const DeltaUpdateParams& p, int64_t begin, int64_t end) {
  if (p.width == 0) return;
  dispatch_float(p.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const auto* h = static_cast<const scalar_t*>(p.h);
    const auto* attn = static_cast<const scalar_t*>(p.attn_out);
    const auto* ff = static_cast<const scalar_t*>(p.ff_out);
    int64_t computed = first_place_from(p, begin);
    for (int64_t row = begin; row < end; ++row) {
      const bool is_computed = computed < p.num_computed && p.places[computed] == row;
      scalar_t* out = static_cast<scalar_t*>(p.h_next) + row * p.width;
      scalar_t* normed = p.norm_weight ? static_cast<scalar_t*>(p.normed) + row * p.width : nullptr;
      const int64_t index = p.row_index[row];
      if (index < 0) {
        std::memset(out, 0, p.width * sizeof(scalar_t));
        if (normed) std::memset(normed, 0, p.width * sizeof(scalar_t));
      } else {
        scalar_t* delta = static_cast<scalar_t*>(p.delta) + index * p.width;
        if (is_computed) {
          update_row(h + row * p.h_stride, attn + computed * p.attn_stride, ff + computed * p.ff_stride, p.absolute,
                     p.width, delta, out);
        } else {
          reuse_row(h + row * p.h_stride, delta, p.absolute, p.width, out);
        }
        if (normed) normalise_row(out, static_cast<const scalar_t*>(p.norm_weight), p.width, p.eps, normed);
      }
      computed += is_computed;
    }
  });
}

}  // namespace dlmcache::cpu::DLMCACHE_CPU_ARCH
