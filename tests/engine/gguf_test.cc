#include "engine/model/gguf.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "tests/engine/random.h"
#include "tests/fakes/tiny_gguf.h"

namespace spherical::engine {
namespace {

using testing::GgufBuilder;

// Parses a copy in memory of exactly the right size, so that the address sanitizer sees a read past the end; uses all there is if it
// parses.
absl::Status ParseAndUse(std::string_view file) {
  const auto bytes = std::make_unique<uint8_t[]>(file.size());
  std::memcpy(bytes.get(), file.data(), file.size());
  const absl::StatusOr<GgufFile> parsed = GgufFile::Parse({bytes.get(), file.size()}, "test.gguf");
  if (!parsed.ok()) return parsed.status();
  uint64_t sum = 0;
  for (const GgufTensor& tensor : parsed->tensors()) {
    REQUIRE(parsed->FindTensor(tensor.name) == &tensor);
    REQUIRE(tensor.rows() > 0);
    for (const uint8_t byte : tensor.data) sum += byte;
  }
  for (const char* key : {"u32", "i32", "f32", "u64", "bool", "string", "strings", "i32s", "f32s", "general.alignment"}) {
    for (const bool ok : {parsed->Uint(key).ok(), parsed->Float(key).ok(), parsed->Bool(key).ok(), parsed->String(key).ok(),
                          parsed->Strings(key).ok(), parsed->Ints(key).ok(), parsed->Floats(key).ok()}) {
      sum += ok;
    }
  }
  REQUIRE(sum <= file.size() * 256);  // and so all of it was read
  return absl::OkStatus();
}

// Every kind of value, two tensors.
GgufBuilder SmallFile() {
  GgufBuilder file;
  file.U32("u32", 7).I32("i32", -7).F32("f32", 1.5f).U64("u64", uint64_t{1} << 63).Bool("bool", true).String("string", "text");
  file.Strings("strings", {"a", "", "ccc"}).I32s("i32s", {1, -2, 3}).F32s("f32s", {0.5f, -0.5f});
  file.Tensor("first", 0, {8, 1}, std::string(32, 'x')).Tensor("second", 8, {32, 2}, std::string(68, 'y'));
  return file;
}

size_t HeaderBytes(const GgufBuilder& file) { return file.Build().find("xxxxxxxx"); }

TEST_CASE("A file's values and tensors come back as they were written") {
  for (const uint32_t version : {2, 3}) {
    GgufBuilder builder = SmallFile();
    builder.version = version;
    const std::string bytes = builder.Build();
    const absl::StatusOr<GgufFile> file = GgufFile::Open(testing::WriteTestFile("small.gguf", bytes));
    REQUIRE(file.ok());
    CHECK(file->file_bytes() == static_cast<int64_t>(bytes.size()));
    CHECK(file->Uint("u32").value() == 7);
    CHECK(file->Uint("u64").value() == uint64_t{1} << 63);
    CHECK(file->Float("f32").value() == 1.5);
    CHECK(file->Bool("bool").value());
    CHECK(file->String("string").value() == "text");
    CHECK(file->Strings("strings").value() == std::vector<std::string_view>{"a", "", "ccc"});
    CHECK(file->Ints("i32s").value() == std::vector<int64_t>{1, -2, 3});
    CHECK(file->Floats("f32s").value() == std::vector<float>{0.5f, -0.5f});
    CHECK(file->Has("u32"));
    CHECK_FALSE(file->Has("u33"));

    REQUIRE(file->tensors().size() == 2);
    CHECK(file->FindTensor("third") == nullptr);
    const GgufTensor* second = file->FindTensor("second");
    REQUIRE(second != nullptr);
    CHECK(second->type == kernels::WeightType::kQ8_0);
    CHECK(second->dims == std::vector<int64_t>{32, 2});
    CHECK(second->rows() == 2);
    REQUIRE(second->data.size() == 68);
    file->DropPages();  // forgotten, not lost
    CHECK(second->data[67] == 'y');
  }
}

TEST_CASE("Asking for the wrong type names the key, what it is, and what was wanted") {
  const std::string bytes = SmallFile().Build();
  const auto file = GgufFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "model.gguf");
  REQUIRE(file.ok());
  const auto says = [](const absl::Status& status, absl::StatusCode code, const std::string& text) {
    INFO(status.ToString());
    CHECK(status.code() == code);
    CHECK(std::string(status.message()).find(text) != std::string::npos);
  };
  using enum absl::StatusCode;
  says(file->Uint("absent").status(), kNotFound, "model.gguf: no metadata key 'absent'");
  says(file->Uint("i32").status(), kInvalidArgument, "'i32' is -7, expected 0 or more");
  says(file->Uint("string").status(), kInvalidArgument, "'string' is string, expected an integer");
  says(file->Float("u32").status(), kInvalidArgument, "'u32' is u32, expected f32 or f64");
  says(file->Bool("u32").status(), kInvalidArgument, "expected bool");
  says(file->String("strings").status(), kInvalidArgument, "'strings' is array of 3 string, expected string");
  says(file->Strings("i32s").status(), kInvalidArgument, "expected an array of strings");
  says(file->Ints("strings").status(), kInvalidArgument, "expected an array of integers");
  says(file->Ints("f32s").status(), kInvalidArgument, "expected an array of integers");
  says(file->Floats("i32s").status(), kInvalidArgument, "expected an array of f32");
  says(file->Floats("f32").status(), kInvalidArgument, "expected an array of f32");
}

TEST_CASE("A file cut short at any byte is refused") {
  GgufBuilder builder = SmallFile();
  builder.RemoveTensor("second");  // `first` fills its alignment: no byte of the file is padding at the end
  const std::string whole = builder.Build();
  REQUIRE(ParseAndUse(whole).ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    INFO("cut to " << size << " of " << whole.size());
    const absl::Status status = ParseAndUse(whole.substr(0, size));
    REQUIRE(status.code() == absl::StatusCode::kInvalidArgument);
    REQUIRE(std::string(status.message()).find("test.gguf: byte ") == 0);
  }
}

TEST_CASE("No single flipped bit of the header does harm") {
  const std::string whole = SmallFile().Build();
  const size_t header = HeaderBytes(SmallFile());
  for (size_t bit = 0; bit < header * 8; ++bit) {
    std::string bad = whole;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ 1 << bit % 8);
    INFO("bit " << bit);
    const absl::Status status = ParseAndUse(bad);  // some flips only change a value: both answers are right
    if (bit < 32) REQUIRE_FALSE(status.ok());
  }
}

