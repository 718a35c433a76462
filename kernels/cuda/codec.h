// The spherical codec and what the rate-distortion controller asks of pages, on the device: kernels/spherical/codec.h says what codes,
// radii, errors and ladders are. Bits are the CPU's: the same float steps in the same order, the same bytes of pages. (NaNs apart: which
// one it is, processors differ in.)
//
// Work is arrays of plain items in device memory, of any heads and sequences together: one launch a call. Nothing is allocated, nothing
// waits; what items point to must stay as it is until the stream has passed the call. Pointers are the device's unless said otherwise.
// Items of one launch run in any order and side by side: no two write the same slot, and none reads a slot that another writes
// (runs of Demote apart). They may share pages and tiles: bytes of other slots stay as they are.
//
// Threads: any, as CUDA's own calls.
#ifndef SPHERICAL_KERNELS_CUDA_CODEC_H_
#define SPHERICAL_KERNELS_CUDA_CODEC_H_

#include <cstdint>

#include "kernels/cuda/device_runtime.h"
#include "kernels/spherical/codec.h"
#include "kernels/spherical/ladder.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {

// KeyGeometry of one (layer, kv head), in an array that items index by `head`.   D = head dim. Arrays are aligned to 16 bytes.
struct DeviceGeometry {
  const float* centre;      // [D]
  const float* map;         // [D/4, D, 4]   of PackMap
  const float* importance;  // [D/16]
  const float* shaping;     // [D/16, 16, 16], or null: as KeyGeometry's
  uint8_t widths[kTierCount][kGroupsMax];
};

// F in the order that the device reads it: four columns of all rows, then the next four.   On the host: map, packed [D, D]
inline void PackMap(int32_t head_dim, const float* map, float* packed) {
  for (int32_t row = 0; row < head_dim; ++row) {
    for (int32_t column = 0; column < head_dim; ++column) {
      packed[(column / 4 * head_dim + row) * 4 + column % 4] = map[row * head_dim + column];
    }
  }
}

// Where one token goes.
struct CodedSlot {
  uint8_t* page;    // null: nowhere; its errors are still told, which is how the controller asks what a tier would lose
  int16_t slot;
  Tier tier;
  uint8_t utility;
  bool noted;       // the utility byte is written; else it stays as it is
};

enum class TokenSource : int32_t {
  kMapped,     // keys: z [rows, D], values: rotated v [rows, D], as CodecImpl::encode takes them
  kRaw,        // keys, values [rows, D] as they are: after rotary positions, not rotated
  kExactPage,  // keys: an exact page (page_layout.h), values not looked at. Tokens [first, first + rows)
};

// Up to sixteen tokens of one head, wherever each of them goes: a page of a sequence that is sealed, or one token each of as many
// sequences that decode. A token may be coded several times, into different tiers, which costs less than as many items.
struct EncodeItem {
  int32_t head;
  int32_t rows;     // 1 to kTokenTile
  int32_t codings;  // of each row
  TokenSource source;
  int32_t first;                     // slot of an exact page
  const void* keys;
  const float* values;
  int64_t key_stride, value_stride;  // floats between rows
  const CodedSlot* slots;            // [codings, rows]
  CodingError* errors;               // [codings, rows], or null
};
CudaStatus Encode(Stream stream, int32_t head_dim, const DeviceGeometry* geometries, const EncodeItem* items, int32_t count);

// The same for what decoding brings, sooner: items of kRaw, at most kAppendRows rows, coded once, without errors.
// overlap: the kernel may begin while the one queued before it ends (LaunchesOverlap); items and slots must be there before that. It lets
// the next one begin once all that was queued before it is done.
inline constexpr int32_t kAppendRows = 4;
CudaStatus Append(Stream stream, int32_t head_dim, const DeviceGeometry* geometries, const EncodeItem* items, int32_t count,
                  bool overlap = false);

// CodecImpl::demote_those: tokens of one tile to slots from `to_slot` on of a page of the same tier or a lower one, utility bytes too.
// Both pages may be the same if the tier is and no token moves back.
struct MoveItem {
  int32_t head;
  Tier from, to;
  uint16_t which;       // bit i: slot 16 * from_tile + i
  int32_t from_tile, to_slot;
  const uint8_t* from_page;
  uint8_t* to_page;
};
// Items [first, first + count), done in order: each sees what those before it wrote. Compaction of a list is one run.
struct MoveRun {
  int32_t first, count;
};
// runs: null: every item is a run of its own, and `count` is of items; else of runs.
CudaStatus Demote(Stream stream, int32_t head_dim, const DeviceGeometry* geometries, const MoveItem* items, const MoveRun* runs,
                  int32_t count);

// CodecImpl::ladders of one tile.
struct LadderItem {
  int32_t head;
  Tier tier;
  int32_t tile;
  const uint8_t* page;
};
// losses: of CodedLossesOf, by head. steps [count]
CudaStatus Ladders(Stream stream, int32_t head_dim, const CodedLosses* losses, const LadderItem* items, int32_t count, TileSteps* steps);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_CODEC_H_
