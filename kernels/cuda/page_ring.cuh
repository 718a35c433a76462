// A warp's window on the pages it reads: a ring of whole pages in shared memory, filled while others are worked on. On sm_90 by the copy
// engine (one request a page, completed on an mbarrier), before it by 16-byte asynchronous copies.
#ifndef SPHERICAL_KERNELS_CUDA_PAGE_RING_CUH_
#define SPHERICAL_KERNELS_CUDA_PAGE_RING_CUH_

#include <cstdint>

#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {

inline constexpr int kRingStages = 2;

// What attention reads of a page: codes and radii.
constexpr int BytesRead(Tier tier, int head_dim) { return LayoutOf(tier, head_dim).utilities; }

__device__ __forceinline__ uint32_t SharedAddress(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

class PageRing {
 public:
  // memory: kRingStages pages, aligned to 128.   barriers [kRingStages], used on sm_90 only
  __device__ __forceinline__ PageRing(uint8_t* memory, uint64_t* barriers, int page_bytes, int lane)
      : memory_(memory), barriers_(SharedAddress(barriers)), page_bytes_(page_bytes), lane_(lane) {
#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
      for (int s = 0; s < kRingStages; ++s) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barriers_ + 8 * s));
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
#endif
  }

  // Begins to read a page's first bytes, or none: every call is one turn, at most kRingStages ahead of Wait. All lanes.
  __device__ __forceinline__ void Fill(const uint8_t* page, int bytes) {
    const int stage = filled_ % kRingStages;
    ++filled_;
#if __CUDA_ARCH__ >= 900
    if (lane_ != 0 || bytes == 0) return;
    const uint32_t barrier = barriers_ + 8 * stage, to = SharedAddress(memory_ + stage * page_bytes_);
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(page), "r"(bytes),
                 "r"(barrier)
                 : "memory");
#else
    const uint32_t to = SharedAddress(memory_ + stage * page_bytes_);
    for (int at = 16 * lane_; at < bytes; at += 16 * 32) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + at), "l"(page + at) : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
  }

  // The oldest stage that has not been waited for. All lanes.
  __device__ __forceinline__ const uint8_t* Wait() {
    const int stage = waited_ % kRingStages;
#if __CUDA_ARCH__ >= 900
    const uint32_t parity = waited_ / kRingStages & 1;
    asm volatile(
        "{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra DONE;\nbra AGAIN;\nDONE:\n}" ::"r"(
            barriers_ + 8 * stage),
        "r"(parity)
        : "memory");
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(kRingStages - 1) : "memory");
    __syncwarp();
#endif
    ++waited_;
    return memory_ + stage * page_bytes_;
  }

 private:
  uint8_t* memory_;
  uint32_t barriers_;
  int page_bytes_, lane_;
  uint32_t filled_ = 0, waited_ = 0;
};

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_PAGE_RING_CUH_