TEST_CASE("No eight bytes of the header can claim too much") {
  const std::string whole = SmallFile().Build();
  const size_t header = HeaderBytes(SmallFile());
  for (const uint64_t claim :
       {~uint64_t{0}, uint64_t{1} << 63, uint64_t{1} << 62, uint64_t{1} << 61, uint64_t{1} << 32, ~uint64_t{0} - 31}) {
    for (size_t at = 0; at + 8 <= header; ++at) {
      std::string bad = whole;
      std::memcpy(bad.data() + at, &claim, sizeof claim);
      INFO("claim " << claim << " at " << at);
      ParseAndUse(bad).IgnoreError();
    }
  }
}

TEST_CASE("Twenty thousand damaged files do no harm") {
  const std::string whole = SmallFile().Build();
  int64_t refused = 0;
  for (uint64_t seed = 0; seed < 20000; ++seed) {
    INFO("seed " << seed);
    refused += !ParseAndUse(testing::Damage(whole, seed)).ok();
  }
  CHECK(refused > 10000);  // damage is damage
}

struct BadFile {
  const char* name;
  std::function<std::string()> bytes;
  absl::StatusCode code;
  const char* message;
};

std::string WithCounts(uint64_t tensors, uint64_t keys) {
  std::string bytes = SmallFile().Build();
  std::memcpy(bytes.data() + 8, &tensors, 8);
  std::memcpy(bytes.data() + 16, &keys, 8);
  return bytes;
}

