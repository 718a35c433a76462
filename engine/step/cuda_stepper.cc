#include "engine/step/cuda_stepper.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "engine/step/cuda_logits.h"
#include "engine/step/cuda_pass.h"
#include "engine/step/cuda_weights.h"
#include "engine/step/logit_rows.h"
#include "engine/step/measure_run.h"
#include "kernels/base/check.h"
#include "kernels/cuda/device_fault.h"
#include "kernels/cuda/device_runtime.h"

namespace spherical::engine {
namespace {

using kernels::cuda::CudaStatus;

class CudaStepper final : public Stepper {
 public:
  CudaStepper(TransformerSpec spec, ThreadPool& pool, CudaStepperOptions options)
      : spec_(std::move(spec)),
        pool_(pool),
        options_(std::move(options)),
        clock_(*options_.clock) {}

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
    logits_ = std::make_unique<CudaLogits>(spec_.vocabulary, options_.edits_max, pool_, stream_.get());
    if (absl::Status taken = logits_->Create(); !taken.ok()) return taken;
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
      if (absl::Status read = logits_->Read(plan, std::span(wanted_).subspan(first, count), *pass_, output); !read.ok()) return read;
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

  const TransformerSpec spec_;
  ThreadPool& pool_;
  const CudaStepperOptions options_;
  const Clock& clock_;
  int64_t step_ = 0;
  kernels::cuda::OwnStream stream_;
  CudaWeights weights_;
  std::vector<float> value_weights_;      // [layers * kv_heads], mode `rdr`
  std::unique_ptr<CudaLogits> logits_;
  std::unique_ptr<CudaPass> pass_;
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
