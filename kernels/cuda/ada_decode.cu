#include "kernels/cuda/ada_decode.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/ada_digits.cuh"
#include "kernels/cuda/ada_launch.h"
#include "kernels/cuda/launch_overlap.cuh"
#include "kernels/cuda/page_ring.cuh"
#include "kernels/spherical/value_rotation.h"

namespace spherical::kernels::cuda {
namespace {

CudaStatus StatusOf(cudaError_t error) { return static_cast<CudaStatus>(error); }

constexpr int kPrepareThreads = 512;
constexpr int kPrepareWarps = kPrepareThreads / 32;
constexpr int kMergeThreads = 256;

__device__ __forceinline__ float WarpMax(float x) {
  for (int apart = 16; apart > 0; apart /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, apart));
  return x;
}
template <class T>
__device__ __forceinline__ T WarpSum(T x) {
  for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(~0u, x, apart);
  return x;
}

struct PrepareArguments {
  AttentionShape shape;
  AdaHeads heads;
  int rows, kv_heads, rows_together, head_tiles;
  bool next_begins;  // the reading kernel's blocks may take places while this runs
  const float* query;
  const AdaList* lists;
  const int32_t* head_lists;
  uint8_t* digits;
  int64_t digit_bytes;
};

// A block maps the queries of up to kQueries / G rows of one kv head, and splits them for the rows' lists.
template <int kQueries>
__global__ void __launch_bounds__(kPrepareThreads) PrepareQueries(const __grid_constant__ PrepareArguments a) {
  extern __shared__ __align__(16) float memory[];
  if (a.next_begins) LetNextBegin();
  const int dims = a.shape.head_dim, group = a.shape.group, head = blockIdx.x % a.kv_heads;
  const int first_row = blockIdx.x / a.kv_heads * a.rows_together;
  const int rows = min(a.rows_together, a.rows - first_row), queries = rows * group;
  const int slices = kPrepareThreads / dims, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float* query = memory;                          // [D][kQueries]
  float* mapped = query + kQueries * dims;        // [kQueries][D]
  float* partial = mapped + kQueries * dims;      // [slices][kQueries][D]
  __shared__ float centres[kQueries];
  __shared__ AdaPlanes planes[kTierCount];
  static_assert(sizeof(planes) % 4 == 0);
  for (int i = threadIdx.x; i < static_cast<int>(sizeof(planes) / 4); i += kPrepareThreads) {
    reinterpret_cast<uint32_t*>(planes)[i] = reinterpret_cast<const uint32_t*>(a.heads.planes + head * kTierCount)[i];
  }
  __shared__ int list_begin[kQueries], list_count[kQueries], list_tier[kQueries][32];
  if (warp < rows) {  // at most 16
    const int at = (first_row + warp) * a.kv_heads + head, begin = a.head_lists[at], count = a.head_lists[at + 1] - begin;
    if (lane < count) list_tier[warp][lane] = a.lists[begin + lane].tier;
    if (lane == 0) list_begin[warp] = begin, list_count[warp] = count;
  }
  for (int i = threadIdx.x; i < kQueries * dims; i += kPrepareThreads) {
    const int q = i / dims, d = i % dims;
    const int64_t row = first_row + q / group;
    query[d * kQueries + q] = q < queries ? a.query[((row * a.kv_heads + head) * group + q % group) * dims + d] : 0.0f;
  }
  __syncthreads();
  const int output = threadIdx.x % dims, slice = threadIdx.x / dims;
  if (slice < slices) {
    const float* map = a.heads.maps + int64_t{head} * dims * dims + output;
    const int begin = dims * slice / slices, end = dims * (slice + 1) / slices;
    float sums[kQueries] = {};
#pragma unroll 32
    for (int d = begin; d < end; ++d) {
      const float f = __ldg(map + d * dims);
#pragma unroll
      for (int q = 0; q < kQueries; ++q) sums[q] = fmaf(f, query[d * kQueries + q], sums[q]);
    }
#pragma unroll
    for (int q = 0; q < kQueries; ++q) partial[(slice * kQueries + q) * dims + output] = sums[q];
  }
  for (int q = warp; q < kQueries; q += kPrepareWarps) {
    float sum = 0;
    if (a.heads.centres != nullptr) {
      for (int d = lane; d < dims; d += 32) sum = fmaf(a.heads.centres[head * dims + d], query[d * kQueries + q], sum);
    }
    sum = WarpSum(sum);
    if (lane == 0) centres[q] = sum;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kQueries * dims; i += kPrepareThreads) {
    float sum = 0;
    for (int s = 0; s < slices; ++s) sum += partial[s * kQueries * dims + i];
    mapped[i] = sum;
  }
  __syncthreads();
  const int heads = 4 * a.head_tiles;
  int turn = warp;  // of all (row, list, head) of the block this warp takes every kPrepareWarps-th
  for (int row = 0; row < rows; ++row) {
    const int begin = list_begin[row], count = list_count[row] * heads;
    for (; turn < count; turn += kPrepareWarps) {
      const int list = begin + turn / heads, of_group = turn % heads;
      const int q = row * group + min(of_group, group - 1);
      const AdaSplit split = {.planes = planes[list_tier[row][turn / heads]], .head_dim = dims, .head_tiles = a.head_tiles,
                              .scale = a.shape.scale, .mapped = mapped + q * dims, .centre = centres[q]};
      SplitForList(split, of_group, of_group < group, lane, a.digits + list * a.digit_bytes);
    }
    turn -= count;
  }
}

// A bit per sign, one for minus: read by lanes at different places, and constants of 32 places come one after another.
struct SignBits {
  uint32_t bits[kHeadDimMax / 32];
};
constexpr SignBits BitsOfSigns() {
  SignBits signs = {};
  for (int d = 0; d < kHeadDimMax; ++d) signs.bits[d / 32] |= (kValueSigns.sign[d] < 0 ? 1u : 0u) << (d % 32);
  return signs;
}
constexpr SignBits kSignBits = BitsOfSigns();

struct MergeArguments {
  AttentionState states;
  const AdaHeadStates* heads;
  int query_heads, group, dims;
  bool unrotate;
  float* output;
};

// value_rotation.inc backwards, a row in a warp's registers: Walsh-Hadamard over the power of two, then the reflection across what is left,
// then the signs. x[k][i] is coordinate 128 k + 4 lane + i.
__device__ __forceinline__ void UnrotateRow(int dims, const SignBits& signs, int lane, float (&x)[2][4]) {
  const int power = dims & -dims, odd = dims / power;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const float a = x[k][0] + x[k][1], b = x[k][0] - x[k][1], c = x[k][2] + x[k][3], d = x[k][2] - x[k][3];
    x[k][0] = a + c, x[k][1] = b + d, x[k][2] = a - c, x[k][3] = b - d;
#pragma unroll
    for (int half = 4; half < 128; half *= 2) {
      if (half >= power) break;
      const bool upper = (lane & (half / 4)) != 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float other = __shfl_xor_sync(~0u, x[k][i], half / 4);
        x[k][i] = upper ? other - x[k][i] : x[k][i] + other;
      }
    }
  }
  if (power == 256) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float a = x[0][i], b = x[1][i];
      x[0][i] = a + b, x[1][i] = a - b;
    }
  }
  const float scale = rsqrtf(static_cast<float>(power));
  const uint32_t minus[2] = {signs.bits[lane / 8] >> lane % 8 * 4, signs.bits[4 + lane / 8] >> lane % 8 * 4};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float shift = 0;
    if (odd > 1) {  // 80 and 96: the runs lie in lanes power / 4 apart
      for (int run = 0; run < odd; ++run) shift += __shfl_sync(~0u, x[0][i], run * (power / 4) + lane % (power / 4));
      shift *= 2.0f / odd;
    }
    x[0][i] = (x[0][i] - shift) * ((minus[0] >> i & 1) != 0 ? -scale : scale);
    x[1][i] = x[1][i] * ((minus[1] >> i & 1) != 0 ? -scale : scale);
  }
}

