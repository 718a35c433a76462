#ifndef SPHERICAL_ENGINE_MODEL_TRANSFORMER_SPEC_H_
#define SPHERICAL_ENGINE_MODEL_TRANSFORMER_SPEC_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/gguf.h"
#include "engine/model/rotary_frequencies.h"
#include "kernels/dense/rows.h"

namespace spherical::engine {

// The most that a file may say.
struct SpecLimits {
  static constexpr int64_t kLayers = 1024;
  static constexpr int64_t kWidth = 1 << 17;
  static constexpr int64_t kHeads = 1024;
  static constexpr int64_t kContext = int64_t{1} << 24;
  static constexpr int64_t kVocabulary = 1 << 22;
};

enum class GateActivation : uint8_t { kSilu, kGeluTanh };

// A transformer as data: what the one forward pass (engine/step/forward.h) needs to know. A family of architectures is a row of a table
// (Family) and what a file says of sizes; adding one adds no second forward pass.
struct TransformerSpec {
  std::string architecture;  // the family's name: "llama"
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
  float attention_scale = 0; // logits = scale * q.k; a rotary magnitude's square is in it
  float attention_softcap = 0;  // > 0: attention logits become cap * tanh(logit / cap)
  float logit_softcap = 0;      // > 0: the same for the output's

  // What layers have beyond llama's.
  bool qkv_bias = false;        // added to queries, keys and values
  bool query_key_norm = false;  // every query head and every key head is normed before it turns
  bool post_norms = false;      // what attention and the feed-forward add to the residual stream is normed first
  GateActivation gate = GateActivation::kSilu;
  float embedding_scale = 1;    // of a token's row as it enters the residual stream

  // Sliding windows: how many of the newest positions a query of a layer sees, itself included; 0: all. Layers with a window are local.
  std::vector<int32_t> windows;  // [layers]; empty: no layer has one
  int32_t window(int32_t layer) const { return windows.empty() ? 0 : windows[static_cast<size_t>(layer)]; }

  // Rotary position encoding.
  int32_t rotary_dim = 0;
  kernels::RotaryPairing rotary_pairing = kernels::RotaryPairing::kAdjacent;
  std::vector<double> rotary_frequency;        // [rotary_dim / 2] radians per position
  std::vector<double> local_rotary_frequency;  // the same for local layers; empty: as the others
  const std::vector<double>& frequency(int32_t layer) const {
    return window(layer) > 0 && !local_rotary_frequency.empty() ? local_rotary_frequency : rotary_frequency;
  }

  bool tied_output = false;  // the embedding is the output matrix: kept once
};

// What all models of a family have in common, and how the two kinds of files name it.
struct Family {
  std::string_view name;          // "qwen2"
  std::string_view gguf;          // general.architecture; empty: GGUF has no name of its own for it
  std::string_view hugging_face;  // config.json's model_type
  std::string_view covers;        // models, for people
  kernels::RotaryPairing gguf_pairing = kernels::RotaryPairing::kHalves;  // how GGUF orders q and k; Hugging Face: always kHalves
  bool qkv_bias = false;
  bool query_key_norm = false;
  bool post_norms = false;
  GateActivation gate = GateActivation::kSilu;
  bool scaled_embedding = false;  // by the square root of the width
  bool norm_offset = false;       // Hugging Face stores norms' weights less 1; GGUF stores them whole
  double rotary_base = 10'000;    // where the file says none
  double local_rotary_base = 0;   // of layers with a window, where the file says none; 0: as the others
  int32_t global_every = 0;       // layer i has no window where (i + 1) % global_every == 0; 0: all have the file's window, if any
};
std::span<const Family> SupportedFamilies();
// Null: we have none of that name.
const Family* FamilyOfGguf(std::string_view architecture);
const Family* FamilyOfHuggingFace(std::string_view model_type);
// Unimplemented: names `file`, `name` and the families we have.
absl::Status UnsupportedFamily(std::string_view file, std::string_view name);

// [layers] `window` for all layers but each `global_every`-th. Empty: it is 0, or for all layers and hides nothing.
std::vector<int32_t> WindowsOf(int32_t layers, int32_t window, int32_t global_every, int32_t context);

// What a file says of rotary positions.
struct RotaryOptions {
  double base = 0;
  double local_base = 0;  // 0: local layers turn as the others. Scaling is of the others only.
  RotaryScaling scaling = {};
  std::vector<float> divisors = {};  // [rotary_dim / 2] of frequencies, on top of scaling (GGUF's rope_freqs.weight); empty: none
};

// Completes a spec in which a reader of any format has put sizes, epsilon, context, windows, softcaps, pairing, rotary_dim and what the
// file says of tied output: adds the family's traits, frequencies and scales (attention_scale: where it is 0, 1 / sqrt(head_dim)), and
// checks everything. InvalidArgument names `file`, the field, what was found and its bounds. Sizes that no kernel has are refused here too.
absl::Status FinishSpec(std::string_view file, const Family& family, const RotaryOptions& rotary, TransformerSpec& spec);

// Reads the architecture named by the file. Unimplemented names an architecture we do not have and lists those we have;
// InvalidArgument names the key that is missing or out of range.
absl::StatusOr<TransformerSpec> ReadTransformerSpec(const GgufFile& file);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_TRANSFORMER_SPEC_H_
