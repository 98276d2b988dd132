// Selection of the best rows: CPU loops and emulated kernels against a sort.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "cuda/launch.cuh"
#include "cuda/select.cuh"
#include "tests/test_main.h"

namespace {

using namespace dlmcache;

struct Request {
  std::vector<float> score;
  std::vector<int64_t> row_index, cu_rows{0}, k;
  bool largest = true;
};

struct Selection {
  std::vector<int64_t> rows, places, cu_rows;
  bool operator==(const Selection&) const = default;
};

// Runs `select` (which fills the output) with buffers of exactly the right sizes.
template <typename Select>
Selection run(const Request& request, int64_t max_rows, Select select) {
  const size_t num_slots = request.k.size();
  Selection out{std::vector<int64_t>(max_rows, -77), std::vector<int64_t>(max_rows, -77),
                std::vector<int64_t>(num_slots + 1, -77)};
  SelectRowsParams p{};
  p.num_slots = static_cast<int64_t>(num_slots);
  p.num_entries = static_cast<int64_t>(request.score.size());
  p.max_rows = max_rows;
  p.largest = request.largest;
  p.score = request.score.data();
  p.row_index = request.row_index.data();
  p.cu_rows = request.cu_rows.data();
  p.k = request.k.data();
  p.selected = out.rows.data();
  p.places = out.places.data();
  p.cu_selected = out.cu_rows.data();
  select(p);
  return out;
}

Selection on_cpu(const Request& request, int64_t max_rows) {
  return run(request, max_rows, [](const SelectRowsParams& p) {
    p.cu_selected[0] = 0;
    for (int64_t slot = 0; slot < p.num_slots; ++slot) {
      p.cu_selected[slot + 1] = p.cu_selected[slot] + num_selected(p, slot);
    }
    REQUIRE(p.cu_selected[p.num_slots] <= p.max_rows);
    cpu::select_rows(p, 0, p.num_slots / 2);
    cpu::select_rows(p, p.num_slots / 2, p.num_slots);
    for (int64_t i = p.cu_selected[p.num_slots]; i < p.max_rows; ++i) p.selected[i] = p.places[i] = -1;
  });
}

Selection on_cuda(const Request& request, int64_t max_rows) {
  return run(request, max_rows,
             [](const SelectRowsParams& p) { CHECK(cuda::launch_select_rows(p, nullptr) == nullptr); });
}

template <int kThreads>
Selection on_cuda_in_blocks_of(const Request& request, int64_t max_rows, unsigned num_blocks) {
  return run(request, max_rows, [&](const SelectRowsParams& p) {
    CHECK(cuda::launch(cuda::select_rows_kernel<kThreads>, dim3(num_blocks), dim3(kThreads), 0, nullptr, p) == nullptr);
  });
}

Selection by_sorting(const Request& request, int64_t max_rows) {
  Selection out{std::vector<int64_t>(max_rows, -1), std::vector<int64_t>(max_rows, -1), {0}};
  int64_t entry = 0;
  for (size_t slot = 0; slot < request.k.size(); ++slot) {
    std::vector<int64_t> order;
    for (int64_t i = request.cu_rows[slot]; i < request.cu_rows[slot + 1]; ++i) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
      const float a = request.score[i], b = request.score[j];
      if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && !std::isnan(b);
      return request.largest ? a > b : a < b;
    });
    const int64_t count = static_cast<int64_t>(order.size());
    order.resize(std::clamp<int64_t>(request.k[slot], 0, count));
    std::sort(order.begin(), order.end());
    for (const int64_t place : order) {
      out.rows[entry] = request.row_index[place];
      out.places[entry++] = place;
    }
    out.cu_rows.push_back(entry);
  }
  return out;
}

