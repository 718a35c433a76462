#include "server/text_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace spherical::server {
namespace {

class FileHandle {
 public:
  explicit FileHandle(int fd) : fd_(fd) {}
  ~FileHandle() { Close(); }
  FileHandle(const FileHandle&) = delete;
  FileHandle& operator=(const FileHandle&) = delete;

  bool good() const { return fd_ >= 0; }
  int get() const { return fd_; }
  bool Close() { return fd_ < 0 || close(std::exchange(fd_, -1)) == 0; }

 private:
  int fd_;
};

bool WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

}  // namespace

absl::StatusOr<std::string> ReadTextFile(absl::string_view setting, const std::string& path) {
  FileHandle file(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!file.good()) return absl::NotFoundError(absl::StrCat(setting, ": cannot open ", path, ": ", std::strerror(errno)));
  struct stat facts = {};
  if (fstat(file.get(), &facts) != 0 || !S_ISREG(facts.st_mode)) {
    return absl::NotFoundError(absl::StrCat(setting, ": cannot read ", path, ": not a file"));
  }
  std::string text(static_cast<size_t>(kTextFileBytesMax) + 1, '\0');
  size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = read(file.get(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::NotFoundError(absl::StrCat(setting, ": cannot read ", path, ": ", std::strerror(errno)));
    if (got == 0) break;
    size += static_cast<size_t>(got);
  }
  text.resize(size);
  if (static_cast<int64_t>(size) > kTextFileBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(setting, ": ", path, " is longer than ", kTextFileBytesMax, " bytes"));
  }
  return text;
}

absl::Status WriteTextFile(const std::string& path, absl::string_view text) {
  const std::string temporary = absl::StrCat(path, ".partial");
  const auto failed = [&](const std::string& what) {
    const int error = errno;
    unlink(temporary.c_str());
    return absl::UnavailableError(absl::StrCat("cannot write ", what, ": ", std::strerror(error)));
  };
  FileHandle file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!file.good()) return failed(temporary);
  if (!WriteAll(file.get(), text) || fsync(file.get()) != 0 || !file.Close()) return failed(temporary);
  if (rename(temporary.c_str(), path.c_str()) != 0) return failed(path);
  // The new name is on disk once its folder is; a folder that cannot be synced (some network file systems) keeps what it has.
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const FileHandle parent(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (parent.good()) fsync(parent.get());
  return absl::OkStatus();
}

}  // namespace spherical::server
