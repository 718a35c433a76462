// Settled T8 tokens that stand above their rung at a price leave T8, and others take their places: planned and done on the device, a head a
// block, all heads of a call in one launch. Twin: HeadRetier::Reprice (engine/step/retier_run.cc) of an item that is `whole_only`: the same
// tokens in the same slots, to the bit. Nothing is allocated, nothing waits. Pointers are the device's.
#ifndef SPHERICAL_KERNELS_CUDA_SETTLE_HEADS_H_
#define SPHERICAL_KERNELS_CUDA_SETTLE_HEADS_H_

#include <cstdint>

#include "kernels/base/units.h"
#include "kernels/cuda/codec.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/spherical/ladder.h"

namespace spherical::kernels::cuda {

// From a slot of T8 to slot `to` of a rung's list.
struct LeavingToken {
  int32_t from, to, rung;
};
// Within T8.
struct MovedToken {
  int32_t from, to;
};

// The T8 tokens of one (sequence, kv head).
struct SettleHead {
  int32_t head;                       // whose geometry and losses
  int32_t tokens;                     // all of T8
  int32_t begin, end;                 // slots that may leave
  int32_t price, lowest;              // they go where this price puts them, but no lower than that rung, which is not the dropped one
  int32_t ordered;                    // slots from here on keep their order; those before fill holes with the last. A multiple of 32
  const PageId* pages;                // T8's
  int32_t first[kLadderTiers], after[kLadderTiers];  // rung r > 0 gets slots [first, after); of T8 `after` tokens stay
  const PageId* lists[kLadderTiers];  // [r > 0]: pages of rung r afterwards from that of slot `first` on; they may be some of T8's last
  uint8_t* scratch[kLadderTiers];     // [r > 0]: pages that stand for those of lists[r]
  uint32_t* rungs;                    // [2 CeilDiv(tokens, 32)] scratch
  LeavingToken* leaving;              // [tokens - after[0]] scratch
  MovedToken* moved;                  // [SettleMoves(...)] scratch
};
// The most tokens that move within T8.
constexpr int64_t SettleMoves(int32_t tokens, int32_t after, int32_t ordered) { return int64_t{tokens} - after + tokens - ordered; }

// losses: of CodedLossesOf, by head.
// astray: counts heads whose tokens are not as many on each rung as `after` says: nothing of them moves. It may be in pinned memory.
CudaStatus SettleHeads(Stream stream, int32_t head_dim, const DeviceGeometry* geometries, const CodedLosses* losses, uint8_t* coded,
                       int64_t page_bytes, const SettleHead* heads, int32_t count, int32_t* astray);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_SETTLE_HEADS_H_
