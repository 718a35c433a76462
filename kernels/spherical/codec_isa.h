// What the codec's files of one instruction set see: plain data and declarations, no std, so that nothing compiled with their flags can
// be picked by the linker for other code.
#ifndef SPHERICAL_KERNELS_SPHERICAL_CODEC_ISA_H_
#define SPHERICAL_KERNELS_SPHERICAL_CODEC_ISA_H_

#include <stdint.h>

#include "kernels/spherical/query_geometry.h"
#include "kernels/spherical/value_rotation.h"

namespace spherical::kernels {

// By width: a step, its inverse, and what makes a code unsigned. Internal linkage on purpose, here and below.
struct CodeScales {
  float step[9], inverse[9], offset[9];
};
constexpr CodeScales kScales = [] {
  CodeScales scales = {};
  for (int width = 1; width <= 8; ++width) {
    scales.step[width] = kCodeStep[width];
    scales.inverse[width] = width == 7 ? 0 : 1 / kCodeStep[width];
    scales.offset[width] = static_cast<float>(1 << (width - 1));
  }
  return scales;
}();
constexpr float kWideReach = 3.94f;        // of T8's codes, in units of the radius
constexpr float kLargestRadius = 65504.0f;  // of f16

// Demotion: why these, see codec.h.
constexpr float kFirstShrink = 1 / 0.9f;   // leaving T8
constexpr float kMergeShrink = 1 / 1.12f;  // pairs of codes become one

// A page of one tier of one head.
struct CodecTier {
  int32_t groups;
  int32_t key_tile, value_tile, values, key_radii, value_radii, utilities;  // as in TierLayout
  const uint8_t* key_widths;    // [groups]
  const uint8_t* value_widths;  // [groups]
  bool wide;                    // T8
};

struct MapOperands {
  int32_t head_dim;
  const float *centre, *map;
  const float* keys;
  int64_t key_stride;
  int32_t rows;
  float* z;
};
struct RotateOperands {
  int32_t head_dim;
  const float* values;
  int64_t stride;
  int32_t rows;
  float* rotated;
};
struct ReadOperands {
  int32_t head_dim;
  const uint8_t *page_keys, *page_values;
  int32_t slot, rows;
  float *keys, *values;
};
struct EncodeOperands {
  CodecTier tier;
  const float *importance, *ones;  // [groups]
  const float* shaping;            // [groups][16][16] or null
  const float *z, *v;              // [rows, D]
  int32_t rows, slot;
  uint8_t* page;
  float* errors;                   // [rows][2] or null
};
struct DemoteOperands {
  CodecTier from, to;
  bool same_tier;
  const float *importance, *ones, *shaping;
  const uint8_t* from_page;
  int32_t from_tile;
  uint32_t which;  // of the tile's sixteen tokens
  uint8_t* to_page;
  int32_t to_slot;
};

// As in CodedLosses, TileSteps and the scales of ladder.h.
constexpr int kLadderRungs = 4;
struct LadderOperands {
  const float *key, *value;    // [rungs]
  const float* per_byte;       // [rungs + 1][rungs + 1]
  const uint8_t *radii, *utilities;  // of the tile
  int32_t first_utility, first_price, last_price;  // as the upper bits of a float: >> 21, >> 20; the last as a step
  uint16_t* leaves;            // [rungs][16]
};

namespace reference {
void MapKeys(const MapOperands& o);
void Rotate(const RotateOperands& o);
void Unrotate(const RotateOperands& o);
void ReadExact(const ReadOperands& o);
void Encode(const EncodeOperands& o);
void Demote(const DemoteOperands& o);
void Ladders(const LadderOperands& o);
}  // namespace reference
namespace avx2 {
void MapKeys(const MapOperands& o);
void Rotate(const RotateOperands& o);
void Unrotate(const RotateOperands& o);
void ReadExact(const ReadOperands& o);
void Encode(const EncodeOperands& o);
void Demote(const DemoteOperands& o);
void Ladders(const LadderOperands& o);
}  // namespace avx2
namespace avx512 {
void MapKeys(const MapOperands& o);
void Rotate(const RotateOperands& o);
void Unrotate(const RotateOperands& o);
void ReadExact(const ReadOperands& o);
void Encode(const EncodeOperands& o);
void Demote(const DemoteOperands& o);
void Ladders(const LadderOperands& o);
}  // namespace avx512

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_SPHERICAL_CODEC_ISA_H_