// kWarps warps merge the states of one query head: many where one sequence has most of the device, one where a head has a few states. Lane
// l has coordinates 4l .. 4l + 3, and of 256 also those 128 further on.
template <int kWarps>
__global__ void __launch_bounds__(kMergeThreads) MergeStates(const __grid_constant__ MergeArguments a,
                                                              const __grid_constant__ SignBits signs) {
  constexpr int kHeads = kMergeThreads / 32 / kWarps;  // of a block
  __shared__ float4 outputs[kWarps > 1 ? 2 * kMergeThreads : 1];
  __shared__ float sums[kWarps];
  WaitForBefore();
  const int dims = a.dims, lane = threadIdx.x % 32, warp = threadIdx.x / 32 % kWarps;
  const int at_head = blockIdx.x * kHeads + threadIdx.x / (32 * kWarps);
  if (at_head >= a.query_heads) return;  // a whole warp, and of kWarps > 1 the whole block
  const AdaHeadStates states = a.heads[at_head / a.group];
  const int64_t first = int64_t{states.first} * a.group + at_head % a.group;
  const float *maxima = a.states.max + first, *totals = a.states.sum + first;
  const float4* rows = reinterpret_cast<const float4*>(a.states.output + first * dims);
  const int quads = dims / 4, row_quads = a.group * quads;
  float max = -__builtin_huge_valf();
  for (int s = lane; s < states.count; s += 32) max = fmaxf(max, maxima[s * a.group]);
  max = WarpMax(max);
  float total = 0;
  float4 sum[2] = {};
  const int each = kWarps == 1 ? 32 : min(32, (states.count + kWarps - 1) / kWarps);  // states a warp takes at a time
  for (int begin = each * warp; begin < states.count; begin += each * kWarps) {
    // A state that saw nothing has -infinity and weighs nothing; one of NaN weighs itself.
    float weight = 0;
    const int here = min(each, states.count - begin);
    if (lane < here) {
      const float m = maxima[(begin + lane) * a.group];
      weight = m == max ? 1.0f : __expf(m - max);
      total = fmaf(weight, totals[(begin + lane) * a.group], total);
    }
#pragma unroll 8
    for (int s = 0; s < here; ++s) {
      const float w = __shfl_sync(~0u, weight, s);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        if (lane + 32 * k >= quads) continue;
        const float4 o = rows[int64_t{begin + s} * row_quads + lane + 32 * k];
        sum[k].x = fmaf(w, o.x, sum[k].x), sum[k].y = fmaf(w, o.y, sum[k].y);
        sum[k].z = fmaf(w, o.z, sum[k].z), sum[k].w = fmaf(w, o.w, sum[k].w);
      }
    }
  }
  total = WarpSum(total);
  if constexpr (kWarps > 1) {
    outputs[threadIdx.x] = sum[0], outputs[kMergeThreads + threadIdx.x] = sum[1];
    if (lane == 0) sums[warp] = total;
    __syncthreads();
    if (warp > 0) return;
    for (int w = 1; w < kWarps; ++w) {
      total += sums[w];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const float4 o = outputs[k * kMergeThreads + 32 * w + lane];
        sum[k].x += o.x, sum[k].y += o.y, sum[k].z += o.z, sum[k].w += o.w;
      }
    }
  }
  const float inverse = states.count == 0 ? 0.0f : 1 / total;
  float x[2][4];
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    x[k][0] = sum[k].x * inverse, x[k][1] = sum[k].y * inverse, x[k][2] = sum[k].z * inverse, x[k][3] = sum[k].w * inverse;
  }
  if (a.unrotate) UnrotateRow(dims, signs, lane, x);
  float4* out = reinterpret_cast<float4*>(a.output + int64_t{at_head} * dims);
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    if (lane + 32 * k < quads) out[lane + 32 * k] = {x[k][0], x[k][1], x[k][2], x[k][3]};
  }
}

