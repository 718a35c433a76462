#ifndef SPHERICAL_ENGINE_MODEL_WEIGHTS_H_
#define SPHERICAL_ENGINE_MODEL_WEIGHTS_H_

#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/host_memory.h"
#include "engine/model/tensor_source.h"
#include "engine/model/transformer_spec.h"
#include "kernels/dense/matmul.h"

namespace spherical::engine {

// A layer's weights, packed for the CPU. Vectors are f32; an empty one means that the family has none.
struct LayerWeights {
  std::vector<float> attention_norm;   // [width]
  kernels::PackedMatrix query;         // [heads * head_dim, width]
  kernels::PackedMatrix key;           // [kv_heads * head_dim, width]
  kernels::PackedMatrix value;         // [kv_heads * head_dim, width]
  std::vector<float> query_bias;       // [heads * head_dim]
  std::vector<float> key_bias;         // [kv_heads * head_dim]
  std::vector<float> value_bias;       // [kv_heads * head_dim]
  std::vector<float> query_norm;       // [head_dim]
  std::vector<float> key_norm;         // [head_dim]
  kernels::PackedMatrix output;        // [width, heads * head_dim]
  std::vector<float> attention_post_norm;  // [width]
  std::vector<float> ffn_norm;         // [width]
  kernels::PackedMatrix gate;          // [ffn_width, width]
  kernels::PackedMatrix up;            // [ffn_width, width]
  kernels::PackedMatrix down;          // [width, ffn_width]
  std::vector<float> ffn_post_norm;    // [width]
};

// All weights of a model. Read-only after loading. Move only; the matrices are views of `memory`, which moves with them.
struct Weights {
  HostMemory memory;
  kernels::PackedMatrix embedding;     // [vocabulary, width]
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;       // [width]
  kernels::PackedMatrix output;        // [vocabulary, width]; empty when tied to the embedding
  const kernels::PackedMatrix& output_matrix() const { return output.outputs() > 0 ? output : embedding; }
};

// Calls work(i) for all i < n, on as many threads as it likes.
using ParallelFor = std::function<void(int64_t n, const std::function<void(int64_t)>& work)>;
// Told the bytes of the file that are packed, and of all tensors; from ParallelFor's threads.
using LoadProgress = std::function<void(int64_t done, int64_t total)>;

// Packs every tensor of the source, checking names and shapes against the spec: a missing tensor, one of the wrong shape, one of a layer
// that the spec has no use for, or a norm or bias that is not finite ends in InvalidArgument naming it.
absl::StatusOr<Weights> LoadWeights(const TensorSource& file, const TransformerSpec& spec,
                                    const ParallelFor& parallel, const LoadProgress& progress);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_WEIGHTS_H_
