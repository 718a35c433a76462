#ifndef SPHERICAL_TESTS_FAKES_BYTE_TOKENIZER_H_
#define SPHERICAL_TESTS_FAKES_BYTE_TOKENIZER_H_

#include <string>
#include <string_view>
#include <vector>

#include "engine/model/tokenizer.h"

namespace spherical::engine {

// Token i is byte i; 256 ends a sequence. Like real vocabularies, this one lacks a control
// character and leaves it out of what it encodes. Tests see through it.
class ByteTokenizer : public Tokenizer {
 public:
  static constexpr TokenId kEnd = 256;
  static constexpr char kMissing = '\x04';

  ByteTokenizer() {
    for (int i = 0; i < 256; ++i) bytes_ += static_cast<char>(i);
  }

  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text, EncodeOptions) const override {
    std::vector<TokenId> ids;
    for (const char c : text) {
      if (c != kMissing) ids.push_back(static_cast<unsigned char>(c));
    }
    return ids;
  }
  std::string_view Bytes(TokenId id) const override {
    return id == kEnd ? std::string_view() : std::string_view(bytes_).substr(id, 1);
  }
  bool IsSpecial(TokenId id) const override { return id == kEnd; }
  std::string_view Piece(TokenId id) const override { return id == kEnd ? "<end>" : Bytes(id); }
  int32_t vocabulary() const override { return 257; }
  bool IsEndOfGeneration(TokenId id) const override { return id == kEnd; }
  TokenId bos() const override { return -1; }

 private:
  std::string bytes_;  // all 256, in order
};

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_FAKES_BYTE_TOKENIZER_H_
