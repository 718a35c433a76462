// The spherical codec: a vector becomes one radius and one angle code per coordinate, written straight into a page (page_layout.h).
//
//     rho = |z| / sqrt(D);  u = z / rho;  c_i = clamp(floor(t_i / step), -2^(w-1), 2^(w-1) - 1);  u^_i = (c_i + 1/2) step
//     T8:  rho = max|z_i| / 3.94, so that the codes' whole range is used and heavy tails are not clamped. Where one coordinate is a share
//          f of the energy, 8 bits lose at least f D / (12 * 128^2), 0.0013 f at D = 256, and clamping it would cost more than it gained
//     stored radius = rho * <u, u^> / <u^, u^>          least squares in the metric: <a, b> = sum over groups of lambda (U a).(U b)
//
// Noise shaping (keys). What a group's errors e = u - u^ do to a logit is lambda |U e|^2, U unit upper triangular (geometry.h). So each
// group is quantised from its last coordinate to its first, each after what the errors behind it weigh on it has been added:
//     t_i = u_i + sum_{k>i} U_ik e_k                    which leaves |U e|_i <= step / 2: nearest plane, in the words of lattices
// Within a group whose directions differ in importance that costs the geometric mean of their variances where plain rounding (t = u;
// values) costs the arithmetic one: in a model's first group a fifth.
//
// Order of float operations (so that all implementations, and later the device, give the same codes and radii for the same z): sums over
// coordinates run in 16 lanes over groups, coordinate i of each group in lane i, fused multiply-adds, then fold lanes 16 to 8, 4, 2, 1
// (lane i + lane i + half); u = z * (1 / rho); c = floor(t * (1 / step(w))). Sums of errors and of U u^ grow by one fused step per
// coordinate, from the last to the first; U u = U u^ + (t - u^).
// A vector that is zero or not finite (its sum of squares, in f32) is stored with radius 0 and no error. Radii beyond f16 are
// stored as its largest finite value.
//
// Demotion requantises code points:
//     u = u^ / s, quantised as above
//     radius' = radius * <u^, u^'> / <u^', u^'>
// The scale s is free, because the radius takes it up, and it decides the loss: with s = 1 throughout the new cells cut the old ones
// anywhere, which cost 1.14 to 1.26 times coding once at T3 and T2 on Gaussian vectors. Steps of neighbouring widths are 1.6 to 1.8
// apart, so that
//     s = 1.12   makes every new cell a pair of old ones: nothing is lost but the best step. Groups that keep their width lose, however:
//     s = 1      keeps them as they are. The vector takes whichever of the two keeps more of <u^, u^>;
//     s = 0.9    leaving T8: narrower cells than best, so that later pairs of them are not too wide. T8's radius is that of its largest
//                coordinate: u^ is first scaled back to the sphere. Where a group keeps 8 bits: 1 instead of 0.9, or all as it is,
//                whichever keeps more.
// Down the whole ladder T4, T3 and T2 then cost 1.0 to 1.2 times coding once (tests/kernels/codec_test.cc). T1 is tried on two profiles
// only; on a steeper one (D = 128, widths 6 4 3 2 1 0 0 0) it cost 1.215 where the rule was worked out.
//
// Threads: pure functions on disjoint pages. Nothing allocates.
#ifndef SPHERICAL_KERNELS_SPHERICAL_CODEC_H_
#define SPHERICAL_KERNELS_SPHERICAL_CODEC_H_

#include <cstdint>
#include <span>

#include "kernels/spherical/geometry.h"
#include "kernels/spherical/ladder.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels {

// What coding one token cost: squared errors that the controller weighs.
struct CodingError {
  float key;    // squared error of the key in the metric: mean squared error of a logit, its scale apart
  float value;  // squared error of the value
};

struct CodecImpl {
  const char* name;  // "reference", "avx2", "avx512"
  bool (*supported)();

  // Tokens [slot, slot + rows) of a page of tier `exact` (at most 16), as floats.   keys, values [rows, D]
  void (*read_exact)(int32_t head_dim, const uint8_t* page, int32_t slot, int32_t rows, float* keys, float* values);

  // z = F (k - mu) for `rows` keys.   keys: row r at keys + r * key_stride, [D]; z [rows, D]
  void (*map_keys)(const KeyGeometry& geometry, const float* keys, int64_t key_stride, int32_t rows, float* z);

  // RotateValue and UnrotateValue for `rows` vectors.   values: row r at values + r * stride, [D]; rotated [rows, D]. Both may be the same
  // rows, if stride is D.
  void (*rotate_values)(int32_t head_dim, const float* values, int64_t stride, int32_t rows, float* rotated);
  void (*unrotate_values)(int32_t head_dim, const float* values, int64_t stride, int32_t rows, float* rotated);

  // Codes `rows` tokens into slots [slot, slot + rows) of a page of `tier`: keys from z, values from rotated values v.
  // Other slots keep their bytes; utilities are not touched. errors may be null.   z, v [rows, D]; errors [rows]
  void (*encode)(const KeyGeometry& geometry, Tier tier, const float* z, const float* v, int32_t rows, int32_t slot, uint8_t* page,
                 CodingError* errors);

  // Moves tokens [from_slot, from_slot + rows) of a page to slots from `to_slot` on of another page, of a lower tier or the same one, from
  // codes alone: the same F, the same groups. Codes are requantised, the gain is found anew; within a tier both stay. Utility bytes move
  // along. Other slots keep their bytes.
  void (*demote)(const KeyGeometry& geometry, Tier from, const uint8_t* from_page, int32_t from_slot, int32_t rows, Tier to,
                 uint8_t* to_page, int32_t to_slot);

  // The same of some tokens of one tile, those that `which` has ones for: bit i is slot 16 * from_tile + i. They go to slots from `to_slot`
  // on, in order. Both pages may be the same one if the tier is and no token moves back.
  void (*demote_those)(const KeyGeometry& geometry, Tier from, const uint8_t* from_page, int32_t from_tile, uint32_t which, Tier to,
                       uint8_t* to_page, int32_t to_slot);

  // The ladders of the sixteen tokens of a tile, whatever tier they are coded in (ladder.h); meaningless for slots that hold no token.
  // page: of `tier`
  void (*ladders)(const CodedLosses& losses, int32_t head_dim, Tier tier, const uint8_t* page, int32_t tile, TileSteps& steps);
};
std::span<const CodecImpl> CodecImpls();  // slowest first; the reference is [0]
const CodecImpl& BestCodec();

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_SPHERICAL_CODEC_H_
