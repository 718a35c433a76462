#ifndef SPHERICAL_ENGINE_MODEL_PRE_TOKENIZER_H_
#define SPHERICAL_ENGINE_MODEL_PRE_TOKENIZER_H_

#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace spherical::engine {

// Cuts text into the words that byte pairs are merged in, as the vocabulary's training did. A pre-tokenizer is a list of regular
// expressions: each cuts every piece left by the one before into its matches and what is between them. Nothing is lost.
//
// Thread: const after Make; Split may run on many threads at once.
class PreTokenizer {
 public:
  // `name` is tokenizer.ggml.pre of a file. Unimplemented names those there are.
  static absl::StatusOr<PreTokenizer> Make(std::string_view name);

  // Replaces `words` by the words of `text` (valid UTF-8), in order; together they are the text. InvalidArgument: the text
  // needs more matching work than PCRE2's limits allow.
  absl::Status Split(std::string_view text, std::vector<std::string_view>& words) const;

  // What a vocabulary of this name implies unless its file says otherwise.
  bool add_bos() const { return add_bos_; }
  bool whole_words_first() const { return whole_words_first_; }  // a word that is a token is not taken apart ("ignore_merges")

  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

 private:
  struct Pattern;
  PreTokenizer();

  std::vector<Pattern> patterns_;
  bool add_bos_ = false;
  bool whole_words_first_ = false;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_PRE_TOKENIZER_H_
