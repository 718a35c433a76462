#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/hugging_face/safetensors_file.h"
#include "server/hugging_face/safetensors_set.h"
#include "tests/fakes/tiny_hugging_face.h"

namespace spherical::server {
namespace {

using testing::SafeTensor;

std::string WithHeader(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
}

// What is said of a file; "" if it is good. The copy has exactly the right size, so that the address sanitizer sees a read past the end.
std::string Said(const std::string& bytes) {
  const auto copy = std::make_unique<uint8_t[]>(bytes.size());
  std::memcpy(copy.get(), bytes.data(), bytes.size());
  const auto file = SafetensorsFile::Parse({copy.get(), bytes.size()}, "f");
  return std::string(file.status().message());
}

// Of a file of one tensor "t" with these fields, before 16 bytes of data.
std::string SaidOf(const std::string& fields) { return Said(WithHeader("{\"t\": {" + fields + "}}", std::string(16, 'd'))); }

std::string LengthOf(uint64_t length) { return std::string(reinterpret_cast<const char*>(&length), sizeof length); }

TEST_CASE("Tensors come with type, shape with the row length first, and their bytes, aligned or not") {
  const std::string bytes = WithHeader(R"({"__metadata__": {"format": "pt", "x": [1]},
    "odd": {"dtype": "BF16", "shape": [1, 3], "data_offsets": [1, 7]},
    "scalar": {"dtype": "F16", "shape": [], "data_offsets": [7, 9]}, "empty": {"dtype": "F32", "shape": [0, 4], "data_offsets": [3, 3]}})",
                                       "-abcdefgh--");
  const auto file = SafetensorsFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "f");
  INFO(file.status().ToString());
  REQUIRE(file.ok());
  REQUIRE(file->tensors().size() == 3);
  const engine::SourceTensor& odd = file->tensors().find("odd")->second;
  CHECK(odd.name == "odd");
  CHECK(odd.type == kernels::WeightType::kBF16);
  CHECK(odd.dims == std::vector<int64_t>{3, 1});
  CHECK(odd.rows() == 1);
  CHECK(std::string(odd.data.begin(), odd.data.end()) == "abcdef");
  CHECK(file->tensors().find("scalar")->second.data.size() == 2);
  CHECK(file->tensors().find("empty")->second.data.empty());
  CHECK(file->tensors().find("empty")->second.rows() == 0);
}

TEST_CASE("A header's length that no file has is refused") {
  CHECK(Said("") == "f: 0 bytes, expected a header's length of 8");
  CHECK(Said("1234567") == "f: 7 bytes, expected a header's length of 8");
  CHECK(Said(LengthOf(0) + "{}") == "f: a header of 0 bytes, expected 1 to 2 in a file of 10");
  CHECK(Said(LengthOf(3) + "{}") == "f: a header of 3 bytes, expected 1 to 2 in a file of 10");
  CHECK(Said(LengthOf(uint64_t{1} << 63) + "{}") == "f: a header of 9223372036854775808 bytes, expected 1 to 2 in a file of 10");
  CHECK(Said(LengthOf(~uint64_t{0}) + "{}") == "f: a header of 18446744073709551615 bytes, expected 1 to 2 in a file of 10");
  const uint64_t too_long = SafetensorsFile::kHeaderBytesMax + 1;
  CHECK(Said(LengthOf(too_long) + "{}" + std::string(too_long, ' ')) ==
        "f: a header of 16777217 bytes, expected 1 to 16777216 in a file of 16777227");
}

