// Models of random weights on a CUDA device, and a pass over them as a stepper, for benchmarks. What fails on the device ends the process,
// with a message.
#ifndef SPHERICAL_TESTS_BENCH_GPU_RANDOM_MODEL_H_
#define SPHERICAL_TESTS_BENCH_GPU_RANDOM_MODEL_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "engine/model/transformer_spec.h"
#include "engine/step/cuda_pass.h"
#include "engine/step/cuda_weights.h"
#include "engine/step/stepper.h"
#include "kernels/cuda/device_runtime.h"

namespace spherical::engine {

// The shapes of well-known models.
TransformerSpec Llama8B(int32_t layers = 32);
TransformerSpec SmolLM2();
TransformerSpec Gemma3();

void Require(kernels::cuda::CudaStatus status);
void Require(const absl::Status& status, const char* what);

// Numbers of deviation 0.02 everywhere, of matrices the same 64 MiB again and again.
CudaWeights RandomWeights(const TransformerSpec& spec, kernels::cuda::Stream stream);

// The pass as a stepper whose greedy tokens are fetched for the last row of each item. It says what the last call of each kind took.
class PassStepper final : public Stepper {
 public:
  explicit PassStepper(CudaPass& pass) : pass_(pass) {}

  absl::StatusOr<StepOutput> Run(const StepPlan& plan) override;
  absl::StatusOr<MeasureOutput> Measure(std::span<const MeasureItem> items) override;
  absl::StatusOr<absl::Duration> Retier(std::span<const RetierItem> items) override;

  double host_ms = 0, step_ms = 0;  // of a step: what the host did before it waited, and all
  double measure_ms = 0, retier_ms = 0;

 private:
  CudaPass& pass_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_BENCH_GPU_RANDOM_MODEL_H_
