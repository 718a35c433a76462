#include "kernels/cuda/narrow_products.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/gate.cuh"
#include "kernels/cuda/launch_overlap.cuh"
#include "kernels/cuda/tile_copies.cuh"
#include "kernels/cuda/warpgroup_products.cuh"

namespace spherical::kernels::cuda {
namespace {

constexpr int32_t kWarp = 32;
constexpr int32_t kGroups = 2;                                  // of four warps, which multiply
constexpr int32_t kUsers = kGroups * 4;                         // their warps
constexpr int32_t kUserThreads = kUsers * kWarp, kThreads = kUserThreads + kWarp;  // and one warp that copies
constexpr int32_t kGroupOutputs = 64, kOutputs = kGroups * kGroupOutputs;
constexpr int32_t kDepth = 64;                                  // inputs of a stage: rows of 128 bytes
constexpr int32_t kRowBytes = kDepth * 2, kAtomBytes = 8 * kRowBytes;
constexpr int32_t kProductDepth = 16;                           // inputs of one instruction
constexpr int32_t kStages = 4;                                  // two blocks of a multiprocessor have 128 KiB of weights on their way
constexpr int32_t kGroupBytes = kGroupOutputs * kRowBytes;
constexpr int32_t kQuad = 4;

enum class Result : int32_t { kSums, kSilu, kGeluTanh };

// Shared memory, from an address aligned to 1,024: stages of weights and rows; in their place, when all is multiplied, sums
// [kRows, kOutputs + kQuad], so that what a warp writes at once lies in different banks; barriers.
template <int32_t kRows>
struct Room {
  static constexpr int32_t kStageBytes = kGroups * kGroupBytes + kRows * kRowBytes;
  static constexpr int32_t kSumsStride = kOutputs + kQuad;
  static constexpr int32_t kBarriersAt = kStages * kStageBytes;
  static constexpr int32_t kBytes = kBarriersAt + 2 * kStages * 8 + kAtomBytes;  // and what aligning takes
  static_assert(kRows * kSumsStride * 4 <= kBarriersAt && kStageBytes % kAtomBytes == 0);
};

template <int32_t kRows>
struct Places {
  uint32_t base;
  __device__ uint32_t Weights(int32_t turn, int32_t group) const { return Stage(turn) + group * kGroupBytes; }
  __device__ uint32_t Rows(int32_t turn) const { return Stage(turn) + kGroups * kGroupBytes; }
  __device__ uint32_t Here(int32_t turn) const { return base + Room<kRows>::kBarriersAt + turn % kStages * 16; }
  __device__ uint32_t Used(int32_t turn) const { return Here(turn) + 8; }
  __device__ uint32_t Sum(int32_t row, int32_t output) const { return base + (row * Room<kRows>::kSumsStride + output) * 4; }

 private:
  __device__ uint32_t Stage(int32_t turn) const { return base + turn % kStages * Room<kRows>::kStageBytes; }
};

__device__ __forceinline__ uint32_t SharedAddress(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// All threads of all blocks of the cluster: what was written to shared memory before is seen after.
__device__ __forceinline__ void AwaitCluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
#endif
}
// Four floats of another block of the cluster, at this address of its shared memory.
__device__ __forceinline__ float4 LoadOf(uint32_t block, uint32_t address) {
  float4 v = {};
#if __CUDA_ARCH__ >= 900
  asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %4, %5;\n"
               "ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [there];\n}"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address), "r"(block)
               : "memory");
#endif
  return v;
}
__device__ __forceinline__ float4 Added(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

struct Work {
  void* out;
  int32_t rows, outputs;  // of `out`
  int32_t second_half;    // from the first 64 weights' rows of a block to the others
  int32_t turns, splits;  // turns: stages of all inputs
};

// By one thread: the block's shares of weights and rows, stage by stage; the first weights before what came before is done.
template <int32_t kRows>
__device__ __forceinline__ void CopyStages(const CUtensorMap& weights, const CUtensorMap& rows, const Places<kRows>& places,
                                           int32_t first_row, const Work& work, int32_t first, int32_t count) {
  const auto copy_weights = [&](int32_t turn) {
    ArriveAndExpect(places.Here(turn), Room<kRows>::kStageBytes);
    const int32_t at = (first + turn) * kDepth;
    CopyTile(places.Weights(turn, 0), weights, places.Here(turn), at, first_row, 0);
    CopyTile(places.Weights(turn, 1), weights, places.Here(turn), at, first_row + work.second_half, 0);
  };
  const auto copy_rows = [&](int32_t turn) { CopyTile(places.Rows(turn), rows, places.Here(turn), (first + turn) * kDepth, 0, 0); };
  const int32_t ahead = min(kStages, count);
  for (int32_t turn = 0; turn < ahead; ++turn) copy_weights(turn);
  WaitForBefore();
  for (int32_t turn = 0; turn < ahead; ++turn) copy_rows(turn);
  for (int32_t turn = ahead; turn < count; ++turn) {
    AwaitPhase(places.Used(turn), turn / kStages - 1);
    copy_weights(turn);
    copy_rows(turn);
  }
}

// By a group: its 64 outputs of all rows, summed over the block's share of inputs, put where the stages were.
template <int32_t kRows>
__device__ __forceinline__ void MultiplyStages(const Places<kRows>& places, int32_t count) {
#if SPHERICAL_WARPGROUPS
  const int32_t thread = static_cast<int32_t>(threadIdx.x), lane = thread % kWarp, group = thread / (4 * kWarp);
  constexpr uint64_t kLayout = OperandLayout<kRowBytes>(0, kAtomBytes);
  float sums[kRows / 2] = {};
  for (int32_t turn = 0; turn < count; ++turn) {
    AwaitPhase(places.Here(turn), turn / kStages);
    BeginProducts();
#pragma unroll
    for (int32_t i = 0; i < kDepth / kProductDepth; ++i) {
      MultiplyInner<kRows>(sums, OperandAt(kLayout, places.Weights(turn, group) + i * kProductDepth * 2),
                           OperandAt(kLayout, places.Rows(turn) + i * kProductDepth * 2), /*add=*/true);
    }
    CloseProducts();
    if (turn == 0) continue;
    AwaitProducts<1>();
    if (lane == 0) Arrive(places.Used(turn - 1));
  }
  AwaitProducts<0>();
  HoldRegisters(sums);
  asm volatile("bar.sync 1, %0;" ::"n"(kUserThreads) : "memory");  // both groups are done with the stages
  const int32_t output = group * kGroupOutputs + thread / kWarp % 4 * 16 + lane / 4;
#pragma unroll
  for (int32_t i = 0; i < kRows / 2; ++i) {
    const int32_t row = i / 4 * 8 + lane % 4 * 2 + i % 2;
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(places.Sum(row, output + i % 4 / 2 * 8)), "f"(sums[i]) : "memory");
  }
#endif
}

