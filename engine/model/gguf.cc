#include "engine/model/gguf.h"

#include <cstring>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/mapped_file.h"
#include "engine/model/gguf_parser.h"
#include "engine/model/utf8.h"

namespace spherical::engine {

struct GgufFile::Contents {
  std::string path;
  std::span<const uint8_t> bytes;
  MappedFile mapping;  // of `bytes`; empty where they are somebody else's
  GgufIndex index;

  // The value of a key, or an error naming what is there instead of `wanted`.
  absl::StatusOr<const GgufValue*> Find(std::string_view key) const {
    const auto found = index.values.find(GgufKey(key));
    if (found == index.values.end()) return absl::NotFoundError(absl::StrCat(path, ": no metadata key ", GgufQuoted(key)));
    return &found->second;
  }
  absl::Status WrongType(std::string_view key, const GgufValue& value, const char* wanted) const {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": metadata key ", GgufQuoted(key), " is ", GgufTypeName(value), ", expected ", wanted));
  }
};

GgufFile::GgufFile(std::unique_ptr<Contents> contents) : contents_(std::move(contents)) {}
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;
GgufFile::~GgufFile() = default;

absl::StatusOr<GgufFile> GgufFile::Open(const std::string& path) {
  absl::StatusOr<MappedFile> mapping = MappedFile::Open(path);
  if (!mapping.ok()) return mapping.status();
  absl::StatusOr<GgufFile> parsed = Parse(mapping->bytes(), path);
  if (parsed.ok()) parsed->contents_->mapping = *std::move(mapping);
  return parsed;
}

absl::StatusOr<GgufFile> GgufFile::Parse(std::span<const uint8_t> bytes, std::string name) {
  auto contents = std::make_unique<Contents>();
  contents->path = std::move(name);
  contents->bytes = bytes;
  if (absl::Status status = ParseGguf(contents->path, bytes, contents->index); !status.ok()) return status;
  return GgufFile(std::move(contents));
}

const std::string& GgufFile::path() const { return contents_->path; }
int64_t GgufFile::file_bytes() const { return static_cast<int64_t>(contents_->bytes.size()); }
bool GgufFile::Has(std::string_view key) const { return contents_->index.values.contains(GgufKey(key)); }

absl::StatusOr<uint64_t> GgufFile::Uint(std::string_view key) const {
  const absl::StatusOr<const GgufValue*> value = contents_->Find(key);
  if (!value.ok()) return value.status();
  const std::optional<GgufInteger> number = GgufIntegerAt(contents_->bytes.data() + (*value)->offset, (*value)->type);
  if (!number) return contents_->WrongType(key, **value, "an integer");
  if (number->negative) {
    return absl::InvalidArgumentError(absl::StrCat(contents_->path, ": metadata key ", GgufQuoted(key), " is ",
                                                   static_cast<int64_t>(number->bits), ", expected 0 or more"));
  }
  return number->bits;
}

absl::StatusOr<double> GgufFile::Float(std::string_view key) const {
  const absl::StatusOr<const GgufValue*> value = contents_->Find(key);
  if (!value.ok()) return value.status();
  const uint8_t* const at = contents_->bytes.data() + (*value)->offset;
  if ((*value)->type == kGgufF32) return static_cast<double>(GgufLoad<float>(at));
  if ((*value)->type == kGgufF64) return GgufLoad<double>(at);
  return contents_->WrongType(key, **value, "f32 or f64");
}

absl::StatusOr<bool> GgufFile::Bool(std::string_view key) const {
  const absl::StatusOr<const GgufValue*> value = contents_->Find(key);
  if (!value.ok()) return value.status();
  if ((*value)->type != kGgufBool) return contents_->WrongType(key, **value, "bool");
  return contents_->bytes[(*value)->offset] == 1;
}

absl::StatusOr<std::string_view> GgufFile::String(std::string_view key) const {
  const absl::StatusOr<const GgufValue*> value = contents_->Find(key);
  if (!value.ok()) return value.status();
  if ((*value)->type != kGgufString) return contents_->WrongType(key, **value, "string");
  const std::string_view text = GgufStringAt(contents_->bytes, (*value)->offset);
  if (const size_t bad = FindInvalidUtf8(text); bad != std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat(contents_->path, ": byte ", (*value)->offset + 8 + bad, ": metadata key ", GgufQuoted(key), " is not valid UTF-8"));
  }
  return text;
}

absl::StatusOr<std::vector<std::string_view>> GgufFile::Strings(std::string_view key) const {
  const absl::StatusOr<const GgufValue*> value = contents_->Find(key);
  if (!value.ok()) return value.status();
  if ((*value)->type != kGgufArray || (*value)->element_type != kGgufString)
    return contents_->WrongType(key, **value, "an array of strings");
  std::vector<std::string_view> strings((*value)->count);
  uint64_t at = (*value)->offset;
  for (std::string_view& text : strings) {
    text = GgufStringAt(contents_->bytes, at);
    if (const size_t bad = FindInvalidUtf8(text); bad != std::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat(contents_->path, ": byte ", at + 8 + bad, ": element ", &text - strings.data(), " of ",
                                                     GgufQuoted(key), " is not valid UTF-8"));
    }
    at += 8 + text.size();
  }
  return strings;
}

absl::StatusOr<std::vector<int64_t>> GgufFile::Ints(std::string_view key) const {
  const absl::StatusOr<const GgufValue*> value = contents_->Find(key);
  if (!value.ok()) return value.status();
  const GgufValue& array = **value;
  if (array.type != kGgufArray || array.element_type == kGgufString) return contents_->WrongType(key, array, "an array of integers");
  std::vector<int64_t> numbers(array.count);
  for (uint64_t i = 0; i < array.count; ++i) {
    const uint8_t* const at = contents_->bytes.data() + array.offset + i * kGgufTypeBytes[array.element_type];
    const std::optional<GgufInteger> number = GgufIntegerAt(at, array.element_type);
    if (!number) return contents_->WrongType(key, array, "an array of integers");
    numbers[i] = static_cast<int64_t>(number->bits);
    if (!number->negative && numbers[i] < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(contents_->path, ": element ", i, " of ", GgufQuoted(key), " is ", number->bits, ", expected less than 2^63"));
    }
  }
  return numbers;
}

absl::StatusOr<std::vector<float>> GgufFile::Floats(std::string_view key) const {
  const absl::StatusOr<const GgufValue*> value = contents_->Find(key);
  if (!value.ok()) return value.status();
  if ((*value)->type != kGgufArray || (*value)->element_type != kGgufF32) return contents_->WrongType(key, **value, "an array of f32");
  std::vector<float> numbers((*value)->count);
  if (!numbers.empty()) std::memcpy(numbers.data(), contents_->bytes.data() + (*value)->offset, numbers.size() * sizeof(float));
  return numbers;
}

std::span<const GgufTensor> GgufFile::tensors() const { return contents_->index.tensors; }

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto found = contents_->index.tensor_index.find(GgufKey(name));
  return found == contents_->index.tensor_index.end() ? nullptr : &contents_->index.tensors[found->second];
}

std::vector<std::string_view> GgufFile::LayerTensors() const {
  std::vector<std::string_view> names;
  for (const GgufTensor& tensor : tensors()) {
    if (tensor.name.starts_with("blk.")) names.push_back(tensor.name);
  }
  return names;
}

void GgufFile::DropPages() const { contents_->mapping.DropPages(); }

}  // namespace spherical::engine
