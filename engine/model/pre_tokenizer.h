#ifndef SPHERICAL_ENGINE_MODEL_PRE_TOKENIZER_H_
#define SPHERICAL_ENGINE_MODEL_PRE_TOKENIZER_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace spherical::engine {

// The regular expressions that vocabularies were trained with.
enum class WordPattern : uint8_t {
  kDigit,   // every digit alone
  kGpt2,    // runs of letters, of digits, of neither, each with one space before it; contractions
  kLlama3,  // letters with any one character before them, up to three digits, newlines with the punctuation before them
  kQwen2,   // the same with every digit alone
  kTekken,  // Mistral Nemo: words end where capitals begin; no contractions
};

// Cuts text into the words that byte pairs are merged in, as the vocabulary's training did: each pattern cuts every piece left by the one
// before into its matches and what is between them. Nothing is lost.
//
// Thread: const after construction; Split may run on many threads at once.
class PreTokenizer {
 public:
  explicit PreTokenizer(std::span<const WordPattern> patterns);

  // Replaces `words` by the words of `text` (valid UTF-8), in order; together they are the text. InvalidArgument: the text
  // needs more matching work than PCRE2's limits allow.
  absl::Status Split(std::string_view text, std::vector<std::string_view>& words) const;

  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

 private:
  struct Pattern;

  std::vector<Pattern> patterns_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_PRE_TOKENIZER_H_