std::string RawArray(uint32_t element_type, uint64_t count, std::string elements) {
  std::string bytes(12, '\0');
  std::memcpy(bytes.data(), &element_type, 4);
  std::memcpy(bytes.data() + 4, &count, 8);
  return bytes + elements;
}

std::string RawString(uint64_t length, std::string text) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + text;
}

TEST_CASE("Every kind of bad file is refused by name") {
  const auto version = [](uint32_t v) {
    GgufBuilder file = SmallFile();
    file.version = v;
    return file.Build();
  };
  const auto tensor = [](uint32_t type, std::vector<int64_t> dims, size_t bytes) {
    return GgufBuilder().Tensor("t", type, std::move(dims), std::string(bytes, 'd')).Build();
  };
  const auto value = [](uint32_t type, std::string bytes) { return SmallFile().Raw("key", type, std::move(bytes)).Build(); };
  const int64_t huge = int64_t{1} << 62;
  using enum absl::StatusCode;
  const BadFile cases[] = {
      {"empty", [] { return ""; }, kInvalidArgument, "byte 0: found '', expected the magic 'GGUF'"},
      {"magic", [] { return "GGML" + std::string(60, '\0'); }, kInvalidArgument, "found 'GGML', expected the magic"},
      {"version 1", [&] { return version(1); }, kInvalidArgument, "GGUF version 1 is not supported, expected 2 or 3"},
      {"version 4", [&] { return version(4); }, kInvalidArgument, "byte 4: found GGUF version 4, expected 2 or 3"},
      {"big-endian", [&] { return version(0x03000000); }, kInvalidArgument, "big-endian GGUF is not supported"},
      {"tensor count", [] { return WithCounts(~uint64_t{0}, 1); }, kInvalidArgument,
       "byte 8: found a count of 18446744073709551615 tensors"},
      {"tensor count that fits nowhere", [] { return WithCounts(60000, 1); }, kInvalidArgument, "byte 8: found a count of 60000 tensors"},
      {"key count", [] { return WithCounts(1, uint64_t{1} << 63); }, kInvalidArgument, "byte 16: found a count of 9223372036854775808"},
      {"value type", [&] { return value(13, "12345678"); }, kInvalidArgument, "'key' has type 13, expected 0 to 12"},
      {"bool", [&] { return value(7, "\x02"); }, kInvalidArgument, "bool of 'key' is 2, expected 0 or 1"},
      {"string length", [&] { return value(8, RawString(uint64_t{1} << 63, "x")); }, kInvalidArgument,
       "length of 9223372036854775808 bytes"},
      {"array of arrays", [&] { return value(9, RawArray(9, 1, RawArray(4, 0, ""))); }, kInvalidArgument, "is an array of arrays"},
      {"array's element type", [&] { return value(9, RawArray(99, 1, "")); }, kInvalidArgument, "has element type 99, expected 0 to 12"},
      {"array count", [&] { return value(9, RawArray(4, uint64_t{1} << 62, "")); }, kInvalidArgument, "has 4611686018427387904 elements"},
      {"array of strings", [&] { return value(9, RawArray(8, 3, RawString(1, "a"))); }, kInvalidArgument, "a metadata string"},
      {"array of bools", [&] { return value(9, RawArray(7, 2, "\x01\x05")); }, kInvalidArgument, "bool of 'key' is 5"},
      {"same key twice", [] { return SmallFile().Raw("u32", 4, "aaaa", true).Build(); }, kInvalidArgument,
       "metadata key 'u32' is there twice"},
      {"key without a name", [] { return GgufBuilder().U32("", 1).U32("x", 1).Build(); }, kInvalidArgument, "a metadata key is empty"},
      {"key that is no text", [] { return GgufBuilder().U32("\xff\n", 1).Build(); }, kInvalidArgument, "'\\xff\\n' is not valid UTF-8"},
      {"no dimensions", [&] { return tensor(0, {}, 64); }, kInvalidArgument, "tensor 't' has 0 dimensions, expected 1 to 4"},
      {"five dimensions",
       [&] {
         return tensor(0, {1, 1, 1, 1, 1}, 64);
       },
       kInvalidArgument, "has 5 dimensions, expected 1 to 4"},
      {"dimension 0",
       [&] {
         return tensor(0, {0, 4}, 64);
       },
       kInvalidArgument, "has a dimension of 0"},
      {"dimension -1", [&] { return tensor(0, {-1}, 64); }, kInvalidArgument, "has a dimension of 18446744073709551615"},
      {"product of dimensions",
       [&] {
         return tensor(0, {huge, 2, 2}, 64);
       },
       kInvalidArgument, "fewer than 2^63 elements in all"},
      {"bytes of dimensions", [&] { return tensor(0, {huge}, 64); }, kInvalidArgument, "needs 4611686018427387904 blocks of 4 bytes"},
      {"row length", [&] { return tensor(2, {33}, 64); }, kInvalidArgument, "has rows of 33 elements, expected a multiple of 32 (Q4_0)"},
      {"row length that only fits all rows",
       [&] {
         return tensor(12, {128, 2}, 144);
       },
       kInvalidArgument, "multiple of 256 (Q4_K)"},
      {"type we lack", [&] { return tensor(10, {256}, 84); }, kUnimplemented,
       "has type 10 (Q2_K), supported are F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K"},
      {"type nobody has", [&] { return tensor(4000, {256}, 84); }, kUnimplemented, "has type 4000 (unknown), supported are F32"},
      {"tensor past the end", [&] { return tensor(0, {1024}, 64); }, kInvalidArgument, "expected them inside the 64 bytes of data"},
      {"offset past the end", [] { return SmallFile().LieAboutOffset("first", 1 << 20).Build(); }, kInvalidArgument, "at offset 1048576"},
      {"offset near 2^63", [] { return SmallFile().LieAboutOffset("first", (uint64_t{1} << 63) - 32).Build(); }, kInvalidArgument,
       "at offset 9223372036854775776"},
      {"offset not aligned", [] { return SmallFile().LieAboutOffset("second", 33).Build(); }, kInvalidArgument,
       "has offset 33, expected a multiple of 32"},
      {"tensors that overlap", [] { return SmallFile().LieAboutOffset("second", 0).Build(); }, kInvalidArgument, "overlaps"},
      {"alignment 0", [] { return SmallFile().U32("general.alignment", 0).Build(); }, kInvalidArgument,
       "general.alignment is 0, expected a power"},
      {"alignment 48", [] { return SmallFile().U32("general.alignment", 48).Build(); }, kInvalidArgument, "general.alignment is 48"},
      {"alignment 2^31", [] { return SmallFile().U32("general.alignment", 1u << 31).Build(); }, kInvalidArgument, "from 8 to 65536"},
      {"alignment of text", [] { return SmallFile().String("general.alignment", "32").Build(); }, kInvalidArgument, "is not an integer"},
  };
  for (const BadFile& c : cases) {
    const absl::Status status = ParseAndUse(c.bytes());
    INFO(c.name << ": " << status.ToString());
    CHECK(status.code() == c.code);
    CHECK(std::string(status.message()).find(c.message) != std::string::npos);
    CHECK(std::string(status.message()).find("test.gguf: byte ") == 0);
  }
}

