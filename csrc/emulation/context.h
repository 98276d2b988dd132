// Stacks, and jumping from one to another: what makes a fiber.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "emulation/config.h"
#include "emulation/sanitizers.h"

#if defined(DLMCACHE_EMULATION_UCONTEXT)
#include <ucontext.h>
#endif

namespace dlmcache::emulation {

// Memory for one stack, with an inaccessible page below it so that an overflow faults where it happens.
class Stack {
 public:
  Stack() {
    const size_t guard = guard_bytes();
    void* mapping = mmap(nullptr, guard + kStackBytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (mapping == MAP_FAILED) {
      std::perror("dlmcache emulation: mmap of a thread's stack");
      std::abort();
    }
    // The kernel limits the number of mappings; past it stacks go without a guard, which costs only diagnostics.
    (void)mprotect(mapping, guard, PROT_NONE);
    mapping_ = static_cast<unsigned char*>(mapping);
  }
  ~Stack() {
    if (mapping_) munmap(mapping_, guard_bytes() + kStackBytes);
  }
  Stack(Stack&& other) noexcept : mapping_(other.mapping_) { other.mapping_ = nullptr; }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  unsigned char* bottom() const { return mapping_ + guard_bytes(); }

 private:
  static size_t guard_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

  unsigned char* mapping_;
};

// A suspended computation, or the running one while it is current.
struct Context {
#if defined(DLMCACHE_EMULATION_UCONTEXT)
  ucontext_t registers;
#else
  void* stack_pointer = nullptr;
#endif
  const void* stack_bottom = nullptr;  // for AddressSanitizer; the host thread's is learned at the first switch
  size_t stack_bytes = 0;
  void* tsan_fiber = nullptr;
};

#if !defined(DLMCACHE_EMULATION_UCONTEXT)
// Saves what the System V ABI asks a callee to preserve, exchanges the stack pointer, restores. Floating-point
// control words are not touched: kernels do not change rounding modes. swapcontext does the same ten times slower,
// because it also saves the signal mask, by a system call.
__attribute__((naked, noinline)) inline void swap_stacks(void** /*save*/, void* /*load*/) {
  asm volatile(
      "pushq %rbp\n\t"
      "pushq %rbx\n\t"
      "pushq %r12\n\t"
      "pushq %r13\n\t"
      "pushq %r14\n\t"
      "pushq %r15\n\t"
      "movq %rsp, (%rdi)\n\t"
      "movq %rsi, %rsp\n\t"
      "popq %r15\n\t"
      "popq %r14\n\t"
      "popq %r13\n\t"
      "popq %r12\n\t"
      "popq %rbx\n\t"
      "popq %rbp\n\t"
      "ret");
}
#endif

// Makes `context` start `entry`, which must never return, on `stack` at the next switch to it.
DLMCACHE_EMULATION_INTERNAL inline void prepare_context(Context& context, Stack& stack, void (*entry)()) {
  // Whoever used this stack before left by switching away, without unwinding its last frames.
  asan::unpoison(stack.bottom(), kStackBytes);
  context.stack_bottom = stack.bottom();
  context.stack_bytes = kStackBytes;
#if defined(DLMCACHE_EMULATION_UCONTEXT)
  getcontext(&context.registers);
  context.registers.uc_stack.ss_sp = stack.bottom();
  context.registers.uc_stack.ss_size = kStackBytes;
  context.registers.uc_link = nullptr;
  makecontext(&context.registers, entry, 0);
#else
  // The frame that swap_stacks pops: six registers and the address to "return" to. Above it a null return address
  // ends backtraces and leaves the stack pointer 8 past a multiple of 16, as after any call.
  void** top = reinterpret_cast<void**>(stack.bottom() + kStackBytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context.stack_pointer = top;
#endif
}

// Continues `to`; returns when something switches back to `from`. A finished context never resumes.
DLMCACHE_EMULATION_INTERNAL inline void switch_context(Context& from, Context& to, bool from_is_finished) {
  void* fake_stack = nullptr;
  asan::start_switch(from_is_finished ? nullptr : &fake_stack, to.stack_bottom, to.stack_bytes);
  tsan::switch_to_fiber(to.tsan_fiber);
#if defined(DLMCACHE_EMULATION_UCONTEXT)
  swapcontext(&from.registers, &to.registers);
#else
  swap_stacks(&from.stack_pointer, to.stack_pointer);
#endif
  asan::finish_switch(fake_stack, nullptr, nullptr);
}

}  // namespace dlmcache::emulation
