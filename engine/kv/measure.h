#ifndef SPHERICAL_ENGINE_KV_MEASURE_H_
#define SPHERICAL_ENGINE_KV_MEASURE_H_

#include <cstdint>

#include "engine/intake/submission.h"
#include "engine/kv/page_table.h"

namespace spherical::engine {

// A question about one (layer, kv head) of one sequence: how many of its tokens stand on which rung at which price (RateCurve). Planned as
// a value, answered by the stepper. Writes nothing but the head's notes.
//
// kExact: tokens [exact_begin, end), by the sampled queries and the encoder's own errors; notes are written for all of them. Sinks and
//   tokens from `newest` on are not in the curve.
// kCoded: by utility bytes and radii; T8 tokens count only if they are settled. kWhole: of those alone.
// A local head's tokens are all on one rung: the mean token decides, for all of them (RateCurve::AddTogether). Only queries from the window
// on are asked, each about the keys up to its own; and what a token is worth is what those see in it for whom it is not new any more.
// One item a head and tick: what comes of it changes the head.
struct MeasureItem {
  enum class Kind : uint8_t { kExact, kCoded, kWhole };
  Kind kind = Kind::kExact;
  SequenceId sequence = 0;
  const HeadPages* pages = nullptr;
  int32_t head = 0;              // layer * kv_heads + kv head
  int32_t end = 0, newest = 0;   // kExact
  int32_t samples = 0;           // kExact: sampled positions that are asked, from slot `first_sample` on, around the ring
  int32_t first_sample = 0;
  int32_t sample_position = 0;   // local heads: of the first; the others follow `sample_stride` apart. 0: they see all keys
  int32_t sample_stride = 0;
  int32_t price = -1;            // kCoded, kWhole: >= 0, the head is repriced at it then
  int32_t settles = 0;           // kCoded, kWhole: T8 tokens that newer ones have made old: settled from now on
  float residual = 1;            // mean squared norm of what enters the layer: what distortion is measured in
};

// Tokens to look at, those that are cheap to look at counted less: the work.
int32_t TokensOf(const MeasureItem& item);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_KV_MEASURE_H_
