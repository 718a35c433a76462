#include "kernels/cuda/dense_rows.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>

#include "kernels/cuda/gate.cuh"
#include "kernels/cuda/greatest.cuh"
#include "kernels/cuda/half_rows.cuh"
#include "kernels/cuda/launch_overlap.cuh"
#include "kernels/cuda/warp_sum.cuh"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {
namespace {

constexpr int32_t kRowThreads = 256;
constexpr int32_t kNormThreads = 512;  // decoding has few rows: each is done sooner by more threads
constexpr int32_t kWarp = 32;

CudaStatus Launched() { return static_cast<CudaStatus>(cudaGetLastError()); }

__global__ void EmbedKernel(const uint16_t* embedding, const int32_t* tokens, int32_t d, float scale, float* x) {
  const ushort4* from = reinterpret_cast<const ushort4*>(embedding + int64_t{tokens[blockIdx.x]} * d);
  float4* to = reinterpret_cast<float4*>(x + int64_t{blockIdx.x} * d);
#pragma unroll 4
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < d / 4; i += static_cast<int32_t>(blockDim.x)) {
    const ushort4 v = from[i];
    to[i] = {OfHalf(v.x) * scale, OfHalf(v.y) * scale, OfHalf(v.z) * scale, OfHalf(v.w) * scale};
  }
}

__device__ __forceinline__ float SumOfSquares(float4 v) { return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; }

__device__ __forceinline__ float4 Times(float4 a, float4 b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }

// One thread block a row, four values a thread and turn.
__global__ void AddAndNormKernel(AddAndNormArgs a) {
  LetNextBegin();
  WaitForBefore();
  __shared__ float room[kWarp];
  const int32_t row = static_cast<int32_t>(blockIdx.x), step = static_cast<int32_t>(blockDim.x), first = static_cast<int32_t>(threadIdx.x);
  const int32_t quads = a.d / 4;
  float4* x = reinterpret_cast<float4*>(a.x + int64_t{a.rows == nullptr ? row : a.rows[row]} * a.d);
  const float4* delta = reinterpret_cast<const float4*>(a.delta + (a.delta == nullptr ? 0 : int64_t{row} * a.d));
  const float4 *post = reinterpret_cast<const float4*>(a.post_weight), *weight = reinterpret_cast<const float4*>(a.weight);
  float factor = 1;
  if (a.delta != nullptr && post != nullptr) {
    float squares = 0;
    for (int32_t i = first; i < quads; i += step) squares += SumOfSquares(delta[i]);
    factor = rsqrtf(BlockSum(squares, room) / static_cast<float>(a.d) + a.epsilon);
  }
  if (a.energy != nullptr) {
    float entered = 0, weights = 0, attended = 0;
    for (int32_t i = first; i < quads; i += step) {
      if (post == nullptr) {
        entered += SumOfSquares(x[i]);
      } else {
        entered += SumOfSquares(Times(x[i], weight[i]));
        weights += SumOfSquares(Times(post[i], weight[i]));
        attended += SumOfSquares(delta[i]);
      }
    }
    entered = BlockSum(entered, room);
    if (post != nullptr) entered *= BlockSum(attended, room) / BlockSum(weights, room);
    if (first == 0) a.energy[row * a.energy_stride] = entered;
  }
  float squares = 0;
  for (int32_t i = first; i < quads; i += step) {
    float4 value = x[i];
    if (a.delta != nullptr) {
      float4 add = delta[i];
      if (post != nullptr) {
        const float4 w = post[i];
        add = {add.x * factor * w.x, add.y * factor * w.y, add.z * factor * w.z, add.w * factor * w.w};
      }
      value = {value.x + add.x, value.y + add.y, value.z + add.z, value.w + add.w};
      x[i] = value;
    }
    squares += SumOfSquares(value);
  }
  if (weight == nullptr) return;
  const float scale = rsqrtf(BlockSum(squares, room) / static_cast<float>(a.d) + a.epsilon);
  ushort4* out = reinterpret_cast<ushort4*>(a.out + int64_t{row} * a.d);
  for (int32_t i = first; i < quads; i += step) {  // each thread reads what it wrote
    const float4 value = x[i], w = weight[i];
    out[i] = {HalfOf(value.x * scale * w.x), HalfOf(value.y * scale * w.y), HalfOf(value.z * scale * w.z), HalfOf(value.w * scale * w.w)};
  }
}