TEST_CASE("A header that is no object of tensors is refused by its place") {
  CHECK(Said(WithHeader("[]", "")) == "f: expected an object; got an array []");
  CHECK(Said(WithHeader("{", "")).starts_with("f: not JSON: parse error at line 1, column 2"));
  CHECK(Said(WithHeader("{\"t\xff\": 1}", "")).starts_with("f: not JSON: "));
  CHECK(Said(WithHeader(R"({"t": {}, "t": {}})", "")) == "f: /t: given twice; expected once");
  CHECK(Said(WithHeader(R"({"t": 1})", "")) == "f: /t: expected an object with dtype, shape and data_offsets; got an integer 1");
  CHECK(Said(WithHeader(R"({"a/b": {}})", "")) == "f: /a~1b/dtype: missing");
  CHECK(Said(WithHeader(R"({"": {}})", "")) == "f: a tensor's name is a string \"\", expected printable text");
  CHECK(Said(WithHeader(R"({"a\nb": {}})", "")) == "f: a tensor's name is a string \"a\\nb\", expected printable text");
  CHECK(Said(WithHeader("{\"" + std::string(257, 'n') + "\": {}}", "")) == "f: a tensor's name has 257 bytes, expected at most 256");
  const std::string deep = "{\"__metadata__\": " + std::string(100'000, '[') + std::string(100'000, ']') + "}";
  CHECK(Said(WithHeader(deep, "")) == "f: arrays and objects deeper than 64 levels");
  std::string many = "{";
  for (int i = 0; i <= SafetensorsFile::kTensorsMax; ++i) absl::StrAppend(&many, "\"", i, "\": 0,");
  many.back() = '}';
  CHECK(Said(WithHeader(many, "")) == "f: 65537 tensors, expected at most 65536");
}

TEST_CASE("A tensor whose dtype, shape and place do not hold together is refused by its place") {
  CHECK(SaidOf(R"("dtype": "F32", "shape": [4], "data_offsets": [0, 16])") == "");
  CHECK(SaidOf(R"("dtype": "I64", "shape": [2], "data_offsets": [0, 16])") ==
        "f: /t/dtype: got a string \"I64\"; supported are \"F32\", \"F16\", \"BF16\"");
  CHECK(SaidOf(R"("dtype": 3, "shape": [2], "data_offsets": [0, 16])") ==
        "f: /t/dtype: got an integer 3; supported are \"F32\", \"F16\", \"BF16\"");
  CHECK(SaidOf(R"("dtype": "F32", "data_offsets": [0, 16])") == "f: /t/shape: missing");
  CHECK(SaidOf(R"("dtype": "F32", "shape": [4])") == "f: /t/data_offsets: missing");

  const std::string shape = "f: /t/shape: expected at most 8 numbers that make less than 2^63 bytes; got ";
  const auto of_shape = [](const std::string& text) { return SaidOf(R"("dtype": "F32", "data_offsets": [0, 16], "shape": )" + text); };
  CHECK(of_shape("4") == shape + "an integer 4");
  CHECK(of_shape("[-4]") == shape + "an array [-4]");
  CHECK(of_shape("[4.0]") == shape + "an array [4.0]");
  CHECK(of_shape("[true]") == shape + "an array [true]");
  CHECK(of_shape("[1,1,1,1,1,1,1,1,4]") == shape + "an array [1,1,1,1,1,1,1,1,4]");
  CHECK(of_shape("[2305843009213693952]") == shape + "an array [2305843009213693952]");     // 2^61 floats: 2^63 bytes
  CHECK(of_shape("[4294967296,4294967296]") == shape + "an array [4294967296,4294967296]");  // 2^64 wraps to 0
  CHECK(of_shape("[18446744073709551615]") == shape + "an array [18446744073709551615]");
  CHECK(of_shape("[99999999999999999999]") == shape + "an array [1e+20]");
  CHECK(of_shape("[0,4294967296,4294967296]") == shape + "an array [0,4294967296,4294967296]");

  const auto at = [](const std::string& text) { return SaidOf(R"("dtype": "F32", "shape": [2], "data_offsets": )" + text); };
  const std::string inside = "f: /t/data_offsets: expected [begin, end] inside the 16 bytes of data; got ";
  CHECK(at("[8, 16]") == "");
  CHECK(at("[12, 20]") == inside + "an array [12,20]");  // the data is cut off
  CHECK(at("[8, 0]") == inside + "an array [8,0]");
  CHECK(at("[18446744073709551608, 18446744073709551615]") == inside + "an array [18446744073709551608,18446744073709551615]");
  CHECK(at("[-8, 0]") == inside + "an array [-8,0]");
  CHECK(at("[0]") == inside + "an array [0]");
  CHECK(at("[0, 8, 16]") == inside + "an array [0,8,16]");
  CHECK(at("\"0-8\"") == inside + "a string \"0-8\"");
  CHECK(at("[0, 12]") == "f: /t/data_offsets: expected 8 bytes, which dtype and shape [2] take; got an array [0,12]");
  CHECK(at("[8, 8]") == "f: /t/data_offsets: expected 8 bytes, which dtype and shape [2] take; got an array [8,8]");
}

TEST_CASE("Tensors that share bytes are refused") {
  const std::string first = R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "F32", "shape": [1], )";
  CHECK(Said(WithHeader(first + R"("data_offsets": [8, 12]}})", std::string(16, 'd'))) == "");
  CHECK(Said(WithHeader(first + R"("data_offsets": [7, 11]}})", std::string(16, 'd'))) == "f: tensor b overlaps a");
  CHECK(Said(WithHeader(first + R"("data_offsets": [0, 4]}})", std::string(16, 'd'))).find("overlaps") != std::string::npos);
}

