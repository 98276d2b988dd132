// A test program in one header, without dependencies.
//
//   #include "tests/test_main.h"
//
//   TEST(sum_of_nothing_is_zero) {
//     CHECK_EQ(sum({}), 0);
//     CHECK_NEAR(mean({1, 2}), 1.5, 1e-12);
//   }
//
// `main` is included. A failed check prints its line and values and the test goes on, so that one run shows all that
// is wrong; what a later line cannot do without is asked for with REQUIRE, which ends the test. Arguments choose the
// tests whose name contains any of them: `./test_sum nothing`. The exit status is 0 when everything passed.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace dlmcache::testing {

struct Test {
  const char* name;
  void (*body)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> registered;
  return registered;
}

inline bool register_test(const char* name, void (*body)()) {
  tests().push_back({name, body});
  return true;
}

// Failed checks of the running test. Only the first few are printed: a wrong kernel fails at every element.
inline int& num_failures() {
  static int count = 0;
  return count;
}
inline constexpr int kMaxPrinted = 10;

struct EndOfTest {};

inline void report(const char* file, int line, const std::string& message) {
  const int count = ++num_failures();
  if (count <= kMaxPrinted) std::printf("%s:%d: %s\n", file, line, message.c_str());
  if (count == kMaxPrinted + 1) std::printf("  further failures of this test are not printed\n");
}

template <typename T>
std::string to_text(const T& value) {
  std::ostringstream out;
  out.precision(9);
  if constexpr (std::is_same_v<T, bool>) {
    out << (value ? "true" : "false");
  } else if constexpr (std::is_enum_v<T>) {
    out << static_cast<long long>(value);
  } else if constexpr (std::is_arithmetic_v<T> && sizeof(T) == 1) {
    out << static_cast<int>(value);
  } else if constexpr (requires { out << value; }) {
    out << value;
  } else {
    out << "(" << sizeof(T) << " bytes)";
  }
  return out.str();
}

// Not inlined into the dozens of checks of a test, which would only cost compile time.
[[gnu::noinline]] inline bool check(bool holds, const char* expression, const char* file, int line) {
  if (!holds) report(file, line, std::string("CHECK(") + expression + ") does not hold");
  return holds;
}

template <typename A, typename B>
bool values_equal(const A& a, const B& b) {
  // -1 == 4294967295u is true in C++ and hardly ever what a test means.
  if constexpr (std::is_integral_v<A> && std::is_integral_v<B> && !std::is_same_v<A, bool> &&
                !std::is_same_v<B, bool>) {
    if constexpr (std::is_signed_v<A> != std::is_signed_v<B>) {
      if constexpr (std::is_signed_v<A>) {
        if (a < 0) return false;
      } else {
        if (b < 0) return false;
      }
    }
    return static_cast<std::common_type_t<A, B>>(a) == static_cast<std::common_type_t<A, B>>(b);
  } else {
    return a == b;
  }
}

template <typename A, typename B>
bool check_eq(const A& a, const B& b, const char* a_text, const char* b_text, const char* file, int line) {
  const bool holds = values_equal(a, b);
  if (!holds) {
    report(file, line, std::string("CHECK_EQ(") + a_text + ", " + b_text + "): " + to_text(a) + " != " + to_text(b));
  }
  return holds;
}

// Equal infinities and two NaNs are near each other, as comparing a kernel with its reference wants it.
inline bool check_near(double a, double b, double tolerance, const char* a_text, const char* b_text, const char* file,
                       int line) {
  const bool holds = a == b || (std::isnan(a) && std::isnan(b)) || std::fabs(a - b) <= tolerance;
  if (!holds) {
    report(file, line,
           std::string("CHECK_NEAR(") + a_text + ", " + b_text + "): " + to_text(a) + " and " + to_text(b) +
               " differ by " + to_text(std::fabs(a - b)) + ", more than " + to_text(tolerance));
  }
  return holds;
}

inline int run_tests(int argc, char** argv) {
  int num_passed = 0, num_failed = 0;
  for (const Test& test : tests()) {
    bool is_chosen = argc < 2;
    for (int i = 1; i < argc; ++i) is_chosen |= std::strstr(test.name, argv[i]) != nullptr;
    if (!is_chosen) continue;
    num_failures() = 0;
    try {
      test.body();
    } catch (const EndOfTest&) {
    } catch (const std::exception& error) {
      report(test.name, 0, std::string("uncaught exception: ") + error.what());
    }
    if (num_failures() > 0) {
      std::printf("FAILED %s: %d failed checks\n", test.name, num_failures());
      ++num_failed;
    } else {
      ++num_passed;
    }
  }
  std::printf("%d passed, %d failed\n", num_passed, num_failed);
  if (num_passed + num_failed == 0) std::printf("no test has such a name\n");
  return num_failed > 0 || num_passed == 0 ? 1 : 0;
}

}  // namespace dlmcache::testing

#define TEST(name)                                                                                                  \
  static void test_##name();                                                                                        \
  [[maybe_unused]] static const bool is_registered_##name = ::dlmcache::testing::register_test(#name, test_##name); \
  static void test_##name()

#define CHECK(...) ::dlmcache::testing::check(static_cast<bool>(__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)
#define CHECK_EQ(a, b) ::dlmcache::testing::check_eq((a), (b), #a, #b, __FILE__, __LINE__)
#define CHECK_NEAR(a, b, tolerance)                                                                                   \
  ::dlmcache::testing::check_near(static_cast<double>(a), static_cast<double>(b), static_cast<double>(tolerance), #a, \
                                  #b, __FILE__, __LINE__)
#define REQUIRE(...)                                                 \
  do {                                                               \
    if (!CHECK(__VA_ARGS__)) throw ::dlmcache::testing::EndOfTest{}; \
  } while (false)

int main(int argc, char** argv) { return dlmcache::testing::run_tests(argc, argv); }
