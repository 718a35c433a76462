#ifndef SPHERICAL_KERNELS_SPHERICAL_QUERY_GEOMETRY_H_
#define SPHERICAL_KERNELS_SPHERICAL_QUERY_GEOMETRY_H_

#include <cstdint>

#include "kernels/spherical/page_layout.h"

namespace spherical::kernels {

// What decoding needs of a geometry: the map of queries. A header apart from KeyGeometry, so that code which attends
// cannot rebuild keys.
struct QueryGeometry {
  int32_t head_dim = 0;
  const float* map = nullptr;     // [D, D]   F^(-T), row-major
  const float* centre = nullptr;  // [D]      mu, or null for 0: q.mu joins coded tokens with exact ones. It cannot rebuild keys either
  uint8_t widths[kTierCount][kGroupsMax] = {};
};

// Distance between the code points of each width, for vectors whose coordinates have unit variance: code c stands for (c + 1/2) * step.
// Width 0 stores no codes; there is no width 7.
inline constexpr float kCodeStep[9] = {0.0f, 1.596f, 0.9957f, 0.5860f, 0.3352f, 0.1881f, 0.1041f, 0.0f, 0.0308f};

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_SPHERICAL_QUERY_GEOMETRY_H_