// ---- folders ----

std::string Folder(const std::map<std::string, std::string>& files) {
  static int made = 0;
  const std::string folder = std::string(std::getenv("TEST_TMPDIR")) + "/weights" + std::to_string(made++);
  testing::WriteFolder(folder, files);
  return folder;
}

std::string Shard(const std::vector<std::string>& names) {
  std::vector<SafeTensor> tensors;
  for (const std::string& name : names) tensors.push_back({name, "F32", {1}, "1234"});
  return testing::SafetensorsFile(tensors);
}

constexpr char kIndex[] = "model.safetensors.index.json";

std::string Index(const std::string& weight_map) { return "{\"metadata\": {\"total_size\": 8}, \"weight_map\": " + weight_map + "}"; }

// What is said of a folder, without the path in front of it.
std::string SaidOfFolder(const std::string& folder) {
  std::string said(SafetensorsSet::Open(folder).status().message());
  for (size_t at = 0; (at = said.find(folder + "/")) != std::string::npos;) said.erase(at, folder.size() + 1);
  return said;
}

// Of a folder with the shards 1.safetensors, which holds a and b, and 2.safetensors, which holds c.
std::string SaidOfIndex(const std::string& index) {
  return SaidOfFolder(Folder({{"1.safetensors", Shard({"a", "b"})}, {"2.safetensors", Shard({"c"})}, {kIndex, index}}));
}

TEST_CASE("One file of weights, or all that the index names; an index beside the one file is not looked at") {
  const std::string alone = Folder({{"model.safetensors", Shard({"a"})}, {kIndex, "bad"}});
  auto one = SafetensorsSet::Open(alone);
  REQUIRE(one.ok());
  CHECK(one->tensors().size() == 1);
  CHECK(*SafetensorsSet::Names(alone) == std::vector<std::string>{"model.safetensors"});

  // b is named by no index, but is there.
  const std::string folder = Folder({{"1.safetensors", Shard({"a", "b"})},
                                     {"2.safetensors", Shard({"c"})},
                                     {kIndex, Index(R"({"c": "2.safetensors", "a": "1.safetensors"})")}});
  auto set = SafetensorsSet::Open(folder);
  INFO(set.status().ToString());
  REQUIRE(set.ok());
  const SafetensorsSet moved = *std::move(set);
  REQUIRE(moved.tensors().size() == 3);
  for (const auto& [name, tensor] : moved.tensors()) {
    CHECK(tensor.name == name);
    CHECK(std::string(tensor.data.begin(), tensor.data.end()) == "1234");
  }
  CHECK(*SafetensorsSet::Names(folder) == std::vector<std::string>{"1.safetensors", "2.safetensors"});
}

