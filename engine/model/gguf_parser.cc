#include "engine/model/gguf_parser.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/model/utf8.h"

namespace spherical::engine {
namespace {

using kernels::FormatOf;
using kernels::WeightFormat;
using kernels::WeightType;

constexpr int64_t kNameBytesMax = 65535;  // the format's own bound on keys; far above any tensor name
constexpr uint32_t kDimensionsMax = 4;
constexpr uint64_t kAlignmentDefault = 32;
constexpr uint64_t kAlignmentMin = 8;  // the format's own bound: every element type can be read in place
constexpr uint64_t kAlignmentMax = 65536;

// Fewest bytes an entry can take: bounds the counts of a header before anything is allocated for them.
constexpr uint64_t kKeyBytesMin = 8 + 1 + 4 + 1;             // name, type, a one-byte value
constexpr uint64_t kTensorBytesMin = 8 + 1 + 4 + 8 + 4 + 8;  // name, one dimension, type, offset

// The file's numbers for tensor types. Those without a WeightType are known by name only, for the message.
struct TensorType {
  uint32_t number;
  const char* name;
  std::optional<WeightType> type;
};
// clang-format off
constexpr TensorType kTensorTypes[] = {
    {0, "F32", WeightType::kF32}, {1, "F16", WeightType::kF16}, {30, "BF16", WeightType::kBF16},
    {2, "Q4_0", WeightType::kQ4_0}, {3, "Q4_1", WeightType::kQ4_1}, {6, "Q5_0", WeightType::kQ5_0},
    {7, "Q5_1", WeightType::kQ5_1}, {8, "Q8_0", WeightType::kQ8_0}, {12, "Q4_K", WeightType::kQ4_K},
    {13, "Q5_K", WeightType::kQ5_K}, {14, "Q6_K", WeightType::kQ6_K}, {9, "Q8_1", {}}, {10, "Q2_K", {}},
    {11, "Q3_K", {}}, {15, "Q8_K", {}}, {16, "IQ2_XXS", {}}, {17, "IQ2_XS", {}}, {18, "IQ3_XXS", {}}, {19, "IQ1_S", {}},
    {20, "IQ4_NL", {}}, {21, "IQ3_S", {}}, {22, "IQ2_S", {}}, {23, "IQ4_XS", {}}, {24, "I8", {}}, {25, "I16", {}},
    {26, "I32", {}}, {27, "I64", {}}, {28, "F64", {}}, {29, "IQ1_M", {}}, {34, "TQ1_0", {}}, {35, "TQ2_0", {}},
    {39, "MXFP4", {}},
};
// clang-format on

std::string SupportedTensorTypes() {
  std::string list;
  for (const TensorType& t : kTensorTypes) {
    if (t.type) absl::StrAppend(&list, list.empty() ? "" : " ", t.name);
  }
  return list;
}

// Reads a file front to back. Each step checks before it believes; the first thing wrong ends the parse with `error`.
class Parser {
 public:
  Parser(std::string_view path, std::span<const uint8_t> bytes) : path_(path), bytes_(bytes) {}

  bool Header();
  bool Metadata(absl::flat_hash_map<absl::string_view, GgufValue>& values);
  bool Tensors(std::vector<GgufTensor>& tensors, absl::flat_hash_map<absl::string_view, size_t>& index);
  bool Data(const absl::flat_hash_map<absl::string_view, GgufValue>& values, std::vector<GgufTensor>& tensors);

  absl::Status error;

 private:
  uint64_t left() const { return bytes_.size() - at_; }

  template <class... Parts>
  bool Fail(uint64_t offset, const Parts&... parts) {
    error = absl::InvalidArgumentError(absl::StrCat(path_, ": byte ", offset, ": ", parts...));
    return false;
  }
  template <class T>
  bool Read(const char* what, T& value) {
    if (left() < sizeof(T)) return Fail(at_, "file ends inside ", what, " (", left(), " bytes left, expected ", sizeof(T), ")");
    value = GgufLoad<T>(bytes_.data() + at_);
    at_ += sizeof(T);
    return true;
  }
  bool ReadString(const char* what, int64_t bytes_max, std::string_view& value);
  bool ReadName(const char* what, std::string_view& value);
  bool ReadValue(std::string_view key, GgufValue& value);
  bool ReadArray(std::string_view key, GgufValue& value);
  bool SkipScalar(std::string_view key, uint32_t type);
  bool ReadTensor(GgufTensor& tensor, uint64_t& offset);
  bool CheckOverlaps(const std::vector<GgufTensor>& tensors);

