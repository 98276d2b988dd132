// The row list kernels, run on the host, against the CPU loops and against lists made by hand.
#include <algorithm>
#include <random>
#include <vector>

#include "cuda/launch.cuh"
#include "cuda/row_list.cuh"
#include "tests/test_main.h"

using namespace dlmcache;

namespace {

struct Request {
  int64_t capacity = 0;
  std::vector<int64_t> begin, end, limit;  // limit may stay empty: none
  std::vector<char> flags;                 // may stay empty: all positions
};

struct RowList {
  std::vector<int64_t> row_index, cu_rows;
  bool operator==(const RowList&) const = default;
};

// Runs `build` (which fills row_index and cu_rows) with buffers of exactly the right sizes.
template <typename Build>
RowList build_list(const Request& request, int64_t max_rows, Build build) {
  const int64_t num_slots = static_cast<int64_t>(request.begin.size());
  RowList list{std::vector<int64_t>(max_rows, -77), std::vector<int64_t>(num_slots + 1, -77)};
  std::vector<int64_t> counts(num_slots, -77);
  BuildRowsParams p{};
  p.num_slots = num_slots;
  p.capacity = request.capacity;
  p.max_rows = max_rows;
  p.begin = request.begin.data();
  p.end = request.end.data();
  p.limit = request.limit.empty() ? nullptr : request.limit.data();
  p.flags = request.flags.empty() ? nullptr : reinterpret_cast<const bool*>(request.flags.data());
  p.counts = counts.data();
  p.row_index = list.row_index.data();
  p.cu_rows = list.cu_rows.data();
  build(p);
  return list;
}

RowList build_on_cpu(const Request& request, int64_t max_rows) {
  return build_list(request, max_rows, [](const BuildRowsParams& p) {
    cpu::count_rows(p, 0, p.num_slots);
    p.cu_rows[0] = 0;
    for (int64_t slot = 0; slot < p.num_slots; ++slot) p.cu_rows[slot + 1] = p.cu_rows[slot] + p.counts[slot];
    REQUIRE(p.cu_rows[p.num_slots] <= p.max_rows);
    cpu::build_rows(p, 0, p.num_slots);
    for (int64_t entry = p.cu_rows[p.num_slots]; entry < p.max_rows; ++entry) p.row_index[entry] = -1;
  });
}

RowList build_on_gpu(const Request& request, int64_t max_rows) {
  return build_list(request, max_rows, [](const BuildRowsParams& p) {
    const char* error = cuda::launch_build_rows(p, nullptr);
    CHECK(error == nullptr);
  });
}

Request random_request(int seed, int64_t num_slots, int64_t capacity, double density, bool with_limit) {
  std::mt19937 random(seed);
  Request request;
  request.capacity = capacity;
  for (int64_t slot = 0; slot < num_slots; ++slot) {
    request.begin.push_back(static_cast<int64_t>(random() % (capacity + 1)) / 2);
    request.end.push_back(static_cast<int64_t>(random() % (capacity + 1)));
    if (with_limit) request.limit.push_back(static_cast<int64_t>(random() % (capacity + 2)) - 1);
  }
  if (density < 1.0) {
    for (int64_t i = 0; i < num_slots * capacity; ++i) request.flags.push_back(random() % 1000 < 1000 * density);
  }
  return request;
}

// Blocks of another size than the launcher's take other paths through the warps.
template <int kThreads>
void run_kernels(const BuildRowsParams& p, unsigned num_blocks) {
  if (p.flags) cuda::launch(cuda::count_rows_kernel<kThreads>, dim3(p.num_slots), dim3(kThreads), 0, nullptr, p);
  cuda::launch(cuda::build_rows_kernel<kThreads>, dim3(num_blocks), dim3(kThreads), 0, nullptr, p);
}

}  // namespace

