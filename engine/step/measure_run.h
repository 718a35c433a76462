#ifndef SPHERICAL_ENGINE_STEP_MEASURE_RUN_H_
#define SPHERICAL_ENGINE_STEP_MEASURE_RUN_H_

#include <span>
#include <vector>

#include "engine/kv/measure.h"
#include "engine/kv/rate_curve.h"
#include "engine/model/model_geometry.h"
#include "engine/model/transformer_spec.h"
#include "engine/model/weights.h"
#include "engine/step/kv_arenas.h"
#include "engine/step/thread_pool.h"
#include "engine/step/utility_estimate.h"

namespace spherical::engine {

// What all measuring of a model has in common.
struct MeasureContext {
  const ModelGeometry& geometry;
  const TransformerSpec& spec;
  std::span<const float> value_weights;  // [layers * kv_heads]: of ValueWeights
  const UtilityEstimator& estimator = BestUtilityEstimator();
};

// What a unit of squared error of a head's output is after the output projection, mean over the heads of its group and over directions:
// |W|^2 / D of the projection's columns.   [layers * kv_heads]
std::vector<float> ValueWeights(const TransformerSpec& spec, const Weights& weights, ThreadPool& pool);

// The curves of the items, on the CPU. Distortion of a token (design section 7), w its utility:
//     D(tier) = w (min(1, s^2 ek) |v - o|^2 + ev) * value weight / residual,    D(drop) = w |v - o|^2 * value weight / residual
// ek, ev: squared errors of the coded key in the metric and of the coded value; s: the softmax scale; o: the head's mean output.
// Of exact tokens ek and ev are the encoder's, and the utility byte is D(drop). Of coded tokens D(drop) is the byte's, ek is
// radius^2 * KeyLoss(tier), and ev / |v - o|^2 is the expected error of the tier's value width.
std::vector<RateCurve> RunMeasure(const MeasureContext& context, const KvArenas& arenas, std::span<const MeasureItem> items,
                                  ThreadPool& pool);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_MEASURE_RUN_H_
