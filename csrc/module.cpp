// The Python module dlmcache_cuda._C: importing it registers the operators (csrc/ops) and tells what was built.

#include <pybind11/pybind11.h>

#include "dlmcache/cpu_info.h"
#include "dlmcache_build_info.h"  // written by setup.py
#include "ops/nvtx.h"

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled operators of dlmcache_cuda; importing it registers torch.ops.dlmcache.*";
  m.def(
      "build_info", [] { return DLMCACHE_BUILD_INFO; },
      "JSON text: what this binary was built from and for (torch, compiler, CUDA toolkit, architectures, reason).");
  m.def(
      "cpu_arch", [] { return dlmcache::cpu::active_arch(); },
      "Instruction set of the CPU loops in use: 'avx512_bf16', 'avx2' or 'baseline'.");
  m.def(
      "nvtx_enabled", [] { return dlmcache::ops::nvtx_enabled; },
      "Whether NVTX ranges are emitted: built with nvtx3, and DLMCACHE_NVTX=1 when this module was loaded.");
  m.def("nvtx_push", &dlmcache::ops::nvtx_push, "Opens an NVTX range on this thread.");
  m.def("nvtx_pop", &dlmcache::ops::nvtx_pop, "Closes the NVTX range that this thread opened last.");
}
