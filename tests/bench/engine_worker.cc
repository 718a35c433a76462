// Our side of the benchmark: see worker.h. Steps are planned as the engine plans them and run by the CPU stepper.
//
//   engine_worker MODEL THREADS int8|f32 exact|uniform:TIER|rdr:RATE
#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/kv/kv_mode.h"
#include "engine/model/geometry_file.h"
#include "engine/model/gguf.h"
#include "engine/model/transformer_spec.h"
#include "tests/bench/worker.h"
#include "tests/golden/loaded_model.h"
#include "tests/quality/mode.h"
#include "tests/quality/scoring_model.h"

namespace spherical::bench {
namespace {

constexpr int32_t kDepthMax = 24'576;
constexpr TokenCount kTokensMax(kDepthMax + 512);  // the largest row: one deep sequence, or eight of 2,048, with room to grow
constexpr int32_t kSequencesMax = 8;

std::vector<int32_t> TokensOf(const engine::Tokenizer& tokenizer, const std::string& text) {
  auto tokens = tokenizer.Encode(text, {});
  if (!tokens.ok()) Fail(tokens.status().ToString());
  return *std::move(tokens);
}

class EngineSide : public BenchSide {
 public:
  EngineSide(std::unique_ptr<LoadedModel> model, bool coded) : model_(std::move(model)), coded_(coded) {}

  std::vector<int32_t> Tokenize(const std::string& text) override { return TokensOf(model_->tokenizer(), text); }

  void Logits(std::span<const int32_t> tokens, const std::function<void(std::span<const float>)>& row) override {
    model_->EndAll();
    model_->Score(model_->Begin(), tokens, row);
  }

  void Prefill(std::span<const int32_t> tokens) override {
    model_->EndAll();
    model_->Enter(model_->Begin(), tokens);
  }

  void Prepare(std::span<const std::span<const int32_t>> prompts) override {
    model_->EndAll();
    sequences_.clear();
    depth_ = static_cast<int32_t>(prompts[0].size());
    for (const std::span<const int32_t> prompt : prompts) {
      sequences_.push_back(model_->Begin());
      if (prompt.empty()) continue;
      model_->Enter(sequences_.back(), prompt);
      if (coded_) model_->Seal(sequences_.back());
    }
  }

  void Step(std::span<const int32_t> tokens) override {
    std::vector<LoadedModel::Entry> entries;
    for (size_t i = 0; i < sequences_.size(); ++i) entries.push_back({sequences_[i], tokens.subspan(i, 1)});
    model_->EnterTogether(entries);
  }

  void Rewind() override {
    for (const LoadedModel::Sequence sequence : sequences_) model_->Truncate(sequence, depth_);
  }

 private:
  std::unique_ptr<LoadedModel> model_;
  const bool coded_;
  std::vector<LoadedModel::Sequence> sequences_;
  int32_t depth_ = 0;
};

// The controller's own way of keeping a prompt, over the pages that the quality harness keeps in the open.
class PricedSide : public BenchSide {
 public:
  PricedSide(std::unique_ptr<quality::ScoringModel> model, quality::Mode mode) : model_(std::move(model)), mode_(mode) {}

  std::vector<int32_t> Tokenize(const std::string& text) override { return TokensOf(model_->tokenizer(), text); }
  void Logits(std::span<const int32_t> tokens, const std::function<void(std::span<const float>)>& row) override {
    const quality::KvStore::Handle fresh = model_->Begin(static_cast<int32_t>(tokens.size()));
    Score(*fresh, tokens, row);
  }
  void Prefill(std::span<const int32_t> tokens) override {
    const quality::KvStore::Handle fresh = model_->Begin(static_cast<int32_t>(tokens.size()));
    model_->Enter(*fresh, tokens.first(tokens.size() - 1));
    Score(*fresh, tokens.last(1), [](std::span<const float>) {});
  }
  void Prepare(std::span<const std::span<const int32_t>> prompts) override {
    kept_.clear();
    depths_.clear();
    for (const std::span<const int32_t> prompt : prompts) {
      quality::KvStore::Handle exact = model_->Begin(static_cast<int32_t>(prompt.size()));
      model_->Enter(*exact, prompt);
      // Nothing to price in an empty one.
      kept_.push_back(prompt.size() > kSealedMin ? model_->Keep(*exact, mode_) : std::move(exact));
      depths_.push_back(static_cast<int32_t>(prompt.size()));
    }
  }
  void Step(std::span<const int32_t> tokens) override {
    for (size_t i = 0; i < kept_.size(); ++i) Score(*kept_[i], tokens.subspan(i, 1), [](std::span<const float>) {});
  }
  void Rewind() override {
    for (size_t i = 0; i < kept_.size(); ++i) model_->kv().Rewind(*kept_[i], depths_[i]);
  }