// Four sums of a row, of all the cluster's blocks.
template <int32_t kRows>
__device__ __forceinline__ float4 SumsOf(const Places<kRows>& places, int32_t splits, int32_t row, int32_t output) {
  float4 sum = LoadOf(0, places.Sum(row, output));
  for (int32_t block = 1; block < splits; ++block) sum = Added(sum, LoadOf(static_cast<uint32_t>(block), places.Sum(row, output)));
  return sum;
}

__device__ __forceinline__ uint16_t Bf16Of(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }

// The block's share of the cluster's outputs to memory.
template <int32_t kRows, Result kResult>
__device__ __forceinline__ void StoreOutputs(const Places<kRows>& places, const Work& work, int32_t tile, int32_t rank) {
  constexpr int32_t kOfTile = kResult == Result::kSums ? kOutputs : kGroupOutputs;
  const int32_t quads = kOfTile / kQuad / work.splits;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < work.rows * quads; i += kThreads) {
    const int32_t row = i / quads, in_tile = (rank * quads + i % quads) * kQuad, output = tile * kOfTile + in_tile;
    if (output >= work.outputs) continue;
    const float4 sums = SumsOf(places, work.splits, row, in_tile);
    const int64_t at = int64_t{row} * work.outputs + output;
    if constexpr (kResult == Result::kSums) {
      *reinterpret_cast<float4*>(static_cast<float*>(work.out) + at) = sums;
    } else {
      constexpr Gate kGate = kResult == Result::kSilu ? Gate::kSilu : Gate::kGeluTanh;
      const float4 up = SumsOf(places, work.splits, row, kGroupOutputs + in_tile);
      *reinterpret_cast<ushort4*>(static_cast<uint16_t*>(work.out) + at) = {
          Bf16Of(Gated<kGate>(sums.x, up.x)), Bf16Of(Gated<kGate>(sums.y, up.y)), Bf16Of(Gated<kGate>(sums.z, up.z)),
          Bf16Of(Gated<kGate>(sums.w, up.w))};
    }
  }
}

