#ifndef SPHERICAL_ENGINE_STEP_CUDA_LOGITS_H_
#define SPHERICAL_ENGINE_STEP_CUDA_LOGITS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/batch/step_plan.h"
#include "engine/model/sampler.h"
#include "engine/step/cuda_pass.h"
#include "engine/step/logit_rows.h"
#include "engine/step/thread_pool.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/token_draw.h"
#include "kernels/dense/logit_edit.h"

namespace spherical::engine {

// Draws tokens and scores prompts where the logits are, on the device. Rows whose front is too large for that (token_draw.h), or whose
// penalties are about more tokens than there is room for, come to the host, where ReadLogitRow does the same.
// Thread: one caller, as CudaPass.
class CudaLogits {
 public:
  // edits_max: tokens that biases and penalties of kLogitsRowsMax rows are about, those of a row counted for it
  CudaLogits(int32_t vocabulary, int32_t edits_max, ThreadPool& pool, kernels::cuda::Stream stream);

  // Takes all memory. ResourceExhausted, with the numbers, if it cannot be had. Once, before the pool of pages is taken.
  absl::Status Create();

  // What is wanted of rows of the plan that `pass` ran last, kLogitsRowsMax at most; waits for the device. An item with a row that is not
  // finite is told to be so.
  absl::Status Read(const StepPlan& plan, std::span<const LogitRow> wanted, CudaPass& pass, StepOutput& output);

 private:
  static constexpr int32_t kHostRowsMax = 16;  // that come to the host at a time

  // Fills in draws_ and their edits; rows whose edits find no room go to host_rows_.
  void Ask(const StepPlan& plan, std::span<const LogitRow> wanted);
  void FindAllEdits(const StepPlan& plan, std::span<const LogitRow> wanted);
  absl::Status ReadOnHost(const StepPlan& plan, std::span<const LogitRow> wanted, CudaPass& pass, StepOutput& output);

  const int32_t vocabulary_, edits_max_;
  ThreadPool& pool_;
  const kernels::cuda::Stream stream_;
  kernels::cuda::DeviceMemory edits_, raw_;                         // [edits_max_]
  kernels::cuda::PinnedMemory host_edits_, draws_, drawn_, logits_;  // the last [kHostRowsMax, vocabulary]
  std::vector<SamplerScratch> scratch_;                             // [threads]
  std::vector<std::vector<kernels::LogitEdit>> edits_of_row_;       // [kLogitsRowsMax]
  std::vector<int32_t> draw_rows_, host_rows_;                      // of `wanted`
  int32_t edit_count_ = 0;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_CUDA_LOGITS_H_
