#ifndef SPHERICAL_ENGINE_STEP_DRAW_ROW_H_
#define SPHERICAL_ENGINE_STEP_DRAW_ROW_H_

#include <cstdint>

#include "engine/model/sampler.h"
#include "kernels/cuda/token_draw.h"

namespace spherical::engine {

// The draw of output token `output_index`, as Sample makes it. What else DrawTokens is to do with the row, and its edits, is the caller's.
inline kernels::cuda::DrawRow DrawRowOf(const SamplingParams& params, int32_t output_index) {
  return {.temperature = params.temperature,
          .top_k = params.top_k,
          .top_p = params.top_p,
          .min_p = params.min_p,
          .uniform = UniformAt(params.seed, static_cast<uint64_t>(output_index)),
          .penalties = PenaltiesOf(params)};
}

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_DRAW_ROW_H_
