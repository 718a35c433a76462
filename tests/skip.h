#ifndef SPHERICAL_TESTS_SKIP_H_
#define SPHERICAL_TESTS_SKIP_H_

// Catch2 v2 cannot skip. A test case that cannot run on this machine says why and returns; it is counted as skipped,
// unless something in it failed before.
//
//   TEST_CASE("The device adds") {
//     if (DeviceCount() == 0) SPH_SKIP("no CUDA device");
//
// Skipping is for what the machine lacks by nature. A file that tests/run.sh fetches is not that: without it, fail.
#define SPH_SKIP(reason)            \
  do {                              \
    ::spherical::tests::Skip(reason); \
    return;                         \
  } while (false)

namespace spherical::tests {

// Prints "SKIP: reason" and marks the running test case. Defined in catch_main.cc.
void Skip(const char* reason);

}  // namespace spherical::tests

#endif  // SPHERICAL_TESTS_SKIP_H_
