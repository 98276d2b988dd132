// The kernels of tracked_similarity, run on the host, against the CPU loops; both also against plain double arithmetic.
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "cuda/portable.cuh"
#include "dlmcache/dispatch.h"
#include "dlmcache/tracked_drift.h"
#include "tests/test_main.h"

namespace dlmcache {
namespace {

struct Layout {
  std::vector<int64_t> tracked, replaced, keys;  // per slot
  int64_t unused, capacity, num_heads, num_kv_heads, head_size;
};

template <typename scalar_t>
struct Call {
  Layout layout;
  std::vector<scalar_t> q_old, q_new, k, k_old;
  std::vector<int64_t> cu_tracked{0}, cu_rows{0}, row_index;
  std::vector<float> out, lse, partial_stats, partial_cosine, partial_dots;
  std::vector<float> tracked_weights;
  TrackedParams p{};

  Call(const Layout& given, DType dtype, Similarity similarity, bool unaligned = false) : layout(given) {
    std::mt19937 generator(3);
    std::normal_distribution<float> normal;
    for (size_t s = 0; s < layout.keys.size(); ++s) {
      cu_tracked.push_back(cu_tracked.back() + layout.tracked[s]);
      cu_rows.push_back(cu_rows.back() + layout.replaced[s]);
      // Spread over the slot; some may lie behind its keys.
      for (int64_t i = 0; i < layout.replaced[s]; ++i) {
        row_index.push_back(static_cast<int64_t>(s) * layout.capacity + i * layout.capacity / layout.replaced[s]);
      }
    }
    row_index.resize(cu_rows.back() + layout.unused, -1);
    p.dtype = dtype;
    p.similarity = similarity;
    p.num_tracked = cu_tracked.back() + layout.unused;
    p.num_heads = layout.num_heads;
    p.num_kv_heads = layout.num_kv_heads;
    p.head_size = layout.head_size;
    p.num_slots = static_cast<int64_t>(layout.keys.size());
    p.capacity = layout.capacity;
    p.scale = 1.0f / std::sqrt(static_cast<float>(p.head_size));
    const auto fill = [&](std::vector<scalar_t>& values, int64_t size) {
      values.resize(size);
      for (scalar_t& value : values) value = from_float<scalar_t>(normal(generator));
    };
    fill(q_old, p.num_tracked * p.num_heads * p.head_size);
    fill(q_new, static_cast<int64_t>(q_old.size()));
    fill(k, p.num_slots * p.capacity * p.num_kv_heads * p.head_size + unaligned);
    fill(k_old, static_cast<int64_t>(row_index.size()) * p.num_kv_heads * p.head_size);
    p.q_old = q_old.data();
    p.q_new = q_new.data();
    p.k = k.data() + unaligned;
    p.k_old = k_old.data();
    p.row_index = row_index.data();
    p.cu_rows = cu_rows.data();
    p.cu_tracked = cu_tracked.data();
    p.kv_lens = layout.keys.data();
  }

  // Attention weights of one row and head over a slot's keys.
  std::vector<double> weights(int64_t s, const std::vector<scalar_t>& q, int64_t row_head, bool old) const {
    const int64_t kv_head = row_head % p.num_heads / (p.num_heads / p.num_kv_heads);
    std::vector<double> weight(layout.keys[s]);
    double sum = 0.0;
    for (int64_t key = 0; key < layout.keys[s]; ++key) {
      const scalar_t* row = static_cast<const scalar_t*>(p.k) + (s * p.capacity + key) * p.num_kv_heads * p.head_size;
      for (int64_t i = cu_rows[s]; old && i < cu_rows[s + 1]; ++i) {
        if (row_index[i] == s * p.capacity + key) row = k_old.data() + i * p.num_kv_heads * p.head_size;
      }
      double score = 0.0;
      for (int64_t d = 0; d < p.head_size; ++d) {
        score +=
            static_cast<double>(to_float(q[row_head * p.head_size + d])) * to_float(row[kv_head * p.head_size + d]);
      }
      weight[key] = std::exp(score * p.scale);
      sum += weight[key];
    }
    for (double& value : weight) value /= sum;
    return weight;
  }

  std::vector<double> exact() const {
    std::vector<double> result;
    for (int64_t s = 0; s < p.num_slots; ++s) {
      double total = 0.0;
      int64_t count = 0;
      for (int64_t row = cu_tracked[s]; row < cu_tracked[s + 1] && layout.keys[s] > 0; ++row) {
        std::vector<std::vector<double>> before, after;  // [H][keys]
        for (int64_t i = row * p.num_heads; i < (row + 1) * p.num_heads; ++i) {
          before.push_back(weights(s, q_old, i, true));
          after.push_back(weights(s, q_new, i, false));
        }
        const bool heads = p.similarity == Similarity::kHeads;
        const int64_t outer = heads ? layout.keys[s] : p.num_heads, inner = heads ? p.num_heads : layout.keys[s];
        for (int64_t i = 0; i < outer; ++i) {
          double dot = 0.0, square_before = 0.0, square_after = 0.0;
          for (int64_t j = 0; j < inner; ++j) {
            const double a = heads ? before[j][i] : before[i][j], b = heads ? after[j][i] : after[i][j];
            dot += a * b, square_before += a * a, square_after += b * b;
          }
          total += dot / std::fmax(std::sqrt(square_before), 1e-8) / std::fmax(std::sqrt(square_after), 1e-8);
          ++count;
        }
      }
      result.push_back(count > 0 ? total / static_cast<double>(count) : 1.0);
    }
    return result;
  }