__global__ void AnglesKernel(const double* frequency, int32_t pairs, const int32_t* positions, float* angles) {
  const int32_t i = static_cast<int32_t>(threadIdx.x);
  if (i >= pairs) return;
  double sine, cosine;
  sincos(static_cast<double>(positions[blockIdx.x]) * frequency[i], &sine, &cosine);
  float* row = angles + int64_t{blockIdx.x} * 2 * pairs;
  row[i] = static_cast<float>(cosine);
  row[pairs + i] = static_cast<float>(sine);
}

// By all threads of the grid, a line each.
__device__ __forceinline__ void BringNearer(const NeededNext& needed) {
  constexpr int64_t kLine = 128;
  const int64_t threads = int64_t{gridDim.x} * gridDim.y * blockDim.x;
  const int64_t thread = (int64_t{blockIdx.y} * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x;
#pragma unroll
  for (int32_t i = 0; i < 2; ++i) {
    if (needed.from[i] == nullptr) continue;
    for (int64_t at = thread * kLine; at < needed.bytes; at += threads * kLine) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const uint8_t*>(needed.from[i]) + at));
    }
  }
}

// One thread block a (row, head), one thread a coordinate. Heads: queries, then keys, then values.
__global__ void HeadsKernel(HeadsArgs a) {
  LetNextBegin();
  BringNearer(a.needed_next);
  WaitForBefore();
  __shared__ float room[kWarp];
  __shared__ float turned[kHeadDimMax];
  const int32_t row = static_cast<int32_t>(blockIdx.x), head = static_cast<int32_t>(blockIdx.y), i = static_cast<int32_t>(threadIdx.x);
  const bool is_query = head < a.heads, is_value = head >= a.heads + a.kv_heads, within = i < a.head_dim;
  const int64_t width = int64_t{a.heads + 2 * a.kv_heads} * a.head_dim;
  float x = within ? a.joined[row * width + int64_t{head} * a.head_dim + i] : 0;
  if (a.bias != nullptr && within) x += a.bias[int64_t{head} * a.head_dim + i];
  if (a.query_norm != nullptr && !is_value) {
    const float scale = rsqrtf(BlockSum(x * x, room) / static_cast<float>(a.head_dim) + a.epsilon);
    if (within) x *= scale * (is_query ? a.query_norm : a.key_norm)[i];
  }
  if (!is_value) {
    if (within) turned[i] = x;
    __syncthreads();
    if (i < a.rotary_dim) {
      const int32_t pairs = a.rotary_dim / 2;
      const bool first = a.adjacent ? i % 2 == 0 : i < pairs;
      const int32_t pair = a.adjacent ? i / 2 : i % pairs;
      const float other = turned[a.adjacent ? i ^ 1 : first ? i + pairs : i - pairs];
      const float cosine = a.angles[int64_t{row} * a.rotary_dim + pair], sine = a.angles[int64_t{row} * a.rotary_dim + pairs + pair];
      x = first ? x * cosine - other * sine : other * sine + x * cosine;
    }
  }
  if (!within) return;
  if (row < a.coded_rows) {
    float* const raw = is_query ? a.raw_query + int64_t{row} * a.heads * a.head_dim + int64_t{head} * a.head_dim
                                : (is_value ? a.raw_value : a.raw_key) + int64_t{row} * a.kv_heads * a.head_dim +
                                      int64_t{(head - a.heads) % a.kv_heads} * a.head_dim;
    raw[i] = x;
    if (!is_query && a.coded[row * a.kv_heads + (head - a.heads) % a.kv_heads] != 0) return;
  }
  const uint16_t half = __half_as_ushort(__float2half_rn(x));
  if (is_query) {
    a.query[(int64_t{row} * a.heads + head) * a.head_dim + i] = half;
    return;
  }
  if (a.slots[row] < 0) return;
  const int32_t kv_head = is_value ? head - a.heads - a.kv_heads : head - a.heads, position = a.positions[row];
  const int64_t list = int64_t{a.slots[row]} * a.lists_per_slot + a.list + kv_head;
  const int32_t page = a.lists[list * a.list_pages + position / kExactTokensPerPage], slot = position % kExactTokensPerPage;
  uint16_t* const bytes = reinterpret_cast<uint16_t*>(a.arena + page * a.page_bytes);
  if (is_value) {
    bytes[ExactValueOffset(a.head_dim) / 2 + slot * a.head_dim + i] = half;
  } else {
    bytes[i * kExactTokensPerPage + slot] = half;
  }
}

