#ifndef SPHERICAL_ENGINE_STEP_CUDA_GEOMETRY_H_
#define SPHERICAL_ENGINE_STEP_CUDA_GEOMETRY_H_

#include <cstdint>
#include <vector>

#include "engine/model/model_geometry.h"
#include "engine/model/transformer_spec.h"
#include "kernels/cuda/ada_decode.h"
#include "kernels/cuda/codec.h"
#include "kernels/cuda/dense_rows.h"
#include "kernels/cuda/device_runtime.h"

namespace spherical::engine {

// A model's geometry on a CUDA device, as its kernels want it. Pointers are to device memory, which is this object's.
class CudaGeometry {
 public:
  // Once; waits until all is there.
  kernels::cuda::CudaStatus Create(kernels::cuda::Stream stream, const TransformerSpec& spec, const ModelGeometry& geometry);

  const kernels::cuda::DeviceGeometry* keys() const { return keys_; }   // [layers * kv_heads]
  const kernels::CodedLosses* losses() const { return losses_; }        // [layers * kv_heads]
  const kernels::cuda::AdaHeads& heads(int32_t layer) const { return heads_[static_cast<size_t>(layer)]; }
  // A layer's maps of keys and of queries: what coding and attending read first.
  kernels::cuda::NeededNext maps(int32_t layer) const { return maps_[static_cast<size_t>(layer)]; }

 private:
  kernels::cuda::DeviceMemory memory_;
  const kernels::cuda::DeviceGeometry* keys_ = nullptr;
  const kernels::CodedLosses* losses_ = nullptr;
  std::vector<kernels::cuda::AdaHeads> heads_;   // [layers]
  std::vector<kernels::cuda::NeededNext> maps_;  // [layers]
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_CUDA_GEOMETRY_H_
