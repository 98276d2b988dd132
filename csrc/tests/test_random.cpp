// Philox against published vectors, its vector form against the scalar one, and the kernel against the CPU loop.
#include "cpu/noise.h"
#include "dlmcache/random.h"
#include "tests/test_main.h"

using namespace dlmcache;

namespace {

void check_words(PhiloxWords counter, PhiloxKey key, PhiloxWords expected) {
  const PhiloxWords words = philox(counter, key);
  for (int i = 0; i < 4; ++i) {
    CHECK_EQ(words.word[i], expected.word[i]);
    CHECK_EQ(select_word(words, i), expected.word[i]);
  }
}

}  // namespace

// kat_vectors of Random123, philox4x32 with 10 rounds.
TEST(philox_known_answers) {
  check_words({{0, 0, 0, 0}}, {0, 0}, {{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}});
  const uint32_t ones = 0xffffffffu;
  check_words({{ones, ones, ones, ones}}, {ones, ones}, {{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}});
  check_words({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, {0xa4093822u, 0x299f31d0u},
              {{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}});
}

TEST(draw_orders_its_arguments) {
  const int64_t seed = 0x0123456789abcdefLL, step = 0x7000000012345678LL, position = 9;
  const PhiloxWords words = draw(seed, step, position, 2, 3);
  const PhiloxWords expected = philox({{3, 9, 0x12345678u, 2}}, {0x89abcdefu, 0x01234567u});
  for (int i = 0; i < 4; ++i) CHECK_EQ(words.word[i], expected.word[i]);
}

TEST(uniform_stays_inside_the_unit_interval) {
  CHECK_EQ(uniform_from_word(0), 0x1p-33f);
  CHECK_EQ(uniform_from_word(0xffffffffu), 1.0f - 0x1p-24f);
  CHECK_EQ(uniform_from_word(0x80000000u), 0.5f);
}

TEST(gumbel_is_accurate_at_both_ends) {
  const uint32_t words[] = {0u,          1u,          77u,         0x1000000u,  0x5e2d58d8u, 0x7fffffffu, 0x80000000u,
                            0x80000001u, 0xc0000000u, 0xfffff000u, 0xfffffffdu, 0xfffffffeu, 0xffffffffu};
  for (const uint32_t x : words) {
    // In double 1 - u is exact, and log1p of it loses nothing.
    const double tail = (static_cast<double>(~x) + 0.5) * 0x1p-32;
    const double exact = -std::log(-std::log1p(-tail));
    CHECK_NEAR(gumbel_from_word(x), exact, 3e-7 * (1.0 + std::fabs(exact)));
  }
  CHECK(gumbel_from_word(0xffffffffu) < 23.0f);  // what the CPU loop takes for the bound
}

TEST(vector_noise_equals_scalar_noise) {
  constexpr int kCount = 4096;
  const int64_t seed = -12345678901234LL, step = 77, position = 1234567;
  std::vector<float> noise(kCount);
  cpu::DLMCACHE_CPU_ARCH::fill_gumbel(seed, step, position, 100, kCount, noise.data());
  for (int i = 0; i < kCount; ++i) {
    const float expected =
        gumbel_from_word(draw(seed, step, position, kGumbelStream, static_cast<uint32_t>(100 + i / 4)).word[i % 4]);
    CHECK_NEAR(noise[i], expected, 5e-7 * (1.0 + std::fabs(expected)));
  }
}

TEST(uniform_rows_kernel_equals_the_loop) {
  const int64_t capacity = 50;
  const std::vector<int64_t> seeds = {5, -7, int64_t{1} << 40}, ticks = {0, -1, int64_t{1} << 33};
  for (const int64_t num_rows : {0, 1, 129, 150}) {
    std::vector<int64_t> rows(num_rows);
    for (int64_t i = 0; i < num_rows; ++i) rows[i] = i + 3 < num_rows ? i : -1;
    std::vector<float> expected(num_rows, -1.0f), result(num_rows, -2.0f);
    UniformRowsParams p{num_rows, capacity, 1, rows.data(), seeds.data(), ticks.data(), expected.data()};
    cpu::uniform_rows(p, 0, num_rows);
    p.out = result.data();
    CHECK(cuda::launch_uniform_rows(p, nullptr) == nullptr);
    for (int64_t i = 0; i < num_rows; ++i) {
      CHECK_EQ(result[i], expected[i]);
      CHECK((result[i] > 0.0f) == (rows[i] >= 0));
    }
  }
}
