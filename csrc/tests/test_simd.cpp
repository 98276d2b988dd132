// Vectors of the CPU loops, built and run once per instruction set (DLMCACHE_CPU_ARCH).
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cpu/simd.h"
#include "tests/test_main.h"

namespace {

using namespace dlmcache;
using namespace dlmcache::cpu::DLMCACHE_CPU_ARCH;

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
uint32_t to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// ---------------------------------------------------------------------------------------------------- loads and stores

template <typename T>
void check_loads() {
  T stored[kLanes];
  for (uint32_t first = 0; first < 0x10000u; first += kLanes) {
    for (int i = 0; i < kLanes; ++i) stored[i] = T{static_cast<uint16_t>(first + i)};
    const FloatVec loaded = load(stored);
    for (int i = 0; i < kLanes; ++i) {
      const float expected = to_float(stored[i]);
      if (std::isnan(expected)) {
        CHECK(std::isnan(loaded[i]));
      } else {
        CHECK_EQ(to_bits(loaded[i]), to_bits(expected));
      }
    }
  }
}

// The instruction that avx512_bf16 has makes zeros, with their sign, of what is no normal number.
template <typename T>
T rounded_by_vectors(float value) {
#ifdef __AVX512BF16__
  if (std::is_same_v<T, BFloat16> && std::fpclassify(value) == FP_SUBNORMAL) value = std::copysign(0.0f, value);
#endif
  return from_float<T>(value);
}

template <typename T>
void check_store(FloatVec values) {
  T stored[kLanes];
  store(stored, values);
  const FloatVec rounded = round_to<T>(values);
  for (int i = 0; i < kLanes; ++i) {
    const T expected = rounded_by_vectors<T>(values[i]);
    if (std::isnan(values[i])) {
      CHECK(std::isnan(to_float(stored[i])));
      CHECK(std::isnan(rounded[i]));
    } else {
      CHECK_EQ(stored[i].bits, expected.bits);
      CHECK_EQ(to_bits(rounded[i]), to_bits(to_float(expected)));
    }
  }
}

template <typename T>
void check_stores() {
  // Every value of T, the tie above it, and its neighbours among the floats.
  for (uint32_t bits = 0; bits < 0x10000u; bits += kLanes / 4) {
    FloatVec values;
    for (int i = 0; i < kLanes; ++i) {
      const float value = to_float(T{static_cast<uint16_t>(bits + i / 4)});
      const float next = to_float(T{static_cast<uint16_t>(bits + i / 4 + 1)});
      const float middle = value / 2 + next / 2;
      values[i] = i % 4 == 0   ? value
                  : i % 4 == 1 ? middle
                  : i % 4 == 2 ? std::nextafter(middle, kInfinity)
                               : std::nextafter(middle, -kInfinity);
    }
    check_store<T>(values);
  }
  // And a sample of all floats.
  for (uint64_t bits = 0; bits < 0x100000000u; bits += 7919 * kLanes) {
    FloatVec values;
    for (int i = 0; i < kLanes; ++i) values[i] = from_bits(static_cast<uint32_t>(bits + i * 7919));
    check_store<T>(values);
  }
}

TEST(loads_equal_scalar_conversion) {
  check_loads<Half>();
  check_loads<BFloat16>();
}

TEST(stores_equal_scalar_conversion) {
  check_stores<Half>();
  check_stores<BFloat16>();
}

TEST(floats_keep_their_bits) {
  float source[kLanes], copy[kLanes];
  for (int i = 0; i < kLanes; ++i) source[i] = from_bits(0x7fc01234u + i);
  store(copy, round_to<float>(load(source)));
  CHECK(std::memcmp(source, copy, sizeof(copy)) == 0);
}

// ---------------------------------------------------------------------------------------------------------- reductions

TEST(sums_and_maxima) {
  for (int place = 0; place < kLanes; ++place) {
    FloatVec v = broadcast(-3.0f);
    v[place] = 5.0f;
    CHECK_EQ(sum(v), 5.0f - 3.0f * (kLanes - 1));
    CHECK_EQ(max(v), 5.0f);
    const FloatVec larger = max(v, broadcast(0.0f));
    for (int i = 0; i < kLanes; ++i) CHECK_EQ(larger[i], i == place ? 5.0f : 0.0f);
  }
}

TEST(rounding_to_integers) {
  for (float x = -130.0f; x <= 130.0f; x += 0.125f) CHECK_EQ(round_to_nearest(broadcast(x))[0], std::nearbyint(x));
}

// ----------------------------------------------------------------------------------------------------------------- exp

// Distance to the exact value in units in the last place of its float.
double ulps(float result, double exact) {
  int exponent;
  std::frexp(exact, &exponent);
  return std::fabs(result - exact) / std::ldexp(1.0, std::max(exponent, -125) - 24);
}

TEST(exp_is_accurate_to_about_one_ulp) {
  double worst = 0.0;
  float worst_at = 0.0f;
  auto check = [&](float x) {
    const float result = exp(broadcast(x))[kLanes - 1];
    const double error = ulps(result, std::exp(static_cast<double>(x)));
    if (error > worst) {
      worst = error;
      worst_at = x;
    }
  };
  for (const uint32_t sign : {0u, 0x80000000u}) {
    // A prime step visits all exponents and mantissas alike.
    for (uint32_t bits = 0; bits < to_bits(87.0f); bits += 4099) check(from_bits(bits | sign));
  }
  for (float x = -87.33f; x < 88.72f; x += 0x1.03p-12f) check(x);
  check(-87.33654f);
  check(88.72283f);
  if (!CHECK(worst <= 1.1)) std::printf("  %.3f ulp at %a\n", worst, worst_at);
}

TEST(exp_at_the_edges) {
  const float largest = std::numeric_limits<float>::max();
  CHECK_EQ(exp(broadcast(0.0f))[0], 1.0f);
  CHECK_EQ(exp(broadcast(-0.0f))[0], 1.0f);
  CHECK_EQ(exp(broadcast(std::numeric_limits<float>::denorm_min()))[0], 1.0f);
  CHECK(std::isfinite(exp(broadcast(88.7228f))[0]));
  for (const float x : {88.73f, 89.0f, 1000.0f, largest, kInfinity}) CHECK_EQ(exp(broadcast(x))[0], kInfinity);
  for (const float x : {-87.34f, -88.0f, -104.0f, -1000.0f, -largest, -kInfinity}) {
    CHECK_EQ(exp(broadcast(x))[0], 0.0f);
  }
  CHECK(std::isnan(exp(broadcast(std::numeric_limits<float>::quiet_NaN()))[0]));
}

TEST(exp_of_a_lane_does_not_depend_on_the_others) {
  const float specials[] = {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN(), 1.0f, -50.0f};
  const float expected = exp(broadcast(0.5f))[0];
  for (const float special : specials) {
    for (int place = 0; place < kLanes; ++place) {
      FloatVec v = broadcast(special);
      v[place] = 0.5f;
      CHECK_EQ(exp(v)[place], expected);
    }
  }
}

}  // namespace
