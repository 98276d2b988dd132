// The attention mass kernels, run on the host, against the CPU loops; both also against plain double arithmetic.
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "cuda/portable.cuh"
#include "dlmcache/attention_mass.h"
#include "dlmcache/dispatch.h"
#include "tests/test_main.h"

namespace dlmcache {
namespace {

enum class Sum { kPlain, kWeighted, kRollout };

struct Layout {
  std::vector<int64_t> rows, keys;  // per slot; rows at most capacity
  int64_t unused_rows, capacity, num_heads, num_kv_heads, head_size;
};

template <typename scalar_t>
struct Call {
  Layout layout;
  std::vector<scalar_t> q, k;
  std::vector<int64_t> cu_rows{0}, row_index;
  std::vector<float> lse, row_weight, z, out, own_lse, partial_stats, partial_mass;
  AttentionMassParams p{};

  Call(const Layout& given, DType dtype, Sum sum, bool unaligned = false) : layout(given) {
    std::mt19937 generator(7);
    std::normal_distribution<float> normal;
    for (size_t s = 0; s < layout.rows.size(); ++s) {
      cu_rows.push_back(cu_rows.back() + layout.rows[s]);
      // Every slot's last positions: some listed rows lie behind the keys.
      for (int64_t i = layout.rows[s]; i > 0; --i) {
        row_index.push_back(static_cast<int64_t>(s + 1) * layout.capacity - i);
      }
    }
    row_index.resize(cu_rows.back() + layout.unused_rows, -1);
    p.dtype = dtype;
    p.num_rows = cu_rows.back() + layout.unused_rows;
    p.num_heads = layout.num_heads;
    p.num_kv_heads = layout.num_kv_heads;
    p.head_size = layout.head_size;
    p.num_slots = static_cast<int64_t>(layout.rows.size());
    p.capacity = layout.capacity;
    p.scale = 1.0f / std::sqrt(static_cast<float>(p.head_size));
    const auto fill = [&](auto& values, int64_t size) {
      values.resize(size);
      for (auto& value : values) value = from_float<std::decay_t<decltype(value)>>(normal(generator));
    };
    fill(q, p.num_rows * p.num_heads * p.head_size);
    fill(k, p.num_slots * p.capacity * p.num_kv_heads * p.head_size + unaligned);
    fill(row_weight, p.num_rows);
    fill(z, p.num_slots * p.capacity);
    p.q = q.data();
    p.k = k.data() + unaligned;
    p.cu_rows = cu_rows.data();
    p.kv_lens = layout.keys.data();
    if (sum == Sum::kWeighted) p.row_weight = row_weight.data();
    if (sum == Sum::kRollout) p.z = z.data(), p.row_index = row_index.data();
  }

  double cached(int64_t s, int64_t key, int64_t kv_head, int64_t d) const {
    const scalar_t* first = static_cast<const scalar_t*>(p.k);
    return to_float(first[((s * p.capacity + key) * p.num_kv_heads + kv_head) * p.head_size + d]);
  }

  // Also fills lse.
  std::vector<double> exact() {
    std::vector<double> mass(p.num_slots * p.capacity, 0.0);
    lse.assign(p.num_rows * p.num_heads, 0.0f);
    for (int64_t i = 0; p.z && i < p.num_slots * p.capacity; ++i) mass[i] = z[i];
    for (int64_t i = 0; p.z && i < cu_rows.back(); ++i) mass[row_index[i]] *= 0.5;
    for (int64_t s = 0; s < p.num_slots; ++s) {
      for (int64_t i = cu_rows[s] * p.num_heads; i < cu_rows[s + 1] * p.num_heads; ++i) {
        const int64_t kv_head = i % p.num_heads / (p.num_heads / p.num_kv_heads), row = i / p.num_heads;
        std::vector<double> weight(layout.keys[s]);
        double sum = 0.0;
        for (size_t key = 0; key < weight.size(); ++key) {
          double score = 0.0;
          for (int64_t d = 0; d < p.head_size; ++d) {
            score += to_float(q[i * p.head_size + d]) * cached(s, static_cast<int64_t>(key), kv_head, d);
          }
          weight[key] = std::exp(score * p.scale);
          sum += weight[key];
        }
        const double factor = p.z            ? z[row_index[row]] * 0.5 / static_cast<double>(p.num_heads)
                              : p.row_weight ? row_weight[row]
                                             : 1.0;
        for (size_t key = 0; key < weight.size(); ++key) mass[s * p.capacity + key] += factor * weight[key] / sum;
        lse[i] = static_cast<float>(std::log(sum));
      }
    }
    return mass;
  }

  void allocate(bool with_lse, int64_t max_splits) {
    out.assign(p.num_slots * p.capacity, NAN);
    p.out = out.data();
    p.lse = lse.data();
    p.own_lse = nullptr;
    if (with_lse) return;
    own_lse.assign(p.num_rows * p.num_heads, NAN);
    p.max_splits = max_splits;
    partial_stats.assign(p.num_rows * p.num_heads * max_splits * 2, NAN);
    p.partial_stats = partial_stats.data();
    p.lse = p.own_lse = own_lse.data();
  }

