// The one place where the operators' schemas stand. csrc/ops registers their implementations for CPU and CUDA,
// dlmcache_cuda/ops their fake kernels and typed wrappers with the full description of every argument.
//
// M rows of a buffer (slots * capacity), R rows of a list (unused entries are -1 and stand at the end), S slots,
// W width of a row, H / Hkv query / key-value heads, D head size, F width of the feed-forward, V vocabulary.
// A row is one flat int64 index, slot * capacity + position. cu_rows [S + 1] says which part of a list is a slot's.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(dlmcache, m) {
  // rows: src [M, ...], row_index [R] -> [R, ...]
  m.def("gather_rows(Tensor src, Tensor row_index) -> Tensor");
  // dst [M, ...], rows [R, ...], row_index [R]
  m.def("scatter_rows_(Tensor(a!) dst, Tensor rows, Tensor row_index) -> ()");

  // norm: x [M, W], weight [W], row_index [R] -> [R, W]
  m.def("rms_norm(Tensor x, Tensor weight, float eps, Tensor? row_index=None) -> Tensor");
  // x, y [R, W], weight [W] -> x + y and its norm [R, W]
  m.def("add_rms_norm(Tensor x, Tensor y, Tensor weight, float eps) -> (Tensor, Tensor)");

  // rope_cache: qkv [R, (H + 2 Hkv) D], cos_sin [capacity, D], k_cache and v_cache [M, Hkv, D] -> rotated q [R, H, D]
  m.def(
      "rope_scatter_kv_(Tensor qkv, Tensor cos_sin, Tensor row_index, int capacity, int num_heads, "
      "Tensor(a!) k_cache, Tensor(b!) v_cache) -> Tensor");

  // attention: q [R, H, D], k_cache and v_cache [M, Hkv, D], cu_rows [S + 1], kv_lens [S]
  //   -> out [R, H, D], log-sum-exp [R, H] fp32 ([0] unless asked for)
  m.def(
      "attention_rows(Tensor q, Tensor k_cache, Tensor v_cache, Tensor cu_rows, Tensor kv_lens, int capacity, "
      "float scale, bool return_lse=False) -> (Tensor, Tensor)");

  // swiglu: gate_up [R, 2 F] -> silu(gate) * up [R, F]
  m.def("swiglu(Tensor gate_up) -> Tensor");

  // layers: h [R, W]; six weights a layer or more: attn_norm [W], qkv [(H + 2 Hkv) D, W] in one part or several,
  //   attn_out [W, H D], ff_norm [W], gate_up [2 F, W], ff_out [W, F]; biases of the parts or none; k_cache and v_cache
  //   [layers, M, Hkv, D]
  //   -> the residual stream behind the last layer [R, W], or what goes into it in rows that are not read: read_places
  //   [P], cu_read [S + 1]
  m.def(
      "forward_layers_(Tensor h, Tensor[] weights, Tensor[] biases, Tensor cos_sin, Tensor row_index, Tensor cu_rows, "
      "Tensor kv_lens, int num_heads, float eps, Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor? read_places=None, "
      "Tensor? cu_read=None) -> Tensor");

  // tracked_layers: the same with inputs [layers, M, W], found [layers, M] bool; tested [S] bool, limits [S]; lists of
  //   tracked, window and open rows -> the residual stream behind the last layer that ran [R, W], similarities
  //   [layers, S] fp32
  m.def(
      "track_layers_(Tensor h, Tensor[] weights, Tensor[] biases, Tensor cos_sin, Tensor row_index, Tensor cu_rows, "
      "Tensor kv_lens, int num_heads, float eps, Tensor(a!) k_cache, Tensor(b!) v_cache, int first_layer, "
      "Tensor(c!) inputs, Tensor(d!) found, Tensor tracked_index, Tensor cu_tracked, Tensor tested, float gamma, "
      "int similarity, Tensor window_index, Tensor cu_window, Tensor open_index, Tensor cu_open, Tensor limits, "
      "Tensor? read_places=None, Tensor? cu_read=None) -> (Tensor, Tensor)");

  // selected_layers: the same with delta [layers - first, M, W], reference [layers - first, M, r], numbers [layers, S],
  //   sizes by layer, forced [M] bool -> the residual stream behind the last layer [R, W]
  m.def(
      "select_layers_(Tensor h, Tensor[] weights, Tensor[] biases, Tensor cos_sin, Tensor row_index, Tensor cu_rows, "
      "Tensor kv_lens, int num_heads, float eps, Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor(c!) delta, "
      "Tensor(d!) reference, Tensor numbers, int[] sizes, Tensor? forced, int proxy_rank, int signal, int kv_rows, "
      "bool update_all, bool reuse_output) -> Tensor");

  // head: hidden [R, W], weight [V, W] -> token [R] int64, log_confidence [R] fp32,
  //   second_token [R] int64, second_log_confidence [R] fp32, entropy [R] fp32 (the last three [0] unless extras)
  m.def(
      "head_reduce(Tensor hidden, Tensor weight, Tensor? suppress_ids=None, Tensor? confidence_suppress_ids=None, "
      "float temperature=0.0, Tensor? row_index=None, int capacity=1, Tensor? seeds=None, Tensor? steps=None, "
      "bool extras=False) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");

  // the same of logits [R, V] that are there
  m.def(
      "logits_reduce(Tensor logits, Tensor? suppress_ids=None, Tensor? confidence_suppress_ids=None, "
      "float temperature=0.0, Tensor? row_index=None, int capacity=1, Tensor? seeds=None, Tensor? steps=None, "
      "bool extras=False) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");

  // sample: logits [R, V] -> token [R] int64, log_confidence [R] fp32, score [R] fp32
  m.def(
      "sample_rows(Tensor logits, float temperature=0.0, float top_p=1.0, int top_k=0, int score=0, "
      "Tensor? row_index=None, int capacity=1, Tensor? seeds=None, Tensor? steps=None) -> (Tensor, Tensor, Tensor)");

  // random: row_index [R], seeds [S], ticks [S] -> [R] fp32 in (0, 1)
  m.def("uniform_rows(Tensor row_index, int capacity, Tensor seeds, Tensor ticks, int stream) -> Tensor");

  // row_list: begin, end, limit [S], flags [M] bool -> row_index [max_rows], cu_rows [S + 1]
  m.def(
      "build_rows(Tensor begin, Tensor end, int capacity, int max_rows, Tensor? flags=None, Tensor? limit=None) "
      "-> (Tensor, Tensor)");
  // row_index [R], cu_rows [S + 1], query [Q] -> place of each query row in the list [Q], -1 where it is not
  m.def("find_rows(Tensor row_index, Tensor cu_rows, Tensor query, int capacity) -> Tensor");

  // commit: canvas buffers tokens, commit_step [M] int64 and commit_log_confidence [M] fp32; candidates row_index [R],
  //   cu_rows [S + 1], token [R], log_confidence [R], score [R]; per slot num_commit, steps [S], spans [S, 4]
  //   -> committed [R] bool, status [S, 5] int64
  m.def(
      "commit_(Tensor(a!) tokens, Tensor(b!) commit_step, Tensor(c!) commit_log_confidence, Tensor row_index, "
      "Tensor cu_rows, Tensor token, Tensor log_confidence, Tensor? score, Tensor num_commit, Tensor steps, "
      "Tensor spans, Tensor end_ids, int mask_id, int capacity, int rule, float rule_value) -> (Tensor, Tensor)");

  // drift: signal [R, r], reference [M, r], row_index [R] -> 1 - cosine of each row [R] fp32
  m.def("cosine_drift_(Tensor signal, Tensor(a!) reference, Tensor row_index, bool update=True) -> Tensor");

  // select: score [R] fp32, row_index [R], cu_rows [S + 1], k [S] -> row_index and places [max_rows], cu_rows [S + 1]
  m.def(
      "select_rows(Tensor score, Tensor row_index, Tensor cu_rows, Tensor k, int max_rows, bool largest=True) "
      "-> (Tensor, Tensor, Tensor)");

  // delta: delta [M, W]; carried rows h [R, W] at row_index [R]; computed rows attn_out, ff_out [K, W] at places [K] of
  //   the carried list; norm_weight [W] -> h [R, W] behind the layer and its RMSNorm [R, W] ([0] without norm_weight)
  m.def(
      "delta_update_(Tensor(a!) delta, Tensor h, Tensor row_index, Tensor attn_out, Tensor ff_out, Tensor places, "
      "Tensor? norm_weight=None, float eps=1e-5, bool absolute=False) -> (Tensor, Tensor)");
  // attention_mass: q [R, H, D], k_cache [M, Hkv, D], cu_rows [S + 1], kv_lens [S], lse [R, H], row_weight [R]
  //   -> mass of every cached key [M] fp32
  m.def(
      "attention_mass(Tensor q, Tensor k_cache, Tensor cu_rows, Tensor kv_lens, int capacity, float scale, "
      "Tensor? lse=None, Tensor? row_weight=None) -> Tensor");
  // z [M] fp32, row_index [R] -> z after one more layer [M] fp32
  m.def(
      "rollout_step(Tensor z, Tensor q, Tensor k_cache, Tensor row_index, Tensor cu_rows, Tensor kv_lens, "
      "int capacity, float scale, Tensor? lse=None) -> Tensor");

  // tracked_drift: q_old and q_new [T, H, D], k_cache [M, Hkv, D], k_old [R, Hkv, D], row_index [R],
  //   cu_rows and cu_tracked [S + 1], kv_lens [S] -> [S] fp32
  m.def(
      "tracked_similarity(Tensor q_old, Tensor q_new, Tensor k_cache, Tensor k_old, Tensor row_index, "
      "Tensor cu_rows, Tensor cu_tracked, Tensor kv_lens, int capacity, float scale, int similarity) -> Tensor");

  // density: known [M] bool, begin and end [S] -> [M] fp32
  m.def("density(Tensor known, Tensor begin, Tensor end, int capacity, float sigma) -> Tensor");
}
