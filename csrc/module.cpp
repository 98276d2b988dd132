// The Python module dlmcache_cuda._C: importing it registers the operators (csrc/ops) and tells what was built.

#include <pybind11/pybind11.h>

#include "dlmcache/cpu_info.h"
#include "dlmcache_build_info.h"  // written by setup.py

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled operators of dlmcache_cuda; importing it registers torch.ops.dlmcache.*";
  m.def(
      "build_info", [] { return DLMCACHE_BUILD_INFO; },
      "JSON text: what this binary was built from and for (torch, compiler, CUDA toolkit, architectures, reason).");
  m.def(
      "cpu_arch", [] { return dlmcache::cpu::active_arch(); },
      "Instruction set of the CPU loops in use: 'avx2' or 'baseline'.");
}
