#include "server/hugging_face/model_folder.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/hugging_face/config_json.h"
#include "server/hugging_face/json_fields.h"
#include "server/hugging_face/safetensors_set.h"

namespace spherical::server {
namespace {

constexpr char kConfig[] = "config.json";
constexpr char kGeneration[] = "generation_config.json";
constexpr int64_t kConfigBytesMax = 1 << 20;

std::string In(const std::string& folder, const char* name) { return absl::StrCat(folder, "/", name); }

// What ends an answer may be said in a file of its own, which need not be there. Those of config.json stay.
absl::Status AddEnds(const std::string& folder, int32_t vocabulary, std::vector<engine::TokenId>& ends) {
  const std::string path = In(folder, kGeneration);
  const auto root = ReadJsonFile(path, kConfigBytesMax);
  if (absl::IsNotFound(root.status())) return absl::OkStatus();
  if (!root.ok()) return root.status();
  const auto more = ReadEnds(*root, path, vocabulary);
  if (!more.ok()) return more.status();
  for (const engine::TokenId id : *more) {
    if (std::ranges::find(ends, id) == ends.end()) ends.push_back(id);
  }
  return absl::OkStatus();
}

}  // namespace

bool IsModelFolder(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(In(path, kConfig), ignored);
}

absl::StatusOr<ModelFolder> OpenModelFolder(const std::string& folder) {
  const std::string config_path = In(folder, kConfig);
  const auto root = ReadJsonFile(config_path, kConfigBytesMax);
  if (!root.ok()) return root.status();
  auto config = ReadConfig(*root, config_path);
  if (!config.ok()) return config.status();
  ModelFolder model;
  model.spec = std::move(config->spec);
  model.ends = std::move(config->ends);
  if (absl::Status ends = AddEnds(folder, model.spec.vocabulary, model.ends); !ends.ok()) return ends;
  auto set = SafetensorsSet::Open(folder);
  if (!set.ok()) return set.status();
  model.tensors = std::make_unique<HuggingFaceTensors>(folder, *config->family, *std::move(set));
  if (absl::Status agree = model.tensors->CheckVocabulary(config_path, model.spec); !agree.ok()) return agree;
  return model;
}

absl::StatusOr<std::vector<std::string>> FilesThatCount(const std::string& folder) {
  auto names = SafetensorsSet::Names(folder);
  if (!names.ok()) return names.status();
  names->push_back(kConfig);
  std::ranges::sort(*names);
  for (std::string& name : *names) name = In(folder, name.c_str());
  return names;
}

}  // namespace spherical::server