AdaReadKernel ReadKernel(int head_dim, int head_tiles) {
  switch (head_dim) {
    case 64: return AdaReadKernel64(head_tiles);
    case 80: return AdaReadKernel80(head_tiles);
    case 96: return AdaReadKernel96(head_tiles);
    case 128: return AdaReadKernel128(head_tiles);
    default: return AdaReadKernel256(head_tiles);
  }
}

dim3 BlocksOf(int blocks) { return dim3(static_cast<unsigned>(blocks)); }

// How many queries a block of PrepareQueries takes, and the memory that takes.
int QueriesTogether(int group) { return group <= 4 ? 4 : group <= 8 ? 8 : 16; }
int PrepareBytes(int head_dim, int queries) {
  return 4 * queries * head_dim * (2 + kPrepareThreads / head_dim);
}

}  // namespace

CudaStatus AdaDecoder::Create(int32_t head_dim, int32_t group) {
  head_dim_ = head_dim, group_ = group;
  int device = 0, processors = 0, most_shared = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return StatusOf(error);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  const int tiles = AdaHeadTiles(group);
  const AdaReadKernel kernel = ReadKernel(head_dim, tiles);
  cudaFuncAttributes attributes;
  if (const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel); error != cudaSuccess) return StatusOf(error);
  overlap_ = attributes.ptxVersion >= 90;  // older code does not wait where it must
  const int pair_bytes = kRingStages * PageBytes(head_dim) + 2 * AdaExchangeBytes(tiles) + PageRing::kControlBytes;
  const int pairs = std::min(AdaWarps(head_dim, tiles) / 2, (most_shared - static_cast<int>(attributes.sharedSizeBytes)) / pair_bytes);
  warps_ = 2 * pairs;
  shared_bytes_ = pairs * pair_bytes;
  blocks_ = processors;
  const cudaError_t allowed = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes_);
  if (allowed != cudaSuccess) return StatusOf(allowed);
  const auto allow = [&](auto* prepare, int queries) {
    return cudaFuncSetAttribute(prepare, cudaFuncAttributeMaxDynamicSharedMemorySize, PrepareBytes(head_dim, queries));
  };
  for (const cudaError_t error : {allow(PrepareQueries<4>, 4), allow(PrepareQueries<8>, 8), allow(PrepareQueries<16>, 16)}) {
    if (error != cudaSuccess) return StatusOf(error);
  }
  return CudaStatus::kOk;
}

