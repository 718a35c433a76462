// GgufFile: a GGUF v2/v3 file, mapped read-only, parsed and distrusted. Every count, offset, size, alignment and string is checked
// against the file's length before use; a hostile file ends in a Status that names the offset and what was expected.
//
//   ASSIGN file = GgufFile::Open(path);
//   ASSIGN layers = file.Uint("llama.block_count");           // any integer type that holds a non-negative value
//   const GgufTensor* t = file.FindTensor("blk.0.attn_q.weight");
//
// Thread: immutable after Open. Views and spans live as long as the file object; DropPages lets the kernel forget what was read.
#ifndef SPHERICAL_ENGINE_MODEL_GGUF_H_
#define SPHERICAL_ENGINE_MODEL_GGUF_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/tensor_source.h"

namespace spherical::engine {

using GgufTensor = SourceTensor;

class GgufFile : public TensorSource {
 public:
  // Limits on what a header may claim; beyond: InvalidArgument.
  static constexpr int64_t kTensorsMax = 1 << 16;
  static constexpr int64_t kKeysMax = 1 << 16;
  static constexpr int64_t kStringBytesMax = int64_t{1} << 24;
  static constexpr int64_t kArrayElementsMax = int64_t{1} << 24;

  static absl::StatusOr<GgufFile> Open(const std::string& path);
  // The same over bytes in memory (tests, fuzzing). The bytes must outlive the object.
  static absl::StatusOr<GgufFile> Parse(std::span<const uint8_t> bytes, std::string name);

  const std::string& path() const override;
  int64_t file_bytes() const;

  // Metadata. NotFound names the key; InvalidArgument names the key, its type and the wanted one.
  bool Has(std::string_view key) const;
  absl::StatusOr<uint64_t> Uint(std::string_view key) const;
  absl::StatusOr<double> Float(std::string_view key) const;   // f32 or f64
  absl::StatusOr<bool> Bool(std::string_view key) const;
  absl::StatusOr<std::string_view> String(std::string_view key) const;
  absl::StatusOr<std::vector<std::string_view>> Strings(std::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> Ints(std::string_view key) const;
  absl::StatusOr<std::vector<float>> Floats(std::string_view key) const;

  std::span<const GgufTensor> tensors() const;
  const GgufTensor* FindTensor(std::string_view name) const override;
  std::vector<std::string_view> LayerTensors() const override;

  // Tells the kernel that the mapped bytes are not needed any more (they can still be read, from disk).
  void DropPages() const;

  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;
  ~GgufFile() override;

 private:
  struct Contents;
  explicit GgufFile(std::unique_ptr<Contents> contents);
  std::unique_ptr<Contents> contents_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_GGUF_H_
