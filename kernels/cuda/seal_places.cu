// A block goes through a head, 512 tokens at a time; a token's slot is how many before it go to the same tier.
#include "kernels/cuda/seal_places.h"

#include <cuda_runtime.h>

#include "kernels/spherical/ladder.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kDropped = kTierCount;

struct PageTokens {
  int32_t of[kTierCount];
};

__device__ inline int RungAt(const SealHead& head, int token, const uint8_t* notes, int slot, int notes_per_page) {
  const int position = head.first_position + token;
  if (position < head.sinks || position >= head.newest) return static_cast<int>(Tier::kT8);
  if (head.rung >= 0) return head.rung;
  if (notes == nullptr) return static_cast<int>(Tier::kT8);
  int rung = 0;
  while (rung < kLadderTiers && reinterpret_cast<const uint16_t*>(notes)[rung * notes_per_page + slot] <= head.price) ++rung;
  rung = min(rung, head.lowest);
  return rung == kLadderTiers ? kDropped : rung;
}

__global__ void __launch_bounds__(kThreads) PlaceKernel(const __grid_constant__ SealShape shape,
                                                        const __grid_constant__ PageTokens tokens_of, const uint8_t* exact,
                                                        uint8_t* coded, const SealHead* heads, int32_t* astray) {
  __shared__ int in_warp[kTierCount][kWarps], filled[kTierCount];
  const SealHead& head = heads[blockIdx.x];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  if (thread < kTierCount) filled[thread] = head.filled[thread];
  __syncthreads();
  for (int first = 0; first < head.tokens; first += kThreads) {
    const int token = first + thread, n = shape.notes_per_page;
    const bool there = token < head.tokens;
    const bool noted = there && head.notes != nullptr && head.first_position + token < head.noted;
    const uint8_t* const notes = noted ? exact + head.notes[token / n] * shape.exact_page_bytes : nullptr;
    const int rung = there ? RungAt(head, token, notes, token % n, n) : kDropped;
    int before = 0;
#pragma unroll
    for (int t = 0; t < kTierCount; ++t) {
      const uint32_t same = __ballot_sync(~0u, rung == t);
      if (rung == t) before = __popc(same & ((1u << lane) - 1));
      if (lane == 0) in_warp[t][warp] = __popc(same);
    }
    __syncthreads();
    if (there) {
      CodedSlot place = {.page = nullptr, .slot = 0, .tier = Tier::kT8, .utility = 0, .noted = true};
      if (rung != kDropped) {
        int slot = filled[rung] + before;
        for (int w = 0; w < warp; ++w) slot += in_warp[rung][w];
        place.tier = static_cast<Tier>(rung);
        place.slot = static_cast<int16_t>(slot % tokens_of.of[rung]);
        if (slot < head.after[rung]) place.page = coded + head.lists[rung][slot / tokens_of.of[rung]] * shape.coded_page_bytes;
        if (notes != nullptr) place.utility = notes[2 * kLadderTiers * n + token % n];
      }
      head.slots[token] = place;
    }
    __syncthreads();
    if (thread < kTierCount) {
      for (int w = 0; w < kWarps; ++w) filled[thread] += in_warp[thread][w];
    }
    __syncthreads();
  }
  if (thread == 0) {
    bool right = true;
    for (int t = 0; t < kTierCount; ++t) right &= filled[t] == head.after[t];
    if (!right) atomicAdd(astray, 1);
  }
  for (int tile = thread; tile * kTokenTile < head.tokens; tile += kThreads) {
    head.items[tile] = {.head = head.head,
                        .rows = min(kTokenTile, head.tokens - tile * kTokenTile),
                        .codings = 1,
                        .source = TokenSource::kExactPage,
                        .first = 0,
                        .keys = exact + head.pages[tile] * shape.exact_page_bytes,
                        .values = nullptr,
                        .key_stride = 0,
                        .value_stride = 0,
                        .slots = head.slots + tile * kTokenTile,
                        .errors = nullptr};
  }
}

}  // namespace

CudaStatus PlaceSeals(Stream stream, const SealShape& shape, const uint8_t* exact, uint8_t* coded, const SealHead* heads, int32_t count,
                      int32_t* astray) {
  if (count == 0) return CudaStatus::kOk;
  PageTokens tokens_of;
  for (int32_t t = 0; t < kTierCount; ++t) tokens_of.of[t] = TokensPerPage(static_cast<Tier>(t), shape.head_dim);
  PlaceKernel<<<static_cast<unsigned>(count), kThreads, 0, stream>>>(shape, tokens_of, exact, coded, heads, astray);
  return static_cast<CudaStatus>(cudaGetLastError());
}

}  // namespace spherical::kernels::cuda