int64_t AdaDecoder::DigitBytes() const { return AdaDigitBytes(head_dim_, AdaHeadTiles(group_)); }

CudaStatus AdaDecoder::Prepare(Stream stream, const AdaHeads& heads, const AdaBatch& batch) const {
  if (batch.list_count == 0) return CudaStatus::kOk;
  // Rows of a block share the map: worth it once there are blocks for every multiprocessor.
  int queries = QueriesTogether(group_);
  const int processors = blocks_;
  while (queries < 16 && batch.rows * batch.kv_heads > processors * (2 * queries / group_)) queries *= 2;
  const int rows_together = queries / group_;
  const int blocks = static_cast<int>(CeilDiv(batch.rows, rows_together)) * batch.kv_heads;
  // Where reading begins early, its blocks take multiprocessors in the order in which these become free. That costs a mixture of tiers up
  // to 5 %: blocks that ask most of the memory then lie side by side. One tier gains 1 %, few rows of any kind 3 to 5 %.
  const bool next_begins = batch.list_count <= batch.rows * batch.kv_heads || 4 * blocks <= processors;
  PrepareArguments arguments = {.shape = batch.shape, .heads = heads, .rows = batch.rows, .kv_heads = batch.kv_heads,
                                .rows_together = rows_together, .head_tiles = AdaHeadTiles(group_), .next_begins = next_begins,
                                .query = batch.query,
                                .lists = batch.lists, .head_lists = batch.head_lists, .digits = batch.digits,
                                .digit_bytes = DigitBytes()};
  const auto kernel = queries == 4 ? PrepareQueries<4> : queries == 8 ? PrepareQueries<8> : PrepareQueries<16>;
  return LaunchOverlapped(stream, false, kernel, BlocksOf(blocks), kPrepareThreads, PrepareBytes(head_dim_, queries), arguments);
}

CudaStatus AdaDecoder::Read(Stream stream, const AdaHeads& heads, const AdaBatch& batch) const {
  if (batch.list_count == 0) return CudaStatus::kOk;
  const AdaReadArguments arguments = {.arena = batch.arena, .pages = batch.pages, .page_bytes = batch.shape.page_bytes,
                                      .parts = batch.parts, .worker_parts = batch.worker_parts,
                                      .planes = heads.planes, .digits = batch.digits, .digit_bytes = DigitBytes(),
                                      .states = batch.states, .kv_heads = batch.kv_heads, .group = group_,
                                      .softcap = batch.shape.softcap};
  return LaunchOverlapped(stream, overlap_, ReadKernel(head_dim_, AdaHeadTiles(group_)), BlocksOf(blocks_), 32 * warps_, shared_bytes_,
                          arguments);
}

CudaStatus AdaDecoder::Merge(Stream stream, const AdaBatch& batch) const {
  const MergeArguments arguments = {.states = batch.states, .heads = batch.head_states,
                                    .query_heads = batch.rows * batch.kv_heads * group_, .group = group_, .dims = head_dim_,
                                    .unrotate = batch.unrotate, .output = batch.output};
  // A plan has about a state per worker and list.
  const bool many = kAdaPartStates * workers() > 16 * batch.rows * batch.kv_heads;
  constexpr int kBlockWarps = kMergeThreads / 32;
  const int blocks = many ? arguments.query_heads : static_cast<int>(CeilDiv(arguments.query_heads, kBlockWarps));
  const auto kernel = many ? MergeStates<kBlockWarps> : MergeStates<1>;
  return LaunchOverlapped(stream, overlap_, kernel, BlocksOf(blocks), kMergeThreads, 0, arguments, kSignBits);
}

CudaStatus AdaDecoder::Attend(Stream stream, const AdaHeads& heads, const AdaBatch& batch) const {
  if (const CudaStatus status = Prepare(stream, heads, batch); status != CudaStatus::kOk) return status;
  if (const CudaStatus status = Read(stream, heads, batch); status != CudaStatus::kOk) return status;
  return Merge(stream, batch);
}

}  // namespace spherical::kernels::cuda
