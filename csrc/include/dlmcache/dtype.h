// The storage types of rows and caches, and their conversion to and from float.
//
// The 16-bit types are plain bit patterns, so that one source serves the CPU loops, the kernels under nvcc and the
// kernels under the host emulation, and all three round in the same way (to nearest, ties to even).
#pragma once

#include <cstdint>
#include <cstring>

#include "dlmcache/macros.h"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

namespace dlmcache {

enum class DType : int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};
static_assert(sizeof(BFloat16) == 2 && sizeof(Half) == 2);

namespace detail {

template <typename To, typename From>
DLMCACHE_HOST_DEVICE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

}  // namespace detail

DLMCACHE_HOST_DEVICE float to_float(float value) { return value; }

DLMCACHE_HOST_DEVICE float to_float(BFloat16 value) {
  return detail::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

DLMCACHE_HOST_DEVICE float to_float(Half value) {
#ifdef __CUDA_ARCH__
  return __half2float(detail::bit_cast<__half>(value.bits));
#else
  // Move exponent and mantissa into place and let one multiplication rescale normals and subnormals alike.
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {
    return detail::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  }
  const float scaled = detail::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return detail::bit_cast<float>(sign | detail::bit_cast<uint32_t>(scaled));
#endif
}

template <typename T>
DLMCACHE_HOST_DEVICE T from_float(float value);

template <>
DLMCACHE_HOST_DEVICE float from_float<float>(float value) {
  return value;
}

template <>
DLMCACHE_HOST_DEVICE BFloat16 from_float<BFloat16>(float value) {
  const uint32_t bits = detail::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return BFloat16{0x7fc0u};
  return BFloat16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

template <>
DLMCACHE_HOST_DEVICE Half from_float<Half>(float value) {
#ifdef __CUDA_ARCH__
  return Half{detail::bit_cast<uint16_t>(__float2half_rn(value))};
#else
  const uint32_t bits = detail::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return Half{0x7fffu};
  if (magnitude >= 0x477ff000u) return Half{static_cast<uint16_t>(sign | 0x7c00u)};  // rounds past 65504
  if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 aligns the mantissa, the FPU rounds
    const float aligned = detail::bit_cast<float>(magnitude) + 0.5f;
    return Half{static_cast<uint16_t>(sign | (detail::bit_cast<uint32_t>(aligned) - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return Half{static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
#endif
}

}  // namespace dlmcache
