#include "engine/file_bytes.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace spherical::engine {
namespace {

bool WriteAll(const FileDescriptor& file, std::span<const char> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(file.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return true;
}

}  // namespace

bool FileDescriptor::Close() { return descriptor_ < 0 || close(std::exchange(descriptor_, -1)) == 0; }

ssize_t ReadSome(const FileDescriptor& file, char* data, size_t size) {
  size_t got = 0;
  while (got < size) {
    const ssize_t n = read(file.get(), data + got, size - got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    if (n == 0) break;
    got += static_cast<size_t>(n);
  }
  return static_cast<ssize_t>(got);
}

int ReplaceFile(const std::string& path, std::span<const char> bytes) {
  std::string temporary = path + ".XXXXXX";
  FileDescriptor file(mkostemp(temporary.data(), O_CLOEXEC));
  if (!file.ok()) return errno;
  const bool written = WriteAll(file, bytes) && fchmod(file.get(), 0644) == 0 && fsync(file.get()) == 0 && file.Close() &&
                       rename(temporary.c_str(), path.c_str()) == 0;
  if (!written) {
    const int why = errno;
    unlink(temporary.c_str());
    return why;
  }
  // The new name is on disk once its folder is; a folder that cannot be synced (some network file systems) keeps what it has.
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const FileDescriptor parent(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (parent.ok()) fsync(parent.get());
  return 0;
}

}  // namespace spherical::engine
