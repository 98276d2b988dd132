#include "dlmcache/head.h"

#include <torch/csrc/stable/library.h>

#include <array>
#include <cmath>
#include <optional>
#include <tuple>

#include "ops/check.h"
#include "ops/matmul.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kOp = "head_reduce";

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// How the vocabulary is cut. Chunks keep the logits in a cache between the GEMM that writes them and the reduction
// that reads them; segments give the reduction enough to do in parallel when there are few rows.
struct Plan {
  int64_t chunk_width;
  int64_t num_segments;
};

Plan make_plan(int64_t num_rows, int64_t vocab, int64_t max_width, int64_t min_width, int64_t max_logits, int64_t units,
               int64_t min_segment) {
  const int64_t fitting = std::max<int64_t>(1, num_rows) * max_width <= max_logits ? max_width : max_logits / num_rows;
  const int64_t widest = std::max(min_width, fitting);
  const int64_t chunks = (vocab + widest - 1) / widest;
  // Equal chunks instead of full ones and a remainder; a multiple of 64 keeps rows aligned for 16-byte loads.
  const int64_t width = ((vocab + chunks - 1) / chunks + 63) / 64 * 64;
  const int64_t wanted = (units + num_rows - 1) / std::max<int64_t>(1, num_rows);
  const int64_t possible = std::max<int64_t>(1, std::min(width, vocab) / min_segment);
  return {width, std::max<int64_t>(1, std::min(wanted, possible))};
}

// Logits of a few MiB at most (second-level cache), and a row's part small enough for the first one.
Plan plan_cpu(int64_t num_rows, int64_t vocab) { return make_plan(num_rows, vocab, 8192, 1024, 1 << 20, 8, 2048); }

#ifdef DLMCACHE_WITH_CUDA
// Wide enough for a GEMM that fills the device, small enough for the logits to stay in the L2 cache.
Plan plan_cuda(int64_t num_rows, int64_t vocab) { return make_plan(num_rows, vocab, 32768, 2048, 1 << 23, 512, 2048); }
#endif

