// tokenizer.json and tokenizer_config.json of a Hugging Face model folder, as the engine's neutral TokenizerParts. Read: byte-level BPE
// (Llama 3, Qwen 2 to 3, SmolLM, Mistral Nemo) and SentencePiece's BPE (Llama 2, Mistral, Gemma). A component, an option or a regular
// expression that would change tokens and is not known is Unimplemented: the message has its JSON pointer and what is supported.
//
//   auto parts = ReadTokenizerJson(text, path);
//   auto config = ReadTokenizerConfig(config_text, config_path);      // where the folder has one
//   if (auto status = ApplyTokenizerConfig(*config, *parts); ...      // bos, eos
//   if (auto status = engine::FitVocabulary(spec.vocabulary, *parts); ...
//   auto tokenizer = engine::MakeTokenizer(*std::move(parts));
#ifndef SPHERICAL_SERVER_HUGGING_FACE_TOKENIZER_JSON_H_
#define SPHERICAL_SERVER_HUGGING_FACE_TOKENIZER_JSON_H_

#include <cstddef>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/model/tokenizer_parts.h"

namespace spherical::server {

// Gemma's file, the largest, has 33 MB.
inline constexpr size_t kTokenizerJsonBytesMax = size_t{64} << 20;

// InvalidArgument: not JSON, nested too deep, a key given twice, or a vocabulary whose ids are not 0 to n-1, each once.
absl::StatusOr<engine::TokenizerParts> ReadTokenizerJson(absl::string_view text, const std::string& file);

struct TokenizerConfig {
  std::string file;
  std::optional<std::string> bos_token, eos_token;  // their pieces
  std::optional<bool> add_bos_token;                // left out: as tokenizer.json's post-processor has it
  std::optional<std::string> chat_template;         // its source: for engine::ChatTemplate
};
absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(absl::string_view text, const std::string& file);

// InvalidArgument: a token that it names is not in the vocabulary.
absl::Status ApplyTokenizerConfig(const TokenizerConfig& config, engine::TokenizerParts& parts);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_HUGGING_FACE_TOKENIZER_JSON_H_
