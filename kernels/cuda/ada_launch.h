// What the kernels of ADA decode hand to each other. Host and device; seen by kernels/cuda alone.
#ifndef SPHERICAL_KERNELS_CUDA_ADA_LAUNCH_H_
#define SPHERICAL_KERNELS_CUDA_ADA_LAUNCH_H_

#include <cstdint>

#include "kernels/cuda/ada_decode.h"
#include "kernels/cuda/ada_seats.h"

namespace spherical::kernels::cuda {

// The queries of a list, ready for tensor cores. After it come the digits: for each chunk of planes (AdaPlanes), [head tile][lane][words],
// a word being four digits: of head tile n, lane 4 g + t has column g: digit g % 2 (0 high) of head 4 n + g / 2, the coordinates being
//     8 bits   2 words: columns 4t .. of plane 0, of plane 1
//     4 bits   2 words: columns 8 (t % 2) .., 8 (t % 2) + 4 .. of plane t / 2
//     2 bits   4 words: columns 0 .., 4 .., 8 .., 12 .. of plane t
//     1 bit    4 words: columns w, 4 + w, 8 + w, 12 + w of plane t, w being the word
struct AdaDigitHeader {
  float factor[16];  // logit in bits = factor * radius * (sum of products + start)
  int start[16];
  float centre[16];  // scale * q.mu
};
constexpr int64_t AdaDigitBytes(int head_dim, int head_tiles) {
  return static_cast<int64_t>(sizeof(AdaDigitHeader)) + 128 * head_tiles * (head_dim / 8 + 8);
}
constexpr int AdaHeadTiles(int group) { return group <= 4 ? 1 : group <= 8 ? 2 : 4; }

// Digits of weights on their way from the lanes that made them to those that multiply: per column 16 words, and 4 against bank conflicts.
inline constexpr int kExchangeRow = 20;
constexpr int AdaExchangeBytes(int head_tiles) { return 8 * head_tiles * kExchangeRow * 4; }

// Warps of a block of the reading kernel, at most: what registers allow. Even: a worker is two of them.
constexpr int AdaWarps(int head_dim, int head_tiles) {
  if (head_tiles == 4 || head_dim == 256) return 8;
  return head_tiles == 2 ? 12 : 16;
}

struct AdaReadArguments {
  const uint8_t* arena;
  const PageId* pages;
  int64_t page_bytes;
  const AdaPart* parts;
  const int32_t* worker_parts;
  const AdaPlanes* planes;
  const uint8_t* digits;
  int64_t digit_bytes;
  AttentionState states;
  int32_t kv_heads, group;
  float softcap;
  bool entering;  // pages of T8 are written until the queries are there
  uint32_t* seats_taken;  // [AdaSeatWords(blocks)], or null
  // How many blocks have prepared queries, and all of them; null: the launch before this one has.
  const uint32_t* prepared;
  uint32_t to_prepare;
  AdaSeats seats;
  uint32_t signs;  // 0x80808080: were it known when this is compiled, it would not stay in a register (code_products.cuh)

#ifdef __CUDACC__
  // Pages and plans were there before; the digits are those of the launch before this one, which this waits for.
  __device__ __forceinline__ void WaitForQueries() const {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  }
  // By a lane of one warp, then a barrier. What the launch before has counted is seen 2 to 5 us before that is done for the device.
  __device__ __forceinline__ void WaitForCount() const {
    for (uint32_t done;; __nanosleep(32)) {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(done) : "l"(prepared) : "memory");
      if (done >= to_prepare) return;
    }
  }
  // All blocks are resident: those that merge may take their places beside them, and wait.
  __device__ __forceinline__ void LetMergeBegin() const {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
  }
#endif
};
using AdaReadKernel = void (*)(AdaReadArguments);

// The reading kernel of a head dim, from its own file.
AdaReadKernel AdaReadKernel64(int head_tiles);
AdaReadKernel AdaReadKernel80(int head_tiles);
AdaReadKernel AdaReadKernel96(int head_tiles);
AdaReadKernel AdaReadKernel128(int head_tiles);
AdaReadKernel AdaReadKernel256(int head_tiles);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_ADA_LAUNCH_H_
