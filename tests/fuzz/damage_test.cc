// The fuzz targets on their seeds and on thousands of damaged ones: the part of fuzzing that every machine can do, the same each time.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>

#include "tests/engine/random.h"
#include "tests/fuzz/targets.h"

namespace spherical::testing {
namespace {

// A copy of exactly the right size, so that the address sanitizer sees a read past the end.
void Try(void (*target)(std::string_view), const std::string& input) {
  const auto copy = std::make_unique<char[]>(input.size());
  std::memcpy(copy.get(), input.data(), input.size());
  target({copy.get(), input.size()});
}

void TryDamaged(void (*target)(std::string_view), const std::vector<std::string>& seeds, uint64_t times) {
  for (const std::string& seed : seeds) Try(target, seed);
  for (uint64_t i = 0; i < times; ++i) {
    UNSCOPED_INFO("damage " << i);
    Try(target, Damage(seeds[i % seeds.size()], i));
  }
}

// The seeds of a target, and the inputs that were kept for it.
std::vector<std::string> Kept(const std::string& target, std::vector<std::string> seeds) {
  const size_t before = seeds.size();
  for (const auto& entry : std::filesystem::directory_iterator("tests/fuzz/corpus/" + target)) {
    std::ifstream file(entry.path(), std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  std::sort(seeds.begin() + static_cast<std::ptrdiff_t>(before), seeds.end());  // folders are in no order
  REQUIRE(seeds.size() > before);
  return seeds;
}

TEST_CASE("Damaged model files are refused or loaded, never a crash") { TryDamaged(TryModelFile, ModelFileSeeds(), 20000); }

TEST_CASE("Damaged tokenizer.json files are refused or used, never a crash") {
  for (const std::string& seed : TokenizerJsonSeeds()) TryDamaged(TryTokenizerJson, {seed}, 1000);
}

TEST_CASE("Damaged safetensors files are refused or loaded, never a crash") {
  TryDamaged(TrySafetensors, Kept("safetensors", SafetensorsSeeds()), 20000);
}

TEST_CASE("Damaged indexes of shards are refused or followed, within their folder, never a crash") {
  TryDamaged(TryShardIndex, Kept("shard_index", ShardIndexSeeds()), 20000);
}

TEST_CASE("Damaged config.json files are refused or read, never a crash") {
  TryDamaged(TryConfigJson, Kept("config_json", ConfigJsonSeeds()), 20000);
}

TEST_CASE("Damaged text is refused or encoded and comes back") { TryDamaged(TryText, TextSeeds(), 20000); }

}  // namespace
}  // namespace spherical::testing
