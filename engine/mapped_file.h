#ifndef SPHERICAL_ENGINE_MAPPED_FILE_H_
#define SPHERICAL_ENGINE_MAPPED_FILE_H_

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace spherical::engine {

// A regular file's bytes, mapped read-only. Move only; moving leaves the bytes where they are.
class MappedFile {
 public:
  // Errors name the path and say why. InvalidArgument: no regular file, or an empty one. Never waits, as opening a pipe would.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const uint8_t> bytes() const { return bytes_; }
  // Tells the kernel that the bytes are not needed any more (they can still be read, from disk).
  void DropPages() const;

 private:
  std::span<const uint8_t> bytes_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MAPPED_FILE_H_
