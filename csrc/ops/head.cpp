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
constexpr const char* kLogitsOp = "logits_reduce";

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

// What an operator was given first: settings must be on its device.
struct Input {
  const char* op;
  const char* name;
  const Tensor& tensor;
};

const int64_t* check_ids(const Input& input, const char* name, const Tensor& ids, int64_t vocab) {
  const int64_t* data = check_index(input.op, name, ids, -1, input.tensor, input.name);
  if (!ids.is_cpu()) return data;  // on CUDA an id outside the vocabulary has no effect
  for (int64_t i = 0; i < ids.numel(); ++i) {
    STD_TORCH_CHECK(data[i] >= 0 && data[i] < vocab, input.op, ": ", name, "[", i, "] is ", data[i],
                    ", allowed are 0 to ", vocab - 1);
  }
  return data;
}

// What does not change from chunk to chunk, besides the logits.
struct Settings {
  const std::optional<Tensor>&suppress_ids, &confidence_suppress_ids;
  double temperature;
  const std::optional<Tensor>& row_index;
  int64_t capacity;
  const std::optional<Tensor>&seeds, &steps;
};

// Checks the settings, for the rows of `input` over `vocab` ids, and fills in what they say.
VocabReduceParams make_params(const Input& input, int64_t vocab, const Settings& s) {
  const char* op = input.op;
  VocabReduceParams p{};
  p.dtype = check_float(op, input.name, input.tensor);
  p.num_rows = input.tensor.size(0);
  if (s.suppress_ids) {
    p.suppress_ids = check_ids(input, "suppress_ids", *s.suppress_ids, vocab);
    p.num_suppress = s.suppress_ids->numel();
  }
  if (s.confidence_suppress_ids) {
    p.confidence_suppress_ids = check_ids(input, "confidence_suppress_ids", *s.confidence_suppress_ids, vocab);
    p.num_confidence_suppress = s.confidence_suppress_ids->numel();
  }
  const auto index = [&](const char* name, const Tensor& tensor, int64_t size) {
    return check_index(op, name, tensor, size, input.tensor, input.name);
  };
  p.temperature = static_cast<float>(s.temperature);
  STD_TORCH_CHECK(s.temperature >= 0 && std::isfinite(p.temperature), op,
                  ": temperature must be a finite number of at least 0, got ", s.temperature);
  STD_TORCH_CHECK(s.capacity >= 1, op, ": capacity must be at least 1, got ", s.capacity);
  p.capacity = s.capacity;
  if (s.row_index) p.row_index = index("row_index", *s.row_index, p.num_rows);
  if (s.seeds) p.seeds = index("seeds", *s.seeds, -1);
  if (s.steps) p.steps = index("steps", *s.steps, s.seeds ? s.seeds->size(0) : -1);
  STD_TORCH_CHECK(s.temperature == 0 || (s.row_index && s.seeds && s.steps), op,
                  ": a temperature above 0 needs row_index, seeds and steps");
  if (s.row_index) {
    check_index_range(op, "row_index", *s.row_index, s.seeds ? s.seeds->size(0) * s.capacity : INT64_MAX);
  }
  return p;
}

void check_vocab(const char* op, const char* name, const char* what, int64_t vocab) {
  STD_TORCH_CHECK(vocab >= 1 && vocab < kNoId - 64, op, ": ", name, " must have from 1 to ", kNoId - 65, " ", what,
                  " (ids of the vocabulary), got ", vocab);
}

VocabReduceParams check_head(const Tensor& hidden, const Tensor& weight, const Settings& settings) {
  check_shape(kOp, "hidden", hidden, {-1, -1});
  check_shape(kOp, "weight", weight, {-1, hidden.size(1)});
  check_vocab(kOp, "weight", "rows", weight.size(0));
  check_float(kOp, "hidden", hidden);
  check_dtype(kOp, "weight", weight, hidden.scalar_type());
  check_same_device(kOp, "weight", weight, hidden, "hidden");
  check_row_contiguous(kOp, "hidden", hidden);
  check_row_contiguous(kOp, "weight", weight);
  return make_params({kOp, "hidden", hidden}, weight.size(0), settings);
}

