// What attention over codes on a device needs to know before it starts, worked out on the host: where the bit planes of a width profile
// lie, and which worker reads which pages. Pure functions; no CUDA. Contract of the device side: ada_decode.h.
#ifndef SPHERICAL_KERNELS_CUDA_ADA_PLAN_H_
#define SPHERICAL_KERNELS_CUDA_ADA_PLAN_H_

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/base/units.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {

// The bit planes of one (kv head, tier)'s keys, in chunks of planes that a warp reads together. A 32-token unit of a chunk is one or two
// 16-byte loads per lane; lane 4 g + t of a warp reads what entry[chunk][t] says of it.
//
//     8 bits   2 planes a chunk: bytes 0-1 of an entry are the first plane's offset in the tile, bytes 2-3 the second's
//     4 bits   2 planes: lanes t = 0, 1 have the first plane's two vectors, t = 2, 3 the second's
//     2 bits   4 planes: lane t has plane t
//     1 bit    4 planes: lane t has plane t
//
// Of the last three, bytes 0-1 are an offset and byte 2 is the place of the plane's bits in the code. A plane that is missing from a chunk
// has the offset 0 and group -1: its digits are zero.
inline constexpr int32_t kAdaPlaneKinds = 4;    // of 8, 4, 2 and 1 bits
inline constexpr int32_t kAdaChunksMax = 16;
struct AdaPlanes {
  int32_t chunks[kAdaPlaneKinds];               // how many of each kind, in this order in the arrays below
  uint32_t entry[kAdaChunksMax][4];
  int8_t group[kAdaChunksMax][4];               // whose coordinates plane 0 to 3 of a chunk holds
  uint8_t widths[kGroupsMax];
  float steps[kGroupsMax];                      // what the widths are read as
};
// widths [D/16]; steps: by width, QueryGeometry::steps()
AdaPlanes AdaPlanesOf(const uint8_t* widths, const float* steps, int32_t head_dim);

// The tokens that one (row, kv head) has in one tier.
struct AdaList {
  int32_t head;        // row * kv_heads + kv head
  int32_t tier;        // a Tier
  int32_t first_page;  // where its page ids begin
  int32_t tokens;      // at least 1
  int32_t skip;        // the first of them that have left the window, fewer than `tokens`
};

// A run of pages of a list, read by one worker (two warps, which take turns), which leaves a state. All that a worker needs to know, in one
// place.
inline constexpr int32_t kAdaPartStates = 1;
struct alignas(16) AdaPart {
  int32_t list, head, tier;
  int32_t ids, pages;    // where its page ids begin, and how many there are
  int32_t tokens, skip;  // in these pages; of them the first that are not seen
  int32_t state;         // what it leaves
};
struct AdaHeadStates {
  int32_t first, count;
};

// Pages of a list that hold something to be seen.
struct AdaPages {
  int32_t first, end;
};

// Lists cut into parts so that all workers have as much to do. Workers go through the tiers in turn, so that those of one multiprocessor
// run the same code: the instructions of several tiers do not fit its cache together, and rdr's mixture took twice as long. A head's states
// lie side by side, in front those that others fill.
struct AdaPlan {
  std::vector<AdaPart> parts;           // of a worker by tier, T8 first
  std::vector<int32_t> worker_parts;    // [workers + 1]: worker w has parts worker_parts[w] to worker_parts[w + 1]
  std::vector<int32_t> head_lists;      // [heads + 1]
  std::vector<AdaHeadStates> states;    // [heads]
  int32_t state_count = 0;
  // PlanAda's own.
  std::vector<AdaPages> pages;          // of lists
  std::vector<int32_t> by_tier;         // lists
  std::vector<int32_t> next;            // [heads]
};
// No plan has more parts than lists + workers, nor more states than that and those of others.
// lists: ascending by head, at most one of a head and tier. others[head]: how many states someone else brings, or empty. A plan
// given again keeps its memory.
void PlanAda(int32_t head_dim, std::span<const AdaList> lists, int32_t heads, std::span<const int32_t> others, int32_t workers,
             AdaPlan& plan);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_ADA_PLAN_H_
