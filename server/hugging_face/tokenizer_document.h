#ifndef SPHERICAL_SERVER_HUGGING_FACE_TOKENIZER_DOCUMENT_H_
#define SPHERICAL_SERVER_HUGGING_FACE_TOKENIZER_DOCUMENT_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/model/tokenizer_parts.h"

namespace spherical::server {

// A tokenizer.json, parsed. What is long in it goes straight into plain arrays: a tree of JSON values would take ten times the file.
struct TokenizerDocument {
  nlohmann::json root;                                      // without the vocabulary and the merges
  std::vector<std::pair<std::string, int64_t>> vocabulary;  // /model/vocab
  std::vector<engine::PieceMerge> merges;                   // /model/merges, of either form: "a b" or ["a", "b"]
};

// InvalidArgument: not JSON, not an object, too long, nested too deep, a key given twice (of the vocabulary: its reader sees that), a
// vocabulary or merges that are something else.
absl::StatusOr<TokenizerDocument> ParseTokenizerDocument(absl::string_view text, const std::string& file);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_HUGGING_FACE_TOKENIZER_DOCUMENT_H_
