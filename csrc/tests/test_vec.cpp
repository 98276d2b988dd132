// Vector loads and stores: values, rounding, what counts as aligned.
#include <cstdint>
#include <cstring>
#include <vector>

#include "cuda/vec.cuh"
#include "tests/test_main.h"

namespace {

using dlmcache::BFloat16;
using dlmcache::from_float;
using dlmcache::Half;
using dlmcache::to_float;
using dlmcache::cuda::aligned16;
using dlmcache::cuda::Vec;

static_assert(Vec<float>::kSize == 4 && sizeof(Vec<float>) == 16 && alignof(Vec<float>) == 16);
static_assert(Vec<Half>::kSize == 8 && sizeof(Vec<Half>) == 16 && alignof(Vec<Half>) == 16);
static_assert(Vec<__nv_bfloat16>::kSize == 8 && Vec<uint8_t>::kSize == 16);

// out = 2 * in + 1, kStep elements per thread and turn.
template <typename scalar_t, int kStep>
__global__ void affine_kernel(const scalar_t* in, scalar_t* out, int count) {
  for (int i = threadIdx.x * kStep; i < count; i += blockDim.x * kStep) {
    float value[kStep];
    dlmcache::cuda::load_floats<kStep>(in + i, value);
#pragma unroll
    for (int k = 0; k < kStep; ++k) value[k] = 2.0f * value[k] + 1.0f;
    dlmcache::cuda::store_floats<kStep>(out + i, value);
  }
}

// A row of Vecs, so that its first element is aligned.
template <typename scalar_t>
struct AlignedRow {
  explicit AlignedRow(int count) : vecs(count / Vec<scalar_t>::kSize) {}
  scalar_t* data() { return vecs.data()->element; }

  std::vector<Vec<scalar_t>> vecs;
};

template <typename scalar_t, int kStep>
void check_affine() {
  constexpr int kCount = 192;
  AlignedRow<scalar_t> in(kCount), out(kCount);
  for (int i = 0; i < kCount; ++i) in.data()[i] = from_float<scalar_t>(0.37f * static_cast<float>(i) - 20.0f);
  DLMCACHE_LAUNCH((affine_kernel<scalar_t, kStep>), 1, 7, 0, nullptr, in.data(), out.data(), kCount);
  for (int i = 0; i < kCount; ++i) {
    const scalar_t expected = from_float<scalar_t>(2.0f * to_float(in.data()[i]) + 1.0f);
    CHECK(std::memcmp(&expected, &out.data()[i], sizeof(scalar_t)) == 0);
  }
}

TEST(one_element_one_vector_and_several) {
  check_affine<float, 1>();
  check_affine<float, 4>();
  check_affine<float, 8>();
  check_affine<BFloat16, 1>();
  check_affine<BFloat16, 8>();
  check_affine<BFloat16, 16>();
  check_affine<Half, 1>();
  check_affine<Half, 8>();
  check_affine<__nv_bfloat16, 1>();
  check_affine<__nv_bfloat16, 8>();
  check_affine<__half, 1>();
  check_affine<__half, 8>();
}

TEST(our_16_bit_types_round_as_those_of_cuda) {
  // Every sign, exponent and a mantissa at, below and above the middle between two results.
  for (uint32_t high = 0; high < 0x10000u; high += 1) {
    for (uint32_t low : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float value = __uint_as_float(high << 16 | low);
      if (value != value) continue;  // NaNs stay NaNs, with bits of their own
      const __nv_bfloat16 bf16 = from_float<__nv_bfloat16>(value);
      const __half half = from_float<__half>(value);
      uint16_t bf16_bits, half_bits;
      std::memcpy(&bf16_bits, &bf16, 2);
      std::memcpy(&half_bits, &half, 2);
      CHECK_EQ(from_float<BFloat16>(value).bits, bf16_bits);
      CHECK_EQ(from_float<Half>(value).bits, half_bits);
    }
  }
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    __half half;
    const uint16_t narrow = static_cast<uint16_t>(bits);
    std::memcpy(static_cast<void*>(&half), &narrow, 2);
    CHECK_NEAR(to_float(Half{narrow}), to_float(half), 0);
  }
}

TEST(alignment_is_of_the_pointer_and_of_the_stride) {
  alignas(16) float row[8] = {};
  CHECK(aligned16<float>(row, 4));
  CHECK(aligned16<float>(row, 0));
  CHECK(!aligned16<float>(row, 3));
  CHECK(!aligned16<float>(row + 1, 4));
  CHECK(aligned16<float>(row + 4, 8));
  CHECK(!aligned16<Half>(row, 4));
  CHECK(aligned16<Half>(row, 8));
  CHECK(aligned16<float>(row, int64_t{1} << 40));
}

}  // namespace
