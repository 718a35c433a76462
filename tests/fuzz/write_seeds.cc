// write_seeds FOLDER: the seeds of all targets as files, FOLDER/model_file/0 ..., FOLDER/text/0 ..., and so on
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/fuzz/targets.h"

namespace {

bool Write(const std::filesystem::path& folder, const std::vector<std::string>& seeds) {
  std::filesystem::create_directories(folder);
  bool good = true;
  for (size_t i = 0; i < seeds.size(); ++i) {
    std::ofstream file(folder / std::to_string(i), std::ios::binary);
    file << seeds[i];
    good = good && file.flush().good();
  }
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: write_seeds FOLDER\n", stderr);
    return 2;
  }
  const std::filesystem::path folder = argv[1];
  const bool good = Write(folder / "model_file", spherical::testing::ModelFileSeeds()) &&
                    Write(folder / "text", spherical::testing::TextSeeds()) &&
                    Write(folder / "tokenizer_json", spherical::testing::TokenizerJsonSeeds()) &&
                    Write(folder / "safetensors", spherical::testing::SafetensorsSeeds()) &&
                    Write(folder / "shard_index", spherical::testing::ShardIndexSeeds()) &&
                    Write(folder / "config_json", spherical::testing::ConfigJsonSeeds());
  return good ? 0 : 1;
}
