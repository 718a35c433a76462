#ifndef SPHERICAL_ENGINE_STEP_CUDA_STEPPER_H_
#define SPHERICAL_ENGINE_STEP_CUDA_STEPPER_H_

#include <cstdint>
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

namespace spherical::engine {

struct CudaStepperOptions {
  int32_t device = 0;          // CUDA's index
  PageCount pages;             // of the KV pool: its memory is taken here, once. 0: all that is free in the end, but for some headroom
  PageCount least_pages = {};  // fewer are an error
  PageCount* pool_taken = nullptr;  // if given: told how many there are
  // Coded modes: how keys are coded, and f16 pages for prompts, enough that none is sealed early. Without a geometry: mode `exact`.
  std::optional<ModelGeometry> geometry = {};
  PageCount workspace_pages = {};
  bool priced = false;         // mode `rdr`: queries are kept, heads measured, utilities refreshed
  int32_t sequences = 0;       // in one step, at most
  int32_t context_max = 0;     // positions of a sequence, at most
  LoadProgress progress = [](int64_t, int64_t) {};  // of the copy to the device
  bool recorded = true;        // as in CudaPassOptions
  // Tokens that biases and penalties of 128 rows may be about; rows beyond that are drawn on the host.
  int32_t edits_max = 262'144;
  // For tests: at this step (0: the first) a kernel breaks the device, as a fault of ours or of the hardware would.
  int64_t break_at_step = -1;
  const Clock* clock = &SystemClock();
};

// Runs plans on a CUDA device, in all modes. The weights are copied there as f16 and not needed afterwards. Takes threads from `pool`,
// which outlives it, to decode weights and to draw what the device cannot. Belongs to that device; another may run on another one.
// ResourceExhausted when weights, steps or pool do not fit, with the numbers; Unimplemented in a build without CUDA.
absl::StatusOr<std::unique_ptr<Stepper>> MakeCudaStepper(TransformerSpec spec, const Weights& weights, ThreadPool& pool,
                                                         CudaStepperOptions options);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_CUDA_STEPPER_H_
