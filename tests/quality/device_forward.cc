#include "tests/quality/device_forward.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "engine/step/cuda_pass.h"
#include "engine/step/cuda_weights.h"
#include "engine/step/device_choice.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::quality {
namespace {

using kernels::cuda::CudaStatus;

constexpr int32_t kSequences = 8;  // whose page lists stay on the device

void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  std::exit(1);
}

void Require(CudaStatus status) {
  if (status != CudaStatus::kOk) Require(absl::InternalError(kernels::cuda::TextOf(status)));
}

class CudaForward final : public DeviceForward {
 public:
  static_assert(kLogitsRowsMax == engine::CudaPass::kLogitsRowsMax);
  explicit CudaForward(const engine::TransformerSpec& spec) : spec_(spec) {}

  absl::Status Create(int32_t device, const engine::Weights& weights, const engine::ModelGeometry& geometry, const DevicePool& pool,
                      std::span<const float> value_weights, engine::ThreadPool& threads) {
    Require(kernels::cuda::UseDevice(device));
    Require(stream_.Create());
    auto uploaded = engine::UploadWeights(spec_, weights, threads, stream_.get(), [](int64_t, int64_t) {});
    if (!uploaded.ok()) return uploaded.status();
    weights_ = *std::move(uploaded);
    pass_ = std::make_unique<engine::CudaPass>(spec_, weights_, threads, stream_.get());
    return pass_->Create({.pages = pool.coded.value(),
                          .sequences = kSequences,
                          .context_max = pool.tokens_max,
                          .geometry = &geometry,
                          .value_weights = value_weights,
                          .workspace_pages = pool.exact.value()});
  }

  engine::StepOutput Run(const engine::StepPlan& plan) override {
    pass_->RunLayers(plan);
    Require(pass_->Await());
    engine::StepOutput output;
    output.items.resize(plan.items.size());
    pass_->TellEnergies(plan, output.items);
    return output;
  }

  void Logits(std::span<const int32_t> rows, float* logits) override {
    pass_->Logits(rows);
    const int64_t bytes = static_cast<int64_t>(rows.size()) * spec_.vocabulary * int64_t{sizeof(float)};
    Require(kernels::cuda::CopyToHost(stream_.get(), logits, pass_->logits(), bytes));
    Require(pass_->Await());
  }

  void Retier(std::span<const engine::RetierItem> items) override { Require(pass_->Retier(items)); }

  std::vector<engine::RateCurve> Measure(std::span<const engine::MeasureItem> items) override {
    std::vector<engine::RateCurve> curves(items.size());
    Require(pass_->Measure(items, curves));
    return curves;
  }

  void CopyExactPage(PageId from, PageId to) override {
    const engine::KvArenas& arenas = pass_->arenas();
    Require(kernels::cuda::CopyOnDevice(stream_.get(), arenas.exact + to * arenas.exact_page_bytes,
                                        arenas.exact + from * arenas.exact_page_bytes, arenas.exact_page_bytes));
  }

 private:
  const engine::TransformerSpec& spec_;
  kernels::cuda::OwnStream stream_;
  engine::CudaWeights weights_;
  std::unique_ptr<engine::CudaPass> pass_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceForward>> MakeDeviceForward(const std::string& device, const engine::TransformerSpec& spec,
                                                                 const engine::Weights& weights, const engine::ModelGeometry& geometry,
                                                                 const DevicePool& pool, std::span<const float> value_weights,
                                                                 engine::ThreadPool& threads) {
  if (!engine::IsDeviceName(device)) return absl::InvalidArgumentError(device + ": expected cuda:N");
  const auto choice = engine::ChooseDevice(device);
  if (!choice.ok()) return choice.status();
  if (!choice->on_cuda()) return absl::FailedPreconditionError(device + ": " + choice->why);
  auto forward = std::make_unique<CudaForward>(spec);
  if (absl::Status created = forward->Create(choice->cuda, weights, geometry, pool, value_weights, threads); !created.ok()) return created;
  return forward;
}

}  // namespace spherical::quality
