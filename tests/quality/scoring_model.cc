#include "tests/quality/scoring_model.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <utility>
#include <vector>

#include "engine/batch/step_plan.h"
#include "engine/kv/retier.h"
#include "kernels/base/check.h"
#include "kernels/base/float16.h"
#include "kernels/spherical/geometry.h"
#include "tests/quality/block_format.h"

namespace spherical::quality {
namespace {

// The neighbouring f16 number: half a step of rounding away, in the mean.
float Nudge(float x) { return kernels::F16ToF32(static_cast<uint16_t>(kernels::F32ToF16(x) ^ 1)); }

void StoreInBlocks(const Mode& mode, std::span<float> x) {
  const int32_t head_dim = static_cast<int32_t>(x.size());
  if (mode.rotated) kernels::RotateValue(head_dim, x.data());
  StoreAndRead(mode.format, x);
  if (mode.rotated) kernels::UnrotateValue(head_dim, x.data());
}

}  // namespace

absl::StatusOr<std::unique_ptr<ScoringModel>> ScoringModel::Load(const std::string& path, const Options& options) {
  auto model = std::make_unique<ScoringModel>(options.threads);
  absl::StatusOr<ModelParts> parts = LoadModelParts(path, model->threads_);
  if (!parts.ok()) return parts.status();
  model->parts_ = *std::move(parts);
  const engine::TransformerSpec& spec = model->parts_.spec;
  absl::StatusOr<std::unique_ptr<KvStore>> kv =
      KvStore::Make(engine::MakeKvShape(spec.layers, spec.kv_heads, spec.head_dim, {}, 1, spec.windows), options.tokens_max,
                    model->threads_);
  if (!kv.ok()) return kv.status();
  model->kv_ = *std::move(kv);
  model->activations_ = options.activations;
  model->value_weights_ = engine::ValueWeights(spec, model->parts_.weights, model->threads_);
  model->plain_ = model->MakeWay(
      engine::ModelGeometry::Plain({.layers = spec.layers, .kv_heads = spec.kv_heads, .head_dim = spec.head_dim}));
  return model;
}

std::unique_ptr<ScoringModel::Way> ScoringModel::MakeWay(engine::ModelGeometry geometry) {
  auto way = std::make_unique<Way>(std::move(geometry), parts_, threads_, activations_);
  way->forward.UseValueWeights(value_weights_);
  return way;
}

engine::MeasureContext ScoringModel::MeasureWith(const engine::ModelGeometry& geometry, const engine::UtilityEstimator& estimator) const {
  return {.geometry = geometry, .spec = parts_.spec, .value_weights = value_weights_, .estimator = estimator};
}

KvStore::Handle ScoringModel::Begin(int32_t prompt_tokens) {
  return kv_->Begin(engine::QuerySampling::For(prompt_tokens), parts_.spec.heads / parts_.spec.kv_heads);
}

void ScoringModel::UseGeometry(engine::ModelGeometry geometry) { calibrated_ = MakeWay(std::move(geometry)); }

KvStore::Handle ScoringModel::Keep(const Kv& exact, const Mode& mode) {
  if (mode.kind == Mode::Kind::kExact) return kv_->Share(exact);
  if (mode.kind == Mode::Kind::kCoded) {
    return kv_->Seal(exact, mode.plain || calibrated_ == nullptr ? plain_->geometry : calibrated_->geometry, mode.tier);
  }
  if (mode.kind == Mode::Kind::kPriced) {
    const engine::ModelGeometry& geometry = calibrated_ == nullptr ? plain_->geometry : calibrated_->geometry;
    KvStore::Handle kept = kv_->SealPriced(exact, MeasureWith(geometry, *mode.estimator), mode.rate);
    kept->live = mode.live;
    return kept;
  }
  KvStore::Handle copy = kv_->Copy(exact);
  const int32_t newest = exact.tokens - engine::kNewestTokens;
  kv_->Rewrite(*copy, [&](int32_t, int32_t position, std::span<float> key, std::span<float> value) {
    if (position < engine::kSinkTokens || position >= newest) return;
    for (const std::span<float> x : {key, value}) {
      if (mode.kind == Mode::Kind::kBlocks) {
        StoreInBlocks(mode, x);
      } else {
        std::ranges::transform(x, x.begin(), Nudge);
      }
    }
  });
  return copy;
}

KvRate ScoringModel::RateOf(const Kv& kept, const Mode& mode) const {
  if (mode.kind == Mode::Kind::kBlocks) return {.bits = BitsPerElement(mode.format), .real_bits = BitsPerElement(mode.format)};
  return kv_->RateOf(kept);
}

void ScoringModel::Enter(Kv& kv, std::span<const engine::TokenId> tokens) {
  for (; !tokens.empty(); tokens = tokens.subspan(std::min<size_t>(tokens.size(), engine::kStepRowsMax))) {
    Run(kv, tokens.first(std::min<size_t>(tokens.size(), engine::kStepRowsMax)));
  }
}

void ScoringModel::Score(Kv& kv, std::span<const engine::TokenId> tokens, Reader read) {
  constexpr int32_t kRows = engine::Forward::kLogitsRowsMax;
  const size_t vocabulary = static_cast<size_t>(parts_.spec.vocabulary);
  std::vector<float> logits(vocabulary * kRows);
  std::vector<int32_t> rows(kRows);
  for (int32_t done = 0, total = static_cast<int32_t>(tokens.size()); done < total;) {
    const int32_t step = std::min(total - done, kv.live ? 1 : engine::kStepRowsMax);
    Run(kv, tokens.subspan(static_cast<size_t>(done), static_cast<size_t>(step)));
    for (int32_t first = 0; first < step; first += kRows) {
      const size_t count = static_cast<size_t>(std::min(kRows, step - first));
      std::iota(rows.begin(), rows.end(), first);
      WayOf(kv).forward.Logits(std::span(rows).first(count), logits.data());
      read(done + first, std::span(logits).first(count * vocabulary));
    }
    done += step;
  }
}

void ScoringModel::Run(Kv& kv, std::span<const engine::TokenId> tokens) {
  const int32_t rows = static_cast<int32_t>(tokens.size());
  kv_->Lend(kv, rows);
  engine::StepPlan plan;
  engine::StepItem& item = plan.items.emplace_back();
  item.tokens = tokens;
  item.position = kv.tokens;
  item.pages = &kv.pages;
  if (kv.live && kv.tokens % engine::kRefreshSteps == 0) item.refresh = kv.residuals;
  plan.rows = rows;
  engine::Forward& forward = WayOf(kv).forward;
  forward.RunLayers(plan, kv_->arenas());
  if (const int32_t counted = forward.EnergyRowsOf(item); counted > 0) {
    const std::span<const double> energy = forward.EnergyOf(0);
    for (size_t layer = 0; layer < energy.size(); ++layer) kv.energy[layer] += energy[layer];
    kv.energy_rows += counted;
  }
  kv_->Record(kv, rows);
  if (kv.live) kv_->Settle(kv, MeasureWith(WayOf(kv).geometry, engine::BestUtilityEstimator()));
}

}  // namespace spherical::quality
