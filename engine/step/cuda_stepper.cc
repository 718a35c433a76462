#include "engine/step/cuda_stepper.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "engine/step/cuda_pass.h"
#include "engine/step/cuda_weights.h"
#include "engine/step/logit_rows.h"
#include "engine/step/measure_run.h"
#include "kernels/base/check.h"
#include "kernels/cuda/device_fault.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/dense/rows.h"

namespace spherical::engine {
namespace {

using kernels::cuda::CudaStatus;

class CudaStepper final : public Stepper {
 public:
  CudaStepper(TransformerSpec spec, ThreadPool& pool, CudaStepperOptions options)
      : spec_(std::move(spec)),
        pool_(pool),
        options_(std::move(options)),
        clock_(*options_.clock),
        scratch_(static_cast<size_t>(pool.threads())) {}

  absl::Status Create(const Weights& weights) {
    if (absl::Status used = UseDevice(); !used.ok()) return used;
    if (const CudaStatus made = stream_.Create(); made != CudaStatus::kOk) {
      return absl::InternalError(fmt::format("a CUDA stream: {}", kernels::cuda::TextOf(made)));
    }
    auto uploaded = UploadWeights(spec_, weights, pool_, stream_.get(), options_.progress);
    if (!uploaded.ok()) return uploaded.status();
    weights_ = *std::move(uploaded);
    if (options_.priced) value_weights_ = ValueWeights(spec_, weights, pool_);
    pass_ = std::make_unique<CudaPass>(spec_, weights_, pool_, stream_.get());
    const int64_t logits_bytes = int64_t{CudaPass::kLogitsRowsMax} * spec_.vocabulary * int64_t{sizeof(float)};
    const CudaStatus pinned = logits_.Allocate(logits_bytes);
    if (pinned != CudaStatus::kOk) {
      return absl::ResourceExhaustedError(fmt::format("{} bytes of pinned memory for logits cannot be had", logits_bytes));
    }
    const absl::Status created = pass_->Create({.pages = options_.pages.value(),
                                                .least_pages = options_.least_pages.value(),
                                                .sequences = options_.sequences,
                                                .context_max = options_.context_max,
                                                .geometry = options_.geometry ? &*options_.geometry : nullptr,
                                                .value_weights = value_weights_,
                                                .workspace_pages = options_.workspace_pages.value(),
                                                .recorded = options_.recorded});
    if (created.ok() && options_.pool_taken != nullptr) *options_.pool_taken = PageCount(pass_->pool_pages());
    return created;
  }

  absl::StatusOr<StepOutput> Run(const StepPlan& plan) override {
    const absl::Time start = clock_.Now();
    if (absl::Status used = UseDevice(); !used.ok()) return used;
    pass_->RunLayers(plan);
    if (step_++ == options_.break_at_step) pass_->Note(kernels::cuda::BreakDevice(stream_.get()));
    StepOutput output;
    output.items.resize(plan.items.size());
    FindLogitRows(plan, output, wanted_);
    if (wanted_.empty()) {
      if (absl::Status done = pass_->Await(); !done.ok()) return done;
    }
    for (size_t first = 0; first < wanted_.size(); first += CudaPass::kLogitsRowsMax) {
      const size_t count = std::min<size_t>(CudaPass::kLogitsRowsMax, wanted_.size() - first);
      if (absl::Status read = ReadLogits(plan, std::span(wanted_).subspan(first, count), output); !read.ok()) return read;
    }
    for (StepItemOutput& item : output.items) {
      if (!item.finite) item.sampled.reset();
    }
    pass_->TellEnergies(plan, output.items);
    output.elapsed = clock_.Now() - start;
    return output;
  }

  absl::StatusOr<MeasureOutput> Measure(std::span<const MeasureItem> items) override {
    SPH_CHECK(options_.priced);
    const absl::Time start = clock_.Now();
    if (absl::Status used = UseDevice(); !used.ok()) return used;
    MeasureOutput output;
    output.curves.resize(items.size());
    if (absl::Status done = pass_->Measure(items, output.curves); !done.ok()) return done;
    output.elapsed = clock_.Now() - start;
    return output;
  }