VocabReduceParams check_logits(const Tensor& logits, const Settings& settings) {
  check_shape(kLogitsOp, "logits", logits, {-1, -1});
  check_vocab(kLogitsOp, "logits", "columns", logits.size(1));
  check_row_contiguous(kLogitsOp, "logits", logits);
  return make_params({kLogitsOp, "logits", logits}, logits.size(1), settings);
}

// The results of all rows, and room for what is known of them before the last chunk.
struct Results {
  Outputs tensors;
  std::optional<Tensor> state;

  Results(VocabReduceParams& p, const Tensor& like, bool extras, int64_t num_segments, bool single)
      : tensors{torch::stable::new_empty(like, {p.num_rows}, ScalarType::Long),
                torch::stable::new_empty(like, {p.num_rows}, ScalarType::Float),
                torch::stable::new_empty(like, {extras ? p.num_rows : 0}, ScalarType::Long),
                torch::stable::new_empty(like, {extras ? p.num_rows : 0}, ScalarType::Float),
                torch::stable::new_empty(like, {extras ? p.num_rows : 0}, ScalarType::Float)} {
    p.extras = extras;
    p.num_segments = num_segments;
    p.token = static_cast<int64_t*>(std::get<0>(tensors).data_ptr());
    p.log_confidence = static_cast<float*>(std::get<1>(tensors).data_ptr());
    p.second_token = static_cast<int64_t*>(std::get<2>(tensors).data_ptr());
    p.second_log_confidence = static_cast<float*>(std::get<3>(tensors).data_ptr());
    p.entropy = static_cast<float*>(std::get<4>(tensors).data_ptr());
    if (p.num_rows > 0 && (!single || num_segments > 1)) {
      state = torch::stable::new_empty(like, {p.num_rows * num_segments, int64_t{sizeof(VocabState) / 4}},
                                       ScalarType::Float);
      p.state = static_cast<VocabState*>(state->data_ptr());
    }
  }
};

// The whole vocabulary at once.
template <typename Reduce, typename Finish>
void reduce_whole(VocabReduceParams& p, const Tensor& logits, Reduce&& reduce, Finish&& finish) {
  p.logits = logits.data_ptr();
  p.logits_stride = logits.stride(0);
  p.chunk_width = logits.size(1);
  p.first = p.last = true;
  reduce(p);
  if (p.num_segments > 1) finish(p);
}