  std::vector<float> run_kernels(bool with_lse) {
    allocate(with_lse, max_key_splits<cuda::kAttentionMinKeys, cuda::kAttentionMaxSplits>(p.capacity));
    partial_mass.assign(p.num_kv_heads * p.num_slots * p.capacity, NAN);
    p.partial_mass = partial_mass.data();
    for (const auto launch : {cuda::launch_attention_mass_lse, cuda::launch_attention_mass}) {
      if (launch == cuda::launch_attention_mass_lse && !p.own_lse) continue;
      const char* error = launch(p, nullptr);
      CHECK_EQ(std::string(error ? error : ""), std::string());
    }
    return out;
  }

  std::vector<float> run_loops(bool with_lse) {
    allocate(with_lse, max_key_splits<cpu::kAttentionMinKeys, cpu::kAttentionMaxSplits>(p.capacity));
    std::vector<int64_t> item_start{0};
    for (int64_t s = 0; s < p.num_slots; ++s) {
      item_start.push_back(item_start.back() + cpu::attention_tiles(layout.rows[s] * (p.num_heads / p.num_kv_heads)) *
                                                   cpu::attention_splits(layout.keys[s]).count);
    }
    p.item_start = item_start.data();
    if (p.own_lse) {
      if (item_start.back() > 0) cpu::attention_mass_stats(p, 0, item_start.back() * p.num_kv_heads);
      cpu::attention_mass_merge_rows(p, 0, cu_rows.back());
    }
    cpu::attention_mass_blocks(p, 0, p.num_slots * ((p.capacity + cpu::kMassBlockKeys - 1) / cpu::kMassBlockKeys));
    return out;
  }
};

void check_near(const std::vector<float>& result, const std::vector<double>& expected) {
  REQUIRE(result.size() == expected.size());
  for (size_t i = 0; i < result.size(); ++i) CHECK_NEAR(result[i], expected[i], 1e-5);
}

void check_layout(const Layout& layout, DType dtype, bool unaligned = false) {
  dispatch_float(dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    for (const Sum sum : {Sum::kPlain, Sum::kWeighted, Sum::kRollout}) {
      Call<scalar_t> call(layout, dtype, sum, unaligned);
      const std::vector<double> expected = call.exact();
      for (const bool with_lse : {false, true}) {
        check_near(call.run_loops(with_lse), expected);
        check_near(call.run_kernels(with_lse), expected);
      }
    }
  });
}

constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

TEST(empty_slots_unused_rows_and_slots_without_keys) {
  for (const DType dtype : kTypes) check_layout({{0, 3, 0, 2, 1, 0}, {5, 0, 0, 40, 1, 7}, 3, 41, 2, 1, 24}, dtype);
}

TEST(several_splits) { check_layout({{2, 1}, {300, 129}, 1, 301, 2, 2, 32}, DType::kFloat32); }

TEST(seven_query_heads_share_a_key_head) { check_layout({{5, 2}, {33, 20}, 0, 40, 14, 2, 16}, DType::kBFloat16); }

TEST(several_tiles_of_rows) { check_layout({{40, 9}, {70, 31}, 2, 70, 3, 3, 64}, DType::kFloat16); }

TEST(head_sizes_between_the_templates) {
  for (const int64_t head_size : {2, 96, 128, 200}) check_layout({{2}, {34}, 1, 35, 1, 1, head_size}, DType::kFloat32);
}

TEST(keys_that_are_not_aligned) { check_layout({{3}, {20}, 0, 33, 2, 1, 16}, DType::kFloat16, true); }

TEST(no_slots_and_no_rows) {
  check_layout({{}, {}, 3, 4, 2, 1, 8}, DType::kFloat32);
  check_layout({{0}, {3}, 0, 4, 2, 1, 8}, DType::kFloat32);
}

TEST(a_slot_alone_gives_the_same_bits) {
  const Layout together{{4, 40, 2}, {200, 30, 150}, 2, 200, 2, 1, 40};
  Call<float> batch(together, DType::kFloat32, Sum::kPlain);
  const std::vector<float> kernels = batch.run_kernels(false), loops = batch.run_loops(false);
  for (int64_t s = 0; s < 3; ++s) {
    Call<float> alone({{together.rows[s]}, {together.keys[s]}, 0, 200, 2, 1, 40}, DType::kFloat32, Sum::kPlain);
    alone.p.q = batch.q.data() + batch.cu_rows[s] * 2 * 40;
    alone.p.k = batch.k.data() + s * 200 * 40;
    CHECK(alone.run_kernels(false) == std::vector<float>(kernels.begin() + s * 200, kernels.begin() + (s + 1) * 200));
    CHECK(alone.run_loops(false) == std::vector<float>(loops.begin() + s * 200, loops.begin() + (s + 1) * 200));
  }
}

TEST(a_head_size_that_is_too_large_is_refused) {
  Call<float> call({{1}, {1}, 0, 1, 1, 1, 257}, DType::kFloat32, Sum::kPlain);
  CHECK(cuda::launch_attention_mass(call.p, nullptr) != nullptr);
}

}  // namespace
}  // namespace dlmcache
