// A model with its forward pass and its keys and values in the open: what quality is measured with. One sequence at a time.
//
//   auto model = ScoringModel::Load(path, {.tokens_max = TokenCount(7168)});
//   KvStore::Handle prefix = (*model)->Begin(size of the prompt);
//   (*model)->Enter(*prefix, prompt);
//   KvStore::Handle kept = (*model)->Keep(*prefix, mode);             // the prompt as one mode keeps it
//   (*model)->Score(*kept, continuation, [&](int32_t first, std::span<const float> logits) { ... });
#ifndef SPHERICAL_TESTS_QUALITY_SCORING_MODEL_H_
#define SPHERICAL_TESTS_QUALITY_SCORING_MODEL_H_

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "engine/calibrate/calibration.h"
#include "engine/intake/submission.h"
#include "engine/model/model_geometry.h"
#include "engine/step/forward.h"
#include "engine/step/thread_pool.h"
#include "kernels/dense/matmul.h"
#include "tests/golden/model_parts.h"
#include "tests/quality/device_forward.h"
#include "tests/quality/mode.h"
#include "tests/quality/kv_store.h"

namespace spherical::quality {

class ScoringModel {
 public:
  struct Options {
    kernels::ActivationType activations = kernels::ActivationType::kF32;
    int32_t threads = 2;
    TokenCount tokens_max;  // of a sequence
    std::string device = "cpu";  // or "cuda:N": weights and what products take are f16 there, whatever `activations` says
  };
  static absl::StatusOr<std::unique_ptr<ScoringModel>> Load(const std::string& path, const Options& options);
  explicit ScoringModel(int32_t threads) : threads_(threads) {}  // for Load: there is no model in it yet
  ScoringModel(const ScoringModel&) = delete;
  ScoringModel& operator=(const ScoringModel&) = delete;

  const engine::Tokenizer& tokenizer() const { return *parts_.tokenizer; }
  const engine::TransformerSpec& spec() const { return parts_.spec; }
  engine::ThreadPool& threads() { return threads_; }
  KvStore& kv() { return *kv_; }
  // A sequence whose prompt will have so many tokens: all modes can keep it.
  KvStore::Handle Begin(int32_t prompt_tokens);
  engine::CalibratedModel for_calibration() {
    return {.spec = parts_.spec, .weights = parts_.weights, .tokenizer = *parts_.tokenizer, .pool = threads_};
  }

  // What modes without a geometry of their own are coded with; the plain one until then. No Kv is alive. The device's errors.
  absl::Status UseGeometry(engine::ModelGeometry geometry);
  // Why a mode cannot be kept by what runs this model; empty: it can.
  std::string WhyNot(const Mode& mode) const;

  // What measuring with a geometry has in common. Views of this model.
  engine::MeasureContext MeasureWith(const engine::ModelGeometry& geometry, const engine::UtilityEstimator& estimator) const;
  const engine::ModelGeometry& plain_geometry() const { return plain_->geometry; }

  KvStore::Handle Keep(const Kv& exact, const Mode& mode);
  KvRate RateOf(const Kv& kept, const Mode& mode) const;

  // Appends tokens.
  void Enter(Kv& kv, std::span<const engine::TokenId> tokens);
  // Appends tokens and shows the logits after each of them, a few rows at a time.   logits [rows, vocabulary], of rows from `first` on
  using Reader = absl::FunctionRef<void(int32_t first, std::span<const float> logits)>;
  void Score(Kv& kv, std::span<const engine::TokenId> tokens, Reader read);

 private:
  // A geometry and the forward pass over what it codes.
  struct Way {
    Way(engine::ModelGeometry way_geometry, const ModelParts& parts, engine::ThreadPool& threads, kernels::ActivationType activations)
        : geometry(std::move(way_geometry)), forward(parts.spec, parts.weights, &geometry, threads, activations) {}
    engine::ModelGeometry geometry;
    engine::Forward forward;
  };
  std::unique_ptr<Way> MakeWay(engine::ModelGeometry geometry);
  Way& WayOf(const Kv& kv) { return calibrated_ != nullptr && kv.geometry == &calibrated_->geometry ? *calibrated_ : *plain_; }
  void Run(Kv& kv, std::span<const engine::TokenId> tokens);
  int32_t StepRows(const Kv& kv) const;
  void LogitsOf(const Kv& kv, std::span<const int32_t> rows, float* logits);
  absl::Status MoveToDevice();

  engine::ThreadPool threads_;
  ModelParts parts_;
  kernels::ActivationType activations_ = kernels::ActivationType::kF32;
  std::vector<float> value_weights_;
  std::unique_ptr<KvStore> kv_;
  std::unique_ptr<Way> plain_;
  std::unique_ptr<Way> calibrated_;  // null: the plain one
  std::string device_name_;
  int32_t tokens_max_ = 0;
  std::unique_ptr<DeviceForward> device_;  // null: the CPU. Codes with the calibrated geometry, or the plain one without
};

}  // namespace spherical::quality

#endif  // SPHERICAL_TESTS_QUALITY_SCORING_MODEL_H_
