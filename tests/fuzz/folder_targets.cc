// Targets that read what a Hugging Face folder holds.
#include <stdlib.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <system_error>
#include <utility>

#include "engine/model/weights.h"
#include "kernels/base/check.h"
#include "server/hugging_face/config_json.h"
#include "server/hugging_face/hugging_face_tensors.h"
#include "server/hugging_face/safetensors_file.h"
#include "server/hugging_face/safetensors_set.h"
#include "server/json_text.h"
#include "tests/fakes/tiny_hugging_face.h"
#include "tests/fuzz/targets.h"

namespace spherical::testing {
namespace {

// Small enough that a whole file is no longer than what libFuzzer makes (run.sh's max_len).
TinyModelOptions Smallest(const char* family) {
  return {.layers = 1, .width = 32, .heads = 1, .ffn_width = 32, .type = kernels::WeightType::kBF16, .chat = false, .family = family};
}

server::ModelConfig ConfigOf(const char* family) {
  const auto root = server::ParseJsonObject(TinyHuggingFace(Smallest(family)).at("config.json"), "config.json");
  SPH_CHECK(root.ok());
  auto config = server::ReadConfig(*root, "config.json");
  SPH_CHECK(config.ok());
  return *std::move(config);
}

absl::StatusOr<server::SafetensorsFile> Parse(std::string_view bytes) {
  return server::SafetensorsFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "fuzzed");
}

// A folder of this process alone, with two tensors of four bytes in each of two shards.
class ShardFolder {
 public:
  ShardFolder() : path_((std::filesystem::temp_directory_path() / "shards.XXXXXX").string()) {
    SPH_CHECK(mkdtemp(path_.data()) != nullptr);
    WriteFolder(path_, {{"1.safetensors", SafetensorsFile({{"a", "F32", {1}, "1234"}, {"b", "F16", {2}, "1234"}})},
                        {"2.safetensors", SafetensorsFile({{"c", "F32", {1}, "1234"}, {"d", "BF16", {2}, "1234"}})}});
  }
  ~ShardFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

bool Finite(const std::vector<double>& numbers) {
  return std::ranges::all_of(numbers, [](double x) { return std::isfinite(x); });
}

}  // namespace

void TrySafetensors(std::string_view bytes) {
  static const server::ModelConfig kConfigs[] = {ConfigOf("llama"), ConfigOf("gemma3")};
  const auto file = Parse(bytes);
  if (!file.ok()) return;
  for (const auto& [name, tensor] : file->tensors()) {
    SPH_CHECK(tensor.name == name && tensor.rows() >= 0);
    uint8_t sum = 0;  // the sanitizer sees every byte that a tensor claims
    for (const uint8_t byte : tensor.data) sum = static_cast<uint8_t>(sum + byte);
    SPH_CHECK(sum <= 255);
  }
  const auto in_turn = [](int64_t n, const std::function<void(int64_t)>& work) {
    for (int64_t i = 0; i < n; ++i) work(i);
  };
  for (const server::ModelConfig& config : kConfigs) {
    const server::HuggingFaceTensors tensors("fuzzed", *config.family, server::SafetensorsSet::Of(*Parse(bytes)));
    if (!tensors.CheckVocabulary("config.json", config.spec).ok()) continue;
    const auto weights = engine::LoadWeights(tensors, config.spec, in_turn, [](int64_t, int64_t) {});
    SPH_CHECK(!weights.ok() || weights->layers.size() == static_cast<size_t>(config.spec.layers));
  }
}

void TryShardIndex(std::string_view bytes) {
  static const ShardFolder kFolder;
  WriteFolder(kFolder.path(), {{"model.safetensors.index.json", std::string(bytes)}});
  const auto names = server::SafetensorsSet::Names(kFolder.path());
  const auto set = server::SafetensorsSet::Open(kFolder.path());
  if (!set.ok()) return;
  SPH_CHECK(names.ok() && !names->empty() && names->size() <= 2);
  for (const std::string& name : *names) SPH_CHECK(name == "1.safetensors" || name == "2.safetensors");
  SPH_CHECK(set->tensors().size() == 2 * names->size());
  for (const auto& [name, tensor] : set->tensors()) SPH_CHECK(tensor.name == name && tensor.data.size() == 4);
}

void TryConfigJson(std::string_view bytes) {
  const auto root = server::ParseJsonObject({bytes.data(), bytes.size()}, "fuzzed");
  if (!root.ok()) return;
  if (const auto ends = server::ReadEnds(*root, "fuzzed", kTinyVocabulary); ends.ok()) {
    for (const engine::TokenId id : *ends) SPH_CHECK(id >= 0 && id < kTinyVocabulary);
  }
  const auto config = server::ReadConfig(*root, "fuzzed");
  if (!config.ok()) return;
  const engine::TransformerSpec& spec = config->spec;
  SPH_CHECK(spec.layers > 0 && spec.width > 0 && spec.vocabulary > 0 && spec.context_max > 0);
  SPH_CHECK(spec.heads % spec.kv_heads == 0);
  SPH_CHECK(spec.windows.empty() || spec.windows.size() == static_cast<size_t>(spec.layers));
  SPH_CHECK(spec.rotary_frequency.size() * 2 == static_cast<size_t>(spec.rotary_dim) && Finite(spec.rotary_frequency));
  SPH_CHECK(Finite(spec.local_rotary_frequency) && std::isfinite(spec.attention_scale));
  for (const engine::TokenId id : config->ends) SPH_CHECK(id >= 0 && id < spec.vocabulary);
}

std::vector<std::string> SafetensorsSeeds() {
  return {SafetensorsFile({}), SafetensorsFile({{"a", "F16", {1, 2}, "1234"}, {"b", "F32", {}, "1234"}, {"c", "BF16", {0}, ""}}),
          TinyHuggingFace(Smallest("llama")).at("model.safetensors"), TinyHuggingFace(Smallest("gemma3")).at("model.safetensors")};
}

std::vector<std::string> ShardIndexSeeds() {
  return {R"({"metadata": {"total_size": 16}, "weight_map": {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"}})",
          R"({"weight_map": {"a": "1.safetensors"}})", R"({"weight_map": {"c": "2.safetensors", "\u0064": "2.safe\u0074ensors"}})"};
}

std::vector<std::string> ConfigJsonSeeds() {
  std::vector<std::string> seeds = {R"({"eos_token_id": [1, 2]})"};
  for (const char* const family : {"llama", "mistral", "qwen2", "qwen3", "gemma3"}) {
    for (const bool rope_parameters : {false, true}) {
      TinyModelOptions options = Smallest(family);
      options.window = 8;
      options.rope_scaling = rope_parameters ? "llama3" : "yarn";
      seeds.push_back(TinyHuggingFace(options, {.rope_parameters = rope_parameters}).at("config.json"));
    }
  }
  const nlohmann::json text = nlohmann::json::parse(TinyHuggingFace(Smallest("gemma3")).at("config.json"));
  seeds.push_back(nlohmann::json({{"model_type", "gemma3"}, {"text_config", text}}).dump());
  return seeds;
}

}  // namespace spherical::testing
