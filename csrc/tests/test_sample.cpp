// Filtering and sampling: CPU loops and kernels against a double-precision loop over sorted logits.
#include <algorithm>
#include <cmath>
#include <random>

#include "cuda/launch.cuh"
#include "cuda/sample.cuh"
#include "dlmcache/dispatch.h"
#include "dlmcache/sample.h"
#include "tests/test_main.h"

using namespace dlmcache;

namespace {

struct Outputs {
  explicit Outputs(int64_t rows) : token(rows, -7), log_confidence(rows), score(rows) {}
  std::vector<int64_t> token;
  std::vector<float> log_confidence, score;
};

struct Problem {
  DType dtype = DType::kFloat32;
  int64_t rows = 1, vocab = 1, padding = 0, segments = 1;
  float temperature = 0.0f;
  double top_p = 1.0;
  int64_t top_k = 0;
  int score = kScoreConfidence;
  std::vector<float> logits;  // [rows, vocab], representable in dtype
  std::vector<int64_t> row_index, seeds = {11, -5}, steps = {3, 9};
  int64_t capacity = 4;
};

bool skipped(const Problem& problem, int64_t row) { return !problem.row_index.empty() && problem.row_index[row] < 0; }

// Runs the three stages; `filtered_rows` receives what stands behind the filters.
Outputs run(const Problem& problem, bool on_gpu, std::vector<float>& filtered_rows) {
  Outputs out(problem.rows);
  const int64_t stride = (problem.vocab + 3) / 4 * 4;
  auto* scaled = static_cast<float*>(std::aligned_alloc(16, problem.rows * stride * sizeof(float)));
  for (int64_t i = 0; i < problem.rows * stride; ++i) scaled[i] = -7.0f;
  std::vector<VocabState> state(problem.rows * problem.segments);
  const int64_t* index = problem.row_index.empty() ? nullptr : problem.row_index.data();
  dispatch_float(problem.dtype, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const int64_t logits_stride = problem.vocab + problem.padding;
    std::vector<scalar_t> logits((problem.rows - 1) * logits_stride + problem.vocab);
    for (int64_t row = 0; row < problem.rows; ++row) {
      for (int64_t id = 0; id < problem.vocab; ++id) {
        logits[row * logits_stride + id] = from_float<scalar_t>(problem.logits[row * problem.vocab + id]);
      }
    }
    const FilterParams p{problem.dtype,       problem.rows,  problem.vocab, logits.data(), logits_stride, index,
                         problem.temperature, problem.top_p, problem.top_k, scaled,        stride};
    if (on_gpu) {
#if defined(DLMCACHE_EMULATION_TSAN)
      // Every thread costs ten times as much here, and two warps race as sixteen do.
      const auto kernel = cuda::filter_logits_kernel<scalar_t, 64>;
      CHECK(cuda::launch(kernel, cuda::grid_1d(p.num_rows), dim3(64), 0, nullptr, p) == nullptr);
#else
      CHECK(cuda::launch_filter_logits(p, nullptr) == nullptr);
#endif
    } else {
      cpu::filter_logits_rows(p, 0, problem.rows / 2);
      cpu::filter_logits_rows(p, problem.rows / 2, problem.rows);
    }
  });
  VocabReduceParams p{};
  p.dtype = DType::kFloat32;
  p.num_rows = problem.rows;
  p.num_segments = problem.segments;
  p.chunk_width = problem.vocab;
  p.first = true;
  p.extras = problem.score != kScoreConfidence;
  p.logits = scaled;
  p.logits_stride = stride;
  p.temperature = problem.temperature > 0.0f ? 1.0f : 0.0f;
  p.row_index = index;
  p.capacity = problem.capacity;
  p.seeds = problem.seeds.data();
  p.steps = problem.steps.data();
  p.state = state.data();
  const SampleFinishParams finish{problem.rows,    problem.segments, problem.score,    problem.temperature > 0.0f,
                                  index,           state.data(),     out.token.data(), out.log_confidence.data(),
                                  out.score.data()};
  if (on_gpu) {
    CHECK(cuda::launch_vocab_reduce(p, nullptr) == nullptr);
    CHECK(cuda::launch_sample_finish(finish, nullptr) == nullptr);
  } else {
    cpu::vocab_reduce_rows(p, 0, problem.rows * problem.segments);
    cpu::sample_finish_rows(finish, 0, problem.rows);
  }
  filtered_rows.assign(problem.rows * problem.vocab, 0.0f);
  for (int64_t row = 0; row < problem.rows; ++row) {
    for (int64_t id = 0; id < problem.vocab; ++id) {
      filtered_rows[row * problem.vocab + id] = scaled[row * stride + id];
    }
  }
  std::free(scaled);
  return out;
}