TEST_CASE("Two tensors of one name are refused") {
  // The builder would replace it: rename it in the bytes.
  GgufBuilder file = GgufBuilder().Tensor("a", 0, {8}, std::string(32, 'x')).Tensor("b", 0, {8}, std::string(32, 'y'));
  std::string bytes = file.Build();
  bytes[bytes.find('b', 24)] = 'a';
  const absl::Status status = ParseAndUse(bytes);
  INFO(status.ToString());
  CHECK(std::string(status.message()).find("tensor 'a' is there twice") != std::string::npos);
}

TEST_CASE("An alignment that the file asks for is kept") {
  GgufBuilder builder = SmallFile();
  builder.alignment = 256;
  const std::string bytes = builder.Build();
  const auto file = GgufFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "aligned");
  REQUIRE(file.ok());
  for (const GgufTensor& tensor : file->tensors()) CHECK((tensor.data.data() - reinterpret_cast<const uint8_t*>(bytes.data())) % 256 == 0);
}

TEST_CASE("Text that is not UTF-8 is refused where it is asked for") {
  const std::string bytes = SmallFile().String("string", "ab\xC3").Strings("strings", {"fine", "\xED\xA0\x80"}).Build();
  const auto file = GgufFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "text");
  REQUIRE(file.ok());
  CHECK(std::string(file->String("string").status().message()).find("'string' is not valid UTF-8") != std::string::npos);
  CHECK(std::string(file->Strings("strings").status().message()).find("element 1 of 'strings' is not valid UTF-8") != std::string::npos);
}

