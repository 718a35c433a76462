#include "kernels/cuda/prompt_attention.h"

#include <cuda.h>
#include <cuda_runtime.h>

#include <cmath>
#include <limits>

#include "kernels/cuda/exact_attention.cuh"
#include "kernels/cuda/launch_overlap.cuh"
#include "kernels/cuda/tile_copies.cuh"
#include "kernels/cuda/tile_turns.h"
#include "kernels/cuda/warpgroup_products.cuh"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {
namespace {

// A thread block is three warpgroups: one asks for tiles of keys and values, two compute: each has 64 flats, or both have the same (at most
// 64) and take tiles in turns. While the matrix units
// multiply, a warpgroup makes probabilities of the tile before: the logits of a tile are asked for before the outputs of the one before it.
constexpr int32_t kWarp = 32;
constexpr int32_t kGroupThreads = 128;   // of a warpgroup
constexpr int32_t kGroupFlats = 64;
constexpr int32_t kGroups = 2;           // that compute
constexpr int32_t kThreads = (kGroups + 1) * kGroupThreads;
constexpr int32_t kCopyRegisters = 40, kComputeRegisters = 232;  // of a thread, from the 504 that three have together
static_assert(kTileFlats == kGroups * kGroupFlats && kTokenTile == 16);

// How a block's shared memory is used.
//
// Values: the page's rows of D coordinates, cut into chunks of kChunk: [page][chunk][16 tokens][kChunk]. Queries likewise: [chunk][64
// flats][kChunk].
// Keys: a page's rows are 16 tokens, 32 bytes, and so are the products' operands. The copy engine is slow with rows so short, so it copies
// rows of 128 bytes, four coordinates, and turns pieces of 16 bytes around in eight of them. In each row that keeps the two halves of 16
// tokens where a product expects them, but the four coordinates come in another order: coordinate i of row r lies at i ^ (r / 2 % 4). The
// order of coordinates is free, if the queries have the same.
template <int32_t D>
struct Room {
  static constexpr int32_t kKeys = D > 128 ? 64 : 128;  // of a tile
  static constexpr int32_t kPages = kKeys / kExactTokensPerPage;
  static constexpr int32_t kChunk = D % 64 == 0 ? 64 : D % 32 == 0 ? 32 : 16;
  static constexpr int32_t kRow = kChunk * 2;
  static constexpr int32_t kPageBytes = D * kExactTokensPerPage * 2;             // of keys or of values
  static constexpr int32_t kKeyPage = (kPageBytes + 1023) / 1024 * 1024;         // from one to the next: the turning begins anew
  static constexpr int32_t kKeyTile = kPages * kKeyPage, kValueTile = kPages * kPageBytes;
  static constexpr int32_t kStages = D > 128 ? 2 : 3;                            // tiles of keys, and of values, that there is room for
  using Turns = TileTurns<kStages, kGroups>;
  static constexpr int32_t kQueryBytes = kGroupFlats * D * 2;                    // of a warpgroup
  static constexpr int32_t kKeysAt = kGroups * kQueryBytes;
  static constexpr int32_t kValuesAt = kKeysAt + kStages * kKeyTile;
  static constexpr int32_t kBarriersAt = kValuesAt + kStages * kValueTile;
  static constexpr int32_t kBytes = kBarriersAt + (4 * Turns::kBarriers + 1) * 8 + 1024;  // to begin at a multiple of 1024
  static_assert(kQueryBytes % 1024 == 0 && kKeyTile % 1024 == 0 && kValueTile % 1024 == 0 && kPageBytes % (8 * kRow) == 0);
};

// Addresses in shared memory, of what belongs to a tile of the item: tiles take turns at the stages.
template <int32_t D>
struct Places {
  using Turns = typename Room<D>::Turns;
  static constexpr int32_t kBarriers = Turns::kBarriers;
  uint32_t base;
  __device__ __forceinline__ uint32_t Queries(int32_t group) const { return base + group * Room<D>::kQueryBytes; }
  __device__ __forceinline__ uint32_t Keys(int32_t tile) const {
    return base + Room<D>::kKeysAt + Turns::StageOf(tile) * Room<D>::kKeyTile;
  }
  __device__ __forceinline__ uint32_t Values(int32_t tile) const {
    return base + Room<D>::kValuesAt + Turns::StageOf(tile) * Room<D>::kValueTile;
  }
  // Barriers: a tile has come; it has been used.
  __device__ __forceinline__ uint32_t KeysHere(int32_t tile) const { return Barrier(Turns::BarrierOf(tile)); }
  __device__ __forceinline__ uint32_t KeysUsed(int32_t tile) const { return Barrier(kBarriers + Turns::BarrierOf(tile)); }
  __device__ __forceinline__ uint32_t ValuesHere(int32_t tile) const { return Barrier(2 * kBarriers + Turns::BarrierOf(tile)); }
  __device__ __forceinline__ uint32_t ValuesUsed(int32_t tile) const { return Barrier(3 * kBarriers + Turns::BarrierOf(tile)); }
  __device__ __forceinline__ uint32_t LastValuesHere() const { return Barrier(4 * kBarriers); }  // but for the zeros
  __device__ __forceinline__ uint32_t Barrier(int32_t i) const { return base + Room<D>::kBarriersAt + i * 8; }
  __device__ __forceinline__ static int32_t PhaseOf(int32_t tile) { return Turns::PhaseOf(tile); }
};

#if SPHERICAL_WARPGROUPS

// What is the same in a whole warp, so that the compiler knows it.
__device__ __forceinline__ int32_t Uniform(int32_t x) { return __shfl_sync(0xffffffffu, x, 0); }

template <int32_t D>
__device__ __forceinline__ int32_t TilesOf(const ExactWork& work) {
  return (work.end - work.first + Room<D>::kKeys - 1) / Room<D>::kKeys;
}

// The page that a lane of a copying warp asks for of the tile that begins at `token`; -1: none.
template <int32_t D>
__device__ __forceinline__ int32_t PageAt(const int32_t* list, int32_t token, int32_t end) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % kWarp, first = token + lane * kExactTokensPerPage;
  return lane < Room<D>::kPages && first < end ? list[first / kExactTokensPerPage] : -1;
}

