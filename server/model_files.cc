#include "server/model_files.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "engine/model/gguf.h"
#include "engine/model/tokenizer.h"
#include "server/hugging_face/model_folder.h"

namespace spherical::server {
namespace {

bool IsFolder(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

absl::StatusOr<ModelFiles> OpenGguf(const std::string& path) {
  auto file = engine::GgufFile::Open(path);
  if (!file.ok()) return file.status();
  auto spec = engine::ReadTransformerSpec(*file);
  if (!spec.ok()) return spec.status();
  auto tokenizer = engine::ReadTokenizerParts(*file);
  if (!tokenizer.ok()) return tokenizer.status();
  auto chat = engine::ChatTemplate::FromGguf(*file);
  return ModelFiles{.spec = *std::move(spec),
                    .tensors = std::make_unique<engine::GgufFile>(*std::move(file)),
                    .tokenizer = *std::move(tokenizer),
                    .chat = std::move(chat)};
}

absl::StatusOr<ModelFiles> OpenFolder(const std::string& path) {
  auto folder = OpenModelFolder(path);
  if (!folder.ok()) return folder.status();
  auto tokenizer = ReadFolderTokenizer(path, *folder);
  if (!tokenizer.ok()) return tokenizer.status();
  folder->spec.name = ModelName(path);
  return ModelFiles{.spec = std::move(folder->spec),
                    .tensors = std::move(folder->tensors),
                    .tokenizer = std::move(tokenizer->parts),
                    .chat = std::move(tokenizer->chat)};
}

}  // namespace

absl::StatusOr<ModelFiles> OpenModel(const std::string& path) { return IsFolder(path) ? OpenFolder(path) : OpenGguf(path); }

std::string ModelName(const std::string& path) {
  std::filesystem::path whole = std::filesystem::path(path).lexically_normal();
  if (!whole.has_filename()) whole = whole.parent_path();  // a slash at the end
  std::string name = whole.filename().string();
  std::error_code ignored;
  if (name == "." || name == "..") name = std::filesystem::canonical(path, ignored).filename().string();
  if (absl::EndsWith(name, ".gguf")) name.resize(name.size() - 5);
  return name;
}

absl::StatusOr<engine::Sha256> HashModel(const std::string& path, const std::atomic<bool>& stop) {
  if (!IsFolder(path)) return engine::HashFiles({&path, 1}, stop);
  const auto files = FilesThatCount(path);
  if (!files.ok()) return files.status();
  return engine::HashFiles(*files, stop);
}

}  // namespace spherical::server
