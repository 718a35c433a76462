#ifndef SPHERICAL_ENGINE_STEP_CUDA_WEIGHTS_H_
#define SPHERICAL_ENGINE_STEP_CUDA_WEIGHTS_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/transformer_spec.h"
#include "engine/model/weights.h"
#include "engine/step/thread_pool.h"
#include "kernels/cuda/device_runtime.h"

namespace spherical::engine {

// A layer's weights on a device: f16 matrices as the file has them, row after row, and f32 vectors. Matrices that take the same rows are
// one. Null: the family has none.
struct CudaLayerWeights {
  uint16_t* joined = nullptr;       // [(heads + 2 kv_heads) * head_dim, width]  queries, keys, values
  uint16_t* output = nullptr;       // [width, heads * head_dim]
  uint16_t* gate_up = nullptr;      // [2 ffn_width, width]
  uint16_t* down = nullptr;         // [width, ffn_width]
  float* attention_norm = nullptr;  // [width]
  float* joined_bias = nullptr;     // [(heads + 2 kv_heads) * head_dim]
  float* query_norm = nullptr;      // [head_dim]
  float* key_norm = nullptr;        // [head_dim]
  float* attention_post_norm = nullptr;  // [width]
  float* ffn_norm = nullptr;        // [width]
  float* ffn_post_norm = nullptr;   // [width]
};

struct CudaWeights {
  kernels::cuda::DeviceMemory memory;
  uint16_t* embedding = nullptr;    // [vocabulary, width]
  uint16_t* output = nullptr;       // [vocabulary, width]; the embedding, where they are tied
  float* final_norm = nullptr;      // [width]
  std::vector<CudaLayerWeights> layers;
};

// Bytes of device memory that a model's weights take.
int64_t CudaWeightBytes(const TransformerSpec& spec);
// Points the weights into `base` [CudaWeightBytes]; nothing is written. For benchmarks that bring weights of their own.
void PlaceWeights(const TransformerSpec& spec, uint8_t* base, CudaWeights& weights);

// Decodes every weight, rounds matrices to f16 and copies them to the calling thread's device. `progress` is told bytes on the device, of
// all. ResourceExhausted with both numbers when the device has no room, Internal when a copy fails, FailedPrecondition with the value where
// a weight is too large for f16.
absl::StatusOr<CudaWeights> UploadWeights(const TransformerSpec& spec, const Weights& weights, ThreadPool& pool,
                                          kernels::cuda::Stream stream, const LoadProgress& progress);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_CUDA_WEIGHTS_H_
