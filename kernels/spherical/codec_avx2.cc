// The codec for one instruction set: all of it is in codec.inc, this file chooses the lanes.
#include <immintrin.h>
#include <stdint.h>

#include "kernels/spherical/codec_isa.h"

namespace spherical::kernels::avx2 {
namespace {
#include "kernels/base/lanes_avx2.inc"
#include "kernels/spherical/code_lanes_avx2.inc"
#include "kernels/spherical/value_rotation.inc"
#include "kernels/spherical/codec.inc"
}  // namespace

void MapKeys(const MapOperands& o) { MapRows(o); }
void Rotate(const RotateOperands& o) { RotateRows<false>(o); }
void Unrotate(const RotateOperands& o) { RotateRows<true>(o); }
void ReadExact(const ReadOperands& o) { ReadTokens(o); }
void Encode(const EncodeOperands& o) { EncodeRows(o); }
void Demote(const DemoteOperands& o) { DemoteTokens(o); }
void Ladders(const LadderOperands& o) { TileLadders(o); }

}  // namespace spherical::kernels::avx2
