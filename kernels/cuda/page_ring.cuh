// The window of two warps on the pages they read in turn: a ring of whole pages in shared memory, filled while others are worked on. On
// sm_90 by the copy engine (one request a page), before it by 16-byte asynchronous copies; either way completed on an mbarrier.
//
// The warp that has read page k, or of two that share it the second to leave it, has page k + 3 fetched in its place. Three pages for two
// warps leave room for more warps than two each would, and there is always one on its way. Which mbarrier says that a page has come:
// page_turn.h.
#ifndef SPHERICAL_KERNELS_CUDA_PAGE_RING_CUH_
#define SPHERICAL_KERNELS_CUDA_PAGE_RING_CUH_

#include <cstdint>

#include "kernels/cuda/page_turn.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {

// What attention reads of a page: codes and radii.
constexpr int BytesRead(Tier tier, int head_dim) { return LayoutOf(tier, head_dim).utilities; }

__device__ __forceinline__ uint32_t SharedAddress(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

class PageRing {
 public:
  // Mbarriers on which pages come, six; per stage: one on which two warps leave it, and how often a warp has left it.
  static constexpr int kControlBytes = 8 * PageTurn::kTurns + 16 * kRingStages;

  // memory: kRingStages pages, aligned to 128.   control: kControlBytes of both warps, set up by Initialize of one of them
  __device__ __forceinline__ PageRing(uint8_t* memory, uint8_t* control, int page_bytes, int lane)
      : memory_(SharedAddress(memory)), control_(SharedAddress(control)), generic_(memory), page_bytes_(page_bytes), lane_(lane) {}

  // By one warp; a barrier of the block between it and everything else.
  __device__ __forceinline__ void Initialize() {
    if (lane_ != 0) return;
    for (uint32_t turn = 0; turn < PageTurn::kTurns; ++turn) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(ComingAt(turn)), "r"(kArrivals) : "memory");
    }
    for (uint32_t stage = 0; stage < kRingStages; ++stage) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 64;" ::"r"(LeavingAt(stage)) : "memory");
      asm volatile("st.shared.u32 [%0], %1;" ::"r"(LeftAt(stage)), "r"(0) : "memory");
    }
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
  }

  // Begins to read a page's first bytes as the page of a turn, by the warp that has set its place free, or before all else. By all lanes
  // where all of them copy, else by the first.
  __device__ __forceinline__ void Fill(uint32_t turn, const uint8_t* page, int bytes) const {
    const uint32_t barrier = ComingAt(turn), to = memory_ + PageTurn::StageOf(turn) * page_bytes_;
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(page), "r"(bytes),
                 "r"(barrier)
                 : "memory");
#else
    for (int at = 16 * lane_; at < bytes; at += 16 * 32) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + at), "l"(page + at) : "memory");
    }
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
#endif
  }

  // Two warps share pages. This one, which has seen it come, is done with the one in a stage; all lanes say so.
  __device__ __forceinline__ void Leave(uint32_t stage) const {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(LeavingAt(stage)) : "memory");
  }
  // After Leave, by the lanes that Fill: whether another page may come there, for this warp is the second to leave the last one.
  __device__ __forceinline__ bool IsLast(uint32_t stage) const {
    uint32_t before = 0;
    if (kOneLaneFills || lane_ == 0) {
      asm volatile("atom.relaxed.cta.shared.add.u32 %0, [%1], 1;" : "=r"(before) : "r"(LeftAt(stage)) : "memory");
    }
    if (!kOneLaneFills) before = __shfl_sync(~0u, before, 0);
    if (before % 2 == 0) return false;
    AwaitPhase(LeavingAt(stage), before / 2 & 1);  // what all 64 lanes have read is read
    return true;
  }

  __device__ __forceinline__ const uint8_t* At(PageTurn page) const { return generic_ + page.Stage() * page_bytes_; }

  // A page, once it is there. All lanes. It may be waited for again until it is left.
  __device__ __forceinline__ const uint8_t* Wait(PageTurn page) const {
    AwaitPhase(ComingAt(page.turn), page.parity);
    return At(page);
  }
  // Two pages, which may be one.
  __device__ __forceinline__ void WaitForBoth(PageTurn page, PageTurn other) const {
    const bool one = HasCome(ComingAt(page.turn), page.parity), two = HasCome(ComingAt(other.turn), other.parity);
    if (one && two) return;
    AwaitPhase(ComingAt(page.turn), page.parity);
    AwaitPhase(ComingAt(other.turn), other.parity);
  }

#if __CUDA_ARCH__ >= 900
  static constexpr bool kOneLaneFills = true;
#else
  static constexpr bool kOneLaneFills = false;
#endif

 private:
#if __CUDA_ARCH__ >= 900
  static constexpr int kArrivals = 1;
#else
  static constexpr int kArrivals = 32;
#endif
  __device__ __forceinline__ uint32_t ComingAt(uint32_t turn) const { return control_ + 8 * turn; }
  __device__ __forceinline__ uint32_t LeavingAt(uint32_t stage) const { return control_ + 8 * PageTurn::kTurns + 16 * stage; }
  __device__ __forceinline__ uint32_t LeftAt(uint32_t stage) const { return LeavingAt(stage) + 8; }
  __device__ __forceinline__ static bool HasCome(uint32_t barrier, uint32_t parity) {
    int done;
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.s32 %0, 1, 0, p;\n}" : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
#else
    asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\nselp.s32 %0, 1, 0, p;\n}" : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
#endif
    return done != 0;
  }
  __device__ __forceinline__ static void AwaitPhase(uint32_t barrier, uint32_t parity) {
    while (!HasCome(barrier, parity)) {
    }
  }

  uint32_t memory_, control_;
  const uint8_t* generic_;
  int page_bytes_, lane_;
};

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_PAGE_RING_CUH_
