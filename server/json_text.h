#ifndef SPHERICAL_SERVER_JSON_TEXT_H_
#define SPHERICAL_SERVER_JSON_TEXT_H_

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spherical::server {

// Arrays and objects inside each other; beyond: InvalidArgument. What we read has a handful.
inline constexpr int kJsonDepthMax = 64;

// The object that a JSON text is. InvalidArgument names the file and, where there is one, the place: line and column of a syntax error, the
// JSON pointer of a key that is given twice (parsers keep either; its writer meant one of them, and we cannot know which).
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text, absl::string_view file);

// "a string \"two\"", for messages. Long values are cut.
std::string Shown(const nlohmann::json& value);

// A key as a part of a JSON pointer.
std::string EscapePointer(absl::string_view key);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_JSON_TEXT_H_