// `levels` > 0: scores take so few values that most of them are equal.
Request random_request(int seed, const std::vector<int64_t>& counts, int levels, bool largest, int64_t num_unused = 0) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Request request;
  request.largest = largest;
  for (const int64_t count : counts) {
    for (int64_t i = 0; i < count; ++i) {
      request.row_index.push_back(static_cast<int64_t>(3 * request.row_index.size() + 1));
      request.score.push_back(levels > 0 ? static_cast<float>(random() % levels) - 1.0f : normal(random));
    }
    request.cu_rows.push_back(static_cast<int64_t>(request.row_index.size()));
    request.k.push_back(static_cast<int64_t>(random() % (count + 3)) - 1);
  }
  request.row_index.resize(request.row_index.size() + num_unused, -1);
  request.score.resize(request.score.size() + num_unused, 99.0f);
  return request;
}

void check_all(const Request& request, int64_t spare) {
  int64_t total = spare;
  for (size_t slot = 0; slot < request.k.size(); ++slot) {
    total += std::clamp<int64_t>(request.k[slot], 0, request.cu_rows[slot + 1] - request.cu_rows[slot]);
  }
  const Selection expected = by_sorting(request, total);
  CHECK(on_cpu(request, total) == expected);
  CHECK(on_cuda(request, total) == expected);
}

TEST(random_scores) {
  for (int seed = 0; seed < 6; ++seed) {
    check_all(random_request(seed, {33, 0, 1, 300, 64}, 0, seed % 2 == 0, seed % 3), seed % 4);
  }
}
TEST(ties_go_to_the_front) {
  for (int seed = 0; seed < 6; ++seed) {
    check_all(random_request(50 + seed, {65, 0, 500, 2, 1}, 1 + seed % 4, seed % 2 == 0), seed % 3);
  }
}
TEST(large_blocks) {
  for (int seed = 0; seed < 2; ++seed) {
    check_all(random_request(100 + seed, {2500}, seed < 1 ? 0 : 5, seed % 2 == 0, 3), 2);
  }
}
TEST(more_entries_than_a_block_has_threads) {
  const Request request = random_request(7, {700, 3, 40}, 0, true);
  const Selection expected = by_sorting(request, 743);
  CHECK(on_cuda_in_blocks_of<256>(request, 743, 3) == expected);
  CHECK(on_cuda_in_blocks_of<512>(request, 743, 5) == expected);
  CHECK(on_cuda_in_blocks_of<1024>(request, 743, 4) == expected);
}

TEST(special_values) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const bool largest : {true, false}) {
    for (int64_t k = 0; k <= 12; k += 2) {
      Request request;
      request.largest = largest;
      request.score = {0.0f, -0.0f, inf, -inf, nan, 1e-45f, -1e-45f, 3e38f, -3e38f, -nan, 0.0f, -0.0f};
      for (size_t i = 0; i < request.score.size(); ++i) request.row_index.push_back(static_cast<int64_t>(i));
      request.cu_rows.push_back(static_cast<int64_t>(request.score.size()));
      request.k.push_back(k);
      check_all(request, 0);
    }
  }
}

TEST(what_does_not_fit_is_left_out) {
  Request request = random_request(11, {100, 80, 60}, 3, true);
  request.k = {20, 30, 10};
  const Selection all = on_cpu(request, 60);
  for (const int64_t max_rows : {59, 33, 20, 1, 0}) {
    const Selection part = on_cuda(request, max_rows);
    for (int64_t i = 0; i < max_rows; ++i) {
      CHECK_EQ(part.rows[i], all.rows[i]);
      CHECK_EQ(part.places[i], all.places[i]);
    }
    for (size_t slot = 0; slot < all.cu_rows.size(); ++slot) {
      CHECK_EQ(part.cu_rows[slot], std::min(all.cu_rows[slot], max_rows));
    }
  }
}

TEST(a_long_unused_end) { check_all(random_request(3, {40}, 0, true), 9000); }

TEST(no_slots) {
  const Request request;
  CHECK(on_cuda(request, 3) == (Selection{{-1, -1, -1}, {-1, -1, -1}, {0}}));
  CHECK(on_cuda(request, 0) == (Selection{{}, {}, {0}}));
}

}  // namespace