template <Gate kGate>
__global__ void GateKernel(const float* joined, int32_t quads, uint16_t* out) {
  LetNextBegin();
  WaitForBefore();
  const int32_t i = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= quads) return;
  const float4* const row = reinterpret_cast<const float4*>(joined) + int64_t{blockIdx.y} * 2 * quads;
  const float4 gate = row[i], up = row[quads + i];
  const auto half = [](float g, float u) { return HalfOf(Gated<kGate>(g, u) / kGatedUnit); };
  reinterpret_cast<ushort4*>(out)[int64_t{blockIdx.y} * quads + i] = {half(gate.x, up.x), half(gate.y, up.y), half(gate.z, up.z),
                                                                      half(gate.w, up.w)};
}

__global__ void CapKernel(float cap, int64_t n, float* x) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) x[i] = cap * tanhf(x[i] / cap);
}

// One thread block a (piece, row). A piece that is not finite has the value infinity and the id -1.
__global__ void GreatestOfPieces(const float* x, int32_t d, Greatest* pieces) {
  __shared__ Greatest room[kRowThreads / kWarp];
  const int32_t piece = static_cast<int32_t>(blockIdx.x), in_piece = (d + kGreatestPieces - 1) / kGreatestPieces;
  const int32_t end = min(d, (piece + 1) * in_piece);
  const float* row = x + int64_t{blockIdx.y} * d;
  Greatest best = {-INFINITY, d};
  bool finite = true;
  for (int32_t i = piece * in_piece + static_cast<int32_t>(threadIdx.x); i < end; i += kRowThreads) {
    finite &= static_cast<bool>(isfinite(row[i]));
    best = GreaterOf(best, {row[i], i});
  }
  if (__syncthreads_or(!finite)) best = {INFINITY, -1};
  best = GreatestOfWarp(best);
  if (threadIdx.x % kWarp == 0) room[threadIdx.x / kWarp] = best;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int32_t i = 1; i < kRowThreads / kWarp; ++i) best = GreaterOf(best, room[i]);
  pieces[int64_t{blockIdx.y} * kGreatestPieces + piece] = best;
}

// One warp a row.
__global__ void GreatestOfRow(const Greatest* pieces, int32_t* ids) {
  static_assert(kGreatestPieces == kWarp);
  const Greatest best = GreatestOfWarp(pieces[int64_t{blockIdx.x} * kGreatestPieces + threadIdx.x]);
  if (threadIdx.x == 0) ids[blockIdx.x] = best.id;
}

__global__ void EnterPagesKernel(const int64_t* where, const int32_t* pages, int32_t n, int32_t* lists) {
  const int32_t i = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) lists[where[i]] = pages[i];
}

// Some thread blocks a piece.
__global__ void CopyPiecesKernel(const Piece* pieces) {
  const Piece piece = pieces[blockIdx.x];
  const uint4* const from = static_cast<const uint4*>(piece.from);
  uint4* const to = static_cast<uint4*>(piece.to);
  const int64_t step = int64_t{gridDim.y} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.y} * blockDim.x + threadIdx.x; i < piece.bytes / 16; i += step) to[i] = from[i];
}

