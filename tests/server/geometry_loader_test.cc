#include "server/geometry_loader.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "engine/model/gguf.h"
#include "tests/fakes/tiny_gguf.h"

namespace spherical::server {
namespace {

namespace fs = std::filesystem;

// A folder with a model and a cache folder, and the model loaded.
class Place {
 public:
  explicit Place(uint64_t seed = 1)
      : folder_(fs::path(std::getenv("TEST_TMPDIR")) / ("place" + std::to_string(places_++))),
        file_(*engine::GgufFile::Open(WriteModel(folder_, seed))),
        spec_(*engine::ReadTransformerSpec(file_)),
        tokenizer_(*engine::LoadTokenizer(file_)),
        weights_(*engine::LoadWeights(
            file_, spec_,
            [](int64_t n, const std::function<void(int64_t)>& work) {
              for (int64_t i = 0; i < n; ++i) work(i);
            },
            [](int64_t, int64_t) {})) {
    setenv("XDG_CACHE_HOME", (folder_ / "cache").c_str(), 1);
    config_.model = file_.path();
  }
  ~Place() { fs::remove_all(folder_); }

  absl::StatusOr<engine::ModelGeometry> Obtain(const std::string& which, int32_t context = 512) {
    config_.kv_geometry = which;
    return ObtainGeometry(config_, context, {.spec = spec_, .weights = weights_, .tokenizer = *tokenizer_, .pool = pool_},
                          engine::SystemClock(), stop);
  }
  std::string beside() const { return config_.model + ".geometry"; }
  std::string in_cache() const { return GeometryPlaces(config_.model, hash()).back(); }
  engine::Sha256 hash() const { return *engine::HashFile(config_.model, std::atomic<bool>(false)); }
  engine::WantedGeometry wanted() const { return {.shape = {2, 1, 64}, .model = hash(), .context = 512}; }
  bool Good(const std::string& path) const { return engine::ReadGeometry(path, wanted()).ok(); }

  std::atomic<bool> stop{false};

 private:
  static std::string WriteModel(const fs::path& folder, uint64_t seed) {
    fs::remove_all(folder);
    fs::create_directories(folder);
    const std::string path = folder / "tiny.gguf";
    fs::rename(testing::WriteTinyModel({.seed = seed}, "made.gguf"), path);
    return path;
  }

