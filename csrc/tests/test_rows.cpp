// Copies of rows: CPU loops and emulated kernels against a loop over bytes, at every alignment.
#include <cstdint>
#include <vector>

#include "dlmcache/rows.h"
#include "tests/test_main.h"

namespace {

using namespace dlmcache;

using Bytes = std::vector<unsigned char>;

Bytes make_bytes(int64_t count, int seed) {
  Bytes bytes(count);
  for (int64_t i = 0; i < count; ++i) bytes[i] = static_cast<unsigned char>(i * 37 + seed);
  return bytes;
}

// Row sizes that every unit of a copy divides, and some that only small ones do; the last three are spread over blocks
// when the unit is one byte, the last one always.
const int64_t kRowBytes[] = {1, 2, 3, 4, 6, 8, 12, 16, 40, 257, 528, 769, 16 * 513};

// Distances of the first row from an aligned address. Of wide rows in small units once is enough: a sanitizer takes
// long.
std::vector<int64_t> offsets(int64_t row_bytes) {
  return row_bytes < 1024 ? std::vector<int64_t>{0, 1, 2, 4, 8} : std::vector<int64_t>{0, 8};
}

TEST(gather_copies_rows_and_clears_unused_ones) {
  const std::vector<int64_t> index = {5, 0, 3, 3, 6, -1, -1};
  const int64_t num_rows = index.size(), num_source = 7;
  for (const int64_t row_bytes : kRowBytes) {
    for (const int64_t offset : offsets(row_bytes)) {
      Bytes source = make_bytes(offset + num_source * row_bytes, 1);
      Bytes expected(offset + num_rows * row_bytes, 7);
      for (int64_t r = 0; r < num_rows; ++r) {
        for (int64_t b = 0; b < row_bytes; ++b) {
          expected[offset + r * row_bytes + b] = index[r] < 0 ? 0 : source[offset + index[r] * row_bytes + b];
        }
      }
      Bytes on_cpu(expected.size(), 7), on_cuda(expected.size(), 7);
      RowsParams p{num_rows, row_bytes, source.data() + offset, index.data(), on_cpu.data() + offset};
      cpu::gather_rows(p, 0, 4);
      cpu::gather_rows(p, 4, num_rows);
      p.destination = on_cuda.data() + offset;
      CHECK(cuda::launch_gather_rows(p, nullptr) == nullptr);
      CHECK(on_cpu == expected);
      CHECK(on_cuda == expected);
    }
  }
}

TEST(scatter_writes_named_rows_only) {
  const std::vector<int64_t> index = {1, 4, 6, -1};
  const int64_t num_rows = index.size(), num_destination = 7;
  for (const int64_t row_bytes : kRowBytes) {
    for (const int64_t offset : offsets(row_bytes)) {
      Bytes source = make_bytes(offset + num_rows * row_bytes, 1);
      const Bytes before = make_bytes(offset + num_destination * row_bytes, 100);
      Bytes expected = before, on_cpu = before, on_cuda = before;
      for (int64_t r = 0; r < 3; ++r) {
        for (int64_t b = 0; b < row_bytes; ++b) {
          expected[offset + index[r] * row_bytes + b] = source[offset + r * row_bytes + b];
        }
      }
      RowsParams p{num_rows, row_bytes, source.data() + offset, index.data(), on_cpu.data() + offset};
      cpu::scatter_rows(p, 0, 1);
      cpu::scatter_rows(p, 1, num_rows);
      p.destination = on_cuda.data() + offset;
      CHECK(cuda::launch_scatter_rows(p, nullptr) == nullptr);
      CHECK(on_cpu == expected);
      CHECK(on_cuda == expected);
    }
  }
}

TEST(more_rows_than_a_block_holds) {
  const int64_t num_rows = 700;
  std::vector<int64_t> index(num_rows), source(num_rows), destination(num_rows, -5);
  for (int64_t r = 0; r < num_rows; ++r) {
    index[r] = num_rows - 1 - r;
    source[r] = r * r;
  }
  const RowsParams p{num_rows, sizeof(int64_t), source.data(), index.data(), destination.data()};
  CHECK(cuda::launch_gather_rows(p, nullptr) == nullptr);
  for (int64_t r = 0; r < num_rows; ++r) CHECK_EQ(destination[r], source[num_rows - 1 - r]);
}

TEST(empty_lists_and_empty_rows_launch_nothing) {
  RowsParams p{};
  CHECK(cuda::launch_gather_rows(p, nullptr) == nullptr);
  p.num_rows = 3;
  CHECK(cuda::launch_scatter_rows(p, nullptr) == nullptr);
}

}  // namespace
