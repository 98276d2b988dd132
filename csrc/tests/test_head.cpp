// The reduction of logits: CPU loops and kernels against a double-precision loop, over chunks, segments and dtypes.
#include <algorithm>
#include <random>

#include "dlmcache/dispatch.h"
#include "dlmcache/head.h"
#include "tests/test_main.h"

using namespace dlmcache;

namespace {

constexpr double kInfinity = INFINITY;

struct Outputs {
  explicit Outputs(int64_t rows)
      : token(rows, -7), second_token(rows, -7), log_confidence(rows), second_log_confidence(rows), entropy(rows) {}
  std::vector<int64_t> token, second_token;
  std::vector<float> log_confidence, second_log_confidence, entropy;
};

struct Problem {
  DType dtype = DType::kFloat32;
  int64_t rows = 1, vocab = 1;
  std::vector<int64_t> widths;  // of the chunks
  int64_t segments = 1;
  int64_t padding = 0;  // elements between the rows of a chunk
  float temperature = 0.0f;
  bool extras = true;
  std::vector<float> logits;  // [rows, vocab], representable in dtype
  std::vector<int64_t> suppress, confidence_suppress, row_index, seeds, steps;
  int64_t capacity = 4;
};

using Reduce = void (*)(const VocabReduceParams&);

void reduce_on_cpu(const VocabReduceParams& p) { cpu::vocab_reduce_rows(p, 0, p.num_rows * p.num_segments); }
void finish_on_cpu(const VocabReduceParams& p) { cpu::vocab_finish_rows(p, 0, p.num_rows); }
void reduce_on_gpu(const VocabReduceParams& p) { CHECK(cuda::launch_vocab_reduce(p, nullptr) == nullptr); }
void finish_on_gpu(const VocabReduceParams& p) { CHECK(cuda::launch_vocab_finish(p, nullptr) == nullptr); }

Outputs run(const Problem& problem, Reduce reduce, Reduce finish) {
  Outputs out(problem.rows);
  std::vector<VocabState> state(problem.rows * problem.segments);
  VocabReduceParams p{};
  p.dtype = problem.dtype;
  p.num_rows = problem.rows;
  p.num_segments = problem.segments;
  p.extras = problem.extras;
  p.suppress_ids = problem.suppress.data();
  p.num_suppress = static_cast<int64_t>(problem.suppress.size());
  p.confidence_suppress_ids = problem.confidence_suppress.data();
  p.num_confidence_suppress = static_cast<int64_t>(problem.confidence_suppress.size());
  p.temperature = problem.temperature;
  p.row_index = problem.row_index.empty() ? nullptr : problem.row_index.data();
  p.capacity = problem.capacity;
  p.seeds = problem.seeds.data();
  p.steps = problem.steps.data();
  p.state = problem.segments > 1 || problem.widths.size() > 1 ? state.data() : nullptr;
  p.token = out.token.data();
  p.log_confidence = out.log_confidence.data();
  p.second_token = out.second_token.data();
  p.second_log_confidence = out.second_log_confidence.data();
  p.entropy = out.entropy.data();
  for (const int64_t width : problem.widths) {
    p.chunk_width = width;
    p.last = p.chunk_begin + width == problem.vocab;
    p.first = p.chunk_begin == 0;
    p.logits_stride = width + problem.padding;
    dispatch_float(problem.dtype, [&](auto tag) {
      using scalar_t = typename decltype(tag)::type;
      // The last row ends without padding: a sanitizer sees a read behind it.
      const size_t bytes = ((problem.rows - 1) * p.logits_stride + width) * sizeof(scalar_t);
      auto* chunk = static_cast<scalar_t*>(std::aligned_alloc(16, (bytes + 15) / 16 * 16));
      for (int64_t row = 0; row < problem.rows; ++row) {
        for (int64_t i = 0; i < width; ++i) {
          chunk[row * p.logits_stride + i] =
              from_float<scalar_t>(problem.logits[row * problem.vocab + p.chunk_begin + i]);
        }
      }
      p.logits = chunk;
      reduce(p);
      std::free(chunk);
    });
    p.chunk_begin += width;
  }
  if (problem.segments > 1) finish(p);
  return out;
}

// The definition, in double and one id after the other.
void check_row(const Problem& problem, const Outputs& out, int64_t row) {
  const float* logits = problem.logits.data() + row * problem.vocab;
  const int64_t place = problem.row_index.empty() ? 0 : problem.row_index[row];
  if (place < 0) {
    CHECK_EQ(out.token[row], -1);
    CHECK_EQ(out.log_confidence[row], 0.0f);
    if (problem.extras) CHECK_EQ(out.second_token[row], -1);
    return;
  }
  const auto contains = [](const std::vector<int64_t>& list, int64_t id) {
    return std::find(list.begin(), list.end(), id) != list.end();
  };
  int64_t token = -1, second = -1;
  double best = -kInfinity, largest = -kInfinity;
  bool broken = false;
  for (int64_t v = 0; v < problem.vocab; ++v) {
    if (contains(problem.suppress, v)) continue;
    broken |= !(logits[v] < kInfinity);
    if (!contains(problem.confidence_suppress, v)) largest = std::max<double>(largest, logits[v]);
    double value = logits[v];
    if (problem.temperature > 0.0f) {
      const int64_t slot = place / problem.capacity;
      const uint32_t word = draw(problem.seeds[slot], problem.steps[slot], place % problem.capacity, kGumbelStream,
                                 static_cast<uint32_t>(v / 4))
                                .word[v % 4];
      value += static_cast<double>(problem.temperature) * gumbel_from_word(word);
    }
    if (value > best) {
      best = value;
      token = v;
    }
  }
  if (broken || token < 0) {
    CHECK_EQ(out.token[row], -1);
    CHECK(std::isnan(out.log_confidence[row]));
    return;
  }
  double sum = 0.0, entropy = 0.0;
  for (int64_t v = 0; v < problem.vocab; ++v) {
    if (contains(problem.suppress, v) || contains(problem.confidence_suppress, v)) continue;
    sum += std::exp(logits[v] - largest);
    if (v != token && logits[v] > (second < 0 ? -kInfinity : logits[second])) second = v;
  }
  for (int64_t v = 0; v < problem.vocab; ++v) {
    if (contains(problem.suppress, v) || contains(problem.confidence_suppress, v)) continue;
    const double p = std::exp(logits[v] - largest) / sum;
    if (p > 0.0) entropy -= p * std::log(p);
  }
  const bool outside = contains(problem.confidence_suppress, token);
  CHECK_EQ(out.token[row], token);
  CHECK_NEAR(out.log_confidence[row], outside ? -kInfinity : logits[token] - largest - std::log(sum), 1e-5);
  if (!problem.extras) return;
  CHECK_EQ(out.second_token[row], second);
  CHECK_NEAR(out.second_log_confidence[row], second < 0 ? -kInfinity : logits[second] - largest - std::log(sum), 1e-5);
  CHECK_NEAR(out.entropy[row], entropy, 2e-5);
}

void check(const Problem& problem) {
  const Outputs cpu_out = run(problem, reduce_on_cpu, finish_on_cpu);
  const Outputs gpu_out = run(problem, reduce_on_gpu, finish_on_gpu);
  for (int64_t row = 0; row < problem.rows; ++row) {
    check_row(problem, cpu_out, row);
    check_row(problem, gpu_out, row);
  }
}

// Multiples of 1/4 up to 8: exact in every dtype, and full of ties.
Problem make_problem(int64_t rows, std::vector<int64_t> widths, unsigned seed) {
  Problem problem;
  problem.rows = rows;
  problem.widths = std::move(widths);
  problem.vocab = 0;
  for (const int64_t width : problem.widths) problem.vocab += width;
  std::mt19937 random(seed);
  problem.logits.resize(rows * problem.vocab);
  for (float& logit : problem.logits) logit = static_cast<float>(static_cast<int>(random() % 65) - 32) / 4.0f;
  return problem;
}

void add_noise(Problem& problem, float temperature) {
  problem.temperature = temperature;
  problem.seeds = {11, -5};
  problem.steps = {3, int64_t{1} << 33};
  problem.row_index.resize(problem.rows);
  for (int64_t row = 0; row < problem.rows; ++row) problem.row_index[row] = row < 7 ? row : -1;
}

const DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

}  // namespace

