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

// Sixteen moves at a time. All of T8's widths are 8: a key's codes are words of its row, a value's are bytes of its column (page_layout.h).
// So of keys a team has one word of each of sixteen tokens, which mostly lie side by side; of values one token's bytes.
template <int kGroups>
struct MovedTile {
  static constexpr int kWords = (kGroups + 3) / 4;
  uint32_t key[kWords];    // words team + 16 i of token `lane`
  uint32_t value[kWords];  // of token `team`: a byte a group, coordinate `lane`
  uint32_t radii;          // of token `team`
  uint8_t utility;
};
// A token's place; of none, no page.
struct Place {
  uint8_t* page;
  int slot;
};
__device__ inline Place PlaceOf(const SettleHead& head, const Pages& pages, const TierLayout& whole, int slot) {
  if (slot < 0) return {nullptr, 0};
  return {pages.Of(head.pages, slot / whole.tokens), slot % whole.tokens};
}
__device__ inline uint32_t* KeyWords(const Place& at, const TierLayout& whole) {
  return reinterpret_cast<uint32_t*>(at.page + at.slot / kTokenTile * whole.key_tile) + at.slot % kTokenTile;
}
__device__ inline uint8_t* ValueBytes(const Place& at, const TierLayout& whole, int lane) {
  const int index = at.slot % kTokenTile;
  return at.page + whole.values + at.slot / kTokenTile * whole.value_tile + 64 * (index / 4) + 4 * lane + index % 4;
}

template <int kGroups>
__device__ inline void Take(int team, int lane, const Place& key, const Place& value, const TierLayout& whole, MovedTile<kGroups>& tile) {
#pragma unroll
  for (int i = 0; i < MovedTile<kGroups>::kWords; ++i) tile.key[i] = tile.value[i] = 0;
  if (key.page != nullptr) {
    const uint32_t* const words = KeyWords(key, whole);
#pragma unroll
    for (int i = 0; i < MovedTile<kGroups>::kWords; ++i) {
      if (16 * i + team < 4 * kGroups) tile.key[i] = words[kTokenTile * (16 * i + team)];
    }
  }
  if (value.page == nullptr) return;
  const uint8_t* const bytes = ValueBytes(value, whole, lane);
#pragma unroll
  for (int g = 0; g < kGroups; ++g) tile.value[g / 4] |= static_cast<uint32_t>(bytes[256 * g]) << (8 * (g % 4));
  const uint8_t* const radii = value.page + whole.key_radii + 2 * value.slot;
  tile.radii = LoadHalf(radii) | static_cast<uint32_t>(LoadHalf(radii + 2 * whole.tokens)) << 16;
  tile.utility = value.page[whole.utilities + value.slot];
}
template <int kGroups>
__device__ inline void Put(int team, int lane, const MovedTile<kGroups>& tile, const Place& key, const Place& value,
                           const TierLayout& whole) {
  if (key.page != nullptr) {
    uint32_t* const words = KeyWords(key, whole);
#pragma unroll
    for (int i = 0; i < MovedTile<kGroups>::kWords; ++i) {
      if (16 * i + team < 4 * kGroups) words[kTokenTile * (16 * i + team)] = tile.key[i];
    }
  }
  if (value.page == nullptr) return;
  uint8_t* const bytes = ValueBytes(value, whole, lane);
#pragma unroll
  for (int g = 0; g < kGroups; ++g) bytes[256 * g] = static_cast<uint8_t>(tile.value[g / 4] >> (8 * (g % 4)));
  if (lane != 0) return;
  StoreHalf(value.page + whole.key_radii + 2 * value.slot, static_cast<uint16_t>(tile.radii));
  StoreHalf(value.page + whole.value_radii + 2 * value.slot, static_cast<uint16_t>(tile.radii >> 16));
  value.page[whole.utilities + value.slot] = tile.utility;
}

// Moves are in an order in which no place is taken before it was read: those of a round are read, then put. The next round reads nothing
// that this one puts.
template <int kGroups>
__device__ void MoveWithin(const SettleHead& head, int count, const Pages& pages, const TierLayout& whole) {
  constexpr int kEach = kGroups > 8 ? 2 : 4;  // tiles of a round
  const int team = static_cast<int>(threadIdx.x) / 16, lane = static_cast<int>(threadIdx.x) % 16;
  const auto move = [&](int i) { return i < count ? head.moved[i] : MovedToken{.from = -1, .to = -1}; };
  for (int base = 0; base < count; base += kEach * kTokenTile) {
    MovedTile<kGroups> tiles[kEach];
    Place key_to[kEach], value_to[kEach];
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const MovedToken key = move(base + k * kTokenTile + lane), value = move(base + k * kTokenTile + team);
      key_to[k] = PlaceOf(head, pages, whole, key.to);
      value_to[k] = PlaceOf(head, pages, whole, value.to);
      Take<kGroups>(team, lane, PlaceOf(head, pages, whole, key.from), PlaceOf(head, pages, whole, value.from), whole, tiles[k]);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kEach; ++k) Put<kGroups>(team, lane, tiles[k], key_to[k], value_to[k], whole);
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
  // Of a rung's pages from that of its first new token on, the token's.
  const auto page_of = [&](const LeavingToken& token, const TierLayout& layout) {
    return token.to / layout.tokens - head.first[token.rung] / layout.tokens;
  };
  const auto scratch_page = [&](const LeavingToken& token, const TierLayout& layout) {
    return head.scratch[token.rung] + page_of(token, layout) * pages.page_bytes;
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
    PutToken<kGroups>(team, geometry, token, tier, layout, pages.Of(head.lists[leaving.rung], page_of(leaving, layout)), slot);
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
