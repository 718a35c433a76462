#ifndef SPHERICAL_KERNELS_SPHERICAL_GEOMETRY_H_
#define SPHERICAL_KERNELS_SPHERICAL_GEOMETRY_H_

#include <cstdint>

#include "kernels/spherical/page_layout.h"
#include "kernels/spherical/query_geometry.h"

namespace spherical::kernels {

// The fixed linear map of one (layer, kv head) that turns keys into the space where they are coded (design, section 4):
//
//     z = F (k - mu)          whitened: E[z z'] = I, coordinates ordered by importance, mixed within groups of 16 (see `shaping`)
//     q.k = q.mu + q'.z       q' = F^(-T) q, once per query; q.mu is the same for every token, so softmax never sees it
//
// A view: whoever made the geometry owns the arrays. `mu` and F see keys after rotary positions.
struct KeyGeometry {       // D = head_dim
  int32_t head_dim = 0;
  const float* centre = nullptr;      // [D]      mu
  const float* map = nullptr;         // [D, D]   F, row-major
  // The squared logit error that an error e of a group's coordinates causes is importance * |U e|^2, U unit upper triangular: errors of a
  // group weigh on each other. Not increasing.
  const float* importance = nullptr;  // [D/16]
  const float* shaping = nullptr;     // [D/16, 16, 16]   U, column by column; null: the identity
  uint8_t widths[kTierCount][kGroupsMax] = {};  // bits of each group, per tier; sum over groups <= KeyWidths(tier, D)
};

// Expected squared error of a unit-variance coordinate coded in `width` bits (0 to 6, 8), the centroid being used: rate-distortion of the
// uniform quantiser on a normal variable.
double ExpectedError(int32_t width);

// Width of each group so that sum(widths) <= total and sum(importance * ExpectedError) is small: reverse water-filling, one greedy step at
// a time by gain per bit. Widths come from {0, 1, 2, 3, 4, 5, 6, 8}.   importance [groups], not negative; widths [groups]
void AllotWidths(const float* importance, int32_t groups, int32_t total, uint8_t* widths);

// Rotation of values: random signs, then a Walsh-Hadamard transform over the largest power of two, combined with the reflection
// I - (2/m) J across what is left: m = 5 for head dim 80, 3 for 96. Orthonormal, the same for every model.   x [D], in place
void RotateValue(int32_t head_dim, float* x);
void UnrotateValue(int32_t head_dim, float* x);

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_SPHERICAL_GEOMETRY_H_
