#include "server/hugging_face/safetensors_set.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/hugging_face/json_fields.h"
#include "server/json_text.h"

namespace spherical::server {
namespace {

using Json = nlohmann::json;

constexpr char kAlone[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";

bool Exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

std::string In(const std::string& folder, const std::string& name) { return absl::StrCat(folder, "/", name); }

// What the index says, checked by itself: tensor -> file of the folder.
absl::StatusOr<Json> ReadWeightMap(const std::string& path) {
  auto index = ReadJsonFile(path, SafetensorsSet::kIndexBytesMax);
  if (!index.ok()) return index.status();
  const auto found = index->find("weight_map");
  if (found == index->end() || !found->is_object() || found->empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": /weight_map: ", found == index->end() ? "missing" : "got " + Shown(*found),
                                                   "; expected an object of tensors and their files"));
  }
  for (const auto& [tensor, file] : found->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    // Without a slash it cannot leave the folder. The kernel reads a path up to a NUL: what is behind one is not looked at.
    const bool inside = absl::EndsWith(name, ".safetensors") && name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
    if (inside) continue;
    return absl::InvalidArgumentError(absl::StrCat(path, ": /weight_map/", EscapePointer(tensor),
                                                   ": expected the name of a .safetensors file of this folder; got ", Shown(file)));
  }
  return *found;
}

std::set<std::string> FilesOf(const Json& weight_map) {
  std::set<std::string> files;
  for (const auto& [tensor, file] : weight_map.items()) files.insert(file.get<std::string>());
  return files;
}

absl::Status NoWeights(const std::string& folder) {
  return absl::NotFoundError(absl::StrCat(folder, ": no weights: expected ", kAlone, " or ", kIndex));
}

}  // namespace

absl::StatusOr<std::vector<std::string>> SafetensorsSet::Names(const std::string& folder) {
  if (Exists(In(folder, kAlone))) return std::vector<std::string>{kAlone};
  if (!Exists(In(folder, kIndex))) return NoWeights(folder);
  const auto weight_map = ReadWeightMap(In(folder, kIndex));
  if (!weight_map.ok()) return weight_map.status();
  const std::set<std::string> files = FilesOf(*weight_map);
  return std::vector<std::string>(files.begin(), files.end());
}

SafetensorsSet SafetensorsSet::Of(SafetensorsFile file) {
  SafetensorsSet set;
  set.tensors_ = file.tensors();
  for (auto& [name, tensor] : set.tensors_) tensor.name = name;
  set.files_.push_back(std::move(file));
  return set;
}

absl::StatusOr<SafetensorsSet> SafetensorsSet::Open(const std::string& folder) {
  if (Exists(In(folder, kAlone))) {
    auto file = SafetensorsFile::Open(In(folder, kAlone));
    if (!file.ok()) return file.status();
    return Of(*std::move(file));
  }
  if (!Exists(In(folder, kIndex))) return NoWeights(folder);
  const std::string index = In(folder, kIndex);
  const auto weight_map = ReadWeightMap(index);
  if (!weight_map.ok()) return weight_map.status();
  const std::set<std::string> names = FilesOf(*weight_map);
  if (static_cast<int64_t>(names.size()) > kShardsMax) {
    return absl::InvalidArgumentError(absl::StrCat(index, ": ", names.size(), " files, expected at most ", kShardsMax));
  }
  SafetensorsSet set;
  for (const std::string& name : names) {
    auto file = SafetensorsFile::Open(In(folder, name));
    if (!file.ok()) {
      return absl::Status(file.status().code(), absl::StrCat(std::string(file.status().message()), " (named by ", kIndex, ")"));
    }
    if (absl::Status added = set.Add(*std::move(file)); !added.ok()) return added;
  }
  for (const auto& [tensor, file] : weight_map->items()) {
    const auto place = std::distance(names.begin(), names.find(file.get<std::string>()));
    if (set.files_[static_cast<size_t>(place)].tensors().contains(tensor)) continue;
    return absl::InvalidArgumentError(absl::StrCat(index, ": /weight_map/", EscapePointer(tensor), ": ", file.get<std::string>(),
                                                   " has no such tensor"));
  }
  return set;
}

absl::Status SafetensorsSet::Add(SafetensorsFile file) {
  for (const auto& [name, tensor] : file.tensors()) {
    const auto [added, is_new] = tensors_.emplace(name, tensor);
    if (!is_new) {
      const auto holds = [&tensor_name = name](const SafetensorsFile& other) { return other.tensors().contains(tensor_name); };
      return absl::InvalidArgumentError(absl::StrCat(file.path(), ": tensor ", name, " is in ", std::ranges::find_if(files_, holds)->path(),
                                                     " too"));
    }
    added->second.name = added->first;
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

}  // namespace spherical::server
