// The format of a GGUF file, and the checks of it. Private to engine/model: everybody else reads GgufFile (gguf.h).
//
//     magic "GGUF" | version u32 | tensors u64 | keys u64
//     keys     x   | name: string | type u32 | value: a scalar, a string, or an array (element type u32 | count u64 | elements)
//     tensors  x   | name: string | dimensions u32 | extent u64 x dimensions | type u32 | offset u64
//     padding up to general.alignment (32 when not given)
//     data         | each tensor at its offset from here, a multiple of the alignment
//
// All little-endian; a string is a length u64 and so many bytes, without a NUL.
#ifndef SPHERICAL_ENGINE_MODEL_GGUF_PARSER_H_
#define SPHERICAL_ENGINE_MODEL_GGUF_PARSER_H_

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/model/gguf.h"

namespace spherical::engine {

static_assert(std::endian::native == std::endian::little, "GGUF numbers are copied as they are");

// The file's numbers for value types.
enum GgufType : uint32_t {
  kGgufU8, kGgufI8, kGgufU16, kGgufI16, kGgufU32, kGgufI32, kGgufF32, kGgufBool, kGgufString, kGgufArray, kGgufU64, kGgufI64, kGgufF64,
};
inline constexpr uint32_t kGgufTypes = 13;
inline constexpr const char* kGgufTypeNames[kGgufTypes] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                           "bool", "string", "array", "u64", "i64", "f64"};
inline constexpr uint8_t kGgufTypeBytes[kGgufTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};  // 0: not of fixed size

// One metadata value: where its bytes are. Checked when the file is parsed, decoded when asked for.
struct GgufValue {
  uint32_t type = 0;          // a GgufType
  uint32_t element_type = 0;  // of an array; never kGgufArray
  uint64_t count = 1;         // of an array
  uint64_t offset = 0;        // of the value, or of an array's first element
};

// Keys and names are views of the file's bytes.
struct GgufIndex {
  absl::flat_hash_map<absl::string_view, GgufValue> values;
  std::vector<GgufTensor> tensors;
  absl::flat_hash_map<absl::string_view, size_t> tensor_index;
};

// Reads a whole file. After OkStatus everything that the index points at is inside `bytes` and what it says it is.
absl::Status ParseGguf(const std::string& path, std::span<const uint8_t> bytes, GgufIndex& index);

// Decoding of what was checked.

template <class T>
T GgufLoad(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

inline std::string_view GgufStringAt(std::span<const uint8_t> bytes, uint64_t offset) {
  return {reinterpret_cast<const char*>(bytes.data() + offset + 8), GgufLoad<uint64_t>(bytes.data() + offset)};
}

struct GgufInteger {
  bool negative;
  uint64_t bits;  // two's complement when negative
};
std::optional<GgufInteger> GgufIntegerAt(const uint8_t* at, uint32_t type);  // nullopt: not a type of integers

// For messages.
std::string GgufTypeName(const GgufValue& value);
std::string GgufQuoted(std::string_view name);  // escaped and short: names come from the file

// Debian's absl::string_view is not std::string_view.
inline absl::string_view GgufKey(std::string_view s) { return {s.data(), s.size()}; }

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_GGUF_PARSER_H_
