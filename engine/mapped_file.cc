#include "engine/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/file_bytes.h"

namespace spherical::engine {
namespace {

absl::Status FileError(const std::string& path, const char* what) { return absl::ErrnoToStatus(errno, absl::StrCat(path, ": ", what)); }

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!file.ok()) return FileError(path, "cannot open");
  struct stat about = {};
  if (fstat(file.get(), &about) != 0) return FileError(path, "cannot ask for its size");
  if (!S_ISREG(about.st_mode) || about.st_size == 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a file with bytes in it"));
  }
  const size_t size = static_cast<size_t>(about.st_size);
  void* const address = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);  // outlives the descriptor
  if (address == MAP_FAILED) return FileError(path, "cannot map");
  MappedFile mapped;
  mapped.bytes_ = {static_cast<const uint8_t*>(address), size};
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<uint8_t*>(bytes_.data()), bytes_.size());
}

void MappedFile::DropPages() const {
  if (!bytes_.empty()) madvise(const_cast<uint8_t*>(bytes_.data()), bytes_.size(), MADV_DONTNEED);
}

}  // namespace spherical::engine
