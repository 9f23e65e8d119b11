// The whole test framework: CHECK counts and prints, report() is what main returns.
#pragma once

#include <cstdio>

inline int checks = 0, failures = 0;

// CHECK(condition, "format", values...): the format says which case it was.
#define CHECK(condition, ...)                                     \
  do {                                                            \
    ++checks;                                                     \
    if (!(condition) && ++failures <= 20) {                       \
      std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                   \
      std::printf("\n");                                          \
    }                                                             \
  } while (0)

inline int report() {
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures || !checks;
}
