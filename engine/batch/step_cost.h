#ifndef SPHERICAL_ENGINE_BATCH_STEP_COST_H_
#define SPHERICAL_ENGINE_BATCH_STEP_COST_H_

#include <cstdint>

#include "absl/time/time.h"
#include "engine/batch/step_plan.h"

namespace spherical::engine {

// What a step's time depends on.
struct StepWork {
  int64_t rows = 0;   // tokens that enter the model
  int64_t pairs = 0;  // (row, key) pairs of attention: a row at position p meets p + 1 keys

  StepWork& operator+=(const StepWork& other) {
    rows += other.rows;
    pairs += other.pairs;
    return *this;
  }
};

// `rows` tokens of one sequence, the first at `position`.
StepWork WorkOf(int32_t position, int32_t rows);
StepWork WorkOf(const StepPlan& plan);

// How long a step takes on this machine: fixed + rows * per_row + pairs * per_pair, learned while serving from (work, elapsed).
//
// The first measurement sets the scale. Each later one moves every part by the ratio measured / expected, in proportion to that part's
// share of the expectation, a quarter of the way (in logarithms). So parts stay positive, a part that a step did not use is left alone,
// and a step that the machine interrupted (ratio clipped to [1/2, 2]) moves the expectation by a fifth at most.
class StepCost {
 public:
  absl::Duration Expect(const StepWork& work) const;
  void Observe(const StepWork& work, absl::Duration elapsed);

  // The most rows, at most `rows_max`, that can enter at `position` for at most `time` more. The fixed part is not counted. May be 0.
  int32_t RowsWithin(absl::Duration time, int32_t position, int32_t rows_max) const;

 private:
  bool measured_ = false;
  // Seconds. Before the first measurement only their proportions matter much: those of a small model on two cores.
  double fixed_ = 5e-3;
  double per_row_ = 5e-4;
  double per_pair_ = 1e-6;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BATCH_STEP_COST_H_
