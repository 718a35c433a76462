#ifndef SPHERICAL_ENGINE_MODEL_VOCABULARY_H_
#define SPHERICAL_ENGINE_MODEL_VOCABULARY_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/hash/hash.h"
#include "absl/strings/string_view.h"
#include "engine/intake/submission.h"

namespace spherical::engine {

// Many strings in one allocation.
class StringTable {
 public:
  void Add(std::string_view text) {
    bytes_ += text;
    ends_.push_back(bytes_.size());
  }
  std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(bytes_).substr(begin, ends_[i] - begin);
  }
  size_t size() const { return ends_.size(); }

 private:
  std::string bytes_;
  std::vector<size_t> ends_;
};

// Ids by their strings in a table. Five bytes a slot: the strings stay where they are.
class TokenIndex {
 public:
  static constexpr TokenId kNoToken = -1;

  explicit TokenIndex(const StringTable& table) : ids_(0, Hash{&table}, Equal{&table}) {}
  void Reserve(size_t count) { ids_.reserve(count); }

  // The id that has this one's string from now on: this one, or the one that had it before.
  TokenId Add(TokenId id) { return *ids_.insert(id).first; }

  TokenId Find(std::string_view text) const {
    const auto found = ids_.find(absl::string_view(text.data(), text.size()));
    return found == ids_.end() ? kNoToken : *found;
  }
  bool empty() const { return ids_.empty(); }

 private:
  static absl::string_view At(const StringTable& table, TokenId id) {
    const std::string_view text = table[static_cast<size_t>(id)];
    return {text.data(), text.size()};
  }
  struct Hash {
    using is_transparent = void;
    const StringTable* table;
    size_t operator()(absl::string_view text) const { return absl::Hash<absl::string_view>()(text); }
    size_t operator()(TokenId id) const { return (*this)(At(*table, id)); }
  };
  struct Equal {
    using is_transparent = void;
    const StringTable* table;
    bool operator()(TokenId a, absl::string_view b) const { return At(*table, a) == b; }
    bool operator()(absl::string_view a, TokenId b) const { return (*this)(b, a); }
    bool operator()(TokenId a, TokenId b) const { return a == b || At(*table, a) == At(*table, b); }
  };

  absl::flat_hash_set<TokenId, Hash, Equal> ids_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_VOCABULARY_H_
