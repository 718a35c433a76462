// What a model's keys and queries look like, found by running it: on text that it makes up itself, which needs no data, or on given texts.
//
//   auto statistics = SampleItself(model, {}, run);                                  // or ReadTexts(model, texts, run)
//   auto geometry = SolveGeometry(*statistics, PositionsOf(model.spec, context), pool);
//
// The same model and options give the same bits, whatever the number of threads. Thread: the caller's, and the pool's workers.
#ifndef SPHERICAL_ENGINE_CALIBRATE_CALIBRATION_H_
#define SPHERICAL_ENGINE_CALIBRATE_CALIBRATION_H_

#include <atomic>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/calibrate/key_statistics.h"
#include "engine/calibrate/served_positions.h"
#include "engine/model/tokenizer.h"
#include "engine/model/transformer_spec.h"
#include "engine/model/weights.h"
#include "engine/step/thread_pool.h"

namespace spherical::engine {

struct CalibratedModel {
  const TransformerSpec& spec;
  const Weights& weights;
  const Tokenizer& tokenizer;
  ThreadPool& pool;
};

struct CalibrationRun {
  std::function<void(int64_t done, int64_t total)> progress = [](int64_t, int64_t) {};  // tokens; after each step
  const std::atomic<bool>* stop = nullptr;  // set by anyone: Cancelled within a step
};

// Samples go on from openings of many kinds of text (openings.h), 64 at a time where memory allows.
struct SelfSampling {
  int64_t tokens = 12'288;   // of all samples; twice as many make the expected error of a logit 2 % less
  int32_t sample_max = 256;  // tokens of one; it ends before if the model says so
  float temperature = 0.9f;  // at 1 a small model strays into what nobody writes, and the geometry with it; 0.8 gains nothing more
  uint64_t seed = 1;
};
absl::StatusOr<KeyStatistics> SampleItself(const CalibratedModel& model, const SelfSampling& sampling, const CalibrationRun& run);

// A text with fewer tokens says too little about a covariance.
inline constexpr int32_t kTextTokensMin = 512;
// Each text is one sample, from its first token on; none is empty, and none longer than the model's context.
absl::StatusOr<KeyStatistics> ReadTexts(const CalibratedModel& model, std::span<const std::vector<TokenId>> texts,
                                        const CalibrationRun& run);

ModelPositions PositionsOf(const TransformerSpec& spec, int32_t context);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_CALIBRATE_CALIBRATION_H_