// How many bytes of keys, or of values, a tile's pages have: of the last tile only those that there are.
template <int32_t D>
__device__ __forceinline__ int32_t TileBytes(int32_t token, int32_t end) {
  return min(Room<D>::kPages, (end - token + kExactTokensPerPage - 1) / kExactTokensPerPage) * Room<D>::kPageBytes;
}

// Asks for an item's keys, tile by tile, by one warp, a page a lane. What is past the end is whatever was there: its logits are not used.
template <int32_t D>
__device__ __forceinline__ void CopyKeys(const ExactWork& work, const int32_t* list, const CUtensorMap& map, const Places<D>& places) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % kWarp, tiles = TilesOf<D>(work);
  int32_t next = PageAt<D>(list, work.first, work.end);
  for (int32_t tile = 0; tile < tiles; ++tile) {
    const int32_t token = work.first + tile * Room<D>::kKeys, page = next, before = Room<D>::Turns::BeforeInStage(tile);
    next = PageAt<D>(list, token + Room<D>::kKeys, work.end);
    if (before >= 0) AwaitPhase(places.KeysUsed(before), places.PhaseOf(before));
    if (lane == 0) ArriveAndExpect(places.KeysHere(tile), TileBytes<D>(token, work.end));
    __syncwarp();
    if (page >= 0) CopyTile(places.Keys(tile) + lane * Room<D>::kKeyPage, map, places.KeysHere(tile), 0, 0, page);
  }
}

