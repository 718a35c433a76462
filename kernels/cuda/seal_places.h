// Where the exact tokens of heads go when they are sealed: each gets a slot of its rung's list, in order, and Encode its items.
// Twin: HeadRetier::Seal of engine/step/retier_run.cc. Nothing is allocated, nothing waits. Pointers are the device's.
#ifndef SPHERICAL_KERNELS_CUDA_SEAL_PLACES_H_
#define SPHERICAL_KERNELS_CUDA_SEAL_PLACES_H_

#include <cstdint>

#include "kernels/base/units.h"
#include "kernels/cuda/codec.h"
#include "kernels/cuda/device_runtime.h"

namespace spherical::kernels::cuda {

// One (sequence, kv head); its token t is at position first_position + t.
struct SealHead {
  int32_t head;                         // whose geometry
  int32_t tokens;
  int32_t first_position, sinks, newest;  // positions before `sinks` and from `newest` on go to T8
  int32_t rung;                         // where the others go together; -1: each by its note
  int32_t price, lowest;                // by note: at this price, but no lower than that rung (kLadderTiers: dropped)
  int32_t noted;                        // positions below take their utility bytes from their notes; the others get 0
  const PageId *pages, *notes;          // exact pages; notes: as ExactRates has them, or null
  const PageId* lists[kTierCount];      // pages of each tier
  int32_t filled[kTierCount];           // tokens that each has already
  int32_t after[kTierCount];            // and will have
  CodedSlot* slots;                     // [tokens], written
  EncodeItem* items;                    // [CeilDiv(tokens, 16)], written
};

struct SealShape {
  int32_t head_dim;
  int64_t exact_page_bytes, coded_page_bytes;
  int32_t notes_per_page;
};

// astray: counts heads whose tokens are not as many on each tier as `after` says; what is too many of them goes nowhere.
CudaStatus PlaceSeals(Stream stream, const SealShape& shape, const uint8_t* exact, uint8_t* coded, const SealHead* heads, int32_t count,
                      int32_t* astray);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_SEAL_PLACES_H_
