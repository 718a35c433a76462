// config.json and generation_config.json of a Hugging Face folder: what sizes and traits a model has, and what ends its answers.
#ifndef SPHERICAL_SERVER_HUGGING_FACE_CONFIG_JSON_H_
#define SPHERICAL_SERVER_HUGGING_FACE_CONFIG_JSON_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/intake/submission.h"
#include "engine/model/transformer_spec.h"

namespace spherical::server {

struct ModelConfig {
  const engine::Family* family = nullptr;
  engine::TransformerSpec spec;       // complete but for its name
  std::vector<engine::TokenId> ends;  // eos_token_id: one, some or none
};

// The object in a config.json; `file` is for messages. What is left out is what transformers' class of the family has for it, as far as
// checkpoints leave it out. InvalidArgument says file, JSON pointer, value and bounds. Unimplemented names what we do not have: the model
// type, an activation, quantised weights, biases that the family has not, a kind of layer or of rope scaling.
absl::StatusOr<ModelConfig> ReadConfig(const nlohmann::json& root, const std::string& file);

// eos_token_id of the object in a config.json or generation_config.json.
absl::StatusOr<std::vector<engine::TokenId>> ReadEnds(const nlohmann::json& root, const std::string& file, int32_t vocabulary);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_HUGGING_FACE_CONFIG_JSON_H_
