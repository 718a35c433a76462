// A block goes through a head: which rung each T8 token is for (two bits a token); how many leave before each, and so where all go; then
// tokens that leave are coded into scratch pages, because their lists grow into pages that T8 leaves; then T8 closes its gaps; then what is
// in scratch is put in.
#include "kernels/cuda/settle_heads.h"

#include "kernels/cuda/codec_requantise.cuh"
#include "kernels/cuda/ladder_steps.cuh"

namespace spherical::kernels::cuda {
namespace {

constexpr int kWord = 32;  // tokens of a word of bits
constexpr int kWarps = kCodecThreads / 32, kTeams = kCodecThreads / 16;
static_assert(kLadderTiers == 4);  // a rung takes two bits

struct Pages {
  uint8_t* arena;
  int64_t page_bytes;
  __device__ uint8_t* Of(const PageId* list, int page) const { return arena + list[page] * page_bytes; }
};

// What of a head leaves, all over.
struct Leaving {
  int of_rung[kLadderTiers];  // [r > 0]
  int old;                    // of the tokens before `ordered`
  int holes;                  // of the slots that the old ones keep
  int first;                  // the first slot that is left
  __device__ int all() const { return of_rung[1] + of_rung[2] + of_rung[3]; }
};

__device__ inline uint32_t BitsBelow(int n) { return n >= kWord ? ~0u : n <= 0 ? 0 : (1u << n) - 1; }

// Words 2 w and 2 w + 1: the low and the high bit of the rungs of tokens 32 w and on. Loads of several words wait side by side.
__device__ void FindRungs(const SettleHead& head, const CodedLosses* losses, const Pages& pages, const TierLayout& whole) {
  constexpr int kTogether = 4;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int words = (head.tokens + kWord - 1) / kWord;
  const CodedLosses& own = losses[head.head];
  for (int first = warp; first < words; first += kWarps * kTogether) {
    uint16_t radius[kTogether];
    uint8_t utility[kTogether];
    bool asked[kTogether];
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      const int slot = (first + k * kWarps) * kWord + lane;
      asked[k] = slot >= head.begin && slot < head.end;
      const int at = asked[k] ? slot : 0, in_page = at % whole.tokens;
      const uint8_t* const page = pages.Of(head.pages, at / whole.tokens);
      radius[k] = LoadHalf(page + whole.key_radii + 2 * in_page);
      utility[k] = __ldcg(page + whole.utilities + in_page);
    }
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      const int word = first + k * kWarps;
      const LadderSteps steps = LadderOfCoded(own, WidenHalf(radius[k]), UtilityOf(utility[k]));
      int rung = 0;
#pragma unroll
      for (int r = 0; r < kLadderTiers; ++r) rung += steps.leaves[r] <= head.price;  // they never fall from rung to rung
      rung = asked[k] ? min(rung, head.lowest) : 0;
      const uint32_t low = __ballot_sync(~0u, rung & 1), high = __ballot_sync(~0u, rung & 2);
      if (lane == 0 && word < words) {
        head.rungs[2 * word] = low;
        head.rungs[2 * word + 1] = high;
      }
    }
  }
}

// All threads get it; the head's words are there.
__device__ Leaving CountLeaving(const SettleHead& head) {
  __shared__ Leaving all;
  const int thread = static_cast<int>(threadIdx.x), words = (head.tokens + kWord - 1) / kWord;
  if (thread == 0) all = {.of_rung = {0, 0, 0, 0}, .old = 0, .holes = 0, .first = head.tokens};
  __syncthreads();
  for (int w = thread; w < words; w += kCodecThreads) {
    const uint32_t low = head.rungs[2 * w], high = head.rungs[2 * w + 1], left = low | high;
    if (left == 0) continue;
    atomicAdd(&all.of_rung[1], __popc(low & ~high));
    atomicAdd(&all.of_rung[2], __popc(high & ~low));
    atomicAdd(&all.of_rung[3], __popc(low & high));
    atomicMin(&all.first, w * kWord + __ffs(static_cast<int>(left)) - 1);
    if (w * kWord < head.ordered) atomicAdd(&all.old, __popc(left));
  }
  __syncthreads();
  const int kept = head.ordered - all.old;
  for (int w = thread; w * kWord < kept; w += kCodecThreads) {
    const uint32_t left = (head.rungs[2 * w] | head.rungs[2 * w + 1]) & BitsBelow(kept - w * kWord);
    if (left != 0) atomicAdd(&all.holes, __popc(left));
  }
  __syncthreads();
  return all;
}