// The same of values, by another warp, so that neither waits for room of the other. Values past the end are zeros: NaN times zero is NaN.
template <int32_t D>
__device__ __forceinline__ void CopyValues(const ExactWork& work, const int32_t* list, const CUtensorMap& map, const Places<D>& places) {
  using R = Room<D>;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % kWarp, tiles = TilesOf<D>(work);
  int32_t next = PageAt<D>(list, work.first, work.end);
  for (int32_t tile = 0; tile < tiles; ++tile) {
    const int32_t token = work.first + tile * R::kKeys, page = next, before = R::Turns::BeforeInStage(tile);
    next = PageAt<D>(list, token + R::kKeys, work.end);
    if (before >= 0) AwaitPhase(places.ValuesUsed(before), places.PhaseOf(before));
    const bool whole = token + R::kKeys <= work.end;
    const uint32_t here = whole ? places.ValuesHere(tile) : places.LastValuesHere();
    if (lane == 0) ArriveAndExpect(here, TileBytes<D>(token, work.end));
    __syncwarp();
    if (page >= 0) CopyTile(places.Values(tile) + lane * R::kPageBytes, map, here, 0, 0, 0, page);
    if (whole) continue;
    AwaitPhase(here, 0);
    constexpr int32_t kPieces = D / 8;  // of 16 bytes, of a token
    for (int32_t i = (work.end - token) * kPieces + lane; i < R::kKeys * kPieces; i += kWarp) {
      const int32_t in_tile = i / kPieces, d = i % kPieces * 8;
      const int32_t row = d / R::kChunk * kExactTokensPerPage + in_tile % kExactTokensPerPage;
      const uint32_t at = places.Values(tile) + in_tile / kExactTokensPerPage * R::kPageBytes + row * R::kRow + d % R::kChunk * 2;
      asm volatile("st.shared.v4.u32 [%0], {%1,%1,%1,%1};" ::"r"(at), "r"(0) : "memory");
    }
    ShowWritesToTiles();
    __syncwarp();
    if (lane == 0) Arrive(places.ValuesHere(tile));
  }
}

// Where the query of an item's flat lies, and its result.
__device__ __forceinline__ int64_t FlatAt(const ExactArgs& a, const ExactWork& work, int32_t kv_head, int32_t in_work) {
  const int32_t group = a.heads / a.kv_heads, flat = work.flat + in_work;
  return (int64_t{work.row + flat / group} * a.heads + kv_head * group + flat % group) * a.head_dim;
}

// Writes a warpgroup's queries to shared memory, from the item's flat `first` on; flats beyond the item's are zeros.
template <int32_t D>
__device__ __forceinline__ void LoadQueries(const ExactArgs& a, const ExactWork& work, int32_t kv_head, int32_t first, uint32_t to) {
  using R = Room<D>;
  constexpr int32_t kPieces = D / 8;
  static_assert(kGroupFlats * kPieces % kGroupThreads == 0);
  const int32_t thread = static_cast<int32_t>(threadIdx.x) % kGroupThreads;
#pragma unroll 4
  for (int32_t i = thread; i < kGroupFlats * kPieces; i += kGroupThreads) {
    const int32_t flat = i / kPieces, piece = i % kPieces;
    const int32_t in_work = first + flat;
    uint4 q = {0, 0, 0, 0};
    if (in_work < work.flats) q = *reinterpret_cast<const uint4*>(a.query + FlatAt(a, work, kv_head, in_work) + piece * 8);
    // The order that keys have.
    if (piece & 2) q = {q.y, q.x, q.w, q.z};
    if (piece & 1) {
      q = {__funnelshift_l(q.x, q.x, 16), __funnelshift_l(q.y, q.y, 16), __funnelshift_l(q.z, q.z, 16), __funnelshift_l(q.w, q.w, 16)};
    }
    const int32_t d = piece * 8;
    const uint32_t at = Swizzled<R::kRow>(static_cast<uint32_t>((d / R::kChunk * kGroupFlats + flat) * R::kRow + d % R::kChunk * 2));
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to + at), "r"(q.x), "r"(q.y), "r"(q.z), "r"(q.w) : "memory");
  }
  ShowWritesToTiles();
}

// A thread's part of a warpgroup's online softmax: two flats, eight apart. Products stay as they are until they become powers of two.
template <int32_t kKeys>
struct Softmax {
  float factor;  // of a product: an exponent of two
  Seen seen[2];
  float max[2] = {-INFINITY, -INFINITY};  // of products
  float sum[2] = {0, 0};                  // of this thread's columns

