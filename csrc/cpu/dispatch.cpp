#include "cpu/dispatch.h"

#include <cstdlib>
#include <cstring>

#include "dlmcache/attention.h"
#include "dlmcache/attention_mass.h"
#include "dlmcache/commit.h"
#include "dlmcache/cpu_info.h"
#include "dlmcache/delta.h"
#include "dlmcache/density.h"
#include "dlmcache/drift.h"
#include "dlmcache/head.h"
#include "dlmcache/norm.h"
#include "dlmcache/random.h"
#include "dlmcache/rope_cache.h"
#include "dlmcache/row_list.h"
#include "dlmcache/rows.h"
#include "dlmcache/sample.h"
#include "dlmcache/select.h"
#include "dlmcache/swiglu.h"
#include "dlmcache/tracked_drift.h"

namespace dlmcache::cpu {

#if defined(__x86_64__) && !defined(DLMCACHE_CPU_BASELINE_ONLY)
namespace {

bool requested(const char* arch) {
  const char* name = std::getenv("DLMCACHE_CPU_ARCH");
  return name && std::strcmp(name, arch) == 0;
}

}  // namespace

bool has_avx2() {
  static const bool available = !requested("baseline") && __builtin_cpu_supports("avx2") &&
                                __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return available;
}

bool has_avx512_bf16() {
  static const bool available = has_avx2() && !requested("avx2") && __builtin_cpu_supports("avx512f") &&
                                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
                                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16");
  return available;
}
#else
bool has_avx2() { return false; }
bool has_avx512_bf16() { return false; }
#endif

const char* active_arch() { return has_avx512_bf16() ? "avx512_bf16" : has_avx2() ? "avx2" : "baseline"; }

}  // namespace dlmcache::cpu

// What writes as much as it computes: conversion to bfloat16 is a good part of these.
DLMCACHE_DISPATCH_CPU_BF16(rms_norm_rows, dlmcache::RmsNormParams)
DLMCACHE_DISPATCH_CPU_BF16(add_rms_norm_rows, dlmcache::AddRmsNormParams)
DLMCACHE_DISPATCH_CPU_BF16(rope_scatter_kv_rows, dlmcache::RopeScatterKvParams)
DLMCACHE_DISPATCH_CPU_BF16(swiglu_rows, dlmcache::SwigluParams)
DLMCACHE_DISPATCH_CPU_BF16(delta_update_rows, dlmcache::DeltaUpdateParams)

DLMCACHE_DISPATCH_CPU(gather_rows, dlmcache::RowsParams)
DLMCACHE_DISPATCH_CPU(scatter_rows, dlmcache::RowsParams)
DLMCACHE_DISPATCH_CPU(count_rows, dlmcache::BuildRowsParams)
DLMCACHE_DISPATCH_CPU(build_rows, dlmcache::BuildRowsParams)
DLMCACHE_DISPATCH_CPU(find_rows, dlmcache::FindRowsParams)
DLMCACHE_DISPATCH_CPU(commit_slots, dlmcache::CommitParams)
DLMCACHE_DISPATCH_CPU(attention_rows, dlmcache::AttentionParams)
DLMCACHE_DISPATCH_CPU(attention_merge_rows, dlmcache::AttentionParams)
DLMCACHE_DISPATCH_CPU(uniform_rows, dlmcache::UniformRowsParams)
DLMCACHE_DISPATCH_CPU(vocab_reduce_rows, dlmcache::VocabReduceParams)
DLMCACHE_DISPATCH_CPU(vocab_finish_rows, dlmcache::VocabReduceParams)
DLMCACHE_DISPATCH_CPU(filter_logits_rows, dlmcache::FilterParams)
DLMCACHE_DISPATCH_CPU(sample_finish_rows, dlmcache::SampleFinishParams)
DLMCACHE_DISPATCH_CPU(cosine_drift_rows, dlmcache::CosineDriftParams)
DLMCACHE_DISPATCH_CPU(select_rows, dlmcache::SelectRowsParams)
DLMCACHE_DISPATCH_CPU(attention_mass_stats, dlmcache::AttentionMassParams)
DLMCACHE_DISPATCH_CPU(attention_mass_merge_rows, dlmcache::AttentionMassParams)
DLMCACHE_DISPATCH_CPU(attention_mass_blocks, dlmcache::AttentionMassParams)
DLMCACHE_DISPATCH_CPU(tracked_stats, dlmcache::TrackedParams)
DLMCACHE_DISPATCH_CPU(tracked_merge_rows, dlmcache::TrackedParams)
DLMCACHE_DISPATCH_CPU(tracked_products, dlmcache::TrackedParams)
DLMCACHE_DISPATCH_CPU(tracked_finish, dlmcache::TrackedParams)
DLMCACHE_DISPATCH_CPU(density_rows, dlmcache::DensityParams)