// Tokens that leave, of a rung so many before this thread's word; and the sum over all threads, in `sum`.
struct Before {
  int of_rung[kLadderTiers];
};
__device__ Before CountBefore(uint32_t low, uint32_t high, Before& sum) {
  __shared__ unsigned long long of_warp[kWarps];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  // Three counts in one number: 256 words have 8,192 tokens.
  const auto packed = [](int a, int b, int c) {
    return static_cast<unsigned long long>(a) | static_cast<unsigned long long>(b) << 16 | static_cast<unsigned long long>(c) << 32;
  };
  const unsigned long long own = packed(__popc(low & ~high), __popc(high & ~low), __popc(low & high));
  unsigned long long up_to = own;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const unsigned long long other = __shfl_up_sync(~0u, up_to, distance);
    if (lane >= distance) up_to += other;
  }
  __syncthreads();  // the last call's sums were read
  if (lane == 31) of_warp[warp] = up_to;
  __syncthreads();
  unsigned long long before = up_to - own, all = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += of_warp[w];
    all += of_warp[w];
  }
  const auto count = [](unsigned long long counts, int rung) { return static_cast<int>(counts >> (16 * (rung - 1)) & 0xffff); };
  Before here;
#pragma unroll
  for (int r = 1; r < kLadderTiers; ++r) {
    here.of_rung[r] = count(before, r);
    sum.of_rung[r] = count(all, r);
  }
  return here;
}

// Where all go: head.leaving and head.moved; returns how many are in `moved`. Each thread has a word at a time.
__device__ int PlanMoves(const SettleHead& head, const Leaving& all) {
  const int words = (head.tokens + kWord - 1) / kWord, thread = static_cast<int>(threadIdx.x);
  const int kept = head.ordered - all.old;                    // slots that the old ones keep
  const int moves_up = all.old > 0 ? kept : all.first;        // the slot of the first one that moves up
  Before done = {};
  for (int base = 0; base < words; base += kCodecThreads) {
    const int w = base + thread;
    const uint32_t low = w < words ? head.rungs[2 * w] : 0, high = w < words ? head.rungs[2 * w + 1] : 0;
    Before sum;
    Before before = CountBefore(low, high, sum);
#pragma unroll
    for (int r = 1; r < kLadderTiers; ++r) {
      before.of_rung[r] += done.of_rung[r];
      done.of_rung[r] += sum.of_rung[r];
    }
    if (w >= words) continue;
    const int first = w * kWord, count = min(kWord, head.tokens - first);
    int gone = before.of_rung[1] + before.of_rung[2] + before.of_rung[3];  // before slot first + i
    if ((low | high) == 0 && first + count <= kept) continue;   // they stay where they are
    for (int i = 0; i < count; ++i) {
      const int slot = first + i, rung = static_cast<int>(low >> i & 1) + 2 * static_cast<int>(high >> i & 1);
      if (rung != 0) {
        int to = 0;
#pragma unroll
        for (int r = 1; r < kLadderTiers; ++r) {
          if (r == rung) to = head.first[r] + before.of_rung[r]++;
        }
        head.leaving[gone] = {.from = slot, .to = to, .rung = rung};
        if (slot < kept) head.moved[gone].to = slot;
        ++gone;
      } else if (slot >= head.ordered) {
        if (gone > 0) head.moved[all.holes + slot - gone - moves_up] = {.from = slot, .to = slot - gone};
      } else if (slot >= kept) {  // the last of the old ones to the first hole
        head.moved[head.ordered - 1 - slot - (all.old - gone)].from = slot;
      }
    }
  }
  __syncthreads();
  return all.holes + head.after[0] - moves_up;
}

