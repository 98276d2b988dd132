#include "ops/nvtx.h"

#include <cstdlib>
#include <cstring>

#ifdef DLMCACHE_WITH_NVTX
#include <nvtx3/nvToolsExt.h>
#endif

namespace dlmcache::ops {
namespace {

bool asked_for() {
  const char* value = std::getenv("DLMCACHE_NVTX");
  return value != nullptr && std::strcmp(value, "1") == 0;
}

}  // namespace

const bool nvtx_enabled = nvtx_built() && asked_for();

#ifdef DLMCACHE_WITH_NVTX
bool nvtx_built() { return true; }
void nvtx_push(const char* name) { nvtxRangePushA(name); }
void nvtx_pop() { nvtxRangePop(); }
#else
bool nvtx_built() { return false; }
void nvtx_push(const char*) {}
void nvtx_pop() {}
#endif

}  // namespace dlmcache::ops