  const std::string path_;
  const std::span<const uint8_t> bytes_;
  uint64_t at_ = 0;
  uint64_t tensor_count_ = 0;
  uint64_t key_count_ = 0;
  std::vector<uint64_t> offsets_;  // per tensor: where its data is, from the start of the data section
  std::vector<uint64_t> info_at_;  // per tensor: where the header describes it, for messages
};

bool Parser::Header() {
  constexpr std::string_view kMagic = "GGUF";
  if (bytes_.size() < 4 || std::memcmp(bytes_.data(), kMagic.data(), 4) != 0) {
    const std::string_view found(reinterpret_cast<const char*>(bytes_.data()), std::min<size_t>(bytes_.size(), 4));
    return Fail(0, "found ", GgufQuoted(found), ", expected the magic 'GGUF': not a GGUF file");
  }
  at_ = 4;
  uint32_t version = 0;
  if (!Read("the version", version)) return false;
  if (version == 1) return Fail(4, "GGUF version 1 is not supported, expected 2 or 3: convert the model again");
  if (version == 0x02000000 || version == 0x03000000) return Fail(4, "big-endian GGUF is not supported, expected little-endian");
  if (version != 2 && version != 3) return Fail(4, "found GGUF version ", version, ", expected 2 or 3");

  if (!Read("the tensor count", tensor_count_) || !Read("the metadata count", key_count_)) return false;
  const uint64_t tensors_max = std::min<uint64_t>(GgufFile::kTensorsMax, left() / kTensorBytesMin);
  if (tensor_count_ > tensors_max) return Fail(8, "found a count of ", tensor_count_, " tensors, expected at most ", tensors_max);
  const uint64_t keys_max = std::min<uint64_t>(GgufFile::kKeysMax, left() / kKeyBytesMin);
  if (key_count_ > keys_max) return Fail(16, "found a count of ", key_count_, " metadata keys, expected at most ", keys_max);
  return true;
}

bool Parser::ReadString(const char* what, int64_t bytes_max, std::string_view& value) {
  const uint64_t start = at_;
  uint64_t size = 0;
  if (!Read(what, size)) return false;
  const uint64_t size_max = std::min<uint64_t>(bytes_max, left());
  if (size > size_max) return Fail(start, what, " has a length of ", size, " bytes, expected at most ", size_max);
  value = {reinterpret_cast<const char*>(bytes_.data() + at_), size};
  at_ += size;
  return true;
}

bool Parser::ReadName(const char* what, std::string_view& value) {
  const uint64_t start = at_;
  if (!ReadString(what, kNameBytesMax, value)) return false;
  if (value.empty()) return Fail(start, what, " is empty");
  if (FindInvalidUtf8(value) != std::string_view::npos) return Fail(start, what, " ", GgufQuoted(value), " is not valid UTF-8");
  return true;
}

bool Parser::Metadata(absl::flat_hash_map<absl::string_view, GgufValue>& values) {
  values.reserve(key_count_);
  for (uint64_t i = 0; i < key_count_; ++i) {
    const uint64_t start = at_;
    std::string_view key;
    GgufValue value;
    if (!ReadName("a metadata key", key) || !ReadValue(key, value)) return false;
    if (!values.emplace(GgufKey(key), value).second) return Fail(start, "metadata key ", GgufQuoted(key), " is there twice");
  }
  return true;
}

bool Parser::ReadValue(std::string_view key, GgufValue& value) {
  const uint64_t start = at_;
  if (!Read("a metadata type", value.type)) return false;
  if (value.type >= kGgufTypes) return Fail(start, "metadata key ", GgufQuoted(key), " has type ", value.type, ", expected 0 to 12");
  if (value.type == kGgufArray) return ReadArray(key, value);
  value.offset = at_;
  return SkipScalar(key, value.type);
}

bool Parser::SkipScalar(std::string_view key, uint32_t type) {
  const uint64_t start = at_;
  if (type == kGgufString) {
    std::string_view ignored;
    return ReadString("a metadata string", GgufFile::kStringBytesMax, ignored);
  }
  const uint64_t size = kGgufTypeBytes[type];
  if (left() < size)
    return Fail(start, "file ends inside the value of ", GgufQuoted(key), " (", left(), " bytes left, expected ", size, ")");
  if (type == kGgufBool && bytes_[at_] > 1)
    return Fail(start, "bool of ", GgufQuoted(key), " is ", uint32_t{bytes_[at_]}, ", expected 0 or 1");
  at_ += size;
  return true;
}

bool Parser::ReadArray(std::string_view key, GgufValue& value) {
  const uint64_t start = at_;
  if (!Read("an array's element type", value.element_type)) return false;
  if (value.element_type == kGgufArray) return Fail(start, "metadata key ", GgufQuoted(key), " is an array of arrays: not supported");
  if (value.element_type >= kGgufTypes) {
    return Fail(start, "metadata key ", GgufQuoted(key), " has element type ", value.element_type, ", expected 0 to 12");
  }
  const uint64_t count_at = at_;
  if (!Read("an array's count", value.count)) return false;
  const bool fixed = value.element_type != kGgufString;
  const uint64_t element_bytes = fixed ? kGgufTypeBytes[value.element_type] : 8;  // a string takes at least its length
  const uint64_t count_max = std::min<uint64_t>(GgufFile::kArrayElementsMax, left() / element_bytes);
  if (value.count > count_max) {
    return Fail(count_at, "metadata key ", GgufQuoted(key), " has ", value.count, " elements, expected at most ", count_max);
  }
  value.offset = at_;
  if (fixed && value.element_type != kGgufBool) {
    at_ += value.count * element_bytes;
    return true;
  }
  for (uint64_t i = 0; i < value.count; ++i) {
    if (!SkipScalar(key, value.element_type)) return false;
  }
  return true;
}

bool Parser::Tensors(std::vector<GgufTensor>& tensors, absl::flat_hash_map<absl::string_view, size_t>& index) {
  tensors.resize(tensor_count_);
  offsets_.resize(tensor_count_);
  info_at_.resize(tensor_count_);
  index.reserve(tensor_count_);
  for (uint64_t i = 0; i < tensor_count_; ++i) {
    info_at_[i] = at_;
    if (!ReadTensor(tensors[i], offsets_[i])) return false;
    if (!index.emplace(GgufKey(tensors[i].name), i).second)
      return Fail(info_at_[i], "tensor ", GgufQuoted(tensors[i].name), " is there twice");
  }
  return true;
}

// Name, dimensions, type and offset; the data itself is placed by Data, once the alignment is known.
bool Parser::ReadTensor(GgufTensor& tensor, uint64_t& offset) {
  if (!ReadName("a tensor name", tensor.name)) return false;
  const std::string name = GgufQuoted(tensor.name);
  uint64_t start = at_;
  uint32_t dimensions = 0;
  if (!Read("a tensor's dimension count", dimensions)) return false;
  if (dimensions < 1 || dimensions > kDimensionsMax) {
    return Fail(start, "tensor ", name, " has ", dimensions, " dimensions, expected 1 to ", kDimensionsMax);
  }
  int64_t elements = 1;
  for (uint32_t d = 0; d < dimensions; ++d) {
    start = at_;
    uint64_t extent = 0;
    if (!Read("a tensor's dimension", extent)) return false;
    if (extent < 1 || extent > std::numeric_limits<int64_t>::max() ||
        __builtin_mul_overflow(elements, static_cast<int64_t>(extent), &elements)) {
      return Fail(start, "tensor ", name, " has a dimension of ", extent, ", expected at least 1 and fewer than 2^63 elements in all");
    }
    tensor.dims.push_back(static_cast<int64_t>(extent));
  }

  start = at_;
  uint32_t number = 0;
  if (!Read("a tensor's type", number)) return false;
  const TensorType* type = std::find_if(std::begin(kTensorTypes), std::end(kTensorTypes), [&](auto& t) { return t.number == number; });
  if (type == std::end(kTensorTypes) || !type->type) {
    error = absl::UnimplementedError(absl::StrCat(path_, ": byte ", start, ": tensor ", name, " has type ", number, " (",
                                                  type == std::end(kTensorTypes) ? "unknown" : type->name, "), supported are ",
                                                  SupportedTensorTypes()));
    return false;
  }
  tensor.type = *type->type;
  const WeightFormat& format = FormatOf(tensor.type);
  if (tensor.dims[0] % format.block_elements != 0) {
    return Fail(start, "tensor ", name, " has rows of ", tensor.dims[0], " elements, expected a multiple of ", format.block_elements, " (",
                format.name, ")");
  }
  return Read("a tensor's offset", offset);
}

bool Parser::Data(const absl::flat_hash_map<absl::string_view, GgufValue>& values, std::vector<GgufTensor>& tensors) {
  uint64_t alignment = kAlignmentDefault;
  if (const auto found = values.find("general.alignment"); found != values.end()) {
    const std::optional<GgufInteger> given = GgufIntegerAt(bytes_.data() + found->second.offset, found->second.type);
    if (!given || given->negative || given->bits < kAlignmentMin || given->bits > kAlignmentMax || !std::has_single_bit(given->bits)) {
      return Fail(found->second.offset, "general.alignment is ", given ? absl::StrCat(static_cast<int64_t>(given->bits)) : "not an integer",
                  ", expected a power of two from ", kAlignmentMin, " to ", kAlignmentMax);
    }
    alignment = given->bits;
  }
  const uint64_t data_at = (at_ + alignment - 1) / alignment * alignment;  // at_ is a file's length: no overflow
  const uint64_t data_bytes = data_at < bytes_.size() ? bytes_.size() - data_at : 0;

  for (size_t i = 0; i < tensors.size(); ++i) {
    GgufTensor& tensor = tensors[i];
    const uint64_t offset = offsets_[i];
    const WeightFormat& format = FormatOf(tensor.type);
    int64_t blocks = tensor.dims[0] / format.block_elements, size = 0;
    for (size_t d = 1; d < tensor.dims.size(); ++d) blocks *= tensor.dims[d];  // fewer than the elements, which fit
    if (offset % alignment != 0) {
      return Fail(info_at_[i], "tensor ", GgufQuoted(tensor.name), " has offset ", offset, ", expected a multiple of ", alignment);
    }
    if (__builtin_mul_overflow(blocks, int64_t{format.block_bytes}, &size) || static_cast<uint64_t>(size) > data_bytes ||
        offset > data_bytes - static_cast<uint64_t>(size)) {
      return Fail(info_at_[i], "tensor ", GgufQuoted(tensor.name), " needs ", blocks, " blocks of ", format.block_bytes,
                  " bytes at offset ", offset, ", expected them inside the ", data_bytes, " bytes of data that begin at byte ", data_at);
    }
    tensor.data = bytes_.subspan(data_at + offset, static_cast<uint64_t>(size));
  }
  return CheckOverlaps(tensors);
}

bool Parser::CheckOverlaps(const std::vector<GgufTensor>& tensors) {
  std::vector<size_t> order(tensors.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return offsets_[a] < offsets_[b]; });
  for (size_t i = 1; i < order.size(); ++i) {
    const size_t a = order[i - 1], b = order[i];
    if (offsets_[b] - offsets_[a] < tensors[a].data.size()) {
      return Fail(info_at_[b], "tensor ", GgufQuoted(tensors[b].name), " at offset ", offsets_[b], " overlaps ",
                  GgufQuoted(tensors[a].name), ", which ends at ", offsets_[a] + tensors[a].data.size());
    }
  }
  return true;
}

}  // namespace

