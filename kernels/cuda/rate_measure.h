// What the rate-distortion controller asks about heads, on the device: how many of a head's tokens stand on which rung at which price, and
// where each goes at one. Twin: engine/step/measure_run.cc, which has the formulas; probabilities, utilities and distortions agree with
// its own within 1e-3, so that a token's price may be a step apart. Counts are exact for the ladders that were found.
//
// Sums run in an order that depends on the head alone. Nothing is allocated, nothing waits. Pointers are the device's; what they point to
// stays as it is until the stream has passed the call.
#ifndef SPHERICAL_KERNELS_CUDA_RATE_MEASURE_H_
#define SPHERICAL_KERNELS_CUDA_RATE_MEASURE_H_

#include <cstdint>

#include "kernels/base/units.h"
#include "kernels/cuda/codec.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/spherical/codec.h"
#include "kernels/spherical/ladder.h"

namespace spherical::kernels::cuda {

inline constexpr int32_t kRateChunkTokens = 256;

// leaves[rung][step]: tokens whose ladder leaves the rung at that step; zero before the call.
struct RateCounts {
  int32_t leaves[kLadderTiers][kPriceSteps];
};

// Queries of a local head, asked one position after another about the tokens before it (AskInTurn).
struct TurnSample {
  int32_t seen;              // tokens up to and with its own position, at least 1; those of them that the head has are in mean and square
  const float *mean, *square;  // [tokens]  sums over the position's queries
  const int32_t* counted;    // of them that were finite
};

// The exact tokens of one (sequence, kv head), number t at position first_position + t.
struct ExactRates {
  int32_t head;              // whose geometry
  int32_t tokens;
  int32_t first_position, sinks, newest;  // positions before `sinks` and from `newest` on are protected
  bool local;
  float unit;                // value weight / residual: w of a token is utility * unit
  const PageId *pages, *notes;            // exact pages; notes of all tokens are written: u16 [4][N] leaves, u8 [N] utilities a page
  // What SampleExact found: sums over `counted` queries, which become means. With turns: written here, from them.
  float *mean, *square;      // [tokens]
  const int32_t* counted;
  const TurnSample* turns;   // [turn_count], or null
  int32_t turn_count;
  float* weights;            // [tokens] with turns: means of p over all of them, for the mean output; else null
  const CodingError* errors;  // of MakeErrorItems' items
  float* energy;             // [tokens] scratch
  float* partial;            // [CeilDiv(tokens, 256) + 1, D + 1] scratch
  float* output;             // [D + 4] scratch
  RateCounts* counts;        // of tokens that are not protected; local: nothing
  LadderSteps* newest_steps; // [tokens from `newest` on], not local
  double* summed;            // [CeilDiv(tokens, 256)][kLadderTiers] local: distortions on each rung
};

struct RateShape {
  int32_t head_dim;
  float scale;               // of the softmax
  int64_t page_bytes;        // of the exact arena
  int32_t notes_per_page;
  int32_t tokens_max;        // of the heads of this call
};

// Writes the items that ask Encode for the errors of all ladder tiers, one for each tile of a head.
struct ErrorItems {
  int32_t head, tokens;
  const PageId* pages;
  CodingError* errors;  // of a tile [kLadderTiers][rows], tile after tile: room for [CeilDiv(tokens, 16)][kLadderTiers][16]
  EncodeItem* items;    // [CeilDiv(tokens, 16)]
};
// slots: of PutErrorSlots.
CudaStatus MakeErrorItems(Stream stream, const RateShape& shape, const uint8_t* arena, const ErrorItems* heads, int32_t count,
                          const CodedSlot* slots);
// What all those items share: slots of no page, of each tier, for tiles of 1 to 16 rows. On the host: slots [kErrorSlots]
inline constexpr int32_t kErrorSlots = kLadderTiers * kTokenTile * (kTokenTile + 1) / 2;
void PutErrorSlots(CodedSlot* slots);

CudaStatus MeasureExact(Stream stream, const RateShape& shape, uint8_t* arena, const ExactRates* heads, int32_t count);

// Coded tokens: slots [begin, end) of one (sequence, kv head, tier).
struct CodedRates {
  int32_t head;
  Tier tier;
  const PageId* pages;
  int32_t begin, end;
  RateCounts* counts;        // tokens leave rungs above their own at 0
};
// losses: of CodedLossesOf, by head.   slots_max: the largest `end`
CudaStatus CountCoded(Stream stream, int32_t head_dim, const CodedLosses* losses, const uint8_t* arena, int64_t page_bytes,
                      const CodedRates* lists, int32_t count, int32_t slots_max);

// Those counts as the host gets them, without the zeros that most of them are: of each rung the steps [begin, end) that have any.
struct ToldCounts {
  int32_t begin[kLadderTiers], end[kLadderTiers];
  int32_t leaves[kLadderTiers][kPriceSteps];  // the others are not written
};
// told [count]: pinned memory, which the device writes itself.
CudaStatus TellCounts(Stream stream, const RateCounts* counts, int32_t count, ToldCounts* told);

// Which tokens of a list are below rung r at a price: bit i of left[r] is slot i of the tile. Slots outside [begin, end) are nowhere.
struct TileLeft {
  uint16_t left[kLadderTiers];
};
struct CodedLeft {
  int32_t head;
  Tier tier;
  const PageId* pages;
  int32_t begin, end, price;
  TileLeft* tiles;           // [CeilDiv(end, 16)]
};
CudaStatus FindLeft(Stream stream, int32_t head_dim, const CodedLosses* losses, const uint8_t* arena, int64_t page_bytes,
                    const CodedLeft* lists, int32_t count, int32_t slots_max);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_RATE_MEASURE_H_
