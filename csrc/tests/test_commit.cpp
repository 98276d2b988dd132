// The commit kernel, run on the host, against the CPU loops, which in turn are checked against a sort.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "cuda/commit.cuh"
#include "cuda/launch.cuh"
#include "tests/test_main.h"

using namespace dlmcache;

namespace {

constexpr int64_t kMask = 50;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Batch {
  int64_t capacity = 0;
  CommitRule rule = CommitRule::kFixed;
  double rule_value = 0.0;
  std::vector<int64_t> row_index, cu_rows, token, num_commit, steps, spans, end_ids, tokens;
  std::vector<float> log_confidence, score;  // score may stay empty
};

struct Result {
  std::vector<int64_t> tokens, commit_step, status;
  std::vector<float> log_confidence;
  std::vector<char> committed;
  bool operator==(const Result&) const = default;
};

template <typename Run>
Result commit(const Batch& batch, Run run) {
  const size_t num_slots = batch.cu_rows.size() - 1, num_rows = batch.row_index.size();
  Result result{.tokens = batch.tokens,
                .commit_step = std::vector<int64_t>(batch.tokens.size(), -1),
                .status = std::vector<int64_t>(num_slots * kStatusSize, -77),
                .log_confidence = std::vector<float>(batch.tokens.size(), 1.0f),
                .committed = std::vector<char>(num_rows, 77)};
  std::vector<uint64_t> keys(num_rows);
  CommitParams p{};
  p.num_slots = static_cast<int64_t>(num_slots);
  p.num_rows = static_cast<int64_t>(num_rows);
  p.capacity = batch.capacity;
  p.num_ends = static_cast<int64_t>(batch.end_ids.size());
  p.mask_id = kMask;
  p.rule = batch.rule;
  p.rule_value = batch.rule_value;
  p.row_index = batch.row_index.data();
  p.cu_rows = batch.cu_rows.data();
  p.token = batch.token.data();
  p.log_confidence = batch.log_confidence.data();
  p.score = batch.score.empty() ? p.log_confidence : batch.score.data();
  p.num_commit = batch.num_commit.data();
  p.steps = batch.steps.data();
  p.spans = batch.spans.data();
  p.end_ids = batch.end_ids.data();
  p.keys = keys.data();
  p.tokens = result.tokens.data();
  p.commit_step = result.commit_step.data();
  p.commit_log_confidence = result.log_confidence.data();
  p.committed = reinterpret_cast<bool*>(result.committed.data());
  p.status = result.status.data();
  run(p);
  return result;
}

Result commit_on_cpu(const Batch& batch) {
  return commit(batch, [](const CommitParams& p) {
    cpu::commit_slots(p, 0, p.num_slots);
    std::fill(p.committed + p.cu_rows[p.num_slots], p.committed + p.num_rows, false);
  });
}

Result commit_on_gpu(const Batch& batch) {
  return commit(batch, [](const CommitParams& p) {
    const char* error = cuda::launch_commit(p, nullptr);
    CHECK(error == nullptr);
  });
}

// Small blocks and little shared memory: several candidates per thread, and keys in global memory.
template <int kThreads, int kSharedKeys>
Result commit_in_blocks(const Batch& batch) {
  return commit(batch, [](const CommitParams& p) {
    cuda::launch(cuda::commit_kernel<kThreads, kSharedKeys>, dim3(p.num_slots + 1), dim3(kThreads), 0, nullptr, p);
  });
}

// Candidates with few distinct confidences, some invalid, some that predict the mask; idle and empty slots.
Batch random_batch(int seed, const std::vector<int64_t>& sizes, int64_t capacity, int unused) {
  std::mt19937 random(seed);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % n); };
  Batch batch;
  batch.capacity = capacity;
  batch.rule = static_cast<CommitRule>(seed % 3);
  batch.rule_value = batch.rule == CommitRule::kThreshold ? std::log(0.5) : 0.2 * static_cast<double>(1 + below(10));
  batch.cu_rows = {0};
  for (size_t slot = 0; slot < sizes.size(); ++slot) {
    for (int64_t i = 0; i < capacity; ++i) batch.tokens.push_back(below(12));
    std::vector<int64_t> positions(capacity);
    for (int64_t i = 0; i < capacity; ++i) positions[i] = i;
    std::shuffle(positions.begin(), positions.end(), random);
    std::sort(positions.begin(), positions.begin() + sizes[slot]);
    for (int64_t i = 0; i < sizes[slot]; ++i) {
      const int64_t row = static_cast<int64_t>(slot) * capacity + positions[i];
      batch.tokens[row] = kMask;
      batch.row_index.push_back(row);
    }
    batch.cu_rows.push_back(batch.cu_rows.back() + sizes[slot]);
    batch.num_commit.push_back(below(7) == 0 ? -below(2) : 1 + below(capacity));
    batch.steps.push_back(below(1000));
    const int64_t gen_begin = below(capacity), block_begin = below(capacity);
    const int64_t gen_end = below(8) == 0 ? gen_begin : capacity;
    batch.spans.insert(batch.spans.end(),
                       {gen_begin, gen_end, block_begin, block_begin + below(capacity - block_begin + 1)});
  }
  batch.row_index.insert(batch.row_index.end(), unused, -1);
  const bool scored = batch.rule == CommitRule::kFixed && below(2);
  for (size_t i = 0; i < batch.row_index.size(); ++i) {
    const int64_t kind = below(20);
    batch.token.push_back(kind == 0 ? -1 : kind == 1 ? kMask : below(12));
    const float log_confidence = static_cast<float>(std::log((0.5 + static_cast<double>(below(40))) / 40));
    batch.log_confidence.push_back(kind == 2 ? kNan : kind == 3 ? -kInfinity : kind == 4 ? -0.0f : log_confidence);
    if (scored) batch.score.push_back(kind == 5 ? kNan : 0.25f * static_cast<float>(below(8) - 4));
  }
  for (int64_t i = below(3); i > 0; --i) batch.end_ids.push_back(below(12));
  return batch;
}

