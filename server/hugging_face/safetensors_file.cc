#include "server/hugging_face/safetensors_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/json_text.h"

namespace spherical::server {
namespace {

using Json = nlohmann::json;
using engine::SourceTensor;
using kernels::WeightType;

static_assert(std::endian::native == std::endian::little, "weights are used as the file has them");

constexpr size_t kLengthBytes = sizeof(uint64_t);

struct Dtype {
  std::string_view name;
  WeightType type;
  int64_t bytes;  // of an element
};
constexpr Dtype kDtypes[] = {{"F32", WeightType::kF32, 4}, {"F16", WeightType::kF16, 2}, {"BF16", WeightType::kBF16, 2}};

// Reads the description of one tensor. `at` is "file: /name" for messages.
class Description {
 public:
  Description(const Json& object, std::string at) : object_(object), at_(std::move(at)) {}

  absl::StatusOr<SourceTensor> Read(std::span<const uint8_t> data) const {
    if (!object_.is_object()) return Expected("", "an object with dtype, shape and data_offsets", object_);
    for (const char* const key : {"dtype", "shape", "data_offsets"}) {
      if (!object_.contains(key)) return absl::InvalidArgumentError(absl::StrCat(at_, "/", key, ": missing"));
    }
    SourceTensor tensor;
    const Json& name = object_["dtype"];
    const std::string text = name.is_string() ? name.get<std::string>() : "";
    const Dtype* const dtype = std::ranges::find(kDtypes, text, &Dtype::name);
    if (dtype == std::end(kDtypes)) {
      return absl::UnimplementedError(absl::StrCat(at_, "/dtype: got ", Shown(name), "; supported are \"F32\", \"F16\", \"BF16\""));
    }
    tensor.type = dtype->type;

    const Json& shape = object_["shape"];
    constexpr char kShape[] = "at most 8 numbers that make less than 2^63 bytes";
    static_assert(SafetensorsFile::kDimensionsMax == 8);
    if (!shape.is_array() || static_cast<int64_t>(shape.size()) > SafetensorsFile::kDimensionsMax) return Expected("/shape", kShape, shape);
    int64_t bytes = dtype->bytes;
    bool empty = false;
    for (const Json& extent : shape) {
      const int64_t value = extent.is_number_unsigned() ? extent.get<int64_t>() : -1;  // above 2^63: negative
      empty |= value == 0;
      // A zero makes the whole empty, but hides no others that are too large: whoever multiplies some of them may not overflow.
      if (value < 0 || (value > 0 && __builtin_mul_overflow(bytes, value, &bytes))) return Expected("/shape", kShape, shape);
      tensor.dims.insert(tensor.dims.begin(), value);
    }
    if (empty) bytes = 0;

    const Json& offsets = object_["data_offsets"];
    const bool two = offsets.is_array() && offsets.size() == 2 && offsets[0].is_number_unsigned() && offsets[1].is_number_unsigned();
    const uint64_t begin = two ? offsets[0].get<uint64_t>() : 1, end = two ? offsets[1].get<uint64_t>() : 0;
    if (begin > end || end > data.size()) {
      return Expected("/data_offsets", absl::StrCat("[begin, end] inside the ", data.size(), " bytes of data"), offsets);
    }
    if (end - begin != static_cast<uint64_t>(bytes)) {
      return Expected("/data_offsets", absl::StrCat(bytes, " bytes, which dtype and shape ", shape.dump(), " take"), offsets);
    }
    tensor.data = data.subspan(begin, end - begin);
    return tensor;
  }

 private:
  absl::Status Expected(const char* key, const std::string& what, const Json& got) const {
    return absl::InvalidArgumentError(absl::StrCat(at_, key, ": expected ", what, "; got ", Shown(got)));
  }

  const Json& object_;
  const std::string at_;
};

absl::Status CheckName(const std::string& file, const std::string& name) {
  if (static_cast<int64_t>(name.size()) > SafetensorsFile::kNameBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": a tensor's name has ", name.size(), " bytes, expected at most ",
                                                   SafetensorsFile::kNameBytesMax));
  }
  const bool printable = std::ranges::all_of(name, [](char c) { return static_cast<uint8_t>(c) >= 0x20 && c != 0x7f; });
  if (name.empty() || !printable) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": a tensor's name is ", Shown(Json(name)), ", expected printable text"));
  }
  return absl::OkStatus();
}

absl::Status CheckOverlaps(const std::string& file, const SafetensorsFile::Tensors& tensors) {
  std::vector<const SourceTensor*> order;
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.data.empty()) order.push_back(&tensor);
  }
  std::ranges::sort(order, {}, [](const SourceTensor* tensor) { return tensor->data.data(); });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->data.data() + order[i - 1]->data.size() <= order[i]->data.data()) continue;
    return absl::InvalidArgumentError(absl::StrCat(file, ": tensor ", std::string(order[i]->name), " overlaps ",
                                                   std::string(order[i - 1]->name)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  auto mapping = engine::MappedFile::Open(path);
  if (!mapping.ok()) return mapping.status();
  auto file = Parse(mapping->bytes(), path);
  if (file.ok()) file->mapping_ = *std::move(mapping);
  return file;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Parse(std::span<const uint8_t> bytes, std::string name) {
  SafetensorsFile file;
  file.path_ = std::move(name);
  if (bytes.size() < kLengthBytes) {
    return absl::InvalidArgumentError(absl::StrCat(file.path_, ": ", bytes.size(), " bytes, expected a header's length of 8"));
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), kLengthBytes);
  const uint64_t header_max = std::min<uint64_t>(kHeaderBytesMax, bytes.size() - kLengthBytes);
  if (header_bytes == 0 || header_bytes > header_max) {
    return absl::InvalidArgumentError(absl::StrCat(file.path_, ": a header of ", header_bytes, " bytes, expected 1 to ", header_max,
                                                   " in a file of ", bytes.size()));
  }
  const auto header = ParseJsonObject({reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, header_bytes}, file.path_);
  if (!header.ok()) return header.status();
  if (static_cast<int64_t>(header->size()) > kTensorsMax) {
    return absl::InvalidArgumentError(absl::StrCat(file.path_, ": ", header->size(), " tensors, expected at most ", kTensorsMax));
  }

  for (const auto& [key, value] : header->items()) {
    if (key == "__metadata__") continue;
    if (absl::Status named = CheckName(file.path_, key); !named.ok()) return named;
    auto tensor = Description(value, absl::StrCat(file.path_, ": /", EscapePointer(key))).Read(bytes.subspan(kLengthBytes + header_bytes));
    if (!tensor.ok()) return tensor.status();
    const auto added = file.tensors_.emplace(key, *std::move(tensor)).first;
    added->second.name = added->first;
  }
  if (absl::Status apart = CheckOverlaps(file.path_, file.tensors_); !apart.ok()) return apart;
  return file;
}

}  // namespace spherical::server
