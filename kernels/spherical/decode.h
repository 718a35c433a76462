// Codes back into vectors: for tests only, which is enforced by the build. Serving never rebuilds a key.
#ifndef SPHERICAL_KERNELS_SPHERICAL_DECODE_H_
#define SPHERICAL_KERNELS_SPHERICAL_DECODE_H_

#include <cstdint>

#include "kernels/spherical/page_layout.h"

namespace spherical::kernels {

// Token `slot` of a page: z^ of its key (k = F^(-1) z^ + mu) and its rotated value.   widths [D/16], of the keys; z, v [D]
void DecodeToken(Tier tier, int32_t head_dim, const uint8_t* widths, const uint8_t* page, int32_t slot, float* z, float* v);

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_SPHERICAL_DECODE_H_
