#include "engine/step/cuda_stepper.h"

namespace spherical::engine {

absl::StatusOr<std::unique_ptr<Stepper>> MakeCudaStepper(TransformerSpec, const Weights&, ThreadPool&, CudaStepperOptions) {
  return absl::UnimplementedError("built without CUDA; build with --config=cuda");
}

}  // namespace spherical::engine
