#ifndef SPHERICAL_ENGINE_STEP_CPU_STEPPER_H_
#define SPHERICAL_ENGINE_STEP_CPU_STEPPER_H_

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "engine/clock.h"
#include "engine/model/model_geometry.h"
#include "engine/model/transformer_spec.h"
#include "engine/model/weights.h"
#include "engine/step/stepper.h"
#include "engine/step/thread_pool.h"
#include "kernels/base/units.h"
#include "kernels/dense/matmul.h"

namespace spherical::engine {

struct CpuStepperOptions {
  kernels::ActivationType activations = kernels::ActivationType::kInt8;
  PageCount pages;  // of the KV pool: its memory is allocated and touched here, once
  // Coded modes: how keys are coded, and f16 pages for prompts. Without a geometry the pool's pages are f16 themselves.
  std::optional<ModelGeometry> geometry = {};
  PageCount workspace_pages = {};
  const Clock* clock = &SystemClock();
};

// Runs plans on the CPU. Owns the weights, the KV arenas and all scratch; takes threads from `pool`, which outlives it.
// ResourceExhausted when an arena cannot be had, with both numbers.
absl::StatusOr<std::unique_ptr<Stepper>> MakeCpuStepper(TransformerSpec spec, Weights weights, ThreadPool& pool, CpuStepperOptions options);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_CPU_STEPPER_H_