  // Turns the products of the tile that begins at `token` into probabilities, up to a factor; what came before is to be multiplied by
  // `shrink` for that. Whether any thread of the warp has one other than 1.
  __device__ __forceinline__ bool Take(float (&s)[kKeys / 2], int32_t token, float (&shrink)[2]) {
    const bool all_seen = token >= max_of_first() && token + kKeys - 1 <= min(seen[0].last, seen[1].last);
    if (!all_seen) {
      const int32_t column = static_cast<int32_t>(threadIdx.x) % 4 * 2;
#pragma unroll
      for (int32_t i = 0; i < kKeys / 2; ++i) {
        const int32_t position = token + i / 4 * 8 + column + i % 2, r = i / 2 % 2;
        if (position < seen[r].first || position > seen[r].last) s[i] = -INFINITY;
      }
    }
    float top[2] = {max[0], max[1]}, base[2];
#pragma unroll
    for (int32_t i = 0; i < kKeys / 2; ++i) top[i / 2 % 2] = fmaxf(top[i / 2 % 2], s[i]);
#pragma unroll
    for (int32_t r = 0; r < 2; ++r) {
      top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
      top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2));
      base[r] = top[r] == -INFINITY ? 0 : top[r] * factor;  // nothing seen so far: all are 2^-infinity
    }
    const bool changed = __any_sync(0xffffffffu, top[0] != max[0] || top[1] != max[1]);
#pragma unroll
    for (int32_t r = 0; r < 2; ++r) {
      shrink[r] = Exp2(fmaf(max[r], factor, -base[r]));
      max[r] = top[r];
      sum[r] *= shrink[r];
    }
#pragma unroll
    for (int32_t i = 0; i < kKeys / 2; ++i) {
      const int32_t r = i / 2 % 2;
      s[i] = Exp2(fmaf(s[i], factor, -base[r]));
      sum[r] += s[i];
    }
    return changed;
  }

 private:
  __device__ __forceinline__ int32_t max_of_first() const { return seen[0].first > seen[1].first ? seen[0].first : seen[1].first; }
};

// s = queries x keys, a tile's.
template <int32_t D>
__device__ __forceinline__ void MultiplyKeys(float (&s)[Room<D>::kKeys / 2], uint32_t queries, uint32_t keys) {
  using R = Room<D>;
  constexpr uint64_t kQuery = OperandLayout<R::kRow>(16, 8 * R::kRow), kKey = OperandLayout<32>(R::kKeyPage, 256);
#pragma unroll
  for (int32_t k = 0; k < D / 16; ++k) {
    const uint32_t chunk = k * 16 / R::kChunk, in_chunk = k * 16 % R::kChunk;
    MultiplyShared<R::kKeys>(s, OperandAt(kQuery, queries + chunk * kGroupFlats * R::kRow + in_chunk * 2), OperandAt(kKey, keys + k * 512),
                             k > 0);
  }
}

// output += probabilities x values, a tile's.
template <int32_t D>
__device__ __forceinline__ void AddValues(float (&output)[D / 2], const uint32_t (&p)[Room<D>::kPages][4], uint32_t values) {
  using R = Room<D>;
  constexpr uint64_t kValue = OperandLayout<R::kRow>(kExactTokensPerPage * R::kRow, 8 * R::kRow);
#pragma unroll
  for (int32_t page = 0; page < R::kPages; ++page) {
    MultiplyRegisters<D>(output, p[page], OperandAt(kValue, values + page * R::kPageBytes));
  }
}

// Probabilities as the first operand of products with values.
template <int32_t kPages>
__device__ __forceinline__ void PackProbabilities(const float (&s)[kPages * 8], uint32_t (&p)[kPages][4]) {
#pragma unroll
  for (int32_t page = 0; page < kPages; ++page) {
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) p[page][i] = PackHalves(s[page * 8 + 2 * i], s[page * 8 + 2 * i + 1]);
  }
}

// The threads of one warpgroup that computes meet, or of both.
__device__ __forceinline__ void MeetGroup(int32_t group) {
  asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "n"(kGroupThreads) : "memory");
}
__device__ __forceinline__ void MeetGroups() { asm volatile("bar.sync 3, %0;" ::"n"(kGroups * kGroupThreads) : "memory"); }