  void allocate(int64_t max_splits) {
    const int64_t row_heads = p.num_tracked * p.num_heads;
    out.assign(p.num_slots, NAN);
    lse.assign(row_heads * 2, NAN);
    partial_stats.assign(row_heads * max_splits * 4, NAN);
    partial_cosine.assign(p.num_slots * max_splits, NAN);
    partial_dots.assign(row_heads * max_splits * 3, NAN);
    p.out = out.data();
    p.lse = lse.data();
    p.max_splits = max_splits;
    p.partial_stats = partial_stats.data();
    p.partial_cosine = p.similarity == Similarity::kHeads ? partial_cosine.data() : nullptr;
    p.partial_dots = p.similarity == Similarity::kRows ? partial_dots.data() : nullptr;
  }

  std::vector<float> run_kernels() {
    allocate(max_key_splits<cuda::kTrackedMinKeys, cuda::kTrackedMaxSplits>(p.capacity));
    const char* error = cuda::launch_tracked_similarity(p, nullptr);
    CHECK_EQ(std::string(error ? error : ""), std::string());
    return out;
  }

  std::vector<float> run_loops() {
    allocate(max_key_splits<cpu::kTrackedMinKeys, cpu::kTrackedMaxSplits>(p.capacity));
    p.max_keys = 0;
    for (const int64_t keys : layout.keys) p.max_keys = std::max(p.max_keys, keys);
    tracked_weights.assign(cpu::tracked_weights(p), NAN);
    p.weights = tracked_weights.data();
    cpu::tracked_stats(p, 0, p.num_slots * p.max_splits);
    cpu::tracked_merge_rows(p, 0, cu_tracked.back());
    cpu::tracked_products(p, 0, p.num_slots * p.max_splits);
    cpu::tracked_finish(p, 0, p.num_slots);
    return out;
  }
};

void check_near(const std::vector<float>& result, const std::vector<double>& expected) {
  REQUIRE(result.size() == expected.size());
  for (size_t i = 0; i < result.size(); ++i) CHECK_NEAR(result[i], expected[i], 3e-6);
}

constexpr Similarity kBoth[] = {Similarity::kHeads, Similarity::kRows};

void check_layout(const Layout& layout, DType dtype, bool unaligned = false) {
  dispatch_float(dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    for (const Similarity similarity : kBoth) {
      Call<scalar_t> call(layout, dtype, similarity, unaligned);
      const std::vector<double> expected = call.exact();
      check_near(call.run_loops(), expected);
      check_near(call.run_kernels(), expected);
    }
  });
}

constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

TEST(empty_slots_unused_rows_and_slots_without_keys) {
  for (const DType dtype : kTypes) {
    check_layout({{0, 3, 0, 2, 1}, {3, 2, 0, 5, 0}, {5, 0, 0, 40, 1}, 3, 41, 2, 1, 24}, dtype);
  }
}

TEST(several_splits) { check_layout({{2, 1}, {20, 1}, {300, 129}, 1, 301, 2, 2, 32}, DType::kFloat32); }

TEST(seven_query_heads_share_a_key_head) {
  check_layout({{1, 4}, {33, 20}, {33, 20}, 0, 40, 14, 2, 16}, DType::kBFloat16);
}

TEST(more_heads_than_warps) { check_layout({{1}, {7}, {50}, 0, 50, 11, 11, 8}, DType::kFloat16); }

TEST(head_sizes_that_are_no_whole_vectors) {
  for (const int64_t head_size : {2, 6, 90}) check_layout({{2}, {9}, {34}, 1, 35, 2, 1, head_size}, DType::kFloat16);
}

TEST(keys_that_are_not_aligned) { check_layout({{1}, {9}, {34}, 1, 35, 2, 1, 16}, DType::kBFloat16, true); }

TEST(no_slots) { check_layout({{}, {}, {}, 2, 4, 2, 1, 8}, DType::kFloat32); }

TEST(what_did_not_change_is_similar) {
  for (const Similarity similarity : kBoth) {
    Call<float> call({{2}, {0}, {60}, 0, 64, 4, 2, 16}, DType::kFloat32, similarity);
    call.p.q_new = call.p.q_old;
    CHECK_NEAR(call.run_kernels()[0], 1.0, 3e-7);
    CHECK_NEAR(call.run_loops()[0], 1.0, 3e-7);
  }
}

TEST(a_slot_alone_gives_the_same_bits) {
  const Layout together{{1, 20, 2}, {5, 10, 2}, {200, 30, 150}, 2, 200, 2, 1, 40};
  for (const Similarity similarity : kBoth) {
    Call<float> batch(together, DType::kFloat32, similarity);
    const std::vector<float> kernels = batch.run_kernels(), loops = batch.run_loops();
    for (int64_t s = 0; s < 3; ++s) {
      Call<float> alone({{together.tracked[s]}, {together.replaced[s]}, {together.keys[s]}, 0, 200, 2, 1, 40},
                        DType::kFloat32, similarity);
      alone.p.q_old = batch.q_old.data() + batch.cu_tracked[s] * 2 * 40;
      alone.p.q_new = batch.q_new.data() + batch.cu_tracked[s] * 2 * 40;
      alone.p.k = batch.k.data() + s * 200 * 40;
      alone.p.k_old = batch.k_old.data() + batch.cu_rows[s] * 40;
      CHECK_EQ(alone.run_kernels()[0], kernels[s]);
      CHECK_EQ(alone.run_loops()[0], loops[s]);
    }
  }
}

}  // namespace
}  // namespace dlmcache
