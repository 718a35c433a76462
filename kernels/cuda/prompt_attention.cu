#include "kernels/cuda/prompt_attention.h"

#include <cuda.h>
#include <cuda_runtime.h>

#include <cmath>
#include <limits>

#include "kernels/cuda/exact_attention.cuh"
#include "kernels/cuda/launch_overlap.cuh"
#include "kernels/cuda/tile_copies.cuh"
#include "kernels/cuda/warpgroup_products.cuh"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {
namespace {

// A thread block is three warpgroups: one asks for tiles of keys and values, two have 64 flats each and compute. While the matrix units
// multiply, a warpgroup makes probabilities of the tile before: the logits of a tile are asked for before the outputs of the one before it.
constexpr int32_t kWarp = 32;
constexpr int32_t kGroupThreads = 128;   // of a warpgroup
constexpr int32_t kGroupFlats = 64;
constexpr int32_t kGroups = 2;           // that compute
constexpr int32_t kThreads = (kGroups + 1) * kGroupThreads;
constexpr int32_t kStages = 2;           // tiles of keys, and of values, that there is room for
constexpr int32_t kCopyRegisters = 40, kComputeRegisters = 232;
static_assert(kTileFlats == kGroups * kGroupFlats && kTokenTile == 16);
static_assert(kCopyRegisters + kGroups * kComputeRegisters <= 65536 / kGroupThreads);

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
  static constexpr int32_t kQueryBytes = kGroupFlats * D * 2;                    // of a warpgroup
  static constexpr int32_t kKeysAt = kGroups * kQueryBytes;
  static constexpr int32_t kValuesAt = kKeysAt + kStages * kKeyTile;
  static constexpr int32_t kBarriersAt = kValuesAt + kStages * kValueTile;
  static constexpr int32_t kBytes = kBarriersAt + (4 * kStages + 1) * 8 + 1024;  // to begin at a multiple of 1024
  static_assert(kQueryBytes % 1024 == 0 && kKeyTile % 1024 == 0 && kValueTile % 1024 == 0 && kPageBytes % (8 * kRow) == 0);
};

// Addresses in shared memory.
template <int32_t D>
struct Places {
  uint32_t base;
  __device__ __forceinline__ uint32_t Queries(int32_t group) const { return base + group * Room<D>::kQueryBytes; }
  __device__ __forceinline__ uint32_t Keys(int32_t stage) const { return base + Room<D>::kKeysAt + stage * Room<D>::kKeyTile; }
  __device__ __forceinline__ uint32_t Values(int32_t stage) const { return base + Room<D>::kValuesAt + stage * Room<D>::kValueTile; }
  // Barriers: a tile has come; a tile has been used.
  __device__ __forceinline__ uint32_t KeysHere(int32_t stage) const { return Barrier(stage); }
  __device__ __forceinline__ uint32_t KeysUsed(int32_t stage) const { return Barrier(kStages + stage); }
  __device__ __forceinline__ uint32_t ValuesHere(int32_t stage) const { return Barrier(2 * kStages + stage); }
  __device__ __forceinline__ uint32_t ValuesUsed(int32_t stage) const { return Barrier(3 * kStages + stage); }
  __device__ __forceinline__ uint32_t LastValuesHere() const { return Barrier(4 * kStages); }  // but for the zeros
  __device__ __forceinline__ uint32_t Barrier(int32_t i) const { return base + Room<D>::kBarriersAt + i * 8; }
};

#if SPHERICAL_WARPGROUPS

