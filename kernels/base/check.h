#ifndef SPHERICAL_KERNELS_BASE_CHECK_H_
#define SPHERICAL_KERNELS_BASE_CHECK_H_

#include <cstdio>
#include <cstdlib>

// SPH_CHECK(condition): our own invariant. When it does not hold the process says where and stops, in every build:
// serving from a corrupted pool is worse than not serving. Never used for what a caller, a file or the network can cause.
//
// SPH_DCHECK(condition): the same, but only where NDEBUG is not defined: for checks inside loops over elements.
#define SPH_CHECK(condition)                                                                        \
  do {                                                                                              \
    if (!(condition)) [[unlikely]] {                                                                \
      std::fprintf(stderr, "%s:%d: broken invariant: %s\n", __FILE__, __LINE__, #condition);        \
      std::abort();                                                                                 \
    }                                                                                               \
  } while (false)

#ifdef NDEBUG
#define SPH_DCHECK(condition) static_cast<void>(sizeof(!(condition)))
#else
#define SPH_DCHECK(condition) SPH_CHECK(condition)
#endif

#endif  // SPHERICAL_KERNELS_BASE_CHECK_H_
