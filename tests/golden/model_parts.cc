#include "tests/golden/model_parts.h"

#include <functional>
#include <utility>

#include "engine/model/gguf.h"

namespace spherical {

absl::StatusOr<ModelParts> LoadModelParts(const std::string& path, engine::ThreadPool& threads) {
  absl::StatusOr<engine::GgufFile> file = engine::GgufFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<engine::TransformerSpec> spec = engine::ReadTransformerSpec(*file);
  if (!spec.ok()) return spec.status();
  absl::StatusOr<std::unique_ptr<const engine::Tokenizer>> tokenizer = engine::LoadTokenizer(*file);
  if (!tokenizer.ok()) return tokenizer.status();
  const auto parallel = [&](int64_t n, const std::function<void(int64_t)>& work) {
    threads.Run(static_cast<int32_t>(n), [&](Shard shard) { work(shard.index); });
  };
  absl::StatusOr<engine::Weights> weights = engine::LoadWeights(*file, *spec, parallel, [](int64_t, int64_t) {});
  if (!weights.ok()) return weights.status();
  return ModelParts{.spec = *std::move(spec), .tokenizer = *std::move(tokenizer), .weights = *std::move(weights)};
}

}  // namespace spherical
