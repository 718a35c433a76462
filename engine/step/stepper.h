#ifndef SPHERICAL_ENGINE_STEP_STEPPER_H_
#define SPHERICAL_ENGINE_STEP_STEPPER_H_

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/batch/step_plan.h"
#include "engine/budget/reservation_size.h"
#include "engine/kv/measure.h"
#include "engine/kv/rate_curve.h"
#include "engine/kv/retier.h"

namespace spherical::engine {

struct MeasureOutput {
  std::vector<RateCurve> curves;  // one per item, same order
  absl::Duration elapsed;
};

// The seam for the machine: owns weights and the KV arena where they live, runs plans. One implementation per device
// (cpu_stepper.h, cuda_stepper.h); tests bring FakeStepper, NullStepper and HeldStepper (tests/fakes/).
//
// Thread: Run by the engine thread only.
class Stepper {
 public:
  virtual ~Stepper() = default;

  // Runs every item of the plan. An error means that the device is lost: the process ends. What goes wrong with one sequence
  // (NaN in its logits) is in its StepItemOutput.
  virtual absl::StatusOr<StepOutput> Run(const StepPlan& plan) = 0;

  // The items' curves, in mode `rdr`; how long it took. An error as above.
  virtual absl::StatusOr<MeasureOutput> Measure(std::span<const MeasureItem> items) = 0;

  // Changes precision as the items say, in the coded modes; how long it took. An error as above.
  virtual absl::StatusOr<absl::Duration> Retier(std::span<const RetierItem> items) = 0;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_STEPPER_H_
