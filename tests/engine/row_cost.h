#ifndef SPHERICAL_TESTS_ENGINE_ROW_COST_H_
#define SPHERICAL_TESTS_ENGINE_ROW_COST_H_

#include "engine/batch/step_cost.h"

namespace spherical::engine {

// A step costs 1 ms a row, the rest next to nothing.
inline StepCost RowsOnly() {
  StepCost cost;
  for (int32_t i = 0; i < 4000; ++i) {
    const int32_t rows = 1 + i % 300;
    cost.Observe(WorkOf(i % 7 * 500, rows), absl::Milliseconds(rows));
  }
  return cost;
}

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_ENGINE_ROW_COST_H_
