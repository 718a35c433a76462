#include "kernels/spherical/decode.h"

#include <cstring>

#include "kernels/base/float16.h"
#include "kernels/spherical/code_planes.h"
#include "kernels/spherical/query_geometry.h"

namespace spherical::kernels {
namespace {

float RadiusAt(const uint8_t* radii, int32_t slot) {
  uint16_t half;
  std::memcpy(&half, radii + 2 * slot, sizeof half);
  return F16ToF32(half);
}

float PointOf(uint32_t code, int32_t width) {
  return (static_cast<float>(static_cast<int32_t>(code) - (1 << (width - 1))) + 0.5f) * kCodeStep[width];
}

}  // namespace

void DecodeToken(Tier tier, int32_t head_dim, const uint8_t* widths, const uint8_t* page, int32_t slot, float* z, float* v) {
  const TierLayout layout = LayoutOf(tier, head_dim);
  const int32_t tile = slot / kTokenTile, index = slot % kTokenTile, value_width = ValueWidth(tier);
  const float key_radius = RadiusAt(page + layout.key_radii, slot), value_radius = RadiusAt(page + layout.value_radii, slot);
  const uint8_t* keys = page + tile * layout.key_tile;
  const uint8_t* values = page + layout.values + tile * layout.value_tile;
  for (int32_t g = 0; g < head_dim / kGroup; ++g) {
    for (int32_t i = 0; i < kGroup; ++i) {
      z[g * kGroup + i] = widths[g] == 0 ? 0 : key_radius * PointOf(ReadCode(keys, widths[g], index, i), widths[g]);
      v[g * kGroup + i] = value_radius * PointOf(ReadCode(values, value_width, i, index), value_width);
    }
    keys += kGroup * kTokenTile / 8 * widths[g];
    values += kGroup * kTokenTile / 8 * value_width;
  }
}

}  // namespace spherical::kernels
