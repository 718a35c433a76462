// SafetensorsFile: one safetensors file, mapped read-only, parsed and distrusted.
//
//     header bytes u64, little-endian | header: a JSON object | data
//     {"model.norm.weight": {"dtype": "BF16", "shape": [576], "data_offsets": [0, 1152]}, ..., "__metadata__": {...}}
//
// Offsets are from the start of the data, the second one past the end. The shape's last number is the row length. Every number is checked
// against the file's length before use; a hostile file ends in a Status that says where and what was expected. Bytes that no tensor claims
// are allowed; metadata is not looked at.
//
// Thread: const after Open. Views live as long as the file object, and move with it.
#ifndef SPHERICAL_SERVER_HUGGING_FACE_SAFETENSORS_FILE_H_
#define SPHERICAL_SERVER_HUGGING_FACE_SAFETENSORS_FILE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "engine/mapped_file.h"
#include "engine/model/tensor_source.h"

namespace spherical::server {

class SafetensorsFile {
 public:
  // Limits on what a header may claim; beyond: InvalidArgument. The format itself allows 100 MB of header, which no file of so few tensors
  // fills, and which would take a gigabyte to parse.
  static constexpr int64_t kHeaderBytesMax = int64_t{1} << 24;
  static constexpr int64_t kTensorsMax = 1 << 16;
  static constexpr int64_t kNameBytesMax = 256;
  static constexpr int64_t kDimensionsMax = 8;

  // By name, each with its name, shape (row length first) and data.
  using Tensors = std::map<std::string, engine::SourceTensor, std::less<>>;

  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);
  // The same over bytes in memory (tests, fuzzing), which must outlive the object.
  static absl::StatusOr<SafetensorsFile> Parse(std::span<const uint8_t> bytes, std::string name);

  const std::string& path() const { return path_; }
  const Tensors& tensors() const { return tensors_; }

 private:
  std::string path_;
  engine::MappedFile mapping_;  // empty where the bytes are somebody else's
  Tensors tensors_;
};

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_HUGGING_FACE_SAFETENSORS_FILE_H_