absl::Status ParseGguf(const std::string& path, std::span<const uint8_t> bytes, GgufIndex& index) {
  Parser parser(path, bytes);
  const bool good = parser.Header() && parser.Metadata(index.values) && parser.Tensors(index.tensors, index.tensor_index) &&
                    parser.Data(index.values, index.tensors);
  return good ? absl::OkStatus() : parser.error;
}

std::optional<GgufInteger> GgufIntegerAt(const uint8_t* at, uint32_t type) {
  const auto of_signed = [](int64_t v) { return GgufInteger{v < 0, static_cast<uint64_t>(v)}; };
  switch (type) {
    case kGgufU8: return GgufInteger{false, GgufLoad<uint8_t>(at)};
    case kGgufU16: return GgufInteger{false, GgufLoad<uint16_t>(at)};
    case kGgufU32: return GgufInteger{false, GgufLoad<uint32_t>(at)};
    case kGgufU64: return GgufInteger{false, GgufLoad<uint64_t>(at)};
    case kGgufI8: return of_signed(GgufLoad<int8_t>(at));
    case kGgufI16: return of_signed(GgufLoad<int16_t>(at));
    case kGgufI32: return of_signed(GgufLoad<int32_t>(at));
    case kGgufI64: return of_signed(GgufLoad<int64_t>(at));
    default: return std::nullopt;
  }
}

std::string GgufTypeName(const GgufValue& value) {
  if (value.type != kGgufArray) return kGgufTypeNames[value.type];
  return absl::StrCat("array of ", value.count, " ", kGgufTypeNames[value.element_type]);
}

std::string GgufQuoted(std::string_view name) {
  const size_t shown = std::min<size_t>(name.size(), 80);
  return absl::StrCat("'", absl::CHexEscape(GgufKey(name.substr(0, shown))), shown < name.size() ? "...'" : "'");
}

}  // namespace spherical::engine
