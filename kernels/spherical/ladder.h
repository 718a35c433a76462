// The ladder of precision that the rate-distortion controller moves tokens down: T8 T4 T3 T2, and then nothing ("drop").
//
// A token's rung at a price is the one that minimises  distortion + price * bytes.  Rungs that lie above the lower convex hull of its
// (bytes, distortion) points are never taken, and as the price rises a token only moves down: all that there is to know of a token is the
// price at which it leaves each rung. Prices are kept as steps: a float's exponent and its first three bits of fraction, an eighth of an
// octave or a little more or less. What a token's loss would cost is kept the same way, a quarter of an octave to a step, in the utility
// byte of its page.
//
// Threads: pure functions.
#ifndef SPHERICAL_KERNELS_SPHERICAL_LADDER_H_
#define SPHERICAL_KERNELS_SPHERICAL_LADDER_H_

#include <bit>
#include <cstdint>

#include "kernels/spherical/page_layout.h"

namespace spherical::kernels {

inline constexpr int32_t kLadderTiers = 4;  // Tier::kT8 to Tier::kT2: rung r is tier r; rung 4 is dropped
inline constexpr int32_t kRungs = kLadderTiers + 1;

// Steps of prices: 0 (nothing is pressed) to kPriceSteps - 1 (all that may go goes), from 2^-60 to 2^4.
inline constexpr int32_t kPriceSteps = 512;
constexpr uint32_t kSmallestExponent = 127 - 60;
constexpr float PriceOf(int32_t step) { return std::bit_cast<float>((static_cast<uint32_t>(step) + (kSmallestExponent << 3)) << 20); }
constexpr int32_t PriceStepOf(float price) {
  if (!(price > PriceOf(0))) return 0;
  const uint32_t step = (std::bit_cast<uint32_t>(price) >> 20) - (kSmallestExponent << 3);
  return step < kPriceSteps ? static_cast<int32_t>(step) : kPriceSteps - 1;
}

// The utility byte: 0 is 2^-60 or less, 255 almost 2^4 or more.
constexpr float UtilityOf(uint8_t byte) { return std::bit_cast<float>((byte + (kSmallestExponent << 2)) << 21); }
constexpr uint8_t UtilityByteOf(float utility) {
  if (!(utility > UtilityOf(0))) return 0;
  const uint32_t step = ((std::bit_cast<uint32_t>(utility) + (1u << 20)) >> 21) - (kSmallestExponent << 2);
  return static_cast<uint8_t>(step < 256 ? step : 255);
}
// The same, rounded up as often as `draw`, of 32 random bits, says: what is added a little at a time is not lost.
constexpr uint8_t DitheredUtilityByteOf(float utility, uint32_t draw) {
  if (!(utility > UtilityOf(0))) return 0;
  const uint32_t step = ((std::bit_cast<uint32_t>(utility) + (draw >> 11)) >> 21) - (kSmallestExponent << 2);
  return static_cast<uint8_t>(step < 256 ? step : 255);
}
static_assert(UtilityByteOf(UtilityOf(17)) == 17 && UtilityByteOf(UtilityOf(255)) == 255 && PriceStepOf(PriceOf(300)) == 300);

// leaves[r]: the first step at which the token is below rung r. Never 0, never falling from rung to rung.
struct LadderSteps {
  uint16_t leaves[kLadderTiers];
  constexpr int32_t RungAt(int32_t step) const {
    int32_t rung = 0;
    while (rung < kLadderTiers && leaves[rung] <= step) ++rung;
    return rung;
  }
};

// distortion [kRungs]: of each rung, the last of dropping; bytes [kRungs]: falling, the last 0.
LadderSteps LadderOf(const float* distortion, const float* bytes);

// What a token takes on each rung of the pages that it and its like fill: a page's bytes over its tokens, so what pages of the tier leave
// unused is in it.   bytes [kRungs]
void RungBytes(int32_t head_dim, float* bytes);

// What coding a whole key of radius 1 loses at a tier, in the metric: sum over groups of importance * 16 * the expected error of its width.
struct KeyGeometry;
float KeyLoss(const KeyGeometry& geometry, Tier tier);

// A token's distortion when it is dropped counts this often. A tier's errors are what they are; what a drop costs is known only from the
// queries that were sampled, and it is final: a token that none of them asked for may be the one that a later query wants. Measured on two
// models (tests/quality/README.md).
inline constexpr float kDropPremium = 2;

// The ladders of a head's coded tokens, from what is in their pages. Dropping one costs its utility, the premium in it; a tier of that
//     min(1, radius^2 key[tier]) + value[tier]
// with key = s^2 KeyLoss(tier), s the softmax scale, and value the expected error of the tier's value width, both over the premium.
struct CodedLosses {
  float key[kLadderTiers], value[kLadderTiers];
  float per_byte[kRungs][kRungs];  // [i][j], j > i: 1 / (bytes of rung i - bytes of rung j)
};
CodedLosses CodedLossesOf(const KeyGeometry& geometry, float attention_scale);

// LadderSteps of the sixteen tokens of a tile. From the rungs above the one that a token stands on it may leave at 0: it has left them.
struct TileSteps {
  alignas(32) uint16_t leaves[kLadderTiers][kTokenTile];
};

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_SPHERICAL_LADDER_H_