// The same storage without autograd's record: writing into a given output is not differentiable, and weights of a
// model usually ask for gradients.
Tensor detach(const Tensor& tensor) {
  std::array<StableIValue, 1> stack{torch::stable::detail::from(tensor)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::detach", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

const int64_t* check_ids(const char* name, const Tensor& ids, int64_t vocab, const Tensor& hidden) {
  const int64_t* data = check_index(kOp, name, ids, -1, hidden, "hidden");
  if (!ids.is_cpu()) return data;  // on CUDA an id outside the vocabulary has no effect
  for (int64_t i = 0; i < ids.numel(); ++i) {
    STD_TORCH_CHECK(data[i] >= 0 && data[i] < vocab, kOp, ": ", name, "[", i, "] is ", data[i], ", allowed are 0 to ",
                    vocab - 1);
  }
  return data;
}

// Checks the arguments and fills what does not change from chunk to chunk.
VocabReduceParams make_params(const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& suppress_ids,
                              const std::optional<Tensor>& confidence_suppress_ids, double temperature,
                              const std::optional<Tensor>& row_index, int64_t capacity,
                              const std::optional<Tensor>& seeds, const std::optional<Tensor>& steps) {
  check_shape(kOp, "hidden", hidden, {-1, -1});
  check_shape(kOp, "weight", weight, {-1, hidden.size(1)});
  const int64_t vocab = weight.size(0);
  STD_TORCH_CHECK(vocab >= 1 && vocab < kNoId - 64, kOp, ": weight must have from 1 to ", kNoId - 65,
                  " rows (ids of the vocabulary), got ", vocab);
  VocabReduceParams p{};
  p.dtype = check_float(kOp, "hidden", hidden);
  check_dtype(kOp, "weight", weight, hidden.scalar_type());
  check_same_device(kOp, "weight", weight, hidden, "hidden");
  check_row_contiguous(kOp, "hidden", hidden);
  check_row_contiguous(kOp, "weight", weight);
  p.num_rows = hidden.size(0);
  if (suppress_ids) {
    p.suppress_ids = check_ids("suppress_ids", *suppress_ids, vocab, hidden);
    p.num_suppress = suppress_ids->numel();
  }
  if (confidence_suppress_ids) {
    p.confidence_suppress_ids = check_ids("confidence_suppress_ids", *confidence_suppress_ids, vocab, hidden);
    p.num_confidence_suppress = confidence_suppress_ids->numel();
  }
  p.temperature = static_cast<float>(temperature);
  STD_TORCH_CHECK(temperature >= 0 && std::isfinite(p.temperature), kOp,
                  ": temperature must be a finite number of at least 0, got ", temperature);
  STD_TORCH_CHECK(capacity >= 1, kOp, ": capacity must be at least 1, got ", capacity);
  p.capacity = capacity;
  if (row_index) p.row_index = check_index(kOp, "row_index", *row_index, p.num_rows, hidden, "hidden");
  if (seeds) p.seeds = check_index(kOp, "seeds", *seeds, -1, hidden, "hidden");
  if (steps) p.steps = check_index(kOp, "steps", *steps, seeds ? seeds->size(0) : -1, hidden, "hidden");
  STD_TORCH_CHECK(temperature == 0 || (row_index && seeds && steps), kOp,
                  ": a temperature above 0 needs row_index, seeds and steps");
  if (row_index) check_index_range(kOp, "row_index", *row_index, seeds ? seeds->size(0) * capacity : INT64_MAX);
  return p;
}

// reduce(p) takes one chunk of logits, finish(p) merges the segments of all rows.
template <typename Reduce, typename Finish>
Outputs head_reduce(const Tensor& hidden, const Tensor& weight, VocabReduceParams p, bool extras, Plan plan,
                    Reduce&& reduce, Finish&& finish) {
  const int64_t rows = p.num_rows, vocab = weight.size(0), extra_rows = extras ? rows : 0;
  Tensor token = torch::stable::new_empty(hidden, {rows}, ScalarType::Long);
  Tensor log_confidence = torch::stable::new_empty(hidden, {rows}, ScalarType::Float);
  Tensor second_token = torch::stable::new_empty(hidden, {extra_rows}, ScalarType::Long);
  Tensor second_log_confidence = torch::stable::new_empty(hidden, {extra_rows}, ScalarType::Float);
  Tensor entropy = torch::stable::new_empty(hidden, {extra_rows}, ScalarType::Float);
  Outputs outputs{token, log_confidence, second_token, second_log_confidence, entropy};
  if (rows == 0) return outputs;

  p.extras = extras;
  p.num_segments = plan.num_segments;
  p.token = static_cast<int64_t*>(token.data_ptr());
  p.log_confidence = static_cast<float*>(log_confidence.data_ptr());
  p.second_token = static_cast<int64_t*>(second_token.data_ptr());
  p.second_log_confidence = static_cast<float*>(second_log_confidence.data_ptr());
  p.entropy = static_cast<float*>(entropy.data_ptr());

  const bool single = plan.chunk_width >= vocab;
  std::optional<Tensor> state;
  if (!single || plan.num_segments > 1) {
    state = torch::stable::new_empty(hidden, {rows * plan.num_segments, int64_t{sizeof(VocabState) / 4}},
                                     ScalarType::Float);
    p.state = static_cast<VocabState*>(state->data_ptr());
  }
  if (single) {
    // Small vocabularies are all overhead: as few calls into torch as possible.
    const Tensor logits = torch::stable::matmul(hidden, torch::stable::transpose(weight, 0, 1));
    p.logits = logits.data_ptr();
    p.logits_stride = vocab;
    p.chunk_width = vocab;
    p.first = p.last = true;
    reduce(p);
    if (p.num_segments > 1) finish(p);
    return outputs;
  }

  // One buffer for the logits of every chunk; 8 elements of any dtype are 16 bytes or more.
  const int64_t stride = (plan.chunk_width + 7) / 8 * 8;
  Tensor logits = torch::stable::new_empty(hidden, {rows, stride});
  p.logits = logits.data_ptr();
  p.logits_stride = stride;
  const Tensor input = detach(hidden);
  Tensor table = detach(weight);
  for (int64_t begin = 0; begin < vocab; begin += plan.chunk_width) {
    const int64_t width = std::min(plan.chunk_width, vocab - begin);
    const Tensor part = torch::stable::narrow(table, 0, begin, width);
    matmul_out(input, torch::stable::transpose(part, 0, 1), torch::stable::narrow(logits, 1, 0, width));
    p.chunk_begin = begin;
    p.chunk_width = width;
    p.first = begin == 0;
    p.last = begin + width == vocab;
    reduce(p);
  }
  if (p.num_segments > 1) finish(p);
  return outputs;
}

Outputs head_reduce_cpu(const Tensor& hidden, const Tensor& weight, std::optional<Tensor> suppress_ids,
                        std::optional<Tensor> confidence_suppress_ids, double temperature,
                        std::optional<Tensor> row_index, int64_t capacity, std::optional<Tensor> seeds,
                        std::optional<Tensor> steps, bool extras) {
  const VocabReduceParams params = make_params(hidden, weight, suppress_ids, confidence_suppress_ids, temperature,
                                               row_index, capacity, seeds, steps);
  const auto reduce = [](const VocabReduceParams& p) {
    const int64_t operations_per_id = p.temperature > 0.0f ? 64 : 8;
    run_cpu(cpu::vocab_reduce_rows, p, p.num_rows * p.num_segments, operations_per_id * segment_width(p));
  };
  const auto finish = [](const VocabReduceParams& p) {
    run_cpu(cpu::vocab_finish_rows, p, p.num_rows, 64 * p.num_segments);
  };
  return head_reduce(hidden, weight, params, extras, plan_cpu(params.num_rows, weight.size(0)), reduce, finish);
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) { DLMCACHE_IMPL(m, "head_reduce", head_reduce_cpu); }

#ifdef DLMCACHE_WITH_CUDA
Outputs head_reduce_cuda(const Tensor& hidden, const Tensor& weight, std::optional<Tensor> suppress_ids,
                         std::optional<Tensor> confidence_suppress_ids, double temperature,
                         std::optional<Tensor> row_index, int64_t capacity, std::optional<Tensor> seeds,
                         std::optional<Tensor> steps, bool extras) {
  const VocabReduceParams params = make_params(hidden, weight, suppress_ids, confidence_suppress_ids, temperature,
                                               row_index, capacity, seeds, steps);
  const auto reduce = [&](const VocabReduceParams& p) { run_cuda(kOp, cuda::launch_vocab_reduce, p, hidden); };
  const auto finish = [&](const VocabReduceParams& p) { run_cuda(kOp, cuda::launch_vocab_finish, p, hidden); };
  // The GEMMs, too, belong on the device of the arguments, whichever is current.
  const torch::stable::accelerator::DeviceGuard guard(hidden.get_device_index());
  return head_reduce(hidden, weight, params, extras, plan_cuda(params.num_rows, weight.size(0)), reduce, finish);
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) { DLMCACHE_IMPL(m, "head_reduce", head_reduce_cuda); }
#endif

}  // namespace
}  // namespace dlmcache::ops