uint32_t BlocksFor(int64_t n) { return static_cast<uint32_t>((n + kRowThreads - 1) / kRowThreads); }

}  // namespace

CudaStatus EmbedRows(Stream stream, const uint16_t* embedding, const int32_t* tokens, int32_t m, int32_t d, float scale, float* x) {
  EmbedKernel<<<static_cast<uint32_t>(m), kRowThreads, 0, stream>>>(embedding, tokens, d, scale, x);
  return Launched();
}

CudaStatus AddAndNorm(Stream stream, const AddAndNormArgs& args) {
  const int32_t quads = (args.d / 4 + kWarp - 1) / kWarp * kWarp;
  const dim3 blocks(static_cast<uint32_t>(args.m));
  return LaunchOverlapped(stream, args.overlap, AddAndNormKernel, blocks, std::min(quads, kNormThreads), 0, args);
}

CudaStatus RotaryAnglesOf(Stream stream, const double* frequency, int32_t rotary_dim, const int32_t* positions, int32_t m, float* angles) {
  AnglesKernel<<<static_cast<uint32_t>(m), kHeadDimMax / 2, 0, stream>>>(frequency, rotary_dim / 2, positions, angles);
  return Launched();
}

CudaStatus PrepareHeads(Stream stream, const HeadsArgs& args) {
  const uint32_t threads = static_cast<uint32_t>((args.head_dim + kWarp - 1) / kWarp * kWarp);
  const dim3 blocks(static_cast<uint32_t>(args.m), static_cast<uint32_t>(args.heads + 2 * args.kv_heads));
  return LaunchOverlapped(stream, args.overlap, HeadsKernel, blocks, static_cast<int32_t>(threads), 0, args);
}

CudaStatus GateRows(Stream stream, Gate gate, const float* joined, int32_t m, int32_t d, uint16_t* out, bool overlap) {
  const dim3 blocks(BlocksFor(d / 4), static_cast<uint32_t>(m));
  const auto kernel = gate == Gate::kSilu ? GateKernel<Gate::kSilu> : GateKernel<Gate::kGeluTanh>;
  return LaunchOverlapped(stream, overlap, kernel, blocks, kRowThreads, 0, joined, d / 4, out);
}

CudaStatus CapValues(Stream stream, float cap, int64_t n, float* x) {
  CapKernel<<<BlocksFor(n), kRowThreads, 0, stream>>>(cap, n, x);
  return Launched();
}

CudaStatus GreatestOf(Stream stream, const float* x, int32_t m, int32_t d, Greatest* scratch, int32_t* ids) {
  GreatestOfPieces<<<dim3(kGreatestPieces, static_cast<uint32_t>(m)), kRowThreads, 0, stream>>>(x, d, scratch);
  if (const CudaStatus queued = Launched(); queued != CudaStatus::kOk) return queued;
  GreatestOfRow<<<static_cast<uint32_t>(m), kGreatestPieces, 0, stream>>>(scratch, ids);
  return Launched();
}

CudaStatus EnterPages(Stream stream, const int64_t* where, const int32_t* pages, int32_t n, int32_t* lists) {
  if (n == 0) return CudaStatus::kOk;
  EnterPagesKernel<<<BlocksFor(n), kRowThreads, 0, stream>>>(where, pages, n, lists);
  return Launched();
}

CudaStatus CopyPieces(Stream stream, const Piece* pieces, int32_t n) {
  constexpr uint32_t kBlocksOfPiece = 16;  // 64 KiB of a piece at once: pinned memory is far away
  if (n == 0) return CudaStatus::kOk;
  CopyPiecesKernel<<<dim3(static_cast<uint32_t>(n), kBlocksOfPiece), kRowThreads, 0, stream>>>(pieces);
  return Launched();
}

}  // namespace spherical::kernels::cuda
