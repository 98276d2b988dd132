// The density kernel, run on the host, and the CPU loop against plain double arithmetic.
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda/portable.cuh"
#include "dlmcache/density.h"
#include "tests/test_main.h"

namespace dlmcache {
namespace {

struct Call {
  std::vector<int64_t> begin, end;
  std::unique_ptr<bool[]> known;
  std::vector<float> out;
  DensityParams p{};
  double sigma;

  // share: of known positions
  Call(std::vector<int64_t> first, std::vector<int64_t> last, int64_t capacity, double sigma, double share = 0.5)
      : begin(std::move(first)), end(std::move(last)), sigma(sigma) {
    p.num_slots = static_cast<int64_t>(begin.size());
    p.capacity = capacity;
    p.inv_two_sigma2 = 0.5 / sigma / sigma;
    p.reach = std::min(static_cast<int64_t>(sigma * std::sqrt(208.0)), 2 * capacity);
    known = std::make_unique<bool[]>(p.num_slots * capacity);
    std::mt19937 generator(5);
    std::uniform_real_distribution<double> uniform;
    for (int64_t i = 0; i < p.num_slots * capacity; ++i) known[i] = uniform(generator) < share;
    p.known = known.get();
    p.begin = begin.data();
    p.end = end.data();
  }

  const std::vector<float>& run_kernel() {
    out.assign(p.num_slots * p.capacity, NAN);
    p.out = out.data();
    const char* error = cuda::launch_density(p, nullptr);
    CHECK_EQ(std::string(error ? error : ""), std::string());
    return out;
  }

  // In two parts, as two threads would.
  const std::vector<float>& run_loop() {
    out.assign(p.num_slots * p.capacity, NAN);
    p.out = out.data();
    const int64_t middle = static_cast<int64_t>(out.size()) / 3;
    cpu::density_rows(p, 0, middle);
    cpu::density_rows(p, middle, static_cast<int64_t>(out.size()));
    return out;
  }

  double exact(int64_t row) const {
    const int64_t slot = row / p.capacity, position = row % p.capacity, region = end[slot] - begin[slot];
    if (position < begin[slot] || position >= end[slot]) return 0.0;
    double inside = 0.0, total = 0.0;
    for (int64_t j = begin[slot] - region; j < end[slot] + region; ++j) {
      const double distance = static_cast<double>(j - position);
      const double weight = std::exp(-distance * distance / (2.0 * sigma * sigma));
      const bool counts = j < begin[slot] || known[slot * p.capacity + (j < end[slot] ? j : end[slot] - 1)];
      inside += counts ? weight : 0.0;
      total += weight;
    }
    return inside / total;
  }
};

void check(Call call) {
  call.run_loop();
  for (size_t i = 0; i < call.out.size(); ++i) CHECK_NEAR(call.out[i], call.exact(i), 1e-7);
  call.run_kernel();
  for (size_t i = 0; i < call.out.size(); ++i) CHECK_NEAR(call.out[i], call.exact(i), 1e-6);
}

TEST(several_slots_with_and_without_regions) {
  for (const double sigma : {0.3, 2.5, 10.0, 1e4}) check(Call({5, 0, 9, 0}, {30, 0, 4, 37}, 37, sigma));
}

TEST(a_long_region) { check(Call({100, 3}, {300, 200}, 301, 10.0)); }

TEST(one_position) {
  check(Call({0}, {1}, 1, 10.0, 0.0));
  check(Call({0}, {1}, 1, 10.0, 1.0));
}

TEST(no_slots) { check(Call({}, {}, 7, 10.0)); }

TEST(where_everything_is_known_the_density_is_one) {
  Call call({10}, {50}, 60, 10.0, 2.0);
  for (int64_t i = 10; i < 50; ++i) CHECK_EQ(call.run_kernel()[i], 1.0f);
  for (int64_t i = 10; i < 50; ++i) CHECK_EQ(call.run_loop()[i], 1.0f);
}

TEST(a_window_narrower_than_a_position_sees_only_that) {
  Call call({0}, {20}, 20, 1e-3);
  call.p.inv_two_sigma2 = 1e30;
  for (int64_t i = 0; i < 20; ++i) CHECK_EQ(call.run_kernel()[i], call.known[i] ? 1.0f : 0.0f);
  for (int64_t i = 0; i < 20; ++i) CHECK_EQ(call.run_loop()[i], call.known[i] ? 1.0f : 0.0f);
}

}  // namespace
}  // namespace dlmcache