TEST(one_chunk_of_odd_sizes) {
  for (const DType dtype : kDTypes) {
    for (const int64_t vocab : {1, 2, 5, 63, 257, 2500}) {
      Problem problem = make_problem(3, {vocab}, static_cast<unsigned>(vocab));
      problem.dtype = dtype;
      check(problem);
      problem.extras = false;
      check(problem);
    }
  }
}

TEST(chunks_and_segments_merge_without_loss) {
  for (const DType dtype : kDTypes) {
    for (const int64_t segments : {1, 2, 5}) {
      Problem problem = make_problem(2, {640, 640, 129}, 3);
      problem.dtype = dtype;
      problem.segments = segments;
      problem.padding = 8;  // the last chunk's rows stay aligned
      check(problem);
      problem.padding = 3;
      check(problem);
    }
  }
}

TEST(noise_is_the_same_everywhere) {
  for (const DType dtype : kDTypes) {
    for (const float temperature : {0.3f, 4.0f}) {
      Problem problem = make_problem(8, {512, 261}, 5);
      problem.dtype = dtype;
      problem.segments = 2;
      problem.confidence_suppress = {2, 511, 512};
      add_noise(problem, temperature);
      check(problem);
      problem.padding = 1;
      problem.extras = false;
      check(problem);
    }
  }
}

