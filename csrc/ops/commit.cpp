#include "dlmcache/commit.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "ops/check.h"
#include "ops/check_row_list.h"
#include "ops/run.h"

namespace dlmcache::ops {
namespace {

constexpr const char* kOp = "commit_";

// A contiguous float32 vector of `size` entries on the device of `like`.
float* check_floats(const char* name, const Tensor& tensor, int64_t size, const Tensor& like, const char* like_name) {
  check_shape(kOp, name, tensor, {size});
  check_dtype(kOp, name, tensor, ScalarType::Float);
  check_same_device(kOp, name, tensor, like, like_name);
  check_contiguous(kOp, name, tensor);
  return static_cast<float*>(tensor.data_ptr());
}

// On a CPU: candidates must be rows of their slot (or -1), since slots are worked on in parallel.
void check_candidates(const CommitParams& p) {
  for (int64_t slot = 0; slot < p.num_slots; ++slot) {
    const int64_t lowest = slot * p.capacity, behind = lowest + p.capacity;
    for (int64_t entry = p.cu_rows[slot]; entry < p.cu_rows[slot + 1]; ++entry) {
      const int64_t row = p.row_index[entry];
      STD_TORCH_CHECK(row == -1 || (row >= lowest && row < behind), kOp, ": row_index[", entry, "] is ", row,
                      ", allowed in slot ", slot, " are -1 (unused) and ", lowest, " to ", behind - 1);
    }
  }
}

// On a CPU: both spans of a slot must lie on its canvas.
void check_spans(const CommitParams& p) {
  for (int64_t i = 0; i < 4 * p.num_slots; ++i) {
    STD_TORCH_CHECK(p.spans[i] >= 0 && p.spans[i] <= p.capacity, kOp, ": spans[", i / 4, ", ", i % 4, "] is ",
                    p.spans[i], ", allowed are 0 to ", p.capacity, " (capacity)");
  }
}

template <typename Run>
std::tuple<Tensor, Tensor> commit(const Tensor& tokens, const Tensor& commit_step, const Tensor& commit_log_confidence,
                                  const Tensor& row_index, const Tensor& cu_rows, const Tensor& token,
                                  const Tensor& log_confidence, const std::optional<Tensor>& score,
                                  const Tensor& num_commit, const Tensor& steps, const Tensor& spans,
                                  const Tensor& end_ids, int64_t mask_id, int64_t capacity, int64_t rule,
                                  double rule_value, Run&& run) {
  STD_TORCH_CHECK(capacity > 0, kOp, ": capacity must be positive, got ", capacity);
  STD_TORCH_CHECK(rule >= 0 && rule <= 2, kOp, ": rule must be 0 (fixed), 1 (threshold) or 2 (factor), got ", rule);
  STD_TORCH_CHECK(rule == 0 || rule_value == rule_value, kOp, ": rule_value must be a number, got NaN");
  STD_TORCH_CHECK(rule == 0 || !score, kOp, ": score is for rule 0 (fixed) only, rule ", rule,
                  " goes by log_confidence");
  CommitParams p{};
  p.cu_rows = check_index(kOp, "cu_rows", cu_rows, -1, tokens, "tokens");
  p.row_index = check_index(kOp, "row_index", row_index, -1, tokens, "tokens");
  p.num_rows = row_index.size(0);
  p.num_slots = check_cu_rows(kOp, cu_rows, p.num_rows);
  const int64_t num_positions = count_positions(kOp, p.num_slots, capacity);
  p.tokens = const_cast<int64_t*>(check_index(kOp, "tokens", tokens, num_positions, tokens, "tokens"));
  p.commit_step = const_cast<int64_t*>(check_index(kOp, "commit_step", commit_step, num_positions, tokens, "tokens"));
  p.commit_log_confidence =
      check_floats("commit_log_confidence", commit_log_confidence, num_positions, tokens, "tokens");
  p.token = check_index(kOp, "token", token, p.num_rows, tokens, "tokens");
  p.log_confidence = check_floats("log_confidence", log_confidence, p.num_rows, tokens, "tokens");
  p.score = score ? check_floats("score", *score, p.num_rows, tokens, "tokens") : p.log_confidence;
  p.num_commit = check_index(kOp, "num_commit", num_commit, p.num_slots, tokens, "tokens");
  p.steps = check_index(kOp, "steps", steps, p.num_slots, tokens, "tokens");
  check_shape(kOp, "spans", spans, {p.num_slots, 4});
  check_dtype(kOp, "spans", spans, ScalarType::Long);
  check_same_device(kOp, "spans", spans, tokens, "tokens");
  check_contiguous(kOp, "spans", spans);
  p.spans = static_cast<const int64_t*>(spans.data_ptr());
  p.end_ids = check_index(kOp, "end_ids", end_ids, -1, tokens, "tokens");
  p.num_ends = end_ids.size(0);
  p.capacity = capacity;
  p.mask_id = mask_id;
  p.rule = static_cast<CommitRule>(rule);
  p.rule_value = rule_value;
  if (tokens.is_cpu()) {
    check_candidates(p);
    check_spans(p);
  }

  Tensor keys = torch::stable::new_empty(tokens, {p.num_rows});
  Tensor committed = torch::stable::new_empty(tokens, {p.num_rows}, ScalarType::Bool);
  Tensor status = torch::stable::new_empty(tokens, {p.num_slots, kStatusSize});
  p.keys = static_cast<uint64_t*>(keys.data_ptr());
  p.committed = static_cast<bool*>(committed.data_ptr());
  p.status = static_cast<int64_t*>(status.data_ptr());
  run(p);
  return {committed, status};
}

std::tuple<Tensor, Tensor> commit_cpu(const Tensor& tokens, const Tensor& commit_step,
                                      const Tensor& commit_log_confidence, const Tensor& row_index,
                                      const Tensor& cu_rows, const Tensor& token, const Tensor& log_confidence,
                                      std::optional<Tensor> score, const Tensor& num_commit, const Tensor& steps,
                                      const Tensor& spans, const Tensor& end_ids, int64_t mask_id, int64_t capacity,
                                      int64_t rule, double rule_value) {
  return commit(tokens, commit_step, commit_log_confidence, row_index, cu_rows, token, log_confidence, score,
                num_commit, steps, spans, end_ids, mask_id, capacity, rule, rule_value, [](const CommitParams& p) {
                  std::fill(p.committed + p.cu_rows[p.num_slots], p.committed + p.num_rows, false);
                  const int64_t rows_per_slot = p.num_slots ? p.num_rows / p.num_slots : 0;
                  run_cpu(cpu::commit_slots, p, p.num_slots, p.capacity / 4 + 4 * rows_per_slot);
                });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CPU, m) { DLMCACHE_IMPL(m, "commit_", commit_cpu); }

#ifdef DLMCACHE_WITH_CUDA
std::tuple<Tensor, Tensor> commit_cuda(const Tensor& tokens, const Tensor& commit_step,
                                       const Tensor& commit_log_confidence, const Tensor& row_index,
                                       const Tensor& cu_rows, const Tensor& token, const Tensor& log_confidence,
                                       std::optional<Tensor> score, const Tensor& num_commit, const Tensor& steps,
                                       const Tensor& spans, const Tensor& end_ids, int64_t mask_id, int64_t capacity,
                                       int64_t rule, double rule_value) {
  return commit(tokens, commit_step, commit_log_confidence, row_index, cu_rows, token, log_confidence, score,
                num_commit, steps, spans, end_ids, mask_id, capacity, rule, rule_value,
                [&](const CommitParams& p) { run_cuda(kOp, cuda::launch_commit, p, tokens); });
}

STABLE_TORCH_LIBRARY_IMPL(dlmcache, CUDA, m) { DLMCACHE_IMPL(m, "commit_", commit_cuda); }
#endif

}  // namespace
}  // namespace dlmcache::ops
