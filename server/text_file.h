#ifndef SPHERICAL_SERVER_TEXT_FILE_H_
#define SPHERICAL_SERVER_TEXT_FILE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spherical::server {

// What operators write is small: more is a wrong path.
inline constexpr int64_t kTextFileBytesMax = 1 << 20;

// The whole of a regular file. Errors are prefixed with `setting` and name the path. Never waits, as opening a pipe would.
absl::StatusOr<std::string> ReadTextFile(absl::string_view setting, const std::string& path);

// Replaces a file so that whoever opens it, now or after a power cut, finds the old text or the new, whole. Errors name the path.
absl::Status WriteTextFile(const std::string& path, absl::string_view text);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_TEXT_FILE_H_
