// One thread block a row. Passes over the row go by stretches, one a warp, lane by lane, so that every sum has one order. Only the front of
// a row is sorted, in shared memory.
#include "kernels/cuda/token_draw.h"

#include <cuda_runtime.h>

#include <cfloat>
#include <climits>
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_scan.cuh>

#include "kernels/cuda/greatest.cuh"
#include "kernels/cuda/warp_sum.cuh"

namespace spherical::kernels::cuda {
namespace {

constexpr int32_t kWarp = 32;
constexpr int32_t kThreads = 1024;
constexpr int32_t kWarps = kThreads / kWarp;
constexpr int32_t kFloors = 4;  // that a pass tries
constexpr int32_t kNarrowings = 8;
static_assert(kWarps == kWarp && kGreatestPieces == kWarp);

template <int32_t kItems>
using Sort = cub::BlockRadixSort<uint32_t, kThreads, kItems>;
using ScanOfMasses = cub::BlockScan<double, kThreads>;
using ScanOfCounts = cub::BlockScan<int32_t, kThreads>;

struct Room {
  // The front, by id.
  uint32_t below[kFrontMax];  // bits of how far below the largest, over the temperature: lower is likelier
  int32_t id[kFrontMax];
  union {
    typename Sort<1>::TempStorage sort_few;
    typename Sort<kFrontMax / kThreads>::TempStorage sort;
    typename ScanOfMasses::TempStorage masses;
    typename ScanOfCounts::TempStorage counts;
  };
  Greatest greatest[kWarps];
  double warp_mass[kFloors + 1][kWarps], mass[kFloors + 1];  // the last: of the whole row
  int32_t warp_count[kFloors][kWarps], count[kFloors];
  int32_t first, last;
  uint32_t least_below;
  float raw;  // the logit of the token that is told
};
static_assert(sizeof(Room) + sizeof(DrawRow) <= 99 * 1024);

// A row as it came or edited, as weights: token i weighs exp(y), y = (logit - largest) / temperature, the likeliest 1.
struct Row {
  const float* logits;
  int32_t vocabulary;
  float largest, over_temperature;

