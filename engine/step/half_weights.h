#ifndef SPHERICAL_ENGINE_STEP_HALF_WEIGHTS_H_
#define SPHERICAL_ENGINE_STEP_HALF_WEIGHTS_H_

#include <cmath>
#include <cstdint>
#include <span>

#include "kernels/base/float16.h"

namespace spherical::engine {

// Rounds weights to f16, [n] to `out`. Infinity and NaN stay what they are. Returns the largest magnitude of those that f16 cannot hold,
// which are infinite in `out`; 0 if there are none.
inline float RoundToHalf(std::span<const float> weights, uint16_t* out) {
  constexpr uint16_t kInfinity = 0x7c00, kMagnitude = 0x7fff;
  float beyond = 0;
  for (const float x : weights) {
    *out = kernels::F32ToF16(x);
    if ((*out++ & kMagnitude) == kInfinity && !std::isinf(x)) beyond = std::fmax(beyond, std::fabs(x));
  }
  return beyond;
}

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_HALF_WEIGHTS_H_
