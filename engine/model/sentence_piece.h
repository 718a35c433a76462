#ifndef SPHERICAL_ENGINE_MODEL_SENTENCE_PIECE_H_
#define SPHERICAL_ENGINE_MODEL_SENTENCE_PIECE_H_

#include <array>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/intake/submission.h"
#include "engine/model/byte_pairs.h"
#include "engine/model/tokenizer_parts.h"
#include "engine/model/vocabulary.h"

namespace spherical::engine {

// Vocabularies whose pieces are text (SentencePiece's BPE): a word starts as its characters; those without a piece become their bytes.

// The byte that a piece "<0x41>" is named after; nullopt: it is named otherwise.
std::optional<char> ByteNamed(std::string_view piece);

// The token of each byte by kinds; all -1 where the vocabulary has none. InvalidArgument: some but not all, or a wrong name.
absl::StatusOr<std::array<TokenId, 256>> FindBytePieces(const StringTable& pieces, std::span<const PieceKind> kinds);

// Adds every way in which two pieces join to a third, the highest score first; equal scores have equal rank. `index` holds the pieces that
// may join and be joined. InvalidArgument: a score is not a number.
absl::Status AddScoredPairs(const StringTable& pieces, std::span<const float> scores, const TokenIndex& index, BytePairs& pairs);

// What a word starts as.
class CharacterSymbols {
 public:
  // `index` holds the pieces that characters may be; `unknown` -1: a character with neither a piece nor bytes is left out.
  CharacterSymbols(const TokenIndex& index, const std::array<TokenId, 256>& byte_tokens, TokenId unknown, bool fuse_unknown)
      : index_(index), byte_tokens_(byte_tokens), unknown_(unknown), fuse_unknown_(fuse_unknown) {}
  void Append(std::string_view word, std::vector<TokenId>& symbols) const;

 private:
  const TokenIndex& index_;
  const std::array<TokenId, 256>& byte_tokens_;
  TokenId unknown_;
  bool fuse_unknown_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_SENTENCE_PIECE_H_
