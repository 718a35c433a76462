#ifndef SPHERICAL_ENGINE_MODEL_TRANSFORMER_SPEC_H_
#define SPHERICAL_ENGINE_MODEL_TRANSFORMER_SPEC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/gguf.h"
#include "kernels/dense/rows.h"

namespace spherical::engine {

// A transformer as data: what the one forward pass (engine/step/forward.h) needs to know. An architecture is a function from a file's
// metadata to this struct plus a table of tensor names; adding one adds no second forward pass.
struct TransformerSpec {
  std::string architecture;  // "llama"
  std::string name;          // as the file calls the model
  int32_t layers = 0;
  int32_t width = 0;         // of the residual stream
  int32_t heads = 0;         // query heads
  int32_t kv_heads = 0;      // heads % kv_heads == 0
  int32_t head_dim = 0;
  int32_t ffn_width = 0;
  int32_t vocabulary = 0;
  int32_t context_max = 0;   // positions the model was trained for
  float norm_epsilon = 0;
  float attention_scale = 0; // logits = scale * q.k

  // Sliding windows: how many of the newest positions a query of a layer sees, itself included; 0: all. Layers with a window are local.
  std::vector<int32_t> windows;  // [layers]; empty: no layer has one
  int32_t window(int32_t layer) const { return windows.empty() ? 0 : windows[static_cast<size_t>(layer)]; }

  // Rotary position encoding.
  int32_t rotary_dim = 0;
  kernels::RotaryPairing rotary_pairing = kernels::RotaryPairing::kAdjacent;
  std::vector<double> rotary_frequency;        // [rotary_dim / 2] radians per position
  std::vector<double> local_rotary_frequency;  // the same for local layers; empty: as the others

  bool tied_output = false;  // the embedding is the output matrix: kept once
};

// Reads the architecture named by the file. Unimplemented names an architecture we do not have and lists those we have;
// InvalidArgument names the key that is missing or out of range.
absl::StatusOr<TransformerSpec> ReadTransformerSpec(const GgufFile& file);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_TRANSFORMER_SPEC_H_
