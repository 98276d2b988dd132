// A program with planted bugs: `./program <fault>` runs one of them, `./program <fault> fixed` the same code without
// the bug. That the second says nothing shows that what the first says is about the bug.
#pragma once

#include <cstdio>
#include <cstring>

#include "cuda/portable.cuh"

struct Fault {
  const char* name;
  void (*with_bug)();
  void (*fixed)();
};

template <int kCount>
int run_fault(int argc, char** argv, const Fault (&faults)[kCount]) {
  for (const Fault& fault : faults) {
    if (argc < 2 || std::strcmp(argv[1], fault.name) != 0) continue;
    const bool is_fixed = argc > 2 && std::strcmp(argv[2], "fixed") == 0;
    (is_fixed ? fault.fixed : fault.with_bug)();
    std::printf("ran to the end\n");
    return 0;
  }
  std::fprintf(stderr, "usage: %s <fault> [fixed], faults:\n", argv[0]);
  for (const Fault& fault : faults) std::fprintf(stderr, "  %s\n", fault.name);
  return 2;
}
