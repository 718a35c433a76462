#include "server/text_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/file_bytes.h"

namespace spherical::server {
absl::StatusOr<std::string> ReadTextFile(absl::string_view setting, const std::string& path) {
  const engine::FileDescriptor file(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!file.ok()) return absl::NotFoundError(absl::StrCat(setting, ": cannot open ", path, ": ", std::strerror(errno)));
  struct stat facts = {};
  if (fstat(file.get(), &facts) != 0 || !S_ISREG(facts.st_mode)) {
    return absl::NotFoundError(absl::StrCat(setting, ": cannot read ", path, ": not a file"));
  }
  std::string text(static_cast<size_t>(kTextFileBytesMax) + 1, '\0');
  const ssize_t size = engine::ReadSome(file, text.data(), text.size());
  if (size < 0) return absl::NotFoundError(absl::StrCat(setting, ": cannot read ", path, ": ", std::strerror(errno)));
  text.resize(static_cast<size_t>(size));
  if (size > kTextFileBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(setting, ": ", path, " is longer than ", kTextFileBytesMax, " bytes"));
  }
  return text;
}

absl::Status WriteTextFile(const std::string& path, absl::string_view text) {
  const int why = engine::ReplaceFile(path, {text.data(), text.size()});
  if (why == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot write ", path, ": ", std::strerror(why)));
}

}  // namespace spherical::server