TEST(lists_are_those_of_the_cpu) {
  int seed = 0;
  for (const int64_t num_slots : {1, 2, 5}) {
    for (const int64_t capacity : {1, 31, 32, 33, 600}) {
      for (const double density : {0.0, 0.3, 1.0}) {
        for (const bool with_limit : {false, true}) {
          const Request request = random_request(++seed, num_slots, capacity, density, with_limit);
          const int64_t max_rows = num_slots * capacity + seed % 3;
          CHECK(build_on_gpu(request, max_rows) == build_on_cpu(request, max_rows));
        }
      }
    }
  }
}

TEST(blocks_of_one_warp_and_of_many) {
  for (int seed = 0; seed < 6; ++seed) {
    const Request request = random_request(100 + seed, 3, 700, seed % 2 ? 0.4 : 1.0, seed % 3 == 0);
    const RowList expected = build_on_cpu(request, 2100);
    const auto narrow = build_list(request, 2100, [](const BuildRowsParams& p) { run_kernels<32>(p, 3); });
    CHECK(narrow == expected);
    const auto wide = build_list(request, 2100, [](const BuildRowsParams& p) { run_kernels<128>(p, 8); });
    CHECK(wide == expected);
  }
}

TEST(more_blocks_than_slots_fill_a_long_end) {
  const Request request = random_request(7, 1, 40, 0.5, false);
  CHECK(build_on_gpu(request, 9000) == build_on_cpu(request, 9000));
}

TEST(what_does_not_fit_is_left_out) {
  for (const double density : {0.5, 1.0}) {
    const Request request = random_request(11, 4, 100, density, false);
    const RowList all = build_on_cpu(request, 400);
    const int64_t total = all.cu_rows.back();
    for (const int64_t max_rows : {total - 1, total / 2, int64_t{1}, int64_t{0}}) {
      const RowList part = build_on_gpu(request, max_rows);
      for (int64_t i = 0; i < max_rows; ++i) CHECK_EQ(part.row_index[i], all.row_index[i]);
      for (size_t slot = 0; slot < all.cu_rows.size(); ++slot) {
        CHECK_EQ(part.cu_rows[slot], std::min(all.cu_rows[slot], max_rows));
      }
    }
  }
}

TEST(no_slots) {
  Request request;
  request.capacity = 4;
  const RowList list = build_on_gpu(request, 3);
  CHECK(list == (RowList{{-1, -1, -1}, {0}}));
  CHECK(build_on_gpu(request, 0) == (RowList{{}, {0}}));
}

void check_find(const RowList& list) {
  std::vector<int64_t> query{-1};
  for (int64_t row = 359; row >= 0; --row) query.push_back(row);
  query.push_back(-1);
  std::vector<int64_t> on_cpu(query.size(), -77), on_gpu(query.size(), -77);
  FindRowsParams p{};
  p.num_queries = static_cast<int64_t>(query.size());
  p.capacity = 90;
  p.row_index = list.row_index.data();
  p.cu_rows = list.cu_rows.data();
  p.query = query.data();
  p.place = on_cpu.data();
  cpu::find_rows(p, 0, p.num_queries);
  p.place = on_gpu.data();
  CHECK(cuda::launch_find_rows(p, nullptr) == nullptr);
  for (size_t i = 0; i < query.size(); ++i) {
    int64_t expected = -1;
    for (int64_t entry = 0; entry < list.cu_rows.back() && query[i] >= 0; ++entry) {
      if (list.row_index[entry] == query[i]) expected = entry;
    }
    CHECK_EQ(on_cpu[i], expected);
    CHECK_EQ(on_gpu[i], expected);
  }
  p.num_queries = 0;
  CHECK(cuda::launch_find_rows(p, nullptr) == nullptr);
}

TEST(find_gives_the_place_or_minus_one) {
  const Request request = random_request(21, 4, 90, 0.3, false);
  const RowList list = build_on_cpu(request, 360);
  check_find(list);
  // Nothing stands behind the last row: looking there would leave the list.
  check_find(build_on_cpu(request, list.cu_rows.back()));
}