TEST_CASE("What is not a file with bytes says so") {
  const auto open = [](const std::string& path) { return GgufFile::Open(path).status(); };
  CHECK(open("/nowhere/model.gguf").code() == absl::StatusCode::kNotFound);
  CHECK(std::string(open("/nowhere/model.gguf").message()).find("/nowhere/model.gguf: cannot open") == 0);
  CHECK(open("/tmp").code() == absl::StatusCode::kInvalidArgument);
  CHECK(open("/dev/zero").code() == absl::StatusCode::kInvalidArgument);
  CHECK(open(testing::WriteTestFile("empty.gguf", "")).code() == absl::StatusCode::kInvalidArgument);
}

bool IsMapped(const std::string& path) {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line)) {
    if (line.find(path) != std::string::npos) return true;
  }
  return false;
}

TEST_CASE("A file is mapped while an object holds it, and no longer") {
  const std::string path = testing::WriteTestFile("moved.gguf", SmallFile().Build());
  {
    absl::StatusOr<GgufFile> opened = GgufFile::Open(path);
    REQUIRE(opened.ok());
    GgufFile moved = *std::move(opened);
    GgufFile again = std::move(moved);
    CHECK(again.FindTensor("first")->data[0] == 'x');
    CHECK(IsMapped(path));
  }
  CHECK_FALSE(IsMapped(path));
  const std::string bad = testing::WriteTestFile("bad.gguf", SmallFile().Build().substr(0, 100));
  CHECK_FALSE(GgufFile::Open(bad).ok());
  CHECK_FALSE(IsMapped(bad));
}

TEST_CASE("The tiny model of other tests parses in every weight type") {
  for (int32_t type = 0; type < kernels::kWeightTypeCount; ++type) {
    testing::TinyModelOptions options{.width = 256, .heads = 4, .type = static_cast<kernels::WeightType>(type), .tied = false};
    const absl::Status status = ParseAndUse(testing::TinyModel(options).Build());
    INFO(status.ToString());
    CHECK(status.ok());
  }
}

TEST_CASE("The served model's file parses") {
  const auto file = GgufFile::Open("../models/models/SmolLM2-135M-Instruct.Q4_1.gguf");
  INFO("fetch it with deploy/fetch_model.sh: " << file.status().ToString());
  REQUIRE(file.ok());
  CHECK(file->tensors().size() == 272);
  CHECK(file->Strings("tokenizer.ggml.tokens")->size() == 49152);
  CHECK(file->Uint("llama.block_count").value() == 30);
}

}  // namespace
}  // namespace spherical::engine
