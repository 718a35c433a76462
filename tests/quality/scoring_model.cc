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
  model->device_name_ = options.device;
  model->tokens_max_ = static_cast<int32_t>(options.tokens_max.value());
  if (absl::Status moved = model->MoveToDevice(); !moved.ok()) return moved;
  return model;
}

absl::Status ScoringModel::MoveToDevice() {
  if (device_name_ == "cpu") return absl::OkStatus();
  device_.reset();
  auto device = MakeDeviceForward(device_name_, parts_.spec, parts_.weights, (calibrated_ != nullptr ? calibrated_ : plain_)->geometry,
                                  {.exact = kv_->exact_pages(), .coded = kv_->coded_pages(), .tokens_max = tokens_max_}, value_weights_,
                                  threads_);
  if (!device.ok()) return device.status();
  device_ = *std::move(device);
  kv_->MoveTo(*device_);
  return absl::OkStatus();
}

std::string ScoringModel::WhyNot(const Mode& mode) const {
  const bool can = mode.kind == Mode::Kind::kExact || (mode.kind == Mode::Kind::kCoded && !mode.plain) ||
                   (mode.kind == Mode::Kind::kPriced && mode.estimator == &engine::BestUtilityEstimator());
  return device_ == nullptr || can ? "" : "only exact, uniform:T and rdr with the engine's own estimator can be kept on a device";
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

absl::Status ScoringModel::UseGeometry(engine::ModelGeometry geometry) {
  calibrated_ = MakeWay(std::move(geometry));
  return MoveToDevice();
}

KvStore::Handle ScoringModel::Keep(const Kv& exact, const Mode& mode) {
  if (mode.kind == Mode::Kind::kExact) {
    KvStore::Handle shared = kv_->Share(exact);
    shared->chunks = mode.chunks;
    return shared;
  }
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

int32_t ScoringModel::StepRows(const Kv& kv) const {
  const bool one = kv.live || (device_ != nullptr && !kv.chunks);
  return one ? 1 : engine::kStepRowsMax;
}

void ScoringModel::LogitsOf(const Kv& kv, std::span<const int32_t> rows, float* logits) {
  if (device_ != nullptr) {
    device_->Logits(rows, logits);
  } else {
    WayOf(kv).forward.Logits(rows, logits);
  }
}

void ScoringModel::Score(Kv& kv, std::span<const engine::TokenId> tokens, Reader read) {
  constexpr int32_t kRows = std::min(engine::Forward::kLogitsRowsMax, DeviceForward::kLogitsRowsMax);
  const size_t vocabulary = static_cast<size_t>(parts_.spec.vocabulary);
  std::vector<float> logits(vocabulary * kRows);
  std::vector<int32_t> rows(kRows);
  int32_t shown = 0, had = 0;  // tokens whose logits were read, and had
  const int32_t total = static_cast<int32_t>(tokens.size());
  for (int32_t done = 0; done < total;) {
    const int32_t step = std::min(total - done, StepRows(kv));
    Run(kv, tokens.subspan(static_cast<size_t>(done), static_cast<size_t>(step)));
    done += step;
    while (had < done) {
      const int32_t count = std::min(kRows - (had - shown), done - had);
      std::iota(rows.begin(), rows.begin() + count, had - (done - step));
      LogitsOf(kv, std::span(rows).first(static_cast<size_t>(count)), logits.data() + static_cast<size_t>(had - shown) * vocabulary);
      had += count;
      if (had - shown < kRows && had < total) continue;
      read(shown, std::span(logits).first(static_cast<size_t>(had - shown) * vocabulary));
      shown = had;
    }
  }
}

void ScoringModel::Run(Kv& kv, std::span<const engine::TokenId> tokens) {
  const int32_t rows = static_cast<int32_t>(tokens.size());
  kv_->Lend(kv, rows);
  engine::StepPlan plan;
  engine::StepItem& item = plan.items.emplace_back();
  item.sequence = kv.sequence;
  item.tokens = tokens;
  item.position = kv.tokens;
  item.pages = &kv.pages;
  if (kv.live && kv.tokens % engine::kRefreshSteps == 0) item.refresh = kv.residuals;
  plan.rows = rows;
  const auto add = [&](std::span<const double> energy) {
    for (size_t layer = 0; layer < energy.size(); ++layer) kv.energy[layer] += energy[layer];
  };
  if (device_ != nullptr) {
    add(device_->Run(plan).items[0].energy);
  } else {
    engine::Forward& forward = WayOf(kv).forward;
    forward.RunLayers(plan, kv_->arenas());
    if (engine::EnergyRowsOf(item) > 0) add(forward.EnergyOf(0));
  }
  kv.energy_rows += engine::EnergyRowsOf(item);
  kv_->Record(kv, rows);
  if (kv.live) kv_->Settle(kv, MeasureWith(WayOf(kv).geometry, engine::BestUtilityEstimator()));
}

}  // namespace spherical::quality