  static inline int places_ = 0;
  const fs::path folder_;
  const engine::GgufFile file_;
  const engine::TransformerSpec spec_;
  const std::unique_ptr<const engine::Tokenizer> tokenizer_;
  const engine::Weights weights_;
  engine::ThreadPool pool_{2};
  Config config_;
};

std::string ReadBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void WriteBytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

bool SameMaps(const engine::ModelGeometry& a, const engine::ModelGeometry& b) {
  return std::equal(a.key(1).map, a.key(1).map + 64 * 64, b.key(1).map);
}

std::string Message(const absl::StatusOr<engine::ModelGeometry>& geometry) { return std::string(geometry.status().message()); }

TEST_CASE("auto calibrates once and keeps the result beside the model") {
  Place place;
  const auto made = place.Obtain("auto");
  REQUIRE(made.ok());
  CHECK(place.Good(place.beside()));
  CHECK_FALSE(fs::exists(place.in_cache()));
  const auto kept = engine::ReadGeometry(place.beside(), place.wanted());
  CHECK(kept->origin.text == engine::GeometryOrigin::Text::kOwn);
  CHECK(kept->origin.context == 512);

  const auto time = fs::last_write_time(place.beside());
  place.stop.store(false);
  const auto found = place.Obtain("auto");
  REQUIRE(found.ok());
  CHECK(SameMaps(*made, *found));
  CHECK(fs::last_write_time(place.beside()) == time);
  CHECK(SameMaps(*made, *place.Obtain("auto", 100)));  // good for fewer positions too
  CHECK(fs::last_write_time(place.beside()) == time);
  CHECK_FALSE(SameMaps(*made, *place.Obtain("plain")));
}

TEST_CASE("auto refuses what is damaged, foreign, old or for fewer positions, and makes it anew") {
  Place other(2);
  REQUIRE(other.Obtain("auto").ok());
  const std::string foreign = ReadBytes(other.beside());
  Place place;
  REQUIRE(place.Obtain("auto", 100).ok());
  const std::string for_fewer = ReadBytes(place.beside());
  CHECK_FALSE(place.Good(place.beside()));
  REQUIRE(place.Obtain("auto").ok());
  const std::string good = ReadBytes(place.beside());
  std::string flipped = good, old = good;
  flipped[good.size() / 2] ^= 1;
  old[8] = 0;
  for (const std::string& bad : {flipped, old, foreign, for_fewer, good.substr(0, 1000), std::string()}) {
    WriteBytes(place.beside(), bad);
    REQUIRE(place.Obtain("auto").ok());
    CHECK(ReadBytes(place.beside()) == good);
  }
}

TEST_CASE("where the model's folder cannot be written the cache folder is used, and without either it serves") {
  Place place;
  fs::create_directories(place.beside() + "/in the way");
  const auto made = place.Obtain("auto");
  REQUIRE(made.ok());
  CHECK(place.Good(place.in_cache()));
  const auto time = fs::last_write_time(place.in_cache());
  CHECK(SameMaps(*made, *place.Obtain("auto")));
  CHECK(fs::last_write_time(place.in_cache()) == time);

  setenv("XDG_CACHE_HOME", "/dev/null", 1);
  const auto unkept = place.Obtain("auto");
  REQUIRE(unkept.ok());
  CHECK(SameMaps(*made, *unkept));
}

TEST_CASE("the cache folder is $XDG_CACHE_HOME where it is a whole path, else ~/.cache, else there is none") {
  const char* const home_before = std::getenv("HOME");
  const std::string home = home_before != nullptr ? home_before : "";
  const engine::Sha256 hash = {0xab};
  const std::string name = "/spherical/geometry/" + engine::Hex(hash);
  setenv("XDG_CACHE_HOME", "/caches", 1);
  CHECK(GeometryPlaces("m.gguf", hash) == std::vector<std::string>{"m.gguf.geometry", "/caches" + name});
  setenv("HOME", "/home/me", 1);
  setenv("XDG_CACHE_HOME", "relative", 1);
  CHECK(GeometryPlaces("m.gguf", hash) == std::vector<std::string>{"m.gguf.geometry", "/home/me/.cache" + name});
  unsetenv("XDG_CACHE_HOME");
  CHECK(GeometryPlaces("m.gguf", hash).back() == "/home/me/.cache" + name);
  unsetenv("HOME");
  CHECK(GeometryPlaces("m.gguf", hash) == std::vector<std::string>{"m.gguf.geometry"});
  setenv("HOME", home.c_str(), 1);
}

TEST_CASE("plain looks at no file") {
  Place place;
  WriteBytes(place.beside(), "nonsense");
  place.stop.store(true);  // not even at the model's hash
  REQUIRE(place.Obtain("plain").ok());
  CHECK(ReadBytes(place.beside()) == "nonsense");
}

TEST_CASE("a file that is named must be good") {
  Place place, other(2);
  REQUIRE(place.Obtain("auto").ok());
  REQUIRE(other.Obtain("auto").ok());
  const std::string named = place.beside() + ".mine";
  fs::rename(place.beside(), named);
  CHECK(place.Obtain(named).ok());
  CHECK_FALSE(fs::exists(place.beside()));

  const std::string where = "kv.geometry (--kv-geometry): ";
  CHECK(Message(place.Obtain("/nowhere/g")) == where + "/nowhere/g: cannot be read: No such file or directory");
  CHECK(Message(place.Obtain(other.beside())).find(where + other.beside() + ": is for another model") == 0);
  CHECK(Message(place.Obtain(named, 513)) == where + named + ": was made for 512 positions; 513 are served");
  std::string bytes = ReadBytes(named);
  bytes[bytes.size() - 1] ^= 1;
  WriteBytes(named, bytes);
  CHECK(Message(place.Obtain(named)) == where + named + ": is damaged: its checksum is wrong");
}

TEST_CASE("a stopped start keeps nothing") {
  Place place;
  place.stop.store(true);
  CHECK(absl::IsCancelled(place.Obtain("auto").status()));
  CHECK_FALSE(fs::exists(place.beside()));
}

}  // namespace
}  // namespace spherical::server
