#ifndef SPHERICAL_KERNELS_SPHERICAL_QUERY_GEOMETRY_H_
#define SPHERICAL_KERNELS_SPHERICAL_QUERY_GEOMETRY_H_

#include <cstdint>

#include "kernels/spherical/page_layout.h"

namespace spherical::kernels {

// Distance between the code points of each width, for vectors whose coordinates have unit variance: code c stands for (c + 1/2) * step.
// Width 0 stores no codes; there is no width 7.
inline constexpr float kCodeStep[9] = {0.0f, 1.596f, 0.9957f, 0.5860f, 0.3352f, 0.1881f, 0.1041f, 0.0f, 0.0308f};

// Mean squared error of a unit-variance coordinate coded in so many bits, the centroid being used (design, section 4); there is no width 7.
inline constexpr double kExpectedError[9] = {1, .3634, .1188, .03744, .01154, .00349, .00104, 0, .00009};

// What attention reads a step as. A code point is the centroid of its cell, the vector that is nearest to all that it may stand for, and so
// it is shorter than they are: on average its part along the vector that was coded is 1 - error of it. One token is best read so. But
// attention sums over many, and what all of them lack alike does not average out: at 2 bits an eighth of every value, and of every logit's
// distance from the mean. So codes are read as that much longer, with errors that average out. 8 bits lack nothing that counts.
constexpr float ReadStep(int32_t width) {
  if (width == 0 || width >= 7) return kCodeStep[width];
  return static_cast<float>(static_cast<double>(kCodeStep[width]) / (1 - kExpectedError[width]));
}
inline constexpr float kReadStep[9] = {ReadStep(0), ReadStep(1), ReadStep(2), ReadStep(3), ReadStep(4),
                                       ReadStep(5), ReadStep(6), ReadStep(7), ReadStep(8)};

// What decoding needs of a geometry: the map of queries. A header apart from KeyGeometry, so that code which attends
// cannot rebuild keys.
struct QueryGeometry {
  int32_t head_dim = 0;
  const float* map = nullptr;     // [D, D]   F^(-T), row-major
  const float* centre = nullptr;  // [D]      mu, or null for 0: q.mu joins coded tokens with exact ones. It cannot rebuild keys either
  uint8_t widths[kTierCount][kGroupsMax] = {};
  // Codes of keys are read as the centroids that they are: of a map that no statistics made. Its logits' errors are so large that e to
  // the power of them weighs more in a softmax than what centroids lack.
  bool centroids = false;
  constexpr const float* steps() const { return centroids ? kCodeStep : kReadStep; }  // by width
};

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_SPHERICAL_QUERY_GEOMETRY_H_