// Asks for all tiles of an item, by one warp, a page a lane. Of the last tile only what there is; values past the end are zeros, since NaN
// times zero is NaN. (Logits of keys past the end are not used.)
template <int32_t D>
__device__ __forceinline__ void CopyTiles(const ExactArgs& a, const ExactWork& work, int32_t kv_head, const CUtensorMap& keys,
                                          const CUtensorMap& values, const Places<D>& places) {
  using R = Room<D>;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  const int32_t* const list = ListOf(a, work, kv_head);
  const int32_t tiles = (work.end - work.first + R::kKeys - 1) / R::kKeys;
  // This lane's page of the tile that begins at `token`; -1: none.
  const auto page_at = [&](int32_t token) {
    const int32_t first = token + lane * kExactTokensPerPage;
    return lane < R::kPages && first < work.end ? list[first / kExactTokensPerPage] : -1;
  };
  int32_t next = page_at(work.first);
  for (int32_t tile = 0; tile < tiles; ++tile) {
    const int32_t token = work.first + tile * R::kKeys, stage = tile % kStages, turn = tile / kStages, page = next;
    next = page_at(token + R::kKeys);
    const int32_t bytes = min(R::kPages, (work.end - token + kExactTokensPerPage - 1) / kExactTokensPerPage) * R::kPageBytes;
    AwaitPhase(places.KeysUsed(stage), turn - 1);
    if (lane == 0) ArriveAndExpect(places.KeysHere(stage), bytes);
    __syncwarp();
    if (page >= 0) CopyTile(places.Keys(stage) + lane * R::kKeyPage, keys, places.KeysHere(stage), 0, 0, page);

    AwaitPhase(places.ValuesUsed(stage), turn - 1);
    const bool whole = token + R::kKeys <= work.end;
    const uint32_t here = whole ? places.ValuesHere(stage) : places.LastValuesHere();
    if (lane == 0) ArriveAndExpect(here, bytes);
    __syncwarp();
    if (page >= 0) CopyTile(places.Values(stage) + lane * R::kPageBytes, values, here, 0, 0, 0, page);
    if (!whole) {
      AwaitPhase(here, 0);
      constexpr int32_t kPieces = D / 8;  // of 16 bytes, of a token
      for (int32_t i = (work.end - token) * kPieces + lane; i < R::kKeys * kPieces; i += kWarp) {
        const int32_t in_tile = i / kPieces, piece = i % kPieces * 8;
        const int32_t at = in_tile / kExactTokensPerPage * R::kPageBytes +
                           (piece / R::kChunk * kExactTokensPerPage + in_tile % kExactTokensPerPage) * R::kRow + piece % R::kChunk * 2;
        asm volatile("st.shared.v4.u32 [%0], {%1,%1,%1,%1};" ::"r"(places.Values(stage) + at), "r"(0) : "memory");
      }
      ShowWritesToTiles();
      __syncwarp();
      if (lane == 0) Arrive(places.ValuesHere(stage));
    }
  }
}

// Where the query of an item's flat lies, and its result.
__device__ __forceinline__ int64_t FlatAt(const ExactArgs& a, const ExactWork& work, int32_t kv_head, int32_t in_work) {
  const int32_t group = a.heads / a.kv_heads, flat = work.flat + in_work;
  return (int64_t{work.row + flat / group} * a.heads + kv_head * group + flat % group) * a.head_dim;
}

// Writes a warpgroup's queries to shared memory; flats beyond the item's are zeros.
template <int32_t D>
__device__ __forceinline__ void LoadQueries(const ExactArgs& a, const ExactWork& work, int32_t kv_head, int32_t group, uint32_t to) {
  using R = Room<D>;
  constexpr int32_t kPieces = D / 8;
  static_assert(kGroupFlats * kPieces % kGroupThreads == 0);
  const int32_t thread = static_cast<int32_t>(threadIdx.x) % kGroupThreads;
#pragma unroll 4
  for (int32_t i = thread; i < kGroupFlats * kPieces; i += kGroupThreads) {
    const int32_t flat = i / kPieces, piece = i % kPieces;
    const int32_t in_work = group * kGroupFlats + flat;
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

  // Turns the products of the tile that begins at `token` into probabilities, up to a factor; `shrink` is what earlier ones are too large by.
  // Whether any thread of the warp has some other than 1.
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

// The threads of one warpgroup that computes, or of both, meet.
__device__ __forceinline__ void MeetGroup(int32_t group) {
  asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "n"(kGroupThreads) : "memory");
}

template <int32_t D>
__device__ __forceinline__ void ComputeTiles(const ExactArgs& a, const ExactWork& work, int32_t kv_head, int32_t group,
                                             int32_t groups, const Places<D>& places) {
  using R = Room<D>;
  const int32_t thread = static_cast<int32_t>(threadIdx.x) % kGroupThreads, lane = thread % kWarp;
  const uint32_t queries = places.Queries(group);
  LoadQueries<D>(a, work, kv_head, group, queries);
  MeetGroup(group);

  Softmax<R::kKeys> softmax;
  softmax.factor = a.scale * kLog2E;
  const int32_t first_flat = group * kGroupFlats + thread / kWarp * 16 + lane / 4;  // in the item; the other one is 8 further on
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
  const int32_t tiles = (work.end - work.first + R::kKeys - 1) / R::kKeys;

  AwaitPhase(places.KeysHere(0), 0);
  BeginProducts();
  MultiplyKeys<D>(s, queries, places.Keys(0));
  CloseProducts();
  AwaitProducts<0>();
  HoldRegisters(s);
  if (lane == 0) Arrive(places.KeysUsed(0));
  softmax.Take(s, work.first, shrink);
  PackProbabilities(s, p);
  if (tiles > 1) AwaitPhase(places.KeysHere(1 % kStages), 1 / kStages);
#ifdef TURNS
    if (groups == 2 && group == 1 && tiles > 1) asm volatile("bar.arrive 3, 256;" ::: "memory");
#endif

  for (int32_t tile = 1; tile < tiles; ++tile) {
    const int32_t stage = tile % kStages, before = (tile - 1) % kStages;
    HoldRegisters(output);
#ifdef TURNS
    if (groups == 2) asm volatile("bar.sync %0, 256;" ::"r"(3 + group) : "memory");
#endif
    BeginProducts();
    MultiplyKeys<D>(s, queries, places.Keys(stage));
    CloseProducts();
    AwaitPhase(places.ValuesHere(before), (tile - 1) / kStages);
    BeginProducts();
    AddValues<D>(output, p, places.Values(before));
    CloseProducts();
#ifdef TURNS
    if (groups == 2 && (group == 0 || tile + 1 < tiles)) asm volatile("bar.arrive %0, 256;" ::"r"(4 - group) : "memory");
#endif
    AwaitProducts<1>();
    HoldRegisters(s);
    if (lane == 0) Arrive(places.KeysUsed(stage));
    const bool changed = softmax.Take(s, work.first + tile * R::kKeys, shrink);
    HoldRegisters(s);
    // Here, since the compiler would move the wait for outputs up to where no branch is left between, and probabilities behind it.
    if (tile + 1 < tiles) AwaitPhase(places.KeysHere((tile + 1) % kStages), (tile + 1) / kStages);
    AwaitProducts<0>();
    HoldRegisters(output);
    if (lane == 0) Arrive(places.ValuesUsed(before));
    if (changed) {
#pragma unroll
      for (int32_t i = 0; i < D / 2; ++i) output[i] *= shrink[i / 2 % 2];
    }
    PackProbabilities(s, p);
  }
  AwaitPhase(places.ValuesHere((tiles - 1) % kStages), (tiles - 1) / kStages);
  HoldRegisters(output);
  BeginProducts();
  AddValues<D>(output, p, places.Values((tiles - 1) % kStages));
  CloseProducts();
  AwaitProducts<0>();
  HoldRegisters(output);

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
      const uint32_t low = Bf16Of(output[4 * n + 2 * r] * whole), high = Bf16Of(output[4 * n + 2 * r + 1] * whole);
      *reinterpret_cast<uint32_t*>(to + n * 8) = low | high << 16;
    }
  }
}

