#include "engine/loaded_model.h"

#include <fmt/format.h>

#include <utility>

#include "engine/model/gguf.h"
#include "engine/model/weights.h"
#include "engine/step/cpu_stepper.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

// A pool that cannot hold one page per layer and kv head serves nobody.
absl::Status CheckPool(const KvShape& kv, PageCount pages, ByteCount asked) {
  const PageCount least = ExactPages(kv, TokenCount(1));
  if (pages >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("the KV pool of {} bytes is too small: this model needs at least {} bytes; raise --kv-pool-bytes", asked.value(),
                  least.value() * kv.page_bytes.value()));
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(const std::string& path, ThreadPool& pool, const LoadOptions& options,
                                      const std::function<void(int64_t done, int64_t total)>& progress) {
  absl::StatusOr<GgufFile> file = GgufFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<TransformerSpec> spec = ReadTransformerSpec(*file);
  if (!spec.ok()) return spec.status();
  absl::StatusOr<std::unique_ptr<const Tokenizer>> tokenizer = LoadTokenizer(*file);
  if (!tokenizer.ok()) return tokenizer.status();
  if ((*tokenizer)->vocabulary() != spec->vocabulary) {
    return absl::InvalidArgumentError(fmt::format("{}: the tokenizer has {} tokens but token_embd.weight has {} rows", path,
                                                  (*tokenizer)->vocabulary(), spec->vocabulary));
  }

  LoadedModel model{.spec = *spec, .tokenizer = *std::move(tokenizer), .chat = ChatTemplate::FromGguf(*file)};
  model.kv = {.layers = spec->layers,
              .kv_heads = spec->kv_heads,
              .head_dim = spec->head_dim,
              .page_bytes = ByteCount(kernels::PageBytes(spec->head_dim))};
  model.pool_pages = PageCount(options.pool_bytes.value() / model.kv.page_bytes.value());
  if (absl::Status enough = CheckPool(model.kv, model.pool_pages, options.pool_bytes); !enough.ok()) return enough;

  const auto parallel = [&pool](int64_t n, const std::function<void(int64_t)>& work) {
    pool.Run(static_cast<int32_t>(n), [&](Shard shard) { work(shard.index); });
  };
  absl::StatusOr<Weights> weights = LoadWeights(*file, *spec, parallel, progress);
  if (!weights.ok()) return weights.status();
  model.weight_bytes = weights->memory.bytes();
  file->DropPages();

  absl::StatusOr<std::unique_ptr<Stepper>> stepper = MakeCpuStepper(*std::move(spec), *std::move(weights), pool,
                                                                    {.activations = options.activations, .pages = model.pool_pages});
  if (!stepper.ok()) return stepper.status();
  model.stepper = *std::move(stepper);
  return model;
}

}  // namespace spherical::engine
