#ifndef SPHERICAL_SERVER_HUGGING_FACE_MODEL_FOLDER_H_
#define SPHERICAL_SERVER_HUGGING_FACE_MODEL_FOLDER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/intake/submission.h"
#include "engine/model/chat_template.h"
#include "engine/model/tokenizer_parts.h"
#include "engine/model/transformer_spec.h"
#include "server/hugging_face/hugging_face_tensors.h"

namespace spherical::server {

// A folder with config.json and weights as Hugging Face's transformers saves them, opened and checked against each other.
struct ModelFolder {
  engine::TransformerSpec spec;                  // without a name
  std::unique_ptr<HuggingFaceTensors> tensors;
  std::vector<engine::TokenId> ends;             // by config.json and, if it is there, generation_config.json
};

absl::StatusOr<ModelFolder> OpenModelFolder(const std::string& folder);

// Its tokenizer.json and, if it is there, tokenizer_config.json, with the ends and as many tokens as the model has. The chat template is a
// file of its own (chat_template.jinja, which counts more) or a field of that config.
struct FolderTokenizer {
  engine::TokenizerParts parts;
  absl::StatusOr<engine::ChatTemplate> chat;  // NotFound: none; Unimplemented: none that we know
};
absl::StatusOr<FolderTokenizer> ReadFolderTokenizer(const std::string& folder, const ModelFolder& model);

// The paths of config.json and of all weights, in order of their names: what the model's numbers depend on.
absl::StatusOr<std::vector<std::string>> FilesThatCount(const std::string& folder);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_HUGGING_FACE_MODEL_FOLDER_H_