// Joins the second warpgroup's state into the first one's, thread by thread, when both had the same flats. `room`: shared memory for all
// outputs of a warpgroup's threads and four floats more of each, that nobody uses any longer once both groups are here.
template <int32_t kKeys, int32_t kOutputs>
__device__ __forceinline__ void JoinGroups(int32_t group, uint32_t room, Softmax<kKeys>& softmax, float (&output)[kOutputs]) {
  const uint32_t at = room + static_cast<uint32_t>(threadIdx.x) % kGroupThreads * 4;
  const auto put = [&](int32_t i, float x) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(at + i * kGroupThreads * 4), "f"(x) : "memory");
  };
  const auto get = [&](int32_t i) {
    float x;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(at + i * kGroupThreads * 4) : "memory");
    return x;
  };
  MeetGroups();
  if (group == 1) {
#pragma unroll
    for (int32_t r = 0; r < 2; ++r) {
      put(r, softmax.max[r]);
      put(2 + r, softmax.sum[r]);
    }
#pragma unroll
    for (int32_t i = 0; i < kOutputs; ++i) put(4 + i, output[i]);
  }
  MeetGroups();
  if (group == 1) return;
  float own[2], other[2];  // factors
#pragma unroll
  for (int32_t r = 0; r < 2; ++r) {
    const float max = get(r), top = fmaxf(softmax.max[r], max), base = top == -INFINITY ? 0 : top * softmax.factor;
    own[r] = Exp2(fmaf(softmax.max[r], softmax.factor, -base));
    other[r] = Exp2(fmaf(max, softmax.factor, -base));
    softmax.sum[r] = own[r] * softmax.sum[r] + other[r] * get(2 + r);
  }
#pragma unroll
  for (int32_t i = 0; i < kOutputs; ++i) output[i] = own[i / 2 % 2] * output[i] + other[i / 2 % 2] * get(4 + i);
}

// kTogether: both groups have the item's flats.
template <int32_t D, bool kTogether>
__device__ __forceinline__ void ComputeTiles(const ExactArgs& a, const ExactWork& work, int32_t kv_head, int32_t group,
                                             const Places<D>& places) {
  using R = Room<D>;
  constexpr int32_t kStep = kTogether ? kGroups : 1;  // from a tile to the group's next
  const int32_t thread = static_cast<int32_t>(threadIdx.x) % kGroupThreads, lane = thread % kWarp;
  const uint32_t queries = places.Queries(group);
  const int32_t group_flat = kTogether ? 0 : group * kGroupFlats;
  LoadQueries<D>(a, work, kv_head, group_flat, queries);
  MeetGroup(group);

  Softmax<R::kKeys> softmax;
  softmax.factor = a.scale * kLog2E;
  const int32_t first_flat = group_flat + thread / kWarp * 16 + lane / 4;  // in the item; the other one is 8 further on
#pragma unroll
  for (int32_t r = 0; r < 2; ++r) {
    const int32_t flat = min(first_flat + 8 * r, work.flats - 1);  // those beyond do as the last one does
    const int32_t position = work.position + (work.flat + flat) / (a.heads / a.kv_heads);
    softmax.seen[r] = {a.window > 0 ? position - a.window + 1 : 0, min(position, work.end - 1)};
  }

  float s[R::kKeys / 2], output[D / 2], shrink[2];
  uint32_t p[R::kPages][4];
#pragma unroll
  for (int32_t i = 0; i < D / 2; ++i) output[i] = 0;
  const int32_t tiles = TilesOf<D>(work), first = kTogether ? group : 0;
  if (!kTogether || first < tiles) {
    AwaitPhase(places.KeysHere(first), places.PhaseOf(first));
    BeginProducts();
    MultiplyKeys<D>(s, queries, places.Keys(first));
    CloseProducts();
    AwaitProducts<0>();
    HoldRegisters(s);
    if (lane == 0) Arrive(places.KeysUsed(first));
    softmax.Take(s, work.first + first * R::kKeys, shrink);
    PackProbabilities(s, p);
    if (first + kStep < tiles) AwaitPhase(places.KeysHere(first + kStep), places.PhaseOf(first + kStep));

    int32_t before = first;  // the tile whose probabilities wait for its values
    for (int32_t tile = first + kStep; tile < tiles; before = tile, tile += kStep) {
      HoldRegisters(output);
      BeginProducts();
      MultiplyKeys<D>(s, queries, places.Keys(tile));
      CloseProducts();
      AwaitPhase(places.ValuesHere(before), places.PhaseOf(before));
      BeginProducts();
      AddValues<D>(output, p, places.Values(before));
      CloseProducts();
      AwaitProducts<1>();
      HoldRegisters(s);
      if (lane == 0) Arrive(places.KeysUsed(tile));
      const bool changed = softmax.Take(s, work.first + tile * R::kKeys, shrink);
      HoldRegisters(s);
      // Here, since the compiler would move the wait for outputs up to where no branch is left between, and probabilities behind it.
      if (tile + kStep < tiles) AwaitPhase(places.KeysHere(tile + kStep), places.PhaseOf(tile + kStep));
      AwaitProducts<0>();
      HoldRegisters(output);
      if (lane == 0) Arrive(places.ValuesUsed(before));
      if (changed) {
#pragma unroll
        for (int32_t i = 0; i < D / 2; ++i) output[i] *= shrink[i / 2 % 2];
      }
      PackProbabilities(s, p);
    }
    AwaitPhase(places.ValuesHere(before), places.PhaseOf(before));
    HoldRegisters(output);
    BeginProducts();
    AddValues<D>(output, p, places.Values(before));
    CloseProducts();
    AwaitProducts<0>();
    HoldRegisters(output);
  }
  if constexpr (kTogether) {
    static_assert((D / 2 + 4) * kGroupThreads * 4 <= R::kBarriersAt - R::kKeysAt);
    JoinGroups(group, places.Keys(0), softmax, output);
    if (group == 1) return;
  }

#pragma unroll
  for (int32_t r = 0; r < 2; ++r) {
    float sum = softmax.sum[r];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (first_flat + 8 * r >= work.flats) continue;
    const float whole = 1 / sum;
    uint16_t* const to = a.out + FlatAt(a, work, kv_head, first_flat + 8 * r) + lane % 4 * 2;
#pragma unroll
    for (int32_t n = 0; n < D / 8; ++n) {
      const uint32_t low = HalfOf(output[4 * n + 2 * r] * whole), high = HalfOf(output[4 * n + 2 * r + 1] * whole);
      *reinterpret_cast<uint32_t*>(to + n * 8) = low | high << 16;
    }
  }
}