template <int32_t kRows, Result kResult>
__global__ void __launch_bounds__(kThreads, 2)
    NarrowKernel(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap rows, const Work work) {
#if SPHERICAL_WARPGROUPS
  extern __shared__ char memory[];
  LetNextBegin();  // all blocks are there by then, and the next product's first weights come while this one ends
  const Places<kRows> places = {(SharedAddress(memory) + kAtomBytes - 1) & ~static_cast<uint32_t>(kAtomBytes - 1)};
  const int32_t thread = static_cast<int32_t>(threadIdx.x), block = static_cast<int32_t>(blockIdx.x);
  const int32_t tile = block / work.splits, rank = block % work.splits;
  const int32_t first = work.turns * rank / work.splits, count = work.turns * (rank + 1) / work.splits - first;
  if (thread == 0) {
    for (int32_t stage = 0; stage < kStages; ++stage) {
      CreateBarrier(places.Here(stage), 1);
      CreateBarrier(places.Used(stage), kUsers);
    }
    ShowBarriers();
  }
  __syncthreads();
  if (thread == kUserThreads) {
    CopyStages<kRows>(weights, rows, places, tile * (kResult == Result::kSums ? kOutputs : kGroupOutputs), work, first, count);
  } else if (thread < kUserThreads) {
    WaitForBefore();  // `out` may be what was read before
    MultiplyStages<kRows>(places, count);
  }
  __syncwarp();
  AwaitCluster();
  StoreOutputs<kRows, kResult>(places, work, tile, rank);
  AwaitCluster();  // until all have read, nobody's shared memory goes
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

// bf16 [rows, k] in tiles of box_rows x kDepth; beyond its end there are zeros.
bool MapMatrix(EncodeTiled encode, const uint16_t* matrix, int64_t rows, int64_t k, int32_t box_rows, CUtensorMap* map) {
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(k), static_cast<cuuint64_t>(rows), 1};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(k) * 2, static_cast<cuuint64_t>(k * rows) * 2};
  const cuuint32_t box[3] = {kDepth, static_cast<cuuint32_t>(box_rows), 1}, every[3] = {1, 1, 1};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<uint16_t*>(matrix), sizes, strides, box, every,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <int32_t kRows, Result kResult>
CudaStatus Launch(Stream stream, const Product& product, int32_t splits, void* out) {
  static const EncodeTiled encode = FindEncodeTiled();
  if (encode == nullptr || splits < 1 || splits > kNarrowSplitsMax || (splits & (splits - 1)) != 0) {
    return static_cast<CudaStatus>(cudaErrorInvalidValue);
  }
  CUtensorMap weights, rows;
  if (!MapMatrix(encode, product.weights, product.n, product.k, kGroupOutputs, &weights) ||
      !MapMatrix(encode, product.rows, product.m, product.k, kRows, &rows)) {
    return static_cast<CudaStatus>(cudaErrorInvalidValue);
  }
  constexpr bool kGated = kResult != Result::kSums;
  const int32_t n = static_cast<int32_t>(product.n), outputs = kGated ? n / 2 : n, of_tile = kGated ? kGroupOutputs : kOutputs;
  const Work work = {.out = out,
                     .rows = product.m,
                     .outputs = outputs,
                     .second_half = kGated ? outputs : kGroupOutputs,
                     .turns = static_cast<int32_t>((product.k + kDepth - 1) / kDepth),
                     .splits = splits};
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<uint32_t>(splits), 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<uint32_t>((outputs + of_tile - 1) / of_tile * splits));
  config.blockDim = dim3(static_cast<uint32_t>(kThreads));
  config.dynamicSmemBytes = Room<kRows>::kBytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = product.overlap ? 2 : 1;
  return static_cast<CudaStatus>(cudaLaunchKernelEx(&config, NarrowKernel<kRows, kResult>, weights, rows, work));
}

template <Result kResult>
CudaStatus LaunchRows(Stream stream, const Product& product, int32_t splits, void* out) {
  if (!NarrowTakes(product)) return static_cast<CudaStatus>(cudaErrorInvalidValue);
  return product.m <= 32 ? Launch<32, kResult>(stream, product, splits, out) : Launch<64, kResult>(stream, product, splits, out);
}

template <int32_t kRows, Result kResult>
cudaError_t Allow() {
  return cudaFuncSetAttribute(NarrowKernel<kRows, kResult>, cudaFuncAttributeMaxDynamicSharedMemorySize, Room<kRows>::kBytes);
}

}  // namespace

bool NarrowTakes(const Product& product) {
  return product.m >= kNarrowRowsMin && product.m <= kNarrowRowsMax && product.n % kQuad == 0 && product.k % 8 == 0 && LaunchesOverlap();
}

CudaStatus PrepareNarrow() {
  if (!LaunchesOverlap()) return CudaStatus::kOk;
  for (const cudaError_t error : {Allow<32, Result::kSums>(), Allow<64, Result::kSums>(), Allow<32, Result::kSilu>(),
                                  Allow<64, Result::kSilu>(), Allow<32, Result::kGeluTanh>(), Allow<64, Result::kGeluTanh>()}) {
    if (error != cudaSuccess) return static_cast<CudaStatus>(error);
  }
  return CudaStatus::kOk;
}

CudaStatus MultiplyNarrow(Stream stream, const Product& product, int32_t splits) {
  return LaunchRows<Result::kSums>(stream, product, splits, product.out);
}

CudaStatus GateNarrow(Stream stream, const Product& product, int32_t splits, Gate gate, uint16_t* out) {
  if (product.n % (2 * kQuad) != 0) return static_cast<CudaStatus>(cudaErrorInvalidValue);
  return gate == Gate::kSilu ? LaunchRows<Result::kSilu>(stream, product, splits, out)
                             : LaunchRows<Result::kGeluTanh>(stream, product, splits, out);
}

}  // namespace spherical::kernels::cuda
