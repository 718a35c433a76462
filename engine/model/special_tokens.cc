#include "engine/model/special_tokens.h"

#include <algorithm>
#include <functional>

namespace spherical::engine {

void SpecialTokens::Add(std::string_view text, TokenId id) {
  ids_.emplace(absl::string_view(text.data(), text.size()), id);
  std::vector<size_t>& lengths = lengths_[static_cast<uint8_t>(text[0])];
  const auto at = std::lower_bound(lengths.begin(), lengths.end(), text.size(), std::greater<>());
  if (at == lengths.end() || *at != text.size()) lengths.insert(at, text.size());
}

SpecialTokens::Match SpecialTokens::FindFrom(std::string_view text, size_t from) const {
  if (ids_.empty()) return {text.size(), 0, -1};
  for (size_t at = from; at < text.size(); ++at) {
    for (const size_t length : lengths_[static_cast<uint8_t>(text[at])]) {
      if (length > text.size() - at) continue;
      const auto found = ids_.find(absl::string_view(text.data() + at, length));
      if (found != ids_.end()) return {at, length, found->second};
    }
  }
  return {text.size(), 0, -1};
}

}  // namespace spherical::engine
