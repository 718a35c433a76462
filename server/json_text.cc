#include "server/json_text.h"

#include <functional>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace spherical::server {
namespace {

using Json = nlohmann::json;

const char* TypeName(const Json& value) {
  if (value.is_number_integer()) return "an integer";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a string";
  if (value.is_boolean()) return "a boolean";
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  return "null";
}

// Told of every key while the text is read.
class DuplicateFinder {
 public:
  bool operator()(int, Json::parse_event_t event, Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
        open_.emplace_back();
        break;
      case Json::parse_event_t::object_end:
        open_.pop_back();
        break;
      case Json::parse_event_t::key: {
        Object& object = open_.back();
        object.last = parsed.get<std::string>();
        if (!object.keys.insert(object.last).second && found_.empty()) {
          for (const Object& outer : open_) absl::StrAppend(&found_, "/", EscapePointer(outer.last));
        }
        break;
      }
      default:
        break;
    }
    return true;
  }
  const std::string& found() const { return found_; }  // a JSON pointer; empty: none

 private:
  struct Object {
    std::set<std::string> keys;
    std::string last;
  };
  std::vector<Object> open_;
  std::string found_;
};

}  // namespace

absl::StatusOr<Json> ParseJsonObject(absl::string_view text, absl::string_view file) {
  DuplicateFinder duplicates;
  Json root;
  try {
    root = Json::parse(text.begin(), text.end(), std::ref(duplicates));
  } catch (const Json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 3, column 5: ...": the part in brackets is not for people.
    absl::string_view what = error.what();
    if (const size_t end = what.find("] "); end != absl::string_view::npos) what.remove_prefix(end + 2);
    return absl::InvalidArgumentError(absl::StrCat(file, ": not JSON: ", what));
  }
  if (!root.is_object()) return absl::InvalidArgumentError(absl::StrCat(file, ": expected an object; got ", Shown(root)));
  if (!duplicates.found().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", duplicates.found(), ": given twice; expected once"));
  }
  return root;
}

std::string Shown(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return absl::StrCat(TypeName(value), " ", text);
}

std::string EscapePointer(absl::string_view key) { return absl::StrReplaceAll(key, {{"~", "~0"}, {"/", "~1"}}); }

}  // namespace spherical::server