TEST(suppressed_ids) {
  Problem problem = make_problem(4, {320, 100}, 7);
  problem.segments = 2;
  for (const int64_t id : {0, 63, 64, 319, 320, 419}) problem.logits[id] = 20.0f;  // row 0 would choose them
  problem.suppress = {419, 63, 0};
  problem.confidence_suppress = {320, 64};
  check(problem);
  add_noise(problem, 0.5f);
  check(problem);
  for (int64_t id = 0; id < problem.vocab; ++id) problem.suppress.push_back(id);
  problem.suppress.erase(problem.suppress.begin(), problem.suppress.begin() + 3);
  check(problem);  // nothing left
  problem.suppress.clear();
  problem.confidence_suppress.resize(problem.vocab);
  for (int64_t id = 0; id < problem.vocab; ++id) problem.confidence_suppress[id] = id;
  problem.extras = false;
  check(problem);  // a token, but no softmax
}

TEST(special_rows) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    for (const int64_t place : {0, 255, 256, 700}) {
      Problem problem = make_problem(4, {512, 189}, 9);
      problem.segments = 3;
      problem.logits[1 * problem.vocab + place] = bad;
      for (int64_t id = 0; id < problem.vocab; ++id) problem.logits[2 * problem.vocab + id] = -INFINITY;
      problem.logits[2 * problem.vocab + place] = bad;
      problem.row_index = {0, 1, 2, -1};
      check(problem);
    }
  }
}

TEST(rest_keeps_what_float_addition_would_lose) {
  for (const auto& [reduce, finish] : {std::pair{&reduce_on_cpu, &finish_on_cpu}, {&reduce_on_gpu, &finish_on_gpu}}) {
    Problem problem = make_problem(1, {64, 64}, 11);
    for (float& logit : problem.logits) logit = -150.0f;
    problem.logits[70] = 0.0f;
    problem.logits[3] = -60.0f;
    const Outputs out = run(problem, reduce, finish);
    CHECK_NEAR(out.log_confidence[0] / std::exp(-60.0), -1.0, 1e-5);
    CHECK_NEAR(out.entropy[0] / (61.0 * std::exp(-60.0)), 1.0, 1e-5);
  }
}

TEST(no_rows) {
  VocabReduceParams p{};
  CHECK(cuda::launch_vocab_reduce(p, nullptr) == nullptr);
  CHECK(cuda::launch_vocab_finish(p, nullptr) == nullptr);
}
