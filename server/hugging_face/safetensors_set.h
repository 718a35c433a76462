// SafetensorsSet: all weights of a model's folder: model.safetensors, or else the files (shards) that model.safetensors.index.json names.
//
//     {"metadata": {...}, "weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors", ...}}
//
// Shards are files of this folder: a path that could leave it is refused. A tensor that is in two shards is refused; one that the index
// does not name is as good as the others. Metadata (sizes that writers are not of one mind about) is not looked at.
#ifndef SPHERICAL_SERVER_HUGGING_FACE_SAFETENSORS_SET_H_
#define SPHERICAL_SERVER_HUGGING_FACE_SAFETENSORS_SET_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/hugging_face/safetensors_file.h"

namespace spherical::server {

class SafetensorsSet {
 public:
  static constexpr int64_t kIndexBytesMax = int64_t{1} << 24;
  static constexpr int64_t kShardsMax = 1024;

  // Names of the folder's files of weights, sorted. NotFound: there are none.
  static absl::StatusOr<std::vector<std::string>> Names(const std::string& folder);

  static absl::StatusOr<SafetensorsSet> Open(const std::string& folder);
  static SafetensorsSet Of(SafetensorsFile file);  // one file, whatever its name

  // Views of the files, which move with this.
  const SafetensorsFile::Tensors& tensors() const { return tensors_; }

 private:
  absl::Status Add(SafetensorsFile file);

  std::vector<SafetensorsFile> files_;
  SafetensorsFile::Tensors tensors_;
};

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_HUGGING_FACE_SAFETENSORS_SET_H_
