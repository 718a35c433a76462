#ifndef SPHERICAL_ENGINE_MODEL_SPECIAL_TOKENS_H_
#define SPHERICAL_ENGINE_MODEL_SPECIAL_TOKENS_H_

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/intake/submission.h"

namespace spherical::engine {

// Tokens that are recognised in text by their name, before words are cut: leftmost first, the longest of those that begin there.
// Thread: const after the last Add.
class SpecialTokens {
 public:
  // `text` is not empty and outlives this.
  void Add(std::string_view text, TokenId id);

  struct Match {
    size_t begin;  // the end of the text when there is none
    size_t bytes;
    TokenId id;    // -1: none
  };
  Match FindFrom(std::string_view text, size_t from) const;

 private:
  absl::flat_hash_map<absl::string_view, TokenId> ids_;
  std::array<std::vector<size_t>, 256> lengths_;  // [first byte]: lengths there are, longest first
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_SPECIAL_TOKENS_H_
