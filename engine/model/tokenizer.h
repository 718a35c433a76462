// Text <-> tokens. A Tokenizer is const after loading: gRPC threads encode at once without locks.
#ifndef SPHERICAL_ENGINE_MODEL_TOKENIZER_H_
#define SPHERICAL_ENGINE_MODEL_TOKENIZER_H_

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/intake/submission.h"
#include "engine/model/gguf.h"
#include "engine/model/tokenizer_parts.h"

namespace spherical::engine {

class Tokenizer {
 public:
  struct EncodeOptions {
    bool parse_special = false;  // "<|im_start|>" in the text becomes that token; otherwise it is plain text
    bool add_bos = true;         // prepend begin-of-sequence if the model's file says so
  };

  virtual ~Tokenizer() = default;

  // InvalidArgument when the text is not valid UTF-8, naming the byte offset. A byte that the vocabulary has no token for is left out,
  // as it was in the model's training (SmolLM2: six control characters and unassigned planes), or becomes the unknown token, if there is
  // one (SentencePiece). Some families normalise (Qwen: form C). So not every text comes back from its tokens, and a text that is not empty
  // may have none.
  virtual absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text, EncodeOptions options) const = 0;

  // The bytes a token stands for; not necessarily whole characters. Control tokens stand for nothing, and so do ids outside the
  // vocabulary.
  virtual std::string_view Bytes(TokenId id) const = 0;
  virtual bool IsSpecial(TokenId id) const = 0;          // control token: never shown as text
  virtual std::string_view Piece(TokenId id) const = 0;  // as the file names it: for logprobs and people
  virtual int32_t vocabulary() const = 0;
  virtual bool IsEndOfGeneration(TokenId id) const = 0;  // eos, eot, and what the file marks as such
  virtual TokenId bos() const = 0;                       // -1: none
  virtual bool spaced() const { return false; }          // Encode writes a space before a text, as Llama 2 wants it
};

// InvalidArgument names what in the parts does not hold together.
absl::StatusOr<std::unique_ptr<const Tokenizer>> MakeTokenizer(TokenizerParts parts);

// The parts in GGUF metadata: byte-level BPE ("tokenizer.ggml.model" == "gpt2"; pre-tokenizers smollm, llama-bpe, qwen2, gpt-2, tekken) or
// SentencePiece's ("llama"). Unimplemented names the model or pre-tokenizer that is not supported.
absl::StatusOr<TokenizerParts> ReadTokenizerParts(const GgufFile& file);
absl::StatusOr<std::unique_ptr<const Tokenizer>> LoadTokenizer(const GgufFile& file);  // both

// Tokens back to text as they come. Holds back the bytes of an unfinished UTF-8 character; what can never become valid is replaced by
// U+FFFD, so that every string that leaves is valid UTF-8.
class Detokenizer {
 public:
  // The tokens continue a text (an answer its prompt), or are a whole one: then the space that Encode wrote before it is left out.
  enum class From : uint8_t { kMiddle, kBeginning };
  explicit Detokenizer(const Tokenizer& tokenizer, From from = From::kMiddle)
      : tokenizer_(tokenizer), drop_space_(from == From::kBeginning && tokenizer.spaced()) {}
  std::string Push(TokenId id);  // text that became complete, perhaps empty
  std::string Finish();          // what is left, with replacements

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;  // at most 3 bytes: a prefix of one character
  bool drop_space_;      // if the next byte is one
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_TOKENIZER_H_
