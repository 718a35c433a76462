#ifndef SPHERICAL_TESTS_FAKES_GGUF_BUILDER_H_
#define SPHERICAL_TESTS_FAKES_GGUF_BUILDER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace spherical::testing {

// Writes GGUF files, good and bad: whatever is added goes in as it is, in order, unchecked.
//
//   GgufBuilder file;
//   file.String("general.architecture", "llama").U32("llama.block_count", 2).Tensor("token_embd.weight", 0, {64, 300}, bytes);
//   const std::string bytes = file.Build();
class GgufBuilder {
 public:
  uint32_t version = 3;
  uint32_t alignment = 32;  // of tensor offsets; written as general.alignment unless it is the format's default of 32

  // Metadata. A key that is already there is replaced, at its place.
  GgufBuilder& U32(std::string_view key, uint32_t value) { return Scalar(key, 4, value); }
  GgufBuilder& I32(std::string_view key, int32_t value) { return Scalar(key, 5, value); }
  GgufBuilder& F32(std::string_view key, float value) { return Scalar(key, 6, value); }
  GgufBuilder& U64(std::string_view key, uint64_t value) { return Scalar(key, 10, value); }
  GgufBuilder& Bool(std::string_view key, bool value) { return Scalar(key, 7, static_cast<uint8_t>(value)); }
  GgufBuilder& String(std::string_view key, std::string_view value);
  GgufBuilder& Strings(std::string_view key, const std::vector<std::string>& values);
  GgufBuilder& I32s(std::string_view key, const std::vector<int32_t>& values);
  GgufBuilder& F32s(std::string_view key, const std::vector<float>& values);
  // A value given as the bytes after the type. `again`: even if the key is there already.
  GgufBuilder& Raw(std::string_view key, uint32_t type, std::string bytes, bool again = false);
  GgufBuilder& RemoveKey(std::string_view key);

  // `type` is the file's number for the tensor's type (0: F32, 1: F16, 3: Q4_1 ...); dims[0] is the row length.
  // A tensor that is already there is replaced, at its place.
  GgufBuilder& Tensor(std::string_view name, uint32_t type, std::vector<int64_t> dims, std::string data);
  GgufBuilder& RemoveTensor(std::string_view name);
  // The tensor's description says `offset` instead of where its data is.
  GgufBuilder& LieAboutOffset(std::string_view name, uint64_t offset);

  std::string Build() const;

 private:
  struct KeyEntry {
    std::string key;
    uint32_t type;
    std::string bytes;
  };
  struct TensorEntry {
    std::string name;
    uint32_t type;
    std::vector<int64_t> dims;
    std::string data;
    int64_t lie = -1;
  };
  template <class T>
  GgufBuilder& Scalar(std::string_view key, uint32_t type, T value) {
    return Raw(key, type, std::string(reinterpret_cast<const char*>(&value), sizeof value));
  }

  std::vector<KeyEntry> keys_;
  std::vector<TensorEntry> tensors_;
};

// The file's number for a tensor type, by its name ("Q4_1").
uint32_t GgufTypeNumber(std::string_view name);

// Writes bytes to a file in the test's temporary folder and returns its path.
std::string WriteTestFile(std::string_view name, std::string_view bytes);

}  // namespace spherical::testing

#endif  // SPHERICAL_TESTS_FAKES_GGUF_BUILDER_H_
