#include "server/hugging_face/tokenizer_document.h"

#include <algorithm>
#include <functional>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/hugging_face/tokenizer_json.h"
#include "server/json_text.h"

namespace spherical::server {
namespace {

using Json = nlohmann::json;

constexpr int32_t kDepthMax = 16;             // real files nest to 7
constexpr int64_t kOtherValuesMax = 1 << 20;  // besides vocabulary and merges: 8 for an added token, of which Gemma has 6,400

// How deep brackets nest; counting stops at `most`. What is not JSON is the parser's to find.
int32_t DepthOf(absl::string_view text, int32_t most) {
  int32_t depth = 0, deepest = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size() && deepest < most; ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return deepest;
}

// What the file says wrong, thrown through the parser.
struct Wrong {
  std::string what;
};

// Told of every value while the text is read; keeps those that are wanted in the tree.
class Listener {
 public:
  explicit Listener(TokenizerDocument& document) : document_(document) {}

  bool operator()(int, Json::parse_event_t event, Json& parsed) {
    using Event = Json::parse_event_t;
    switch (event) {
      case Event::key: return OnKey(parsed.get_ref<const std::string&>());
      case Event::value: return OnValue(parsed);
      case Event::object_start:
      case Event::array_start:
        CheckStart(event == Event::array_start);
        open_.push_back({.is_array = event == Event::array_start});
        return true;
      case Event::object_end:
      case Event::array_end: break;
    }
    open_.pop_back();
    const bool merge = event == Event::array_end && In(kMerges);  // its two pieces are taken
    if (merge) EndMerge();
    return !merge;
  }

 private:
  struct Open {
    bool is_array;
    std::string last = {};  // the latest key of an object
    std::set<std::string> keys = {};
  };
  static constexpr const char* kVocabulary = "vocab";
  static constexpr const char* kMerges = "merges";

  // The innermost open container is /model/NAME.
  bool In(absl::string_view name) const {
    return open_.size() == 3 && !open_[0].is_array && open_[0].last == "model" && !open_[1].is_array && open_[1].last == name;
  }
  bool InMerge() const { return open_.size() == 4 && open_[0].last == "model" && open_[1].last == kMerges; }

  bool OnKey(const std::string& name) {
    Open& object = open_.back();
    object.last = name;
    if (In(kVocabulary)) return false;
    if (!object.keys.insert(name).second) throw Wrong{absl::StrCat(Pointer(), ": given twice; expected once")};
    return true;
  }

  bool OnValue(const Json& parsed) {
    if (In(kVocabulary)) {
      if (!parsed.is_number_integer()) throw Wrong{absl::StrCat(Pointer(), ": ", Shown(parsed), "; expected an id")};
      document_.vocabulary.emplace_back(open_.back().last, parsed.get<int64_t>());
      return true;  // its key was not kept
    }
    if (In(kMerges)) {
      const std::string* line = parsed.get_ptr<const std::string*>();
      const size_t space = line == nullptr ? std::string::npos : line->find(' ', 1);
      if (space == std::string::npos) {
        throw Wrong{absl::StrCat(Pointer(), "/", document_.merges.size(), ": ", Shown(parsed), "; expected two tokens")};
      }
      document_.merges.push_back({line->substr(0, space), line->substr(space + 1)});
      return false;
    }
    if (InMerge()) {
      if (!parsed.is_string() || pair_.size() == 2) BadMerge();
      pair_.push_back(parsed.get<std::string>());
      return false;
    }
    CountValue();
    return true;
  }

  // Only merges have containers inside, of one form; and the two are what they should be themselves.
  void CheckStart(bool is_array) {
    if (In(kVocabulary)) throw Wrong{absl::StrCat(Pointer(), ": expected an id")};
    if (InMerge() || (In(kMerges) && !is_array)) BadMerge();
    if (open_.size() == 2 && open_[0].last == "model" && !open_[1].is_array) {
      if (open_[1].last == kVocabulary && is_array) throw Wrong{"/model/vocab: expected an object"};
      if (open_[1].last == kMerges && !is_array) throw Wrong{"/model/merges: expected an array"};
    }
    if (!In(kMerges)) CountValue();
  }

  void CountValue() {
    if (++values_ > kOtherValuesMax) throw Wrong{absl::StrCat("more than ", kOtherValuesMax, " values besides vocabulary and merges")};
  }

  void EndMerge() {
    if (pair_.size() != 2) BadMerge();
    document_.merges.push_back({std::move(pair_[0]), std::move(pair_[1])});
    pair_.clear();
  }
  [[noreturn]] void BadMerge() const { throw Wrong{absl::StrCat("/model/merges/", document_.merges.size(), ": expected two tokens")}; }

  std::string Pointer() const {
    std::string pointer;
    for (const Open& open : open_) {
      if (!open.is_array) absl::StrAppend(&pointer, "/", EscapePointer(open.last.substr(0, 80)));
    }
    return pointer;
  }

  TokenizerDocument& document_;
  std::vector<Open> open_;
  std::vector<std::string> pair_;
  int64_t values_ = 0;
};

}  // namespace

absl::StatusOr<TokenizerDocument> ParseTokenizerDocument(absl::string_view text, const std::string& file) {
  const auto bad = [&](absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat(file, ": ", what)); };
  if (text.size() > kTokenizerJsonBytesMax) {
    return bad(absl::StrCat(text.size(), " bytes, expected at most ", kTokenizerJsonBytesMax));
  }
  if (DepthOf(text, kDepthMax + 1) > kDepthMax) return bad(absl::StrCat("nested more than ", kDepthMax, " deep"));
  TokenizerDocument document;
  try {
    Listener listener(document);
    document.root = Json::parse(text.begin(), text.end(), std::ref(listener));
  } catch (const Json::exception& error) {
    absl::string_view what = error.what();
    if (const size_t end = what.find("] "); end != absl::string_view::npos) what.remove_prefix(end + 2);
    std::string shown(what.substr(0, 300));
    std::replace_if(shown.begin(), shown.end(), [](char c) { return static_cast<uint8_t>(c) >= 0x80; }, '?');  // perhaps no UTF-8
    return bad(absl::StrCat("not JSON: ", shown));
  } catch (const Wrong& wrong) {
    return bad(wrong.what);
  }
  if (!document.root.is_object()) return bad(absl::StrCat("expected an object; got ", Shown(document.root)));
  return document;
}

}  // namespace spherical::server
