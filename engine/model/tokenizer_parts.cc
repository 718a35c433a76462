#include "engine/model/tokenizer_parts.h"

#include "absl/strings/str_cat.h"

namespace spherical::engine {

absl::Status FitVocabulary(int64_t rows, TokenizerParts& parts) {
  for (size_t i = static_cast<size_t>(rows); i < parts.pieces.size(); ++i) {
    if (parts.pieces[i].empty() || parts.kinds[i] == PieceKind::kControl || parts.kinds[i] == PieceKind::kUnused) continue;
    return absl::InvalidArgumentError(absl::StrCat(parts.file, ": there are ", parts.pieces.size(), " tokens, but the model has ", rows,
                                                   " rows of embeddings, and token ", i, " is text"));
  }
  parts.pieces.resize(static_cast<size_t>(rows));
  parts.kinds.resize(static_cast<size_t>(rows), PieceKind::kUnused);
  if (!parts.scores.empty()) parts.scores.resize(static_cast<size_t>(rows));
  return absl::OkStatus();
}

}  // namespace spherical::engine
