#ifndef SPHERICAL_SERVER_MODEL_FILES_H_
#define SPHERICAL_SERVER_MODEL_FILES_H_

#include <atomic>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/chat_template.h"
#include "engine/model/geometry_file.h"
#include "engine/model/tensor_source.h"
#include "engine/model/tokenizer_parts.h"
#include "engine/model/transformer_spec.h"

namespace spherical::server {

// A model as it lies on disk, opened: a GGUF file, or a folder as Hugging Face's transformers saves it (config.json, safetensors,
// tokenizer.json and perhaps generation_config.json, tokenizer_config.json). Nothing behind this knows which it was.
struct ModelFiles {
  engine::TransformerSpec spec;
  std::unique_ptr<const engine::TensorSource> tensors;  // for engine::LoadWeights; weights are not read yet
  engine::TokenizerParts tokenizer;                     // for engine::MakeTokenizer
  absl::StatusOr<engine::ChatTemplate> chat;            // NotFound: there is none; Unimplemented: none that we know
};

// Errors name the file and the place in it.
absl::StatusOr<ModelFiles> OpenModel(const std::string& path);

// "SmolLM2-135M-Instruct.Q4_1" for "/models/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2" for "/models/SmolLM2/": what operators call it, and
// clients see.
std::string ModelName(const std::string& path);

// Of the bytes that the model's numbers depend on: the file; of a folder, config.json and the weights in order of their names. Cancelled
// soon after `stop` is set.
absl::StatusOr<engine::Sha256> HashModel(const std::string& path, const std::atomic<bool>& stop);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_MODEL_FILES_H_