  // Not -0, whose bits are not 0's.
  __device__ float Below(int32_t i) const { return fabsf((largest - logits[i]) * over_temperature); }
  // f(id, within) in all lanes, ids ascending, of the stretch of this warp.
  template <class F>
  __device__ void ForStretch(F f) const {
    const int32_t stretch = (vocabulary + kThreads - 1) / kThreads * kWarp;
    const int32_t begin = static_cast<int32_t>(threadIdx.x) / kWarp * stretch, end = min(vocabulary, begin + stretch);
#pragma unroll 8
    for (int32_t i = begin; i < end; i += kWarp) {
      const int32_t id = i + static_cast<int32_t>(threadIdx.x) % kWarp;
      f(id, id < end);
    }
  }
};

__device__ __forceinline__ float Weight(float below) { return __expf(-below); }

// Sum over all tokens that weigh `least` or more; leaves the stretches' in room.warp_mass[kFloors].
__device__ double MassOf(const Row& row, float least, Room& room) {
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / kWarp, lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  float mass = 0;
  row.ForStretch([&](int32_t id, bool within) {
    const float w = within ? Weight(row.Below(id)) : 0;
    mass += w >= least ? w : 0;
  });
  const double sum = WarpSum(static_cast<double>(mass));
  if (lane == 0) room.warp_mass[kFloors][warp] = sum;
  __syncthreads();
  const double all = WarpSum(room.warp_mass[kFloors][lane]);
  __syncthreads();  // whoever writes there next
  return all;
}

// Which of 32 masses, one a lane, holds the place `left`; what is left of it there. The last that has any if rounding left a crumb.
__device__ __forceinline__ int32_t HolderOf(double mass, double& left) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  double up_to = mass;
  for (int32_t i = 1; i < kWarp; i *= 2) {
    const double before = __shfl_up_sync(0xffffffffu, up_to, i);
    if (lane >= i) up_to += before;
  }
  const uint32_t some = __ballot_sync(0xffffffffu, mass > 0), found = __ballot_sync(0xffffffffu, mass > 0 && left < up_to);
  const int32_t holder = found != 0 ? __ffs(static_cast<int32_t>(found)) - 1 : kWarp - 1 - __clz(static_cast<int32_t>(some));
  left -= __shfl_sync(0xffffffffu, up_to - mass, max(holder, 0));
  return max(holder, 0);
}

// Draws among all tokens that weigh `least` or more: the stretch, then a 32nd of it, then the token.
__device__ int32_t DrawFromAll(const Row& row, float least, double uniform, Room& room) {
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / kWarp, lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  double left = uniform * MassOf(row, least, room);
  const int32_t stretch = (row.vocabulary + kThreads - 1) / kThreads * kWarp, part = stretch / kWarp;
  const int32_t begin = HolderOf(room.warp_mass[kFloors][lane], left) * stretch;
  const auto weight = [&](int32_t id, int32_t end) {
    const float w = id < min(end, row.vocabulary) ? Weight(row.Below(id)) : 0;
    return w >= least ? static_cast<double>(w) : 0.0;
  };
  __syncthreads();
  double mass = 0;
  for (int32_t i = lane; i < part; i += kWarp) mass += weight(begin + warp * part + i, begin + (warp + 1) * part);
  mass = WarpSum(mass);
  if (lane == 0) room.warp_mass[kFloors][warp] = mass;
  __syncthreads();
  const int32_t first = begin + HolderOf(room.warp_mass[kFloors][lane], left) * part, end = first + part;
  int32_t chosen = first;
  for (int32_t i = first; i < end; i += kWarp) {  // all warps alike
    const double w = weight(i + lane, end), sum = WarpSum(w);
    if (sum == 0) continue;
    double here = left;
    chosen = i + HolderOf(w, here);
    if (left < sum) break;
    left -= sum;
  }
  return chosen;
}

// What the front is to hold: the `count` likeliest if that is not 0, of these, or of all, `share` of the mass if that is less than 1.
struct Wanted {
  int32_t count;
  float share;
};

// Writes the front to the room, by id; returns how many it has, or kFrontTooLarge. What it is to hold is in it; mass: that is wanted, where
// it is of all.
__device__ int32_t FindFront(const Row& row, const Wanted& wanted, double& mass_wanted, Room& room) {
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / kWarp, lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  // Depths, from the likeliest down: one that is not enough, and one that is.
  float shallow = 0, enough = INFINITY;
  int32_t count_enough = row.vocabulary;
  float depths[kFloors] = {3, 7, 12, 20};
  for (int32_t turn = 0; turn < kNarrowings; ++turn) {
    float mass[kFloors] = {}, all = 0;
    int32_t count[kFloors] = {};
    row.ForStretch([&](int32_t id, bool within) {
      const float below = within ? row.Below(id) : INFINITY, w = Weight(below);
      all += w;
#pragma unroll
      for (int32_t f = 0; f < kFloors; ++f) {
        const bool in = within && below <= depths[f];
        mass[f] += in ? w : 0;
        count[f] += in ? 1 : 0;
      }
    });
#pragma unroll
    for (int32_t f = 0; f < kFloors; ++f) {
      const double sum = WarpSum(static_cast<double>(mass[f]));
      const int32_t counted = __reduce_add_sync(0xffffffffu, count[f]);
      if (lane == 0) {
        room.warp_mass[f][warp] = sum;
        room.warp_count[f][warp] = counted;
      }
    }
    const double sum = WarpSum(static_cast<double>(all));
    if (lane == 0) room.warp_mass[kFloors][warp] = sum;
    __syncthreads();
    if (warp <= kFloors) {
      const double masses = WarpSum(room.warp_mass[warp][lane]);
      if (lane == 0) room.mass[warp] = masses;
      if (warp < kFloors) {
        const int32_t counted = __reduce_add_sync(0xffffffffu, room.warp_count[warp][lane]);
        if (lane == 0) room.count[warp] = counted;
      }
    }
    __syncthreads();
    if (wanted.count == 0 && turn == 0) mass_wanted = static_cast<double>(wanted.share) * room.mass[kFloors];
    int32_t taken = -1;
    for (int32_t f = 0; f < kFloors && taken < 0; ++f) {
      if (wanted.count > 0 ? room.count[f] >= wanted.count : room.mass[f] >= mass_wanted) {
        taken = f;
        enough = depths[f];
        count_enough = room.count[f];
      } else {
        shallow = depths[f];
      }
    }
    const bool fits = count_enough <= kFrontMax;
    int32_t before = 0;  // of the front, in the stretches before this warp's
    if (fits && taken >= 0) before = __reduce_add_sync(0xffffffffu, lane < warp ? room.warp_count[taken][lane] : 0);
    __syncthreads();  // the next turn writes what was read
    if (fits && taken >= 0) {
      row.ForStretch([&](int32_t id, bool within) {
        const float below = within ? row.Below(id) : INFINITY;
        const bool in = within && below <= enough;
        const uint32_t who = __ballot_sync(0xffffffffu, in);
        const int32_t place = before + __popc(who & ((1u << lane) - 1));
        if (in && place < kFrontMax) {
          room.below[place] = __float_as_uint(below);
          room.id[place] = id;
        }
        before += __popc(who);
      });
      __syncthreads();
      return count_enough;
    }
#pragma unroll
    for (int32_t f = 0; f < kFloors; ++f) {
      const float step = static_cast<float>(f + 1) / (kFloors + 1);
      depths[f] = enough == INFINITY ? shallow * static_cast<float>(2 << f) : shallow + (enough - shallow) * step;
    }
    // All of a small vocabulary is a front.
    if (enough == INFINITY && row.vocabulary <= kFrontMax) depths[kFloors - 1] = INFINITY;
  }
  return kFrontTooLarge;
}

// What is kept of the front: all likelier than `below`, and the first `ties` of those as likely.
struct Kept {
  uint32_t below;
  int32_t ties;
};

template <int32_t kItems>
__device__ Kept CutFront(int32_t n, const Wanted& wanted, double mass_wanted, typename Sort<kItems>::TempStorage& sort, Room& room) {
  const int32_t base = static_cast<int32_t>(threadIdx.x) * kItems;
  uint32_t keys[kItems];
#pragma unroll
  for (int32_t j = 0; j < kItems; ++j) keys[j] = base + j < n ? room.below[base + j] : UINT32_MAX;
  if (threadIdx.x == 0) room.first = room.last = INT_MAX;
  __syncthreads();
  Sort<kItems>(sort).Sort(keys);
  int32_t count = wanted.count > 0 ? min(wanted.count, n) : n;
  if (wanted.share < 1) {
    double own = 0, before = 0, all = 0;
#pragma unroll
    for (int32_t j = 0; j < kItems; ++j) own += base + j < count ? static_cast<double>(Weight(__uint_as_float(keys[j]))) : 0.0;
    __syncthreads();
    ScanOfMasses(room.masses).ExclusiveSum(own, before, all);
    if (wanted.count > 0) mass_wanted = static_cast<double>(wanted.share) * all;
#pragma unroll
    for (int32_t j = 0; j < kItems; ++j) {
      if (base + j >= count) continue;
      before += static_cast<double>(Weight(__uint_as_float(keys[j])));
      if (before >= mass_wanted) {
        atomicMin(&room.first, base + j);
        break;
      }
    }
    __syncthreads();
    count = min(count, room.first == INT_MAX ? INT_MAX : room.first + 1);
  }
#pragma unroll
  for (int32_t j = 0; j < kItems; ++j) {
    if (base + j == count - 1) room.least_below = keys[j];
  }
  __syncthreads();
  const uint32_t below = room.least_below;
#pragma unroll
  for (int32_t j = 0; j < kItems; ++j) {
    if (base + j < n && keys[j] == below) {
      atomicMin(&room.last, base + j);  // the first as likely as the last
      break;
    }
  }
  __syncthreads();
  return {.below = below, .ties = count - room.last};
}

__device__ Kept CutFront(int32_t n, const Wanted& wanted, double mass_wanted, Room& room) {
  if (n <= kThreads) return CutFront<1>(n, wanted, mass_wanted, room.sort_few, room);
  return CutFront<kFrontMax / kThreads>(n, wanted, mass_wanted, room.sort, room);
}

// Entries of the front by this thread, by id, in registers: bit j says whether entry base + j is kept.
constexpr int32_t kOwn = kFrontMax / kThreads;
__device__ uint32_t KeptOf(int32_t n, const Kept& kept, Room& room) {
  const int32_t base = static_cast<int32_t>(threadIdx.x) * kOwn;
  uint32_t likelier = 0, ties = 0;
#pragma unroll
  for (int32_t j = 0; j < kOwn; ++j) {
    if (base + j >= n) continue;
    likelier |= (room.below[base + j] < kept.below ? 1u : 0u) << j;
    ties |= (room.below[base + j] == kept.below ? 1u : 0u) << j;
  }
  int32_t before = 0;
  __syncthreads();
  ScanOfCounts(room.counts).ExclusiveSum(__popc(ties), before);
  for (; ties != 0 && before < kept.ties; ++before) {
    likelier |= ties & -ties;
    ties &= ties - 1;
  }
  return likelier;
}

__device__ int32_t DrawFromFront(int32_t n, const Kept& kept, float least, double uniform, Room& room) {
  const int32_t base = static_cast<int32_t>(threadIdx.x) * kOwn;
  const uint32_t mine = KeptOf(n, kept, room);
  const auto weight = [&](int32_t j) {
    const float w = (mine >> j & 1) != 0 ? Weight(__uint_as_float(room.below[base + j])) : 0;
    return w >= least ? static_cast<double>(w) : 0.0;
  };
  double own = 0, before = 0, all = 0;
#pragma unroll
  for (int32_t j = 0; j < kOwn; ++j) own += weight(j);
  if (threadIdx.x == 0) {
    room.first = INT_MAX;
    room.last = 0;
  }
  __syncthreads();
  ScanOfMasses(room.masses).ExclusiveSum(own, before, all);
  const double left = uniform * all;
#pragma unroll
  for (int32_t j = 0; j < kOwn; ++j) {
    const double w = weight(j);
    if (w == 0) continue;
    atomicMax(&room.last, base + j);  // stays when rounding leaves a crumb at the end
    before += w;
    if (left < before) {
      atomicMin(&room.first, base + j);
      break;
    }
  }
  __syncthreads();
  return room.id[room.first == INT_MAX ? room.last : room.first];
}

__device__ Greatest GreatestOfBlock(const float* logits, int32_t vocabulary, Room& room) {
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / kWarp, lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  Greatest best = {-INFINITY, vocabulary};
#pragma unroll 8
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < vocabulary; i += kThreads) best = GreaterOf(best, {logits[i], i});
  best = GreatestOfWarp(best);
  if (lane == 0) room.greatest[warp] = best;
  __syncthreads();
  return GreatestOfWarp(room.greatest[lane]);
}

