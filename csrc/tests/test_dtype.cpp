// The 16-bit types: every value there and back, and rounding at and around every tie.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "dlmcache/dtype.h"
#include "tests/test_main.h"

namespace {

using namespace dlmcache;

// What IEEE 754 says that the bits mean, computed without the code under test.
struct Format {
  int exponent_bits, mantissa_bits;
  double value(uint16_t bits) const {
    const double sign = bits & 0x8000u ? -1.0 : 1.0;
    const int exponent = (bits & 0x7fffu) >> mantissa_bits, mantissa = bits & ((1 << mantissa_bits) - 1);
    const int bias = (1 << (exponent_bits - 1)) - 1;
    if (exponent == (1 << exponent_bits) - 1) {
      return mantissa ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
    }
    if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
  }
  uint16_t infinity() const { return static_cast<uint16_t>(((1 << exponent_bits) - 1) << mantissa_bits); }
};
constexpr Format kHalf{5, 10}, kBFloat16{8, 7};

template <typename T>
void check_values_and_round_trips(const Format& format) {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const T stored{static_cast<uint16_t>(bits)};
    const float value = to_float(stored);
    const double expected = format.value(stored.bits);
    if (std::isnan(expected)) {
      CHECK(std::isnan(value));
      CHECK(std::isnan(format.value(from_float<T>(value).bits)));
    } else {
      CHECK_EQ(static_cast<double>(value), expected);
      CHECK_EQ(std::signbit(value), std::signbit(expected));
      CHECK_EQ(from_float<T>(value).bits, stored.bits);
    }
  }
}

// Between two neighbours the result is the nearer one, and at the middle the one with an even mantissa.
template <typename T>
void check_rounding(const Format& format) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (uint16_t bits = 0; bits < format.infinity(); ++bits) {
    const uint16_t next = bits + 1;
    // Overflow rounds as if the format went on: the "next" value of the largest one is one more step away.
    const double below = format.value(bits);
    const double above = next == format.infinity() ? 2 * below - format.value(bits - 1) : format.value(next);
    const float middle = static_cast<float>((below + above) / 2);
    const bool is_exact = middle == (below + above) / 2;  // bfloat16's smallest ties are floats as well
    CHECK(is_exact);
    const uint16_t even = bits % 2 == 0 ? bits : next;
    for (const float sign : {1.0f, -1.0f}) {
      const uint16_t sign_bit = sign < 0 ? 0x8000u : 0u;
      CHECK_EQ(from_float<T>(sign * middle).bits, even | sign_bit);
      CHECK_EQ(from_float<T>(sign * std::nextafter(middle, 0.0f)).bits, bits | sign_bit);
      CHECK_EQ(from_float<T>(sign * std::nextafter(middle, infinity)).bits, next | sign_bit);
    }
  }
}

template <typename T>
void check_specials(const Format& format) {
  const float infinity = std::numeric_limits<float>::infinity(), largest = std::numeric_limits<float>::max();
  CHECK_EQ(from_float<T>(infinity).bits, format.infinity());
  CHECK_EQ(from_float<T>(-infinity).bits, format.infinity() | 0x8000u);
  CHECK_EQ(from_float<T>(largest).bits, format.infinity());
  CHECK_EQ(from_float<T>(0.0f).bits, 0u);
  CHECK_EQ(from_float<T>(-0.0f).bits, 0x8000u);
  // NaN stays NaN whatever its payload: one that lives in the low bits only must not become infinity.
  for (const uint32_t payload : {0x7f800001u, 0x7f801fffu, 0x7fffffffu, 0x7fc00000u, 0xff800001u, 0xffffffffu}) {
    float nan;
    std::memcpy(&nan, &payload, sizeof(nan));
    CHECK(std::isnan(format.value(from_float<T>(nan).bits)));
  }
}

TEST(half_round_trips) { check_values_and_round_trips<Half>(kHalf); }
TEST(half_rounds_to_nearest_even) { check_rounding<Half>(kHalf); }
TEST(half_specials) {
  check_specials<Half>(kHalf);
  CHECK_EQ(from_float<Half>(65504.0f).bits, 0x7bffu);
  CHECK_EQ(from_float<Half>(std::nextafter(65520.0f, 0.0f)).bits, 0x7bffu);
  CHECK_EQ(from_float<Half>(65520.0f).bits, 0x7c00u);
  CHECK_EQ(from_float<Half>(0x1p-25f).bits, 0u);  // the tie between zero and the smallest subnormal
  CHECK_EQ(from_float<Half>(std::numeric_limits<float>::denorm_min()).bits, 0u);
}

TEST(bfloat16_round_trips) { check_values_and_round_trips<BFloat16>(kBFloat16); }
TEST(bfloat16_rounds_to_nearest_even) { check_rounding<BFloat16>(kBFloat16); }
TEST(bfloat16_specials) { check_specials<BFloat16>(kBFloat16); }

TEST(float_is_kept) {
  CHECK_EQ(to_float(from_float<float>(1.2345678f)), 1.2345678f);
  CHECK(std::isnan(from_float<float>(std::numeric_limits<float>::quiet_NaN())));
}

}  // namespace