#endif  // SPHERICAL_WARPGROUPS

// A thread block a part of an item, and a kv head: all heads of a part follow each other, so that the longest come first.
template <int32_t D>
__global__ void __launch_bounds__(kThreads, 1) AttendPromptKernel(const ExactArgs a, const ExactWork* items, int32_t parts,
                                                                  const __grid_constant__ CUtensorMap keys,
                                                                  const __grid_constant__ CUtensorMap values) {
#if SPHERICAL_WARPGROUPS
  extern __shared__ char memory[];
  const Places<D> places = {(SharedAddress(memory) + 1023) & ~1023u};
  LetNextBegin();
  WaitForBefore();
  const int32_t block = static_cast<int32_t>(blockIdx.x), kv_head = block % a.kv_heads, part = block / a.kv_heads;
  const int32_t flats = kTileFlats / parts, role = Uniform(static_cast<int32_t>(threadIdx.x) / kGroupThreads);
  const ExactWork work = PartOf(a, items[part / parts], part % parts * flats, flats);
  if (work.flats <= 0 || IsCoded(a, work.row, kv_head)) return;
  const bool together = Uniform(work.flats) <= kGroupFlats;
  const int32_t users = (together ? 1 : kGroups) * kGroupThreads / kWarp;  // warps, of a tile
  if (threadIdx.x == 0) {
    for (int32_t tile = 0; tile < Places<D>::kBarriers; ++tile) {
      CreateBarrier(places.KeysHere(tile), 1);
      CreateBarrier(places.ValuesHere(tile), 1);
      CreateBarrier(places.KeysUsed(tile), users);
      CreateBarrier(places.ValuesUsed(tile), users);
    }
    CreateBarrier(places.LastValuesHere(), 1);
    ShowBarriers();
  }
  __syncthreads();
  if (role == 0) {
    GiveBackRegisters<kCopyRegisters>();
    const int32_t* const list = ListOf(a, work, kv_head);
    if (threadIdx.x < kWarp) {
      CopyKeys<D>(work, list, keys, places);
    } else if (threadIdx.x < 2 * kWarp) {
      CopyValues<D>(work, list, values, places);
    }
  } else {
    TakeRegisters<kComputeRegisters>();
    if (together) {
      ComputeTiles<D, true>(a, work, kv_head, role - 1, places);
    } else {
      ComputeTiles<D, false>(a, work, kv_head, role - 1, places);
    }
  }
#endif
}

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                                 const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// The driver's function; null: the driver is older than Hopper. By name, so that nothing links to the driver.
EncodeTiled FindEncodeTiled() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
  return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(found) : nullptr;
}