// The `n` likeliest of a row of temperature 1, and their log-probabilities. False: their front is too large.
__device__ bool TellLikeliest(const Row& row, int32_t n, double log_sum, Room& room, DrawnToken& out) {
  const Wanted wanted = {.count = n, .share = 1};
  double none = 0;
  const int32_t front = FindFront(row, wanted, none, room);
  if (front < 0) return false;
  uint32_t mine = KeptOf(front, CutFront(front, wanted, none, room), room);
  int32_t place = 0;
  __syncthreads();
  ScanOfCounts(room.counts).ExclusiveSum(__popc(mine), place);
  for (; mine != 0; mine &= mine - 1, ++place) {
    const int32_t id = room.id[static_cast<int32_t>(threadIdx.x) * kOwn + __ffs(static_cast<int32_t>(mine)) - 1];
    if (place < kToldMax) out.likeliest[place] = {id, static_cast<float>(static_cast<double>(row.logits[id]) - log_sum)};
  }
  return true;
}

// The token that is drawn, or kFrontTooLarge.
__device__ int32_t Draw(const Row& row, const DrawRow& asked, Room& room) {
  const bool by_count = asked.top_k > 0 && asked.top_k < row.vocabulary;
  if (!by_count && asked.top_p >= 1) return DrawFromAll(row, asked.min_p, asked.uniform, room);
  const Wanted wanted = {.count = by_count ? asked.top_k : 0, .share = asked.top_p};
  double mass_wanted = 0;
  const int32_t n = FindFront(row, wanted, mass_wanted, room);
  if (n < 0) return n;
  const Kept kept = CutFront(n, wanted, mass_wanted, room);
  return DrawFromFront(n, kept, asked.min_p, asked.uniform, room);
}