 private:
  static constexpr size_t kSealedMin = 256;

  void Score(quality::Kv& kv, std::span<const int32_t> tokens, const std::function<void(std::span<const float>)>& row) {
    const size_t vocabulary = static_cast<size_t>(model_->spec().vocabulary);
    model_->Score(kv, tokens, [&](int32_t, std::span<const float> logits) {
      for (; !logits.empty(); logits = logits.subspan(vocabulary)) row(logits.first(vocabulary));
    });
  }

  std::unique_ptr<quality::ScoringModel> model_;
  const quality::Mode mode_;
  std::vector<quality::KvStore::Handle> kept_;
  std::vector<int32_t> depths_;
};

// The geometry that lies beside the model, if a good one does; without it keys are only rotated.
std::optional<engine::ModelGeometry> KeptGeometry(const std::string& model) {
  const auto file = engine::GgufFile::Open(model);
  if (!file.ok()) return std::nullopt;
  const auto spec = engine::ReadTransformerSpec(*file);
  const std::atomic<bool> stop{false};
  const auto hash = engine::HashFile(model, stop);
  if (!spec.ok() || !hash.ok()) return std::nullopt;
  auto kept = engine::ReadGeometry(
      model + ".geometry", {.shape = {.layers = spec->layers, .kv_heads = spec->kv_heads, .head_dim = spec->head_dim}, .model = *hash});
  if (!kept.ok()) return std::nullopt;
  return std::move(kept->geometry);
}

}  // namespace
}  // namespace spherical::bench

int main(int argc, char** argv) {
  using namespace spherical;
  const auto mode = argc == 5 ? engine::FindKvMode(argv[4]) : std::nullopt;
  if (!mode || (mode->priced && mode->rate == 0)) bench::Fail("usage: engine_worker MODEL THREADS int8|f32 exact|uniform:TIER|rdr:RATE");
  const auto activations = std::strcmp(argv[3], "f32") == 0 ? kernels::ActivationType::kF32 : kernels::ActivationType::kInt8;
  const double start = bench::WallSeconds();
  if (mode->priced) {
    auto model = quality::ScoringModel::Load(
        argv[1], {.activations = activations, .threads = std::stoi(argv[2]), .tokens_max = bench::kTokensMax});
    if (!model.ok()) bench::Fail(model.status().ToString());
    const auto priced = quality::ParseMode(argv[4], (*model)->spec().head_dim);
    if (!priced.ok()) bench::Fail(priced.status().ToString());
    if (auto geometry = bench::KeptGeometry(argv[1])) {
      if (const absl::Status used = (*model)->UseGeometry(*std::move(geometry)); !used.ok()) bench::Fail(used.ToString());
    }
    bench::PricedSide side(*std::move(model), *priced);
    return bench::Serve(side, bench::WallSeconds() - start);
  }
  auto model = LoadedModel::Load(argv[1], {.activations = activations,
                                           .threads = std::stoi(argv[2]),
                                           .tokens = bench::kTokensMax,
                                           .sequences_max = bench::kSequencesMax,
                                           .mode = *mode,
                                           .geometry = mode->coded ? bench::KeptGeometry(argv[1]) : std::nullopt});
  if (!model.ok()) bench::Fail(model.status().ToString());
  bench::EngineSide side(*std::move(model), mode->coded);
  return bench::Serve(side, bench::WallSeconds() - start);
}