TEST_CASE("A folder whose weights are not all there is refused by what is missing") {
  const std::string empty = Folder({{"pytorch_model.bin", "x"}});
  CHECK(SafetensorsSet::Open(empty).status().message() ==
        empty + ": no weights: expected model.safetensors or model.safetensors.index.json");
  CHECK(absl::IsNotFound(SafetensorsSet::Names(empty).status()));
  CHECK(SaidOfIndex(Index(R"({"a": "1.safetensors", "d": "3.safetensors"})")) ==
        "3.safetensors: cannot open: No such file or directory (named by model.safetensors.index.json)");
  CHECK(SaidOfIndex(Index(R"({"a": "2.safetensors", "c": "2.safetensors"})")) ==
        "model.safetensors.index.json: /weight_map/a: 2.safetensors has no such tensor");
  CHECK(SaidOfFolder(Folder({{"1.safetensors", Shard({"a"}).substr(0, 60)}, {kIndex, Index(R"({"a": "1.safetensors"})")}}))
            .starts_with("1.safetensors: a header of "));
  CHECK(SaidOfFolder(Folder({{"model.safetensors", ""}})) == "model.safetensors: not a file with bytes in it");
  const std::string pipe = Folder({});
  REQUIRE(mkfifo((pipe + "/model.safetensors").c_str(), 0600) == 0);  // nobody writes to it: opening it for reading would wait for ever
  CHECK(SaidOfFolder(pipe) == "model.safetensors: not a file with bytes in it");
  const std::string folder_in_it = Folder({{kIndex, Index(R"({"a": "1.safetensors"})")}});
  std::filesystem::create_directory(folder_in_it + "/1.safetensors");
  CHECK(SaidOfFolder(folder_in_it) == "1.safetensors: not a file with bytes in it (named by model.safetensors.index.json)");
}

TEST_CASE("A tensor that two shards have is refused") {
  CHECK(SaidOfFolder(Folder({{"1.safetensors", Shard({"a", "b"})},
                             {"2.safetensors", Shard({"b"})},
                             {kIndex, Index(R"({"a": "1.safetensors", "b": "2.safetensors"})")}})) ==
        "2.safetensors: tensor b is in 1.safetensors too");
}

TEST_CASE("An index that names anything but files of its folder is refused") {
  const std::string wrong = "expected the name of a .safetensors file of this folder; got ";
  for (const std::string path :
       {"../1.safetensors", "/etc/1.safetensors", "./1.safetensors", "sub/1.safetensors", "..", "", "config.json"}) {
    CHECK(SaidOfIndex(Index("{\"a\": \"" + path + "\"}")) ==
          "model.safetensors.index.json: /weight_map/a: " + wrong + "a string \"" + path + "\"");
  }
  CHECK(SaidOfIndex(Index(R"({"a": "1.safetensors\u0000.safetensors"})")).find(wrong) != std::string::npos);
  CHECK(SaidOfIndex(Index(R"({"a": 1})")) == "model.safetensors.index.json: /weight_map/a: " + wrong + "an integer 1");
  CHECK(SaidOfIndex("{}") == "model.safetensors.index.json: /weight_map: missing; expected an object of tensors and their files");
  CHECK(SaidOfIndex(Index("[]")) ==
        "model.safetensors.index.json: /weight_map: got an array []; expected an object of tensors and their files");
  CHECK(SaidOfIndex("{").starts_with("model.safetensors.index.json: not JSON: "));
  CHECK(SaidOfIndex(Index(R"({"a": "1.safetensors", "a": "2.safetensors"})")) ==
        "model.safetensors.index.json: /weight_map/a: given twice; expected once");
  CHECK(SaidOfIndex(Index("{}") + std::string(SafetensorsSet::kIndexBytesMax, ' ')).find("expected at most 16777216") != std::string::npos);
  std::string many = "{";
  for (int i = 0; i <= SafetensorsSet::kShardsMax; ++i) absl::StrAppend(&many, "\"", i, "\": \"", i, ".safetensors\",");
  many.back() = '}';
  CHECK(SaidOfIndex(Index(many)) == "model.safetensors.index.json: 1025 files, expected at most 1024");
}

}  // namespace
}  // namespace spherical::server
