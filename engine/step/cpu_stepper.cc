#include "engine/step/cpu_stepper.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "engine/host_memory.h"
#include "engine/step/forward.h"
#include "engine/step/logit_rows.h"
#include "engine/step/measure_run.h"
#include "engine/step/retier_run.h"
#include "kernels/base/check.h"
#include "kernels/dense/rows.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

constexpr int32_t kTouchPartsPerThread = 8;

class CpuStepper final : public Stepper {
 public:
  CpuStepper(TransformerSpec spec, Weights weights, ThreadPool& pool, CpuStepperOptions options, HostMemory arena, HostMemory workspace)
      : spec_(std::move(spec)),
        weights_(std::move(weights)),
        geometry_(std::move(options.geometry)),
        pool_(pool),
        clock_(*options.clock),
        arena_(std::move(arena)),
        workspace_(std::move(workspace)),
        forward_(spec_, weights_, geometry_ ? &*geometry_ : nullptr, pool_, options.activations),
        logits_(static_cast<size_t>(Forward::kLogitsRowsMax) * static_cast<size_t>(spec_.vocabulary)),
        scratch_(static_cast<size_t>(pool_.threads())) {
    if (!geometry_) return;
    value_weights_ = ValueWeights(spec_, weights_, pool_);
    forward_.UseValueWeights(value_weights_);
  }

  absl::StatusOr<StepOutput> Run(const StepPlan& plan) override {
    const absl::Time start = clock_.Now();
    forward_.RunLayers(plan, Arenas());
    StepOutput output;
    output.items.resize(plan.items.size());
    ReadLogits(plan, output);
    for (int32_t i = 0; i < static_cast<int32_t>(plan.items.size()); ++i) {
      const int32_t rows = EnergyRowsOf(plan.items[static_cast<size_t>(i)]);
      if (rows == 0) continue;
      output.items[static_cast<size_t>(i)].energy_rows = rows;
      output.items[static_cast<size_t>(i)].energy.assign(forward_.EnergyOf(i).begin(), forward_.EnergyOf(i).end());
    }
    output.elapsed = clock_.Now() - start;
    return output;
  }

  absl::StatusOr<MeasureOutput> Measure(std::span<const MeasureItem> items) override {
    SPH_CHECK(geometry_.has_value());
    const absl::Time start = clock_.Now();
    MeasureOutput output;
    output.curves = RunMeasure({.geometry = *geometry_, .spec = spec_, .value_weights = value_weights_}, Arenas(), items, pool_);
    output.elapsed = clock_.Now() - start;
    return output;
  }

  absl::StatusOr<absl::Duration> Retier(std::span<const RetierItem> items) override {
    SPH_CHECK(geometry_.has_value());
    const absl::Time start = clock_.Now();
    RunRetier(*geometry_, spec_.attention_scale, Arenas(), items, pool_);
    return clock_.Now() - start;
  }

 private:
  KvArenas Arenas() {
    const int64_t page_bytes = kernels::PageBytes(spec_.head_dim);
    if (!geometry_) return {.exact = arena_.data(), .exact_page_bytes = page_bytes};
    return {.exact = workspace_.data(),
            .exact_page_bytes = kernels::ExactBytesUsed(spec_.head_dim),
            .coded = arena_.data(),
            .coded_page_bytes = page_bytes};
  }

  void ReadLogits(const StepPlan& plan, StepOutput& output) {
    FindLogitRows(plan, output, wanted_);
    for (size_t first = 0; first < wanted_.size(); first += Forward::kLogitsRowsMax) {
      const size_t count = std::min<size_t>(Forward::kLogitsRowsMax, wanted_.size() - first);
      ReadLogits(plan, std::span(wanted_).subspan(first, count), output);
    }
  }

  void ReadLogits(const StepPlan& plan, std::span<const LogitRow> wanted, StepOutput& output) {
    int32_t rows[Forward::kLogitsRowsMax];
    for (size_t i = 0; i < wanted.size(); ++i) rows[i] = wanted[i].row;
    forward_.Logits(std::span<const int32_t>(rows, wanted.size()), logits_.data());
    bool finite[Forward::kLogitsRowsMax];
    pool_.RunWithWorker(static_cast<int32_t>(wanted.size()), [&](Shard shard, int32_t worker) {
      const size_t vocabulary = static_cast<size_t>(spec_.vocabulary);
      const std::span<const float> logits(&logits_[static_cast<size_t>(shard.index) * vocabulary], vocabulary);
      const LogitRow& want = wanted[static_cast<size_t>(shard.index)];
      finite[shard.index] = kernels::AllFinite(logits.data(), spec_.vocabulary);
      if (finite[shard.index]) {
        ReadLogitRow(plan.items[want.item], want, logits, scratch_[static_cast<size_t>(worker)], output.items[want.item]);
      }
    });
    for (size_t i = 0; i < wanted.size(); ++i) output.items[wanted[i].item].finite &= finite[i];
    for (const LogitRow& want : wanted) {
      if (!output.items[want.item].finite) output.items[want.item].sampled.reset();
    }
  }

  const TransformerSpec spec_;
  const Weights weights_;
  const std::optional<ModelGeometry> geometry_;
  ThreadPool& pool_;
  const Clock& clock_;
  std::vector<float> value_weights_;  // coded modes
  HostMemory arena_;      // the pool's pages
  HostMemory workspace_;  // coded modes: f16 pages
  Forward forward_;
  std::vector<float> logits_;            // [kLogitsRowsMax, vocabulary]
  std::vector<SamplerScratch> scratch_;  // [threads]
  std::vector<LogitRow> wanted_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Stepper>> MakeCpuStepper(TransformerSpec spec, Weights weights, ThreadPool& pool,
                                                        CpuStepperOptions options) {
  const auto touch = [&](HostMemory& memory) { pool.Run(pool.threads() * kTouchPartsPerThread, [&](Shard part) { memory.Touch(part); }); };
  const ByteCount bytes(options.pages.value() * kernels::PageBytes(spec.head_dim));
  absl::StatusOr<HostMemory> arena = HostMemory::Allocate(bytes, "the KV pool", "lower --kv-pool-bytes");
  if (!arena.ok()) return arena.status();
  touch(*arena);
  HostMemory workspace;
  if (options.geometry && options.workspace_pages > PageCount(0)) {
    const ByteCount workspace_bytes(options.workspace_pages.value() * kernels::ExactBytesUsed(spec.head_dim));
    absl::StatusOr<HostMemory> memory =
        HostMemory::Allocate(workspace_bytes, "the prefill workspace", "lower --kv-prefill-workspace-bytes");
    if (!memory.ok()) return memory.status();
    workspace = *std::move(memory);
    touch(workspace);
  }
  return std::make_unique<CpuStepper>(std::move(spec), std::move(weights), pool, std::move(options), *std::move(arena),
                                      std::move(workspace));
}

}  // namespace spherical::engine
