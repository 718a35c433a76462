#include "server/hugging_face/model_folder.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/mapped_file.h"
#include "server/hugging_face/config_json.h"
#include "server/hugging_face/json_fields.h"
#include "server/hugging_face/safetensors_set.h"
#include "server/hugging_face/tokenizer_json.h"

namespace spherical::server {
namespace {

constexpr char kConfig[] = "config.json";
constexpr char kGeneration[] = "generation_config.json";
constexpr char kTokenizer[] = "tokenizer.json";
constexpr char kTokenizerConfig[] = "tokenizer_config.json";
constexpr char kChatTemplate[] = "chat_template.jinja";
constexpr int64_t kConfigBytesMax = 1 << 20;
constexpr int64_t kChatTemplateBytesMax = 1 << 20;

std::string In(const std::string& folder, const char* name) { return absl::StrCat(folder, "/", name); }

void AddMissing(const std::vector<engine::TokenId>& more, std::vector<engine::TokenId>& ids) {
  for (const engine::TokenId id : more) {
    if (std::ranges::find(ids, id) == ids.end()) ids.push_back(id);
  }
}

absl::string_view TextOf(const engine::MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

// What ends an answer may be said in a file of its own, which need not be there. Those of config.json stay.
absl::Status AddEnds(const std::string& folder, int32_t vocabulary, std::vector<engine::TokenId>& ends) {
  const std::string path = In(folder, kGeneration);
  const auto root = ReadJsonFile(path, kConfigBytesMax);
  if (absl::IsNotFound(root.status())) return absl::OkStatus();
  if (!root.ok()) return root.status();
  const auto more = ReadEnds(*root, path, vocabulary);
  if (!more.ok()) return more.status();
  AddMissing(*more, ends);
  return absl::OkStatus();
}

absl::StatusOr<engine::ChatTemplate> ReadChat(const std::string& folder, const TokenizerConfig& config) {
  const engine::ChatTokens tokens = {.bos = config.bos_token.value_or(""), .eos = config.eos_token.value_or("")};
  const std::string path = In(folder, kChatTemplate);
  const auto file = engine::MappedFile::Open(path);
  if (file.ok() && static_cast<int64_t>(file->bytes().size()) > kChatTemplateBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", file->bytes().size(), " bytes, expected at most ", kChatTemplateBytesMax));
  }
  if (file.ok()) return engine::ChatTemplate::FromSource({TextOf(*file).data(), TextOf(*file).size()}, tokens, path);
  if (!absl::IsNotFound(file.status())) return file.status();
  if (config.chat_template) return engine::ChatTemplate::FromSource(*config.chat_template, tokens, config.file);
  return absl::NotFoundError(absl::StrCat(folder, ": the model has no chat template (", kChatTemplate, ", or chat_template in ",
                                          kTokenizerConfig, ")"));
}

}  // namespace

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

absl::StatusOr<FolderTokenizer> ReadFolderTokenizer(const std::string& folder, const ModelFolder& model) {
  const std::string path = In(folder, kTokenizer), config_path = In(folder, kTokenizerConfig);
  const auto file = engine::MappedFile::Open(path);
  if (!file.ok()) return file.status();
  auto parts = ReadTokenizerJson(TextOf(*file), path);
  if (!parts.ok()) return parts.status();
  TokenizerConfig config;
  const auto config_file = engine::MappedFile::Open(config_path);
  if (!config_file.ok() && !absl::IsNotFound(config_file.status())) return config_file.status();
  if (config_file.ok()) {
    auto read = ReadTokenizerConfig(TextOf(*config_file), config_path);
    if (!read.ok()) return read.status();
    config = *std::move(read);
    if (absl::Status applied = ApplyTokenizerConfig(config, *parts); !applied.ok()) return applied;
  }
  AddMissing(model.ends, parts->ends);
  if (absl::Status fits = engine::FitVocabulary(model.spec.vocabulary, *parts); !fits.ok()) return fits;
  return FolderTokenizer{.parts = *std::move(parts), .chat = ReadChat(folder, config)};
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
