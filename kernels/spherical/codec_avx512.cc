// The codec for one instruction set: all of it is in codec.inc, this file chooses the lanes.
#include <immintrin.h>
#include <stdint.h>

#include "kernels/spherical/codec_isa.h"

namespace spherical::kernels::avx512 {
namespace {
#include "kernels/base/lanes_avx512.inc"
#include "kernels/spherical/code_lanes_avx512.inc"
#include "kernels/spherical/value_rotation.inc"
#include "kernels/spherical/codec.inc"
#include "kernels/spherical/code_tiles_avx512.inc"
}  // namespace

void MapKeys(const MapOperands& o) { MapRows(o); }
void Rotate(const RotateOperands& o) { RotateRows<false>(o); }
void Unrotate(const RotateOperands& o) { RotateRows<true>(o); }
void ReadExact(const ReadOperands& o) { ReadTokens(o); }
void Encode(const EncodeOperands& o) { EncodeRows(o); }
void Demote(const DemoteOperands& o) { DemoteTile(o); }
void Ladders(const LadderOperands& o) { TileLadders(o); }

}  // namespace spherical::kernels::avx512
