#pragma once

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// What a fake needs of the machine and what a test must not get wrong itself (memfd, mmap, pipe): not the matter under
// test, so there is nothing to handle. Says what and errno, and ends the test program.
#define FAKES_REQUIRE(condition)                                                                     \
  do {                                                                                               \
    if (!(condition)) {                                                                              \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, std::strerror(errno)); \
      std::abort();                                                                                  \
    }                                                                                                \
  } while (false)
