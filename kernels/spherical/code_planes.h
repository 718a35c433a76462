// One code of a block of 16 x 16 (page_layout.h), by its address: how the reference and the tests see a page. Slow and plain.
#ifndef SPHERICAL_KERNELS_SPHERICAL_CODE_PLANES_H_
#define SPHERICAL_KERNELS_SPHERICAL_CODE_PLANES_H_

#include <cstdint>

#include "kernels/spherical/page_layout.h"

namespace spherical::kernels {

inline constexpr int32_t kPlaneBits[] = {8, 4, 2, 1};

struct PlacedBits {
  int32_t byte, shift;
};
// Where a plane of `bits` keeps (row, column), from the plane's first byte.
constexpr PlacedBits PlaceInPlane(int32_t bits, int32_t row, int32_t column) {
  const int32_t lane_byte = 4 * row + column % 4;
  if (bits == 8) return {64 * (column / 4) + lane_byte, 0};
  if (bits == 4) return {64 * (column / 8) + lane_byte, 4 * (column / 4 % 2)};
  if (bits == 2) return {lane_byte, 2 * (column / 4)};
  const int32_t bit = 4 * row + column % 4;
  return {8 * (column / 4) + bit / 8, bit % 8};
}

// The stored code, unsigned: c + 2^(width-1).
inline uint32_t ReadCode(const uint8_t* block, int32_t width, int32_t row, int32_t column) {
  uint32_t code = 0;
  int32_t done = 0;
  for (const int32_t bits : kPlaneBits) {
    if ((width & bits) == 0) continue;
    const PlacedBits at = PlaceInPlane(bits, row, column);
    code |= ((static_cast<uint32_t>(block[at.byte]) >> at.shift) & ((1u << bits) - 1)) << done;
    block += kGroup * kTokenTile * bits / 8;
    done += bits;
  }
  return code;
}

inline void WriteCode(uint8_t* block, int32_t width, int32_t row, int32_t column, uint32_t code) {
  for (const int32_t bits : kPlaneBits) {
    if ((width & bits) == 0) continue;
    const PlacedBits at = PlaceInPlane(bits, row, column);
    const uint32_t mask = (1u << bits) - 1;
    block[at.byte] = static_cast<uint8_t>((block[at.byte] & ~(mask << at.shift)) | ((code & mask) << at.shift));
    block += kGroup * kTokenTile * bits / 8;
    code >>= bits;
  }
}

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_SPHERICAL_CODE_PLANES_H_
