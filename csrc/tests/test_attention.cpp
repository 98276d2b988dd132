// The attention kernels, run on the host, against the CPU loops; both also against plain double arithmetic.
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "cuda/portable.cuh"
#include "dlmcache/attention.h"
#include "dlmcache/dispatch.h"
#include "tests/test_main.h"

namespace dlmcache {
namespace {

struct Layout {
  std::vector<int64_t> rows, keys;  // per slot
  int64_t unused_rows, capacity, num_heads, num_kv_heads, head_size;
};

struct Result {
  std::vector<double> out, lse;
};

template <typename scalar_t>
struct Call {
  Layout layout;
  std::vector<scalar_t> q, k, v, out;
  std::vector<int64_t> cu_rows{0};
  std::vector<float> lse, partial_values, partial_stats;
  AttentionParams p{};

  Call(const Layout& given, DType dtype) : layout(given) {
    for (const int64_t rows : layout.rows) cu_rows.push_back(cu_rows.back() + rows);
    p.dtype = dtype;
    p.num_rows = cu_rows.back() + layout.unused_rows;
    p.num_heads = layout.num_heads;
    p.num_kv_heads = layout.num_kv_heads;
    p.head_size = layout.head_size;
    p.num_slots = static_cast<int64_t>(layout.rows.size());
    p.capacity = layout.capacity;
    p.scale = 1.0f / std::sqrt(static_cast<float>(p.head_size));
    std::mt19937 generator(7);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<scalar_t>& values, int64_t size) {
      values.resize(size);
      for (scalar_t& value : values) value = from_float<scalar_t>(normal(generator));
    };
    fill(q, p.num_rows * p.num_heads * p.head_size);
    fill(k, p.num_slots * p.capacity * p.num_kv_heads * p.head_size);
    fill(v, static_cast<int64_t>(k.size()));
    p.q = q.data();
    p.k = k.data();
    p.v = v.data();
    p.cu_rows = cu_rows.data();
    p.kv_lens = layout.keys.data();
  }

  Result run(const char* (*compute)(Call&), int64_t max_splits) {
    out.assign(q.size(), from_float<scalar_t>(NAN));
    lse.assign(p.num_rows * p.num_heads, NAN);
    p.out = out.data();
    p.lse = lse.data();
    p.max_splits = max_splits;
    partial_values.assign(p.num_rows * p.num_heads * max_splits * p.head_size, NAN);
    partial_stats.assign(p.num_rows * p.num_heads * max_splits * 2, NAN);
    p.partial_values = partial_values.data();
    p.partial_stats = partial_stats.data();
    const char* error = compute(*this);
    CHECK_EQ(std::string(error ? error : ""), std::string());
    Result result;
    for (const scalar_t value : out) result.out.push_back(to_float(value));
    result.lse.assign(lse.begin(), lse.end());
    return result;
  }
};

template <typename scalar_t>
const char* run_kernels(Call<scalar_t>& call) {
  return cuda::launch_attention(call.p, nullptr);
}

template <typename scalar_t>
const char* run_loops(Call<scalar_t>& call) {
  AttentionParams& p = call.p;
  std::vector<int64_t> item_start{0};
  for (int64_t s = 0; s < p.num_slots; ++s) {
    const int64_t tiles = cpu::attention_tiles(call.layout.rows[s] * (p.num_heads / p.num_kv_heads));
    const int64_t splits = cpu::attention_splits(call.layout.keys[s]).count;
    item_start.push_back(item_start.back() + tiles * (p.max_splits > 0 && splits > 1 ? splits : 1));
  }
  p.item_start = item_start.data();
  const int64_t used = call.cu_rows.back();
  for (int64_t i = used * p.num_heads * p.head_size; i < static_cast<int64_t>(call.out.size()); ++i) {
    call.out[i] = from_float<scalar_t>(0.0f);  // the tensor boundary does this
  }
  for (int64_t i = used * p.num_heads; i < static_cast<int64_t>(call.lse.size()); ++i) call.lse[i] = 0.0f;
  if (item_start.back() > 0) cpu::attention_rows(p, 0, item_start.back() * p.num_kv_heads);
  if (p.max_splits > 0) cpu::attention_merge_rows(p, 0, used);
  return nullptr;
}

template <typename scalar_t>
Result exact(const Call<scalar_t>& call) {
  const AttentionParams& p = call.p;
  Result result{std::vector<double>(call.q.size(), 0.0), std::vector<double>(p.num_rows * p.num_heads, 0.0)};
  for (int64_t s = 0; s < p.num_slots; ++s) {
    for (int64_t i = call.cu_rows[s] * p.num_heads; i < call.cu_rows[s + 1] * p.num_heads; ++i) {
      const int64_t kv_head = i % p.num_heads / (p.num_heads / p.num_kv_heads);
      std::vector<double> score(call.layout.keys[s]);
      double largest = -INFINITY, sum = 0.0;
      const auto cached = [&](const std::vector<scalar_t>& cache, int64_t key, int64_t d) {
        return static_cast<double>(
            to_float(cache[((s * p.capacity + key) * p.num_kv_heads + kv_head) * p.head_size + d]));
      };
      for (size_t key = 0; key < score.size(); ++key) {
        for (int64_t d = 0; d < p.head_size; ++d)
          score[key] += to_float(call.q[i * p.head_size + d]) * cached(call.k, key, d);
        score[key] *= p.scale;
        largest = std::fmax(largest, score[key]);
      }
      for (const double value : score) sum += std::exp(value - largest);
      for (size_t key = 0; key < score.size(); ++key) {
        for (int64_t d = 0; d < p.head_size; ++d) {
          result.out[i * p.head_size + d] += std::exp(score[key] - largest) / sum * cached(call.v, key, d);
        }
      }
      result.lse[i] = score.empty() ? -INFINITY : largest + std::log(sum);
    }
  }
  return result;
}

void check_near(const Result& result, const Result& expected, double tolerance) {
  REQUIRE(result.out.size() == expected.out.size() && result.lse.size() == expected.lse.size());
  for (size_t i = 0; i < result.out.size(); ++i) CHECK_NEAR(result.out[i], expected.out[i], tolerance);
  for (size_t i = 0; i < result.lse.size(); ++i) CHECK_NEAR(result.lse[i], expected.lse[i], 1e-5);
}

void check_equal(const Result& result, const Result& expected) {
  CHECK(result.out == expected.out);
  CHECK(result.lse == expected.lse);
}

void check_layout(const Layout& layout, DType dtype) {
  dispatch_float(dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    Call<scalar_t> call(layout, dtype);
    const Result expected = exact(call);
    const double tolerance = dtype == DType::kFloat32 ? 3e-6 : dtype == DType::kFloat16 ? 2e-3 : 1.6e-2;
    const int64_t max_splits = 32;
    const Result loops = call.run(run_loops, 0);
    check_near(loops, expected, tolerance);
    check_equal(call.run(run_loops, max_splits), loops);
    // One block per tile and one block per split: the same bits.
    const Result kernels = call.run(run_kernels, 0);
    check_near(kernels, expected, tolerance);
    check_equal(call.run(run_kernels, max_splits), kernels);
  });
}

constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

TEST(empty_slots_unused_rows_and_slots_without_keys) {
  for (const DType dtype : kTypes) check_layout({{0, 3, 0, 2, 1, 0}, {5, 0, 0, 40, 1, 7}, 3, 41, 2, 1, 24}, dtype);
}

TEST(several_splits) {
  for (const DType dtype : kTypes) check_layout({{2, 1}, {300, 129}, 1, 301, 2, 2, 32}, dtype);
}

TEST(seven_query_heads_share_a_key_head) { check_layout({{5, 2}, {33, 20}, 0, 40, 14, 2, 16}, DType::kFloat32); }

TEST(head_size_64) {
  for (const DType dtype : kTypes) check_layout({{20, 9}, {70, 31}, 2, 70, 3, 3, 64}, dtype);
}

TEST(head_size_128) {
  check_layout({{3, 1}, {45, 140}, 0, 140, 2, 1, 128}, DType::kBFloat16);
  check_layout({{33}, {35}, 0, 35, 1, 1, 128}, DType::kFloat32);
}

TEST(head_sizes_between_the_templates) {
  // Odd ones end in the middle of what a lane stores at once.
  for (const int64_t head_size : {1, 7, 40, 45, 96, 99, 200, 256})
    check_layout({{2}, {34}, 1, 35, 1, 1, head_size}, DType::kFloat32);
}

TEST(more_slots_than_a_warp_has_lanes) {
  Layout layout{std::vector<int64_t>(70, 0), std::vector<int64_t>(70, 3), 1, 4, 1, 1, 8};
  layout.rows[0] = 1;
  layout.rows[33] = 2;
  layout.rows[69] = 17;
  check_layout(layout, DType::kFloat32);
}

TEST(no_slots_and_no_rows) {
  check_layout({{}, {}, 3, 4, 2, 1, 8}, DType::kFloat32);
  check_layout({{0}, {3}, 0, 4, 2, 1, 8}, DType::kFloat32);
}

TEST(a_slot_alone_gives_the_same_bits) {
  const Layout together{{4, 40, 2}, {200, 30, 150}, 2, 200, 2, 1, 40};
  // Alone, the first and the last slot have tiles of 16 rows, in the batch of 32.
  Call<float> batch(together, DType::kFloat32);
  for (const int64_t max_splits : {0, 2}) {
    const Result all = batch.run(run_kernels, max_splits);
    for (int s = 0; s < 3; ++s) {
      Call<float> alone({{together.rows[s]}, {together.keys[s]}, 0, 200, 2, 1, 40}, DType::kFloat32);
      const int64_t row = 2 * 40, first = batch.cu_rows[s] * row, last = batch.cu_rows[s + 1] * row;
      alone.q.assign(batch.q.begin() + first, batch.q.begin() + last);
      alone.k.assign(batch.k.begin() + s * 200 * 40, batch.k.begin() + (s + 1) * 200 * 40);
      alone.v.assign(batch.v.begin() + s * 200 * 40, batch.v.begin() + (s + 1) * 200 * 40);
      alone.p.q = alone.q.data(), alone.p.k = alone.k.data(), alone.p.v = alone.v.data();
      const Result one = alone.run(run_kernels, 2 - max_splits);
      CHECK(one.out == std::vector<double>(all.out.begin() + first, all.out.begin() + last));
    }
  }
}

TEST(splits_cover_the_keys) {
  for (int64_t keys = 0; keys < 20000; keys += 37) {
    const KeySplits splits = cuda::attention_splits(keys);
    CHECK(splits.count <= cuda::kAttentionMaxSplits);
    CHECK(splits.count * splits.keys >= keys);
    CHECK(keys == 0 ? splits.count == 0 : (splits.count - 1) * splits.keys < keys);
  }
}

TEST(a_head_size_that_is_too_large_is_refused) {
  Call<float> call({{1}, {1}, 0, 1, 1, 1, 257}, DType::kFloat32);
  CHECK(cuda::launch_attention(call.p, nullptr) != nullptr);
}

}  // namespace
}  // namespace dlmcache
