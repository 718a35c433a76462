#ifndef SPHERICAL_ENGINE_MODEL_WEIGHTS_H_
#define SPHERICAL_ENGINE_MODEL_WEIGHTS_H_

#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/gguf.h"
#include "engine/model/transformer_spec.h"
#include "kernels/dense/matmul.h"

namespace spherical::engine {

// A layer's weights, packed for the CPU. Vectors are f32; an empty one means that the architecture has none.
struct LayerWeights {
  std::vector<float> attention_norm;   // [width]
  kernels::PackedMatrix query;         // [heads * head_dim, width]
  kernels::PackedMatrix key;           // [kv_heads * head_dim, width]
  kernels::PackedMatrix value;         // [kv_heads * head_dim, width]
  kernels::PackedMatrix output;        // [width, heads * head_dim]
  std::vector<float> ffn_norm;         // [width]
  kernels::PackedMatrix gate;          // [ffn_width, width]
  kernels::PackedMatrix up;            // [ffn_width, width]
  kernels::PackedMatrix down;          // [width, ffn_width]
};

// All weights of a model. Read-only after loading.
struct Weights {
  kernels::PackedMatrix embedding;     // [vocabulary, width]
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;       // [width]
  kernels::PackedMatrix output;        // [vocabulary, width]; empty when tied to the embedding
  const kernels::PackedMatrix& output_matrix() const { return output.outputs() > 0 ? output : embedding; }
  int64_t bytes() const;
};

// Packs every tensor of the file, checking names and shapes against the spec: a missing tensor, one of the wrong shape or a norm that is not
// finite ends in InvalidArgument naming it. `parallel(n, work)` calls work(i) for all i < n, on as many threads as the caller likes;
// `progress(done, total)` is called with bytes, from those threads.
absl::StatusOr<Weights> LoadWeights(const GgufFile& file, const TransformerSpec& spec,
                                    const std::function<void(int64_t n, const std::function<void(int64_t)>& work)>& parallel,
                                    const std::function<void(int64_t done, int64_t total)>& progress);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_WEIGHTS_H_