// reduce(p) takes one chunk of logits, finish(p) merges the segments of all rows.
template <typename Reduce, typename Finish>
Outputs head_reduce(const Tensor& hidden, const Tensor& weight, VocabReduceParams p, bool extras, Plan plan,
                    Reduce&& reduce, Finish&& finish) {
  const int64_t rows = p.num_rows, vocab = weight.size(0);
  const bool single = plan.chunk_width >= vocab;
  const Results results(p, hidden, extras, plan.num_segments, single);
  if (rows == 0) return results.tensors;
  if (single) {
    // Small vocabularies are all overhead: as few calls into torch as possible.
    const Tensor logits = torch::stable::matmul(hidden, torch::stable::transpose(weight, 0, 1));
    reduce_whole(p, logits, reduce, finish);
    return results.tensors;
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
  return results.tensors;
}

template <typename Reduce, typename Finish>
Outputs logits_reduce(const Tensor& logits, VocabReduceParams p, bool extras, Plan plan, Reduce&& reduce,
                      Finish&& finish) {
  const Results results(p, logits, extras, plan.num_segments, true);
  if (p.num_rows > 0) reduce_whole(p, logits, reduce, finish);
  return results.tensors;
}

void reduce_cpu(const VocabReduceParams& p) {
  const int64_t operations_per_id = p.temperature > 0.0f ? 64 : 8;
  run_cpu(cpu::vocab_reduce_rows, p, p.num_rows * p.num_segments, operations_per_id * segment_width(p));
}

void finish_cpu(const VocabReduceParams& p) { run_cpu(cpu::vocab_finish_rows, p, p.num_rows, 64 * p.num_segments); }

Outputs head_reduce_cpu(const Tensor& hidden, const Tensor& weight, std::optional<Tensor> suppress_ids,
                        std::optional<Tensor> confidence_suppress_ids, double temperature,
                        std::optional<Tensor> row_index, int64_t capacity, std::optional<Tensor> seeds,
                        std::optional<Tensor> steps, bool extras) {
  const VocabReduceParams params = check_head(
      hidden, weight, {suppress_ids, confidence_suppress_ids, temperature, row_index, capacity, seeds, steps});
  const Plan plan = plan_cpu(params.num_rows, weight.size(0));
  return head_reduce(hidden, weight, params, extras, plan, reduce_cpu, finish_cpu);
}

Outputs logits_reduce_cpu(const Tensor& logits, std::optional<Tensor> suppress_ids,
                          std::optional<Tensor> confidence_suppress_ids, double temperature,
                          std::optional<Tensor> row_index, int64_t capacity, std::optional<Tensor> seeds,
                          std::optional<Tensor> steps, bool extras) {
  const VocabReduceParams params =
      check_logits(logits, {suppress_ids, confidence_suppress_ids, temperature, row_index, capacity, seeds, steps});
  return logits_reduce(logits, params, extras, plan_cpu(params.num_rows, logits.size(1)), reduce_cpu, finish_cpu);
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) {
  DLMCACHE_IMPL(m, "head_reduce", head_reduce_cpu);
  DLMCACHE_IMPL(m, "logits_reduce", logits_reduce_cpu);
}

#ifdef DLMCACHE_WITH_CUDA
Outputs head_reduce_cuda(const Tensor& hidden, const Tensor& weight, std::optional<Tensor> suppress_ids,
                         std::optional<Tensor> confidence_suppress_ids, double temperature,
                         std::optional<Tensor> row_index, int64_t capacity, std::optional<Tensor> seeds,
                         std::optional<Tensor> steps, bool extras) {
  const VocabReduceParams params = check_head(
      hidden, weight, {suppress_ids, confidence_suppress_ids, temperature, row_index, capacity, seeds, steps});
  const auto reduce = [&](const VocabReduceParams& p) { run_cuda(kOp, cuda::launch_vocab_reduce, p, hidden); };
  const auto finish = [&](const VocabReduceParams& p) { run_cuda(kOp, cuda::launch_vocab_finish, p, hidden); };
  // The GEMMs, too, belong on the device of the arguments, whichever is current.
  const torch::stable::accelerator::DeviceGuard guard(hidden.get_device_index());
  return head_reduce(hidden, weight, params, extras, plan_cuda(params.num_rows, weight.size(0)), reduce, finish);
}

Outputs logits_reduce_cuda(const Tensor& logits, std::optional<Tensor> suppress_ids,
                           std::optional<Tensor> confidence_suppress_ids, double temperature,
                           std::optional<Tensor> row_index, int64_t capacity, std::optional<Tensor> seeds,
                           std::optional<Tensor> steps, bool extras) {
  const VocabReduceParams params =
      check_logits(logits, {suppress_ids, confidence_suppress_ids, temperature, row_index, capacity, seeds, steps});
  const auto reduce = [&](const VocabReduceParams& p) { run_cuda(kLogitsOp, cuda::launch_vocab_reduce, p, logits); };
  const auto finish = [&](const VocabReduceParams& p) { run_cuda(kLogitsOp, cuda::launch_vocab_finish, p, logits); };
  // The kernel strikes ids of both lists out of the logits themselves; the caller's stay as they are.
  const Tensor own = suppress_ids || confidence_suppress_ids ? torch::stable::clone(logits) : logits;
  return logits_reduce(own, params, extras, plan_cuda(params.num_rows, logits.size(1)), reduce, finish);
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) {
  DLMCACHE_IMPL(m, "head_reduce", head_reduce_cuda);
  DLMCACHE_IMPL(m, "logits_reduce", logits_reduce_cuda);
}
#endif

}  // namespace
}  // namespace dlmcache::ops
