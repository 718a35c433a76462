#ifndef SPHERICAL_ENGINE_KV_MEASURE_H_
#define SPHERICAL_ENGINE_KV_MEASURE_H_

#include <cstdint>

#include "engine/intake/submission.h"
#include "engine/kv/page_table.h"

namespace spherical::engine {

// A question about one (layer, kv head) of one sequence: how many of its tokens stand on which rung at which price (RateCurve). Planned as
// a value, answered by the stepper. Writes nothing but the head's notes.
//
// Exact tokens [exact_begin, end): by the sampled queries and the encoder's own errors; notes are written for all of them. Of coded tokens:
// by their utility bytes and radii. Sinks and tokens from `newest` on are not in the curve, nor are T8 tokens that nobody settled yet.
struct MeasureItem {
  SequenceId sequence = 0;
  const HeadPages* pages = nullptr;
  int32_t head = 0;              // layer * kv_heads + kv head
  bool exact = false;            // the head's exact tokens, or its coded ones
  int32_t end = 0, newest = 0;   // exact
  int32_t samples = 0;           // exact: sampled positions that are there
  float residual = 1;            // mean squared norm of what enters the layer: what distortion is measured in
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_KV_MEASURE_H_
