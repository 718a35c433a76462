// Bytes of files: what small files of the engine and of the door are read and replaced with. No locks; any thread.
#ifndef SPHERICAL_ENGINE_FILE_BYTES_H_
#define SPHERICAL_ENGINE_FILE_BYTES_H_

#include <sys/types.h>

#include <span>
#include <string>

namespace spherical::engine {

// An open file, closed at the end.
class FileDescriptor {
 public:
  explicit FileDescriptor(int descriptor) : descriptor_(descriptor) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { Close(); }
  int get() const { return descriptor_; }
  bool ok() const { return descriptor_ >= 0; }
  // False, with errno, when what was written did not reach the file.
  bool Close();

 private:
  int descriptor_;
};

// Up to `size` bytes; fewer at the end of the file, -1 with errno on an error.
ssize_t ReadSome(const FileDescriptor& file, char* data, size_t size);

// Replaces a file (mode 0644) as a whole or not at all: whoever opens it, now or after a power cut, finds the old bytes or the new.
// 0, or the errno of what failed; then nothing is left behind.
int ReplaceFile(const std::string& path, std::span<const char> bytes);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_FILE_BYTES_H_
