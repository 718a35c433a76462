#include "engine/model/geometry_file.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>

#include "tests/engine/random.h"

namespace spherical::engine {
namespace {

constexpr ModelGeometry::Shape kShape = {.layers = 2, .kv_heads = 1, .head_dim = 16};
const WantedGeometry kWanted = {.shape = kShape, .model = {1, 2, 3}, .context = 512};
const GeometryOrigin kOrigin = {.model = kWanted.model, .context = 512, .text = GeometryOrigin::Text::kGiven, .tokens = 1234};

// A folder of its own for each test case.
std::string Path(const std::string& name) {
  static int folders = 0;
  const char* const tmp = std::getenv("TEST_TMPDIR");
  const std::string folder = std::string(tmp != nullptr ? tmp : "/tmp") + "/geometry_file_" + std::to_string(folders++);
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder + "/" + name;
}

ModelGeometry SomeGeometry(const ModelGeometry::Shape& shape = kShape, uint64_t seed = 1) {
  testing::Random random(seed);
  ModelGeometry geometry(shape);
  const auto fill = [&](std::span<float> values) {
    for (float& value : values) value = static_cast<float>(random.Below(2001)) / 1000 - 1;
  };
  for (int32_t head = 0; head < geometry.heads(); ++head) {
    fill(geometry.centre(head));
    fill(geometry.map(head));
    fill(geometry.query_map(head));
    fill(geometry.shaping(head));
    for (size_t g = 0; g < geometry.importance(head).size(); ++g) geometry.importance(head)[g] = 3.0f - static_cast<float>(g);
  }
  geometry.AllotWidths();
  return geometry;
}

std::string ReadBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void WriteBytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

void Overwrite(const std::string& path, size_t at, char byte) {
  std::fstream(path, std::ios::binary | std::ios::in | std::ios::out).seekp(static_cast<std::streamoff>(at)).put(byte);
}

// Why the file is refused; empty if it is read.
std::string Why(const std::string& path, const WantedGeometry& wanted = kWanted) {
  const auto read = ReadGeometry(path, wanted);
  if (read.ok()) return "";
  const std::string message(read.status().message());
  INFO(message);
  CHECK(absl::IsInvalidArgument(read.status()));
  CHECK(message.find(path + ": ") == 0);
  return message.substr(path.size() + 2);
}

bool Contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_CASE("what is written is read back, to the bit, with where it comes from") {
  const std::string path = Path("g");
  const ModelGeometry written = SomeGeometry({.layers = 3, .kv_heads = 2, .head_dim = 32});
  const WantedGeometry wanted = {.shape = written.shape(), .model = kWanted.model, .context = 100};
  REQUIRE(WriteGeometry(path, written, kOrigin).ok());
  auto read = ReadGeometry(path, wanted);
  REQUIRE(read.ok());
  CHECK(read->origin.model == kOrigin.model);
  CHECK(read->origin.context == 512);
  CHECK(read->origin.text == GeometryOrigin::Text::kGiven);
  CHECK(read->origin.tokens == 1234);
  for (int32_t head = 0; head < written.heads(); ++head) {
    const kernels::KeyGeometry& key = written.key(head);
    CHECK(std::equal(key.centre, key.centre + 32, read->geometry.centre(head).begin()));
    CHECK(std::equal(key.map, key.map + 32 * 32, read->geometry.map(head).begin()));
    CHECK(std::equal(written.query(head).map, written.query(head).map + 32 * 32, read->geometry.query_map(head).begin()));
    CHECK(std::equal(key.importance, key.importance + 2, read->geometry.importance(head).begin()));
    for (int32_t tier = 0; tier < kernels::kTierCount; ++tier) CHECK(read->geometry.key(head).widths[tier][0] == key.widths[tier][0]);
  }
}

TEST_CASE("no file is NotFound, a folder is no file") {
  const std::string path = Path("g");
  CHECK(absl::IsNotFound(ReadGeometry(path, kWanted).status()));
  std::filesystem::create_directory(path);
  CHECK(Why(path) == "is no file");
}

TEST_CASE("a file with any bit of any byte turned is refused") {
  const std::string path = Path("g");
  REQUIRE(WriteGeometry(path, SomeGeometry(), kOrigin).ok());
  const std::string good = ReadBytes(path);
  REQUIRE(Why(path).empty());
  for (size_t at = 0; at < good.size(); ++at) {
    CAPTURE(at);
    Overwrite(path, at, static_cast<char>(good[at] ^ 1 << at % 8));
    REQUIRE_FALSE(Why(path).empty());
    Overwrite(path, at, good[at]);
  }
  CHECK(Why(path).empty());
}

TEST_CASE("a file cut anywhere, or continued, is refused with both sizes") {
  const std::string path = Path("g");
  REQUIRE(WriteGeometry(path, SomeGeometry(), kOrigin).ok());
  const std::string good = ReadBytes(path);
  for (size_t size = 0; size < good.size(); size += 7) {
    WriteBytes(path, good.substr(0, size));
    CHECK(Why(path) == "is cut off: " + std::to_string(size) + " bytes, expected " + std::to_string(good.size()));
  }
  WriteBytes(path, good + "x");
  CHECK(Contains(Why(path), "is too long"));
}

TEST_CASE("damage of every kind is refused") {
  const std::string path = Path("g");
  REQUIRE(WriteGeometry(path, SomeGeometry(), kOrigin).ok());
  const std::string good = ReadBytes(path);
  for (uint64_t seed = 0; seed < 500; ++seed) {
    const std::string bad = testing::Damage(good, seed);
    if (bad == good) continue;
    WriteBytes(path, bad);
    CAPTURE(seed);
    REQUIRE_FALSE(Why(path).empty());
  }
}

TEST_CASE("what belongs to another model, version or context is refused, saying so") {
  const std::string path = Path("g");
  REQUIRE(WriteGeometry(path, SomeGeometry(), kOrigin).ok());
  WantedGeometry other = kWanted;
  other.model = {9};
  CHECK(Contains(Why(path, other), "is for another model, with sha256 010203"));
  other = kWanted;
  other.shape.layers = 3;
  CHECK(Why(path, other) == "is for 2 layers of 1 kv heads of 16; the model has 3 layers of 1 kv heads of 16");
  other = kWanted;
  other.context = 513;
  CHECK(Why(path, other) == "was made for 512 positions; 513 are served");
  std::string bytes = ReadBytes(path);
  bytes[8] = 3;
  WriteBytes(path, bytes);
  CHECK(Why(path) == "is of version 3; this build reads version 2");
  bytes[0] = 'G';
  WriteBytes(path, bytes);
  CHECK(Why(path) == "is no file of geometries");
}

TEST_CASE("a whole file with numbers that no calibration makes is refused") {
  const std::string path = Path("g");
  const auto why_with = [&](const std::function<void(ModelGeometry&)>& change) {
    ModelGeometry geometry = SomeGeometry({.layers = 2, .kv_heads = 1, .head_dim = 32});
    change(geometry);
    REQUIRE(WriteGeometry(path, geometry, kOrigin).ok());
    return Why(path, {.shape = geometry.shape(), .model = kWanted.model, .context = 512});
  };
  const std::string refused = "holds numbers that no calibration makes";
  CHECK(why_with([](ModelGeometry&) {}).empty());
  CHECK(why_with([](ModelGeometry& g) { g.centre(1)[31] = std::numeric_limits<float>::quiet_NaN(); }) == refused);
  CHECK(why_with([](ModelGeometry& g) { g.map(0)[5] = std::numeric_limits<float>::infinity(); }) == refused);
  CHECK(why_with([](ModelGeometry& g) { g.query_map(1)[5] = -std::numeric_limits<float>::infinity(); }) == refused);
  CHECK(why_with([](ModelGeometry& g) { g.importance(1)[1] = -1; }) == refused);
  CHECK(why_with([](ModelGeometry& g) { g.importance(1)[1] = 100; }) == refused);
}

TEST_CASE("writing replaces a file as a whole, and leaves nothing behind when it cannot") {
  const std::string path = Path("g");
  WriteBytes(path, "what was there before");
  REQUIRE(WriteGeometry(path, SomeGeometry(), kOrigin).ok());
  CHECK(Why(path).empty());
  const std::string folder = path.substr(0, path.rfind('/'));
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 1);

  std::filesystem::create_directories(path + ".folder/inside");
  for (const std::string& bad : {folder + "/nowhere/g", path + "/g", path + ".folder"}) {
    const absl::Status status = WriteGeometry(bad, SomeGeometry(), kOrigin);
    CHECK(std::string(status.message()).find(bad + ": cannot be written: ") == 0);
  }
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 2);
}

TEST_CASE("a file's hash is SHA-256's") {
  const std::string path = Path("abc");
  const std::atomic<bool> go{false}, stop{true};
  WriteBytes(path, "abc");
  // FIPS 180-2, appendix B.1.
  CHECK(Hex(*HashFile(path, go)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  WriteBytes(path, std::string(3'000'000, 'a'));
  const Sha256 long_hash = *HashFile(path, go);
  WriteBytes(path, std::string(2'999'999, 'a') + "b");
  CHECK(*HashFile(path, go) != long_hash);
  CHECK(absl::IsCancelled(HashFile(path, stop).status()));
  CHECK(absl::IsNotFound(HashFile(path + "x", go).status()));
}

}  // namespace
}  // namespace spherical::engine
