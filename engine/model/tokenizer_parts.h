// What a tokenizer is made of, whatever file it was read from: plain data, checked by nobody yet. MakeTokenizer (tokenizer.h) checks it.
// Readers: LoadTokenizer (GGUF), server/hugging_face/tokenizer_json.h.
#ifndef SPHERICAL_ENGINE_MODEL_TOKENIZER_PARTS_H_
#define SPHERICAL_ENGINE_MODEL_TOKENIZER_PARTS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/intake/submission.h"
#include "engine/model/pre_tokenizer.h"
#include "engine/model/text_steps.h"

namespace spherical::engine {

inline constexpr size_t kVocabularyMax = 1 << 20;  // tokens; the largest today has a quarter of it

enum class TokenizerKind : uint8_t {
  kByteLevel,      // a piece spells bytes with 256 printable letters; words start as their bytes (GPT-2, Llama 3, Qwen)
  kSentencePiece,  // a piece is text, U+2581 for a space; words start as their characters (Llama 2, Mistral, Gemma)
};

enum class PieceKind : uint8_t {
  kNormal,
  kUnknown,      // stands for what has no piece; otherwise like kControl
  kControl,      // never shown as text; recognised in text only when asked for (parse_special)
  kUserDefined,  // text, always recognised as a whole
  kUnused,       // nothing encodes to it
  kByte,         // "<0x41>": a byte of a character that has no piece (kSentencePiece)
};

struct PieceMerge {
  std::string left, right;
};

struct TokenizerParts {
  std::string file;  // named in errors
  TokenizerKind kind = TokenizerKind::kByteLevel;

  std::vector<std::string> pieces;  // [vocabulary]; an empty one is a hole
  std::vector<PieceKind> kinds;     // [vocabulary]

  // What joins first: the pair of the earliest merge, or, where there are scores (kSentencePiece only), the pair whose joined piece has
  // the highest. The leftmost of equals.
  std::vector<PieceMerge> merges;
  std::vector<float> scores;  // [vocabulary], or empty

  std::vector<TextStep> normalizer;   // in order, on each stretch of text between recognised tokens
  std::vector<WordPattern> words;     // in order, on the result; none: a stretch is one word
  bool whole_words_first = false;     // a word that is a piece is not taken apart ("ignore_merges")
  bool fuse_unknown = false;          // neighbours that are unknown become one token

  TokenId unknown = -1;               // -1: what has no piece and no bytes is left out
  TokenId bos = -1;                   // -1: none
  bool add_bos = false;
  std::vector<TokenId> ends;          // end of generation, besides the pieces known by name
};

// Makes the vocabulary as long as the model's table of embeddings: holes at the end, or without last pieces that the model has no row
// for. InvalidArgument: one of those is text.
absl::Status FitVocabulary(int64_t rows, TokenizerParts& parts);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_TOKENIZER_PARTS_H_