// The definition, in double; the scaled logits in float, as they are compared.
void check_row(const Problem& problem, const Outputs& out, const std::vector<float>& filtered_rows, int64_t row) {
  if (skipped(problem, row)) {
    CHECK_EQ(out.token[row], -1);
    CHECK_EQ(out.log_confidence[row], 0.0f);
    CHECK_EQ(out.score[row], 0.0f);
    return;
  }
  std::vector<float> x(problem.logits.begin() + row * problem.vocab,
                       problem.logits.begin() + (row + 1) * problem.vocab);
  bool broken = false, any = false;
  for (float& value : x) {
    if (problem.temperature > 0.0f) value /= problem.temperature;
    broken |= !(value < INFINITY);
    any |= value > -INFINITY;
  }
  if (broken || !any) {
    CHECK_EQ(out.token[row], -1);
    CHECK(std::isnan(out.log_confidence[row]));
    CHECK(std::isnan(out.score[row]));
    return;
  }
  std::vector<float> sorted = x;
  std::sort(sorted.begin(), sorted.end(), std::greater<float>());
  double total = 0.0;
  for (const float value : sorted) total += std::exp(static_cast<double>(value) - sorted[0]);
  std::vector<float> kept = x;
  for (float& value : kept) {
    double mass = 0.0;
    int64_t rank = 0;
    while (rank < problem.vocab && sorted[rank] > value)
      mass += std::exp(static_cast<double>(sorted[rank++]) - sorted[0]);
    if (problem.top_p < 1.0 && mass > problem.top_p * total) value = -INFINITY;
    if (problem.top_k > 0 && rank >= problem.top_k) value = -INFINITY;
  }
  for (int64_t id = 0; id < problem.vocab; ++id) CHECK_EQ(filtered_rows[row * problem.vocab + id], kept[id]);

  int64_t token = -1;
  double best = -INFINITY, sum = 0.0, entropy = 0.0, first = 0.0, second = 0.0;
  for (int64_t id = 0; id < problem.vocab; ++id) {
    if (kept[id] == -INFINITY) continue;
    sum += std::exp(static_cast<double>(kept[id]) - sorted[0]);
    double value = kept[id];
    if (problem.temperature > 0.0f) {
      const int64_t place = problem.row_index[row], slot = place / problem.capacity;
      value += gumbel_from_word(draw(problem.seeds[slot], problem.steps[slot], place % problem.capacity, kGumbelStream,
                                     static_cast<uint32_t>(id / 4))
                                    .word[id % 4]);
    }
    if (value > best) {
      best = value;
      token = id;
    }
  }
  for (const float value : kept) {
    if (value == -INFINITY) continue;
    const double p = std::exp(static_cast<double>(value) - sorted[0]) / sum;
    if (p > 0.0) entropy -= p * std::log(p);
    if (p > first) {
      second = first;
      first = p;
    } else if (p > second) {
      second = p;
    }
  }
  const double log_p = kept[token] - static_cast<double>(sorted[0]) - std::log(sum);
  CHECK_EQ(out.token[row], token);
  CHECK_NEAR(out.log_confidence[row], log_p, 1e-5);
  const double scores[] = {log_p, std::log(first - second), -entropy};
  CHECK_NEAR(out.score[row], scores[problem.score], 3e-5);
}

void check(const Problem& problem) {
  for (const bool on_gpu : {false, true}) {
    std::vector<float> filtered_rows;
    const Outputs out = run(problem, on_gpu, filtered_rows);
    for (int64_t row = 0; row < problem.rows; ++row) check_row(problem, out, filtered_rows, row);
  }
}

// Multiples of 1/4 up to 8 of either sign: exact in every dtype, and full of ties.
Problem make_problem(int64_t rows, int64_t vocab, unsigned seed) {
  Problem problem;
  problem.rows = rows;
  problem.vocab = vocab;
  std::mt19937 random(seed);
  problem.logits.resize(rows * vocab);
  for (float& logit : problem.logits) logit = static_cast<float>(static_cast<int>(random() % 65) - 32) / 4.0f;
  return problem;
}

const DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

}  // namespace

