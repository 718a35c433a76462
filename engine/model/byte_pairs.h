#ifndef SPHERICAL_ENGINE_MODEL_BYTE_PAIRS_H_
#define SPHERICAL_ENGINE_MODEL_BYTE_PAIRS_H_

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/intake/submission.h"

namespace spherical::engine {

// The merges of a byte-pair vocabulary, over token ids. A word starts as the tokens of its bytes, or of its characters; the adjacent pair
// of lowest rank (leftmost first) becomes one token, until no pair has a rank.
//
// Thread: const after the last Add; Encode may run on many threads, each with its own Scratch.
class BytePairs {
 public:
  // The token of each byte; kNoToken where the vocabulary has none. Such a byte says nothing to the model: Encode leaves it out.
  static constexpr TokenId kNoToken = -1;
  explicit BytePairs(const std::array<TokenId, 256>& byte_tokens) : byte_tokens_(byte_tokens) {}
  const std::array<TokenId, 256>& byte_tokens() const { return byte_tokens_; }

  // `left` followed by `right` becomes `merged`. Of two rules for a pair the first holds.
  void Add(TokenId left, TokenId right, TokenId merged, int32_t rank);
  void Reserve(size_t merges) { merges_.reserve(merges); }

  // Working memory of Encode: reused from word to word.
  struct Scratch {
    struct Part {
      TokenId id;  // kNoToken: merged into the part before it
      int32_t previous, next;
    };
    struct Candidate {
      int32_t rank;
      int32_t at;            // index of the left part
      TokenId left, right;   // as they were when the pair was seen: out of date if either changed
    };
    std::vector<TokenId> symbols;
    std::vector<Part> parts;
    std::vector<Candidate> heap;
  };

  // Appends the tokens of one word that starts as its bytes. O(n log n) in them.
  void Encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& tokens) const;
  // The same for a word that starts as scratch.symbols.
  void Join(Scratch& scratch, std::vector<TokenId>& tokens) const;

 private:
  struct Merge {
    int32_t rank;
    TokenId merged;
  };
  const Merge* Find(TokenId left, TokenId right) const;
  void Consider(int32_t at, Scratch& scratch) const;

  std::array<TokenId, 256> byte_tokens_;
  absl::flat_hash_map<uint64_t, Merge> merges_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_BYTE_PAIRS_H_
