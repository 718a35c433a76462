#ifndef SPHERICAL_TESTS_FAKES_CLOCK_H_
#define SPHERICAL_TESTS_FAKES_CLOCK_H_

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "engine/clock.h"

namespace spherical::engine {

// Time that passes when the test says so. Thread-safe. For every engine test that ticks by hand.
class FakeClock : public Clock {
 public:
  absl::Time Now() const override { return absl::FromUnixNanos(now_ns_.load()); }
  void Advance(absl::Duration by) { now_ns_ += absl::ToInt64Nanoseconds(by); }

 private:
  std::atomic<int64_t> now_ns_{1'700'000'000'000'000'000};
};

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_FAKES_CLOCK_H_