// T8 tokens as they are: all widths are 8, so a key's codes are words of its row, a value's are bytes of its column (page_layout.h).
template <int kGroups>
struct WholeToken {
  static constexpr int kKeyWords = (kGroups + 3) / 4;  // of a lane
  uint32_t key[kKeyWords], value[kKeyWords];           // value: a byte a group
  uint32_t radii;
  uint8_t utility;
};
template <int kGroups>
__device__ inline void Take(int lane, const uint8_t* page, int slot, const TierLayout& whole, WholeToken<kGroups>& token) {
  const int tile = slot / kTokenTile, index = slot % kTokenTile;
  const uint32_t* const keys = reinterpret_cast<const uint32_t*>(page + tile * whole.key_tile) + index;
  const uint8_t* const values = page + whole.values + tile * whole.value_tile + 64 * (index / 4) + 4 * lane + index % 4;
#pragma unroll
  for (int i = 0; i < WholeToken<kGroups>::kKeyWords; ++i) {
    const int word = 16 * i + lane;
    token.key[i] = word < 4 * kGroups ? __ldcg(keys + kTokenTile * word) : 0;
    token.value[i] = 0;
  }
#pragma unroll
  for (int g = 0; g < kGroups; ++g) token.value[g / 4] |= static_cast<uint32_t>(__ldcg(values + 256 * g)) << (8 * (g % 4));
  token.radii = LoadHalf(page + whole.key_radii + 2 * slot) | static_cast<uint32_t>(LoadHalf(page + whole.value_radii + 2 * slot)) << 16;
  token.utility = __ldcg(page + whole.utilities + slot);
}
template <int kGroups>
__device__ inline void Put(int lane, const WholeToken<kGroups>& token, uint8_t* page, int slot, const TierLayout& whole) {
  const int tile = slot / kTokenTile, index = slot % kTokenTile;
  uint32_t* const keys = reinterpret_cast<uint32_t*>(page + tile * whole.key_tile) + index;
  uint8_t* const values = page + whole.values + tile * whole.value_tile + 64 * (index / 4) + 4 * lane + index % 4;
#pragma unroll
  for (int i = 0; i < WholeToken<kGroups>::kKeyWords; ++i) {
    if (16 * i + lane < 4 * kGroups) keys[kTokenTile * (16 * i + lane)] = token.key[i];
  }
#pragma unroll
  for (int g = 0; g < kGroups; ++g) values[256 * g] = static_cast<uint8_t>(token.value[g / 4] >> (8 * (g % 4)));
  if (lane != 0) return;
  StoreHalf(page + whole.key_radii + 2 * slot, static_cast<uint16_t>(token.radii));
  StoreHalf(page + whole.value_radii + 2 * slot, static_cast<uint16_t>(token.radii >> 16));
  page[whole.utilities + slot] = token.utility;
}

// Moves are in an order in which no place is taken before it was read: those of a round are read, then put.
template <int kGroups>
__device__ void MoveWithin(const SettleHead& head, int count, const Pages& pages, const TierLayout& whole) {
  constexpr int kEach = kGroups > 8 ? 2 : 4;  // tokens of a team in a round
  const int team = static_cast<int>(threadIdx.x) / 16, lane = static_cast<int>(threadIdx.x) % 16;
  for (int base = 0; base < count; base += kEach * kTeams) {
    WholeToken<kGroups> token[kEach];
    int to[kEach];
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const int i = base + k * kTeams + team;
      const MovedToken move = i < count ? head.moved[i] : MovedToken{.from = 0, .to = -1};
      to[k] = move.to;
      if (move.to >= 0) Take<kGroups>(lane, pages.Of(head.pages, move.from / whole.tokens), move.from % whole.tokens, whole, token[k]);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      if (to[k] >= 0) Put<kGroups>(lane, token[k], pages.Of(head.pages, to[k] / whole.tokens), to[k] % whole.tokens, whole);
    }
  }
}