Batch one_slot(const std::vector<float>& log_confidence, CommitRule rule, double value, int64_t num_commit) {
  Batch batch;
  const int64_t count = static_cast<int64_t>(log_confidence.size());
  batch.capacity = std::max<int64_t>(1, count);
  batch.rule = rule;
  batch.rule_value = value;
  batch.cu_rows = {0, count};
  batch.tokens.assign(batch.capacity, kMask);
  for (int64_t i = 0; i < count; ++i) {
    batch.row_index.push_back(i);
    batch.token.push_back(100 + i);
  }
  batch.log_confidence = log_confidence;
  batch.num_commit = {num_commit};
  batch.steps = {3};
  batch.spans = {0, batch.capacity, 0, batch.capacity};
  return batch;
}

}  // namespace

TEST(cpu_takes_what_a_stable_sort_puts_first) {
  std::mt19937 random(5);
  for (const int64_t count : {1, 2, 3, 40, 1000}) {
    std::vector<float> log_confidence;
    for (int64_t i = 0; i < count; ++i) log_confidence.push_back(-static_cast<float>(random() % 50));
    std::vector<int64_t> order(count);
    for (int64_t i = 0; i < count; ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return log_confidence[a] > log_confidence[b]; });
    for (const int64_t num_commit : {int64_t{0}, int64_t{1}, count / 2, count, count + 3}) {
      const Result result = commit_on_cpu(one_slot(log_confidence, CommitRule::kFixed, 0.0, num_commit));
      std::vector<char> expected(count, 0);
      for (int64_t n = 0; n < std::min(num_commit, count); ++n) expected[order[n]] = 1;
      CHECK(result.committed == expected);
      CHECK_EQ(result.status[kNumCommitted], std::min(num_commit, count));
    }
  }
}

TEST(kernel_does_as_the_cpu) {
  for (int seed = 0; seed < 24; ++seed) {
    const Batch batch = random_batch(seed, {9, 0, 1, 40, 33}, 47, seed % 4);
    CHECK(commit_on_gpu(batch) == commit_on_cpu(batch));
  }
}

TEST(blocks_of_other_sizes_do_as_the_cpu) {
  for (int seed = 0; seed < 24; ++seed) {
    const Batch batch = random_batch(100 + seed, {130, 64, 65, 63, 2, 0}, 150, seed % 3);
    const Result expected = commit_on_cpu(batch);
    CHECK((commit_in_blocks<32, 16>(batch)) == expected);
    CHECK((commit_in_blocks<64, 64>(batch)) == expected);
    CHECK((commit_in_blocks<128, 256>(batch)) == expected);
  }
}

TEST(long_canvas_does_as_the_cpu) {
  for (int seed = 200; seed < 203; ++seed) {
    const Batch batch = random_batch(seed, {300, 17}, 2100, 2);
    CHECK(commit_on_gpu(batch) == commit_on_cpu(batch));
  }
}

TEST(nothing_to_commit) {
  const Batch idle = random_batch(2, {0, 0}, 5, 3);
  CHECK(commit_on_gpu(idle) == commit_on_cpu(idle));
  Batch none;
  none.capacity = 4;
  none.cu_rows = {0};
  none.row_index = {-1, -1};
  none.token = {0, 0};
  none.log_confidence = {0.0f, 0.0f};
  CHECK(commit_on_gpu(none) == commit_on_cpu(none));
}

TEST(rules_by_hand) {
  const auto committed = [](const std::vector<float>& logs, CommitRule rule, double value) {
    const Batch batch = one_slot(logs, rule, value, 1);
    const Result result = commit_on_gpu(batch);
    CHECK(result == commit_on_cpu(batch));
    return result.committed;
  };
  const float half = std::log(0.5f), most = std::log(0.9f);
  using Flags = std::vector<char>;
  CHECK(committed({half, most, half, most}, CommitRule::kFixed, 0.0) == (Flags{0, 1, 0, 0}));
  CHECK(committed({half, most, half, most}, CommitRule::kThreshold, most) == (Flags{0, 1, 0, 1}));
  CHECK(committed({half, most, half, most}, CommitRule::kThreshold, std::log(0.5)) == (Flags{1, 1, 1, 1}));
  CHECK(committed({half, most, half, most}, CommitRule::kThreshold, 0.0) == (Flags{0, 1, 0, 0}));
  // (n + 1) (1 - c_n): 0.2, 0.3, 2.0, 2.5
  CHECK(committed({half, most, half, most}, CommitRule::kFactor, 0.31) == (Flags{0, 1, 0, 1}));
  CHECK(committed({half, most, half, most}, CommitRule::kFactor, 0.1) == (Flags{0, 1, 0, 0}));
  CHECK(committed({half, most, half, most}, CommitRule::kFactor, 2.2) == (Flags{1, 1, 0, 1}));
  CHECK(committed({-kInfinity, kNan, -kInfinity}, CommitRule::kFactor, 0.1) == (Flags{1, 0, 0}));
}