#endif  // SPHERICAL_WARPGROUPS

// A thread block an item and kv head.
template <int32_t D>
__global__ void __launch_bounds__(kThreads, 1) AttendPromptKernel(const ExactArgs a, const ExactWork* items,
                                                                  const __grid_constant__ CUtensorMap keys,
                                                                  const __grid_constant__ CUtensorMap values) {
#if SPHERICAL_WARPGROUPS
  extern __shared__ char memory[];
  const Places<D> places = {(SharedAddress(memory) + 1023) & ~1023u};
  LetNextBegin();
  WaitForBefore();
  const ExactWork work = items[blockIdx.x];
  const int32_t kv_head = static_cast<int32_t>(blockIdx.y), role = static_cast<int32_t>(threadIdx.x) / kGroupThreads;
  if (IsCoded(a, work.row, kv_head)) return;
  const int32_t groups = work.flats > kGroupFlats ? 2 : 1;  // that have something to compute
  if (threadIdx.x == 0) {
    for (int32_t stage = 0; stage < kStages; ++stage) {
      CreateBarrier(places.KeysHere(stage), 1);
      CreateBarrier(places.ValuesHere(stage), 1);
      CreateBarrier(places.KeysUsed(stage), groups * kGroupThreads / kWarp);
      CreateBarrier(places.ValuesUsed(stage), groups * kGroupThreads / kWarp);
    }
    CreateBarrier(places.LastValuesHere(), 1);
    ShowBarriers();
  }
  __syncthreads();
  if (role == 0) {
    GiveBackRegisters<kCopyRegisters>();
    if (threadIdx.x < kWarp) CopyTiles<D>(a, work, kv_head, keys, values, places);
  } else {
    TakeRegisters<kComputeRegisters>();
    if (role <= groups) ComputeTiles<D>(a, work, kv_head, role - 1, groups, places);
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
  const dim3 blocks(static_cast<uint32_t>(n), static_cast<uint32_t>(args.kv_heads));
  return LaunchOverlapped(stream, args.overlap, AttendPromptKernel<D>, blocks, kThreads, R::kBytes, args, work, keys, values);
}

bool IsCompiledForDevice() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, AttendPromptKernel<64>) == cudaSuccess && attributes.binaryVersion >= 90;
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