  absl::StatusOr<absl::Duration> Retier(std::span<const RetierItem> items) override {
    SPH_CHECK(options_.geometry.has_value());
    const absl::Time start = clock_.Now();
    if (absl::Status used = UseDevice(); !used.ok()) return used;
    if (absl::Status done = pass_->Retier(items); !done.ok()) return done;
    return clock_.Now() - start;
  }

 private:
  absl::Status UseDevice() {
    const CudaStatus used = kernels::cuda::UseDevice(options_.device);
    if (used == CudaStatus::kOk) return absl::OkStatus();
    return absl::InternalError(fmt::format("CUDA device {}: {}", options_.device, kernels::cuda::TextOf(used)));
  }

  // The greatest logit is all that is asked for.
  static bool WantsGreatest(const StepItem& item, const LogitRow& row) {
    if (row.target >= 0) return false;
    const SamplingParams& p = *item.sampling;
    return item.logprobs < 0 && p.temperature == 0 && p.repetition_penalty == 1 && p.frequency_penalty == 0 && p.presence_penalty == 0 &&
           p.logit_bias.empty();
  }

  // Whole rows of logits leave the device only where more than the greatest is asked for.
  absl::Status ReadLogits(const StepPlan& plan, std::span<const LogitRow> wanted, StepOutput& output) {
    int32_t rows[CudaPass::kLogitsRowsMax];
    for (size_t i = 0; i < wanted.size(); ++i) rows[i] = wanted[i].row;
    pass_->Logits(std::span<const int32_t>(rows, wanted.size()));
    const int64_t row_bytes = spec_.vocabulary * int64_t{sizeof(float)}, count = static_cast<int64_t>(wanted.size());
    for (int64_t i = 0; i < count; ++i) {
      const LogitRow& want = wanted[static_cast<size_t>(i)];
      if (WantsGreatest(plan.items[static_cast<size_t>(want.item)], want)) continue;
      pass_->Note(kernels::cuda::CopyToHost(stream_.get(), LogitsOf(i), pass_->logits() + i * spec_.vocabulary, row_bytes));
    }
    if (absl::Status done = pass_->Await(); !done.ok()) return done;

    const std::span<const int32_t> greatest(pass_->greatest(), wanted.size());
    pool_.RunWithWorker(static_cast<int32_t>(count), [&](Shard shard, int32_t worker) {
      const LogitRow& want = wanted[static_cast<size_t>(shard.index)];
      const StepItem& asked = plan.items[static_cast<size_t>(want.item)];
      StepItemOutput& item = output.items[static_cast<size_t>(want.item)];
      const int32_t id = greatest[static_cast<size_t>(shard.index)];
      if (id < 0) return;
      if (WantsGreatest(asked, want)) {
        item.sampled = SampledToken{.id = id, .top = {}};
      } else {
        ReadLogitRow(asked, want, {LogitsOf(shard.index), static_cast<size_t>(spec_.vocabulary)}, scratch_[static_cast<size_t>(worker)],
                     item);
      }
    });
    for (size_t i = 0; i < wanted.size(); ++i) output.items[static_cast<size_t>(wanted[i].item)].finite &= greatest[i] >= 0;
    return absl::OkStatus();
  }

  float* LogitsOf(int64_t i) const { return logits_.data<float>() + i * spec_.vocabulary; }

  const TransformerSpec spec_;
  ThreadPool& pool_;
  const CudaStepperOptions options_;
  const Clock& clock_;
  int64_t step_ = 0;
  kernels::cuda::OwnStream stream_;
  CudaWeights weights_;
  std::vector<float> value_weights_;      // [layers * kv_heads], mode `rdr`
  kernels::cuda::PinnedMemory logits_;  // [kLogitsRowsMax, vocabulary]
  std::unique_ptr<CudaPass> pass_;
  std::vector<SamplerScratch> scratch_;   // [threads]
  std::vector<LogitRow> wanted_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Stepper>> MakeCudaStepper(TransformerSpec spec, const Weights& weights, ThreadPool& pool,
                                                         CudaStepperOptions options) {
  auto stepper = std::make_unique<CudaStepper>(std::move(spec), pool, std::move(options));
  if (absl::Status created = stepper->Create(weights); !created.ok()) return created;
  return stepper;
}

}  // namespace spherical::engine
