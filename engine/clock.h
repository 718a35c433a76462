#ifndef SPHERICAL_ENGINE_CLOCK_H_
#define SPHERICAL_ENGINE_CLOCK_H_

#include "absl/time/time.h"

namespace spherical::engine {

// The seam for time. Nothing else in the engine asks what time it is, so that a simulation can answer.
// Now() never goes backwards. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
};

// The wall clock as it was when the process started, advanced by the machine's steady clock: setting the wall clock moves no deadline.
// Whoever hands the engine a time (arrival, deadline) takes it from here.
Clock& SystemClock();

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_CLOCK_H_
