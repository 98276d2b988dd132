#include "dlmcache/sample.h"

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <optional>
#include <tuple>

#include "ops/check.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kOp = "sample_rows";

using Outputs = std::tuple<Tensor, Tensor, Tensor>;

struct Arguments {
  FilterParams filter{};
  VocabReduceParams reduce{};
  SampleFinishParams finish{};
};

Arguments make_arguments(const Tensor& logits, double temperature, double top_p, int64_t top_k, int64_t score,
                         const std::optional<Tensor>& row_index, int64_t capacity, const std::optional<Tensor>& seeds,
                         const std::optional<Tensor>& steps) {
  check_shape(kOp, "logits", logits, {-1, -1});
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  STD_TORCH_CHECK(vocab >= 1 && vocab <= kMaxFilteredVocab, kOp, ": logits must have from 1 to ", kMaxFilteredVocab,
                  " columns (ids of the vocabulary), got ", vocab);
  Arguments a;
  a.filter.dtype = check_float(kOp, "logits", logits);
  check_row_contiguous(kOp, "logits", logits);
  a.filter.num_rows = a.reduce.num_rows = a.finish.num_rows = rows;
  a.filter.vocab = a.reduce.chunk_width = vocab;
  a.filter.logits = logits.data_ptr();
  a.filter.logits_stride = logits.stride(0);
  a.filter.temperature = static_cast<float>(temperature);
  STD_TORCH_CHECK(temperature == 0 || (a.filter.temperature > 0 && std::isfinite(a.filter.temperature)), kOp,
                  ": temperature must be 0 or a positive finite number, got ", temperature);
  STD_TORCH_CHECK(top_p > 0 && top_p <= 1, kOp, ": top_p must lie in (0, 1], got ", top_p);
  a.filter.top_p = top_p;
  STD_TORCH_CHECK(top_k >= 0, kOp, ": top_k must be at least 0 (0: no limit), got ", top_k);
  a.filter.top_k = top_k;
  STD_TORCH_CHECK(score >= kScoreConfidence && score <= kScoreEntropy, kOp,
                  ": score must be 0 (confidence), 1 (margin) or 2 (entropy), got ", score);
  a.finish.score_kind = static_cast<int>(score);
  STD_TORCH_CHECK(capacity >= 1, kOp, ": capacity must be at least 1, got ", capacity);
  const int64_t* index = row_index ? check_index(kOp, "row_index", *row_index, rows, logits, "logits") : nullptr;
  a.filter.row_index = a.reduce.row_index = a.finish.row_index = index;
  a.reduce.capacity = capacity;
  if (seeds) a.reduce.seeds = check_index(kOp, "seeds", *seeds, -1, logits, "logits");
  if (steps) a.reduce.steps = check_index(kOp, "steps", *steps, seeds ? seeds->size(0) : -1, logits, "logits");
  STD_TORCH_CHECK(temperature == 0 || (row_index && seeds && steps), kOp,
                  ": a temperature above 0 needs row_index, seeds and steps");
  if (row_index) check_index_range(kOp, "row_index", *row_index, seeds ? seeds->size(0) * capacity : INT64_MAX);
  a.finish.noise = temperature > 0;
  // Logits that were divided by the temperature are sampled with plain Gumbel noise.
  a.reduce.temperature = a.finish.noise ? 1.0f : 0.0f;
  a.reduce.dtype = DType::kFloat32;
  a.reduce.extras = score != kScoreConfidence;
  a.reduce.first = true;  // and not the last chunk: the states are finished here
  return a;
}

// `units` pieces of work are wanted; a row's share of them has at least 2048 ids.
template <typename Filter, typename Reduce, typename Finish>
Outputs sample_rows(const Tensor& logits, Arguments a, int64_t units, Filter&& filter, Reduce&& reduce,
                    Finish&& finish) {
  const int64_t rows = a.filter.num_rows, vocab = a.filter.vocab;
  Tensor token = torch::stable::new_empty(logits, {rows}, ScalarType::Long);
  Tensor log_confidence = torch::stable::new_empty(logits, {rows}, ScalarType::Float);
  Tensor score = torch::stable::new_empty(logits, {rows}, ScalarType::Float);
  Outputs outputs{token, log_confidence, score};
  if (rows == 0) return outputs;
  const int64_t segments = std::max<int64_t>(1, std::min((units + rows - 1) / rows, vocab / 2048));
  const int64_t stride = (vocab + 3) / 4 * 4;
  Tensor scaled = torch::stable::new_empty(logits, {rows, stride}, ScalarType::Float);
  Tensor state =
      torch::stable::new_empty(logits, {rows * segments, int64_t{sizeof(VocabState) / 4}}, ScalarType::Float);
  a.filter.out = static_cast<float*>(scaled.data_ptr());
  a.filter.out_stride = a.reduce.logits_stride = stride;
  a.reduce.logits = scaled.data_ptr();
  a.reduce.num_segments = a.finish.num_segments = segments;
  a.reduce.state = static_cast<VocabState*>(state.data_ptr());
  a.finish.state = a.reduce.state;
  a.finish.token = static_cast<int64_t*>(token.data_ptr());
  a.finish.log_confidence = static_cast<float*>(log_confidence.data_ptr());
  a.finish.score = static_cast<float*>(score.data_ptr());
  filter(a.filter);
  reduce(a.reduce);
  finish(a.finish);
  return outputs;
}

Outputs sample_rows_cpu(const Tensor& logits, double temperature, double top_p, int64_t top_k, int64_t score,
                        std::optional<Tensor> row_index, int64_t capacity, std::optional<Tensor> seeds,
                        std::optional<Tensor> steps) {
  const Arguments arguments =
      make_arguments(logits, temperature, top_p, top_k, score, row_index, capacity, seeds, steps);
  const auto filter = [](const FilterParams& p) { run_cpu(cpu::filter_logits_rows, p, p.num_rows, 16 * p.vocab); };
  const auto reduce = [](const VocabReduceParams& p) {
    run_cpu(cpu::vocab_reduce_rows, p, p.num_rows * p.num_segments, 32 * segment_width(p));
  };
  const auto finish = [](const SampleFinishParams& p) {
    run_cpu(cpu::sample_finish_rows, p, p.num_rows, 64 * p.num_segments);
  };
  return sample_rows(logits, arguments, 8, filter, reduce, finish);
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) { DLMCACHE_IMPL(m, "sample_rows", sample_rows_cpu); }

#ifdef DLMCACHE_WITH_CUDA
Outputs sample_rows_cuda(const Tensor& logits, double temperature, double top_p, int64_t top_k, int64_t score,
                         std::optional<Tensor> row_index, int64_t capacity, std::optional<Tensor> seeds,
                         std::optional<Tensor> steps) {
  const Arguments arguments =
      make_arguments(logits, temperature, top_p, top_k, score, row_index, capacity, seeds, steps);
  const auto filter = [&](const FilterParams& p) { run_cuda(kOp, cuda::launch_filter_logits, p, logits); };
  const auto reduce = [&](const VocabReduceParams& p) { run_cuda(kOp, cuda::launch_vocab_reduce, p, logits); };
  const auto finish = [&](const SampleFinishParams& p) { run_cuda(kOp, cuda::launch_sample_finish, p, logits); };
  return sample_rows(logits, arguments, 512, filter, reduce, finish);
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) { DLMCACHE_IMPL(m, "sample_rows", sample_rows_cuda); }
#endif

}  // namespace
}  // namespace dlmcache::ops