__global__ void __launch_bounds__(kThreads, 1) DrawTokensKernel(DrawArgs a) {
  extern __shared__ __align__(16) uint8_t shared[];
  Room& room = *reinterpret_cast<Room*>(shared);
  __shared__ DrawRow asked;
  const int32_t thread = static_cast<int32_t>(threadIdx.x), lane = thread % kWarp;
  if (thread == 0) asked = a.rows[blockIdx.x];
  __syncthreads();
  float* const logits = a.logits + int64_t{asked.row} * a.vocabulary;
  DrawnToken& out = a.drawn[blockIdx.x];
  const Greatest greatest = GreatestOfWarp(a.pieces[int64_t{asked.row} * kGreatestPieces + lane]);
  if (greatest.id < 0) {
    if (thread == 0) out.id = kRowNotFinite;
    return;
  }

  // Log-probabilities are of the row as it came.
  const Row came = {logits, a.vocabulary, greatest.value, 1};
  double log_sum = 0;
  if (asked.told >= 0) log_sum = static_cast<double>(greatest.value) + log(MassOf(came, 0, room));
  if (asked.told > 0 && !TellLikeliest(came, min(asked.told, a.vocabulary), log_sum, room, out)) {
    if (thread == 0) out.id = kFrontTooLarge;
    return;
  }

  const LogitEdit* const edits = a.edits + asked.first_edit;
  float* const raw = a.raw + asked.first_edit;
  int32_t id = asked.target;
  if (id < 0) {
    __syncthreads();  // all have read the row as it came
    for (int32_t i = thread; i < asked.edits; i += kThreads) {
      float& logit = logits[edits[i].id];
      raw[i] = logit;
      logit = Edited(logit, edits[i], asked.penalties);
    }
    __syncthreads();
    const Greatest likeliest = asked.edits == 0 ? greatest : GreatestOfBlock(logits, a.vocabulary, room);
    id = likeliest.id;
    // A bias may have banned every token, or forced one.
    if (asked.temperature > 0 && isfinite(likeliest.value)) {
      id = Draw({logits, a.vocabulary, likeliest.value, fminf(1 / asked.temperature, FLT_MAX)}, asked, room);
    }
  }
  if (id == kFrontTooLarge) {
    for (int32_t i = thread; i < asked.edits; i += kThreads) logits[edits[i].id] = raw[i];
  } else if (asked.told >= 0) {
    if (thread == 0) room.raw = logits[id];
    __syncthreads();
    for (int32_t i = thread; i < asked.edits; i += kThreads) {
      if (edits[i].id == id) room.raw = raw[i];
    }
    __syncthreads();
  }
  if (thread != 0) return;
  out.id = id;
  out.told = max(0, min(asked.told, a.vocabulary));
  out.logprob = asked.told >= 0 && id >= 0 ? static_cast<float>(static_cast<double>(room.raw) - log_sum) : 0;
}

}  // namespace

CudaStatus PrepareTokenDraw() {
  return static_cast<CudaStatus>(
      cudaFuncSetAttribute(DrawTokensKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int32_t>(sizeof(Room))));
}

CudaStatus DrawTokens(Stream stream, const DrawArgs& args) {
  if (args.n == 0) return CudaStatus::kOk;
  DrawTokensKernel<<<static_cast<uint32_t>(args.n), kThreads, sizeof(Room), stream>>>(args);
  return static_cast<CudaStatus>(cudaGetLastError());
}

}  // namespace spherical::kernels::cuda