template <int kGroups>
__global__ void __launch_bounds__(kCodecThreads, 2) SettleKernel(const DeviceGeometry* geometries, const CodedLosses* losses,
                                                                 const Pages pages, const __grid_constant__ TierLayouts layouts,
                                                                 const SettleHead* heads, int32_t* astray) {
  extern __shared__ float4 shared_quads[];
  const SettleHead& head = heads[blockIdx.x];
  FindRungs(head, losses, pages, layouts.of[0]);
  __syncthreads();
  const Leaving all = CountLeaving(head);
  bool right = head.tokens - all.all() == head.after[0];
#pragma unroll
  for (int r = 1; r < kLadderTiers; ++r) right &= all.of_rung[r] == head.after[r] - head.first[r];
  if (!right && threadIdx.x == 0) atomicAdd(astray, 1);
  if (!right || all.all() == 0) return;
  const int moved = PlanMoves(head, all);

  const HalfWarp team = HalfWarp::Own();
  const int own = static_cast<int>(threadIdx.x) / 16;
  const GroupScratch<kGroups> scratch = ScratchOf<kGroups>(reinterpret_cast<float*>(shared_quads), own);
  const DeviceGeometry& geometry = geometries[head.head];
  const auto scratch_page = [&](const LeavingToken& token, const TierLayout& layout) {
    return head.scratch[token.rung] + (token.to / layout.tokens - head.first[token.rung] / layout.tokens) * pages.page_bytes;
  };
  for (int i = own; i < all.all(); i += kTeams) {
    const LeavingToken leaving = head.leaving[i];
    const Tier to = static_cast<Tier>(leaving.rung);
    const TierLayout &whole = layouts.of[0], &layout = layouts.of[leaving.rung];
    CarriedToken<kGroups> token;
    TakeToken<kGroups>(team, geometry, Tier::kT8, whole, pages.Of(head.pages, leaving.from / whole.tokens), leaving.from % whole.tokens,
                       to, scratch, token);
    PutToken<kGroups>(team, geometry, token, to, layout, scratch_page(leaving, layout), leaving.to % layout.tokens);
  }
  __syncthreads();
  MoveWithin<kGroups>(head, moved, pages, layouts.of[0]);
  __syncthreads();
  for (int i = own; i < all.all(); i += kTeams) {
    const LeavingToken leaving = head.leaving[i];
    const Tier tier = static_cast<Tier>(leaving.rung);
    const TierLayout& layout = layouts.of[leaving.rung];
    const int slot = leaving.to % layout.tokens;
    CarriedToken<kGroups> token;
    TakeToken<kGroups>(team, geometry, tier, layout, scratch_page(leaving, layout), slot, tier, scratch, token);
    PutToken<kGroups>(team, geometry, token, tier, layout, pages.Of(head.lists[leaving.rung], leaving.to / layout.tokens), slot);
  }
}

}  // namespace

CudaStatus SettleHeads(Stream stream, int32_t head_dim, const DeviceGeometry* geometries, const CodedLosses* losses, uint8_t* coded,
                       int64_t page_bytes, const SettleHead* heads, int32_t count, int32_t* astray) {
  if (count == 0) return CudaStatus::kOk;
  return LaunchForGroups(head_dim, [&]<int kGroups>() {
    SettleKernel<kGroups><<<count, kCodecThreads, ScratchBytes<kGroups>(), stream>>>(
        geometries, losses, {.arena = coded, .page_bytes = page_bytes}, LayoutsOf(head_dim), heads, astray);
  });
}

}  // namespace spherical::kernels::cuda
