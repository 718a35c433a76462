// What a scoring model needs of a CUDA device: the forward pass over pages that KvStore numbers, and what is done to those pages. The same
// header in a build without CUDA, which says so.
#ifndef SPHERICAL_TESTS_QUALITY_DEVICE_FORWARD_H_
#define SPHERICAL_TESTS_QUALITY_DEVICE_FORWARD_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/batch/step_plan.h"
#include "engine/kv/measure.h"
#include "engine/kv/rate_curve.h"
#include "engine/kv/retier.h"
#include "engine/model/model_geometry.h"
#include "engine/model/transformer_spec.h"
#include "engine/model/weights.h"
#include "engine/step/thread_pool.h"
#include "kernels/base/units.h"

namespace spherical::quality {

// A measurement with a failed part is none: what fails on the device ends the process, with a message.
// Thread: one caller.
class DeviceForward {
 public:
  static constexpr int32_t kLogitsRowsMax = 128;

  DeviceForward() = default;
  DeviceForward(const DeviceForward&) = delete;
  DeviceForward& operator=(const DeviceForward&) = delete;
  virtual ~DeviceForward() = default;

  // Rows of sequences that hold codes are one an item. Energies are told; tokens are not sampled.
  virtual engine::StepOutput Run(const engine::StepPlan& plan) = 0;
  // Of rows of the plan just run, at most kLogitsRowsMax.   logits [rows, vocabulary]
  virtual void Logits(std::span<const int32_t> rows, float* logits) = 0;
  virtual void Retier(std::span<const engine::RetierItem> items) = 0;
  virtual std::vector<engine::RateCurve> Measure(std::span<const engine::MeasureItem> items) = 0;
  virtual void CopyExactPage(PageId from, PageId to) = 0;
};

struct DevicePool {
  PageCount exact, coded;
  int32_t tokens_max = 0;  // of a sequence
};

// `device`: "cuda:N". Spec, geometry, value weights (engine::ValueWeights) and threads outlive it. FailedPrecondition where there is no
// such device, Unimplemented in a build without CUDA.
absl::StatusOr<std::unique_ptr<DeviceForward>> MakeDeviceForward(const std::string& device, const engine::TransformerSpec& spec,
                                                                 const engine::Weights& weights, const engine::ModelGeometry& geometry,
                                                                 const DevicePool& pool, std::span<const float> value_weights,
                                                                 engine::ThreadPool& threads);

}  // namespace spherical::quality

#endif  // SPHERICAL_TESTS_QUALITY_DEVICE_FORWARD_H_