TEST(no_filter) {
  for (const DType dtype : kDTypes) {
    for (const int64_t vocab : {1, 3, 65, 700}) {
      Problem problem = make_problem(2, vocab, static_cast<unsigned>(vocab));
      problem.dtype = dtype;
      // The ties of random rows have no margin.
      for (int64_t row = 0; row < 2; ++row) problem.logits[row * vocab + vocab / 2] = 9.0f;
      for (const int score : {kScoreConfidence, kScoreMargin, kScoreEntropy}) {
        problem.score = score;
        check(problem);
      }
    }
  }
}

TEST(top_p_keeps_ties_together) {
  for (const DType dtype : kDTypes) {
    for (const double top_p : {0.03, 0.501, 0.9, 0.9999}) {
      Problem problem = make_problem(3, 131, 5);
      problem.dtype = dtype;
      problem.padding = 3;
      problem.top_p = top_p;
      problem.score = kScoreEntropy;
      check(problem);
    }
  }
}

TEST(top_k_keeps_ties_together) {
  for (const int64_t top_k : {1, 2, 5, 60, 131, 1000}) {
    Problem problem = make_problem(3, 131, 6);
    problem.top_k = top_k;
    problem.score = kScoreEntropy;
    check(problem);
    problem.top_p = 0.6;
    check(problem);
  }
}

TEST(zeros_of_both_signs_and_steps_of_all_sizes) {
  Problem problem = make_problem(1, 9, 7);
  problem.logits = {0.0f, -0.0f, 1e-30f, -1e-30f, 1.0f, -1.0f, -100.0f, -INFINITY, 0.5f};
  problem.score = kScoreEntropy;
  for (int64_t top_k = 1; top_k <= 9; ++top_k) {
    problem.top_k = top_k;
    check(problem);
  }
}

// The cut is found digit by digit of the keys: a wrong last digit moves it by one key.
TEST(neighbouring_floats_are_told_apart) {
  for (const float sign : {1.0f, -1.0f}) {
    Problem problem = make_problem(1, 16, 7);
    for (int64_t id = 0; id < 16; ++id) {
      problem.logits[id] = id == 0 ? sign * 0.75f : std::nextafter(problem.logits[id - 1], sign * INFINITY);
    }
    problem.score = kScoreEntropy;
    for (int64_t top_k = 1; top_k <= 16; ++top_k) {
      problem.top_k = top_k;
      check(problem);
    }
  }
}

TEST(temperature_divides_before_the_filters) {
  for (const float temperature : {0.25f, 2.0f}) {
    for (const int score : {kScoreConfidence, kScoreMargin, kScoreEntropy}) {
      Problem problem = make_problem(8, 261, 8);
      problem.row_index = {0, 1, 2, 3, 4, 5, 6, -1};
      problem.temperature = temperature;
      problem.segments = 2;
      problem.score = score;
      for (int64_t row = 0; row < 8; ++row) problem.logits[row * 261 + 5 * row] = 9.0f + 0.25f * row;
      check(problem);
      problem.top_p = 0.87;
      problem.top_k = 20;
      check(problem);
    }
  }
}

TEST(special_rows) {
  for (const float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
    Problem problem = make_problem(4, 70, 9);
    problem.top_p = 0.7;
    problem.top_k = 4;
    problem.score = kScoreEntropy;
    problem.logits[69] = bad;
    for (int64_t id = 0; id < 70; ++id) problem.logits[2 * 70 + id] = -INFINITY;
    problem.logits[2 * 70 + 11] = bad;
    problem.row_index = {0, 1, 2, -1};
    check(problem);
  }
}

TEST(nearly_certain_rows_are_told_apart) {
  for (const bool on_gpu : {false, true}) {
    for (const int score : {kScoreConfidence, kScoreMargin, kScoreEntropy}) {
      Problem problem = make_problem(2, 8, 10);
      problem.logits.assign(16, -200.0f);
      problem.logits[3] = problem.logits[11] = 0.0f;
      problem.logits[4] = -40.0f;
      problem.logits[12] = -41.0f;
      problem.score = score;
      std::vector<float> filtered_rows;
      const Outputs out = run(problem, on_gpu, filtered_rows);
      CHECK(out.score[0] < out.score[1] && out.score[1] < 0.0f);
    }
  }
}

TEST(no_rows) {
  CHECK(cuda::launch_filter_logits(FilterParams{}, nullptr) == nullptr);
  CHECK(cuda::launch_sample_finish(SampleFinishParams{}, nullptr) == nullptr);
}
