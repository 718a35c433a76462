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

struct TooDeep {};

// Told of every key and bracket while the text is read.
class Watcher {
 public:
  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    const bool opens = event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start;
    if (opens && depth >= kJsonDepthMax) throw TooDeep();
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
        if (!object.keys.insert(object.last).second && duplicate_.empty()) {
          for (const Object& outer : open_) absl::StrAppend(&duplicate_, "/", EscapePointer(outer.last));
        }
        break;
      }
      default:
        break;
    }
    return true;
  }
  const std::string& duplicate() const { return duplicate_; }  // a JSON pointer; empty: none

 private:
  struct Object {
    std::set<std::string> keys;
    std::string last;
  };
  std::vector<Object> open_;
  std::string duplicate_;
};

}  // namespace

absl::StatusOr<Json> ParseJsonObject(absl::string_view text, absl::string_view file) {
  Watcher watcher;
  Json root;
  try {
    root = Json::parse(text.begin(), text.end(), std::ref(watcher));
  } catch (const TooDeep&) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": arrays and objects deeper than ", kJsonDepthMax, " levels"));
  } catch (const Json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 3, column 5: ...": the part in brackets is not for people.
    absl::string_view what = error.what();
    if (const size_t end = what.find("] "); end != absl::string_view::npos) what.remove_prefix(end + 2);
    return absl::InvalidArgumentError(absl::StrCat(file, ": not JSON: ", what));
  }
  if (!root.is_object()) return absl::InvalidArgumentError(absl::StrCat(file, ": expected an object; got ", Shown(root)));
  if (!watcher.duplicate().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", watcher.duplicate(), ": given twice; expected once"));
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