// The arena as tiles of f16: `sizes` from the innermost dimension out, pages last, of which a box has one. How many pages there are nobody
// here knows; lists name none that is not there.
template <int32_t kRank>
bool MapPages(EncodeTiled encode, const uint8_t* first, const cuuint32_t (&sizes)[kRank - 1], const cuuint64_t (&strides)[kRank - 1],
              CUtensorMapSwizzle swizzle, CUtensorMap* map) {
  cuuint64_t all[kRank];
  cuuint32_t box[kRank], every[kRank];
  for (int32_t i = 0; i < kRank; ++i) {
    all[i] = i + 1 < kRank ? sizes[i] : static_cast<cuuint64_t>(std::numeric_limits<int32_t>::max());
    box[i] = i + 1 < kRank ? sizes[i] : 1;
    every[i] = 1;
  }
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, kRank, const_cast<uint8_t*>(first), all, strides, box, every,
                CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <int32_t D>
CudaStatus Launch(Stream stream, const ExactArgs& args, const ExactWork* work, int32_t n) {
  using R = Room<D>;
  static const EncodeTiled encode = FindEncodeTiled();
  if (encode == nullptr) return static_cast<CudaStatus>(cudaErrorNotSupported);
  constexpr CUtensorMapSwizzle kValueSwizzle = R::kRow == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
                                               : R::kRow == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                               : CU_TENSOR_MAP_SWIZZLE_32B;
  const auto page_bytes = static_cast<cuuint64_t>(args.page_bytes);
  CUtensorMap keys, values;
  if (!MapPages<3>(encode, args.arena + ExactKeyOffset(), {64, D / 4}, {128, page_bytes}, CU_TENSOR_MAP_SWIZZLE_128B, &keys) ||
      !MapPages<4>(encode, args.arena + ExactValueOffset(D), {R::kChunk, kExactTokensPerPage, D / R::kChunk},
                   {D * 2, R::kRow, page_bytes}, kValueSwizzle, &values)) {
    return static_cast<CudaStatus>(cudaErrorInvalidValue);
  }
  // With few items smaller parts, so that more multiprocessors have something to do.
  int32_t device = 0, processors = 0;
  for (const cudaError_t error : {cudaGetDevice(&device), cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device)}) {
    if (error != cudaSuccess) return static_cast<CudaStatus>(error);
  }
  const int32_t parts = n * args.kv_heads * kGroups <= processors ? kGroups : 1;
  const dim3 blocks(static_cast<uint32_t>(n * args.kv_heads * parts));
  return LaunchOverlapped(stream, args.overlap, AttendPromptKernel<D>, blocks, kThreads, R::kBytes, args, work, parts, keys, values);
}

bool IsCompiledForDevice() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, AttendPromptKernel<64>) == cudaSuccess && attributes.ptxVersion >= 90;
}

}  // namespace

CudaStatus PreparePromptAttention(int32_t head_dim) {
  if (!IsCompiledForDevice()) return CudaStatus::kOk;
  return ForHeadDim(head_dim, [&]<int32_t D>() {
    return static_cast<CudaStatus>(
        cudaFuncSetAttribute(AttendPromptKernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, Room<D>::kBytes));
  });
}

bool PromptAttentionTakes(const ExactArgs& args) { return args.softcap <= 0 && IsCompiledForDevice(); }

CudaStatus AttendPrompt(Stream stream, const ExactArgs& args, const ExactWork* work, int32_t n) {
  if (n == 0) return CudaStatus::kOk;
  return ForHeadDim(args.head_dim, [&]<int32_t D>() { return Launch<D>(stream, args, work, n); });
}

}  // namespace spherical::kernels::cuda
