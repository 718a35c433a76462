// The window of two warps on the pages they read in turn: a ring of whole pages in shared memory, filled while others are worked on. On
// sm_90 by the copy engine (one request a page), before it by 16-byte asynchronous copies; either way completed on an mbarrier.
//
// Page k of the stream lies in stage k % 3. The warp that has read it, or of two that share it the second to leave it, has page k + 3
// fetched there. Three pages for two warps leave room for more warps than two each would, and there is always one on its way.
#ifndef SPHERICAL_KERNELS_CUDA_PAGE_RING_CUH_
#define SPHERICAL_KERNELS_CUDA_PAGE_RING_CUH_

#include <cstdint>

#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {

inline constexpr int kRingStages = 3;

// What attention reads of a page: codes and radii.
constexpr int BytesRead(Tier tier, int head_dim) { return LayoutOf(tier, head_dim).utilities; }

__device__ __forceinline__ uint32_t SharedAddress(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

class PageRing {
 public:
  // Per stage: an mbarrier on which a page comes, its number, how often a warp has left it, an mbarrier on which both leave it.
  static constexpr int kControlBytes = kRingStages * 24;

  // memory: kRingStages pages, aligned to 128.   control: kControlBytes of both warps, set up by Initialize of one of them
  __device__ __forceinline__ PageRing(uint8_t* memory, uint8_t* control, int page_bytes, int lane)
      : memory_(SharedAddress(memory)), control_(SharedAddress(control)), generic_(memory), page_bytes_(page_bytes), lane_(lane) {}

  // By one warp; a barrier of the block between it and everything else.
  __device__ __forceinline__ void Initialize() {
    if (lane_ != 0) return;
    for (int s = 0; s < kRingStages; ++s) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(BarrierOf(s)), "r"(kArrivals) : "memory");
      asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(NumberOf(s)), "r"(-1), "r"(0) : "memory");
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 64;" ::"r"(LeavingOf(s)) : "memory");
    }
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
  }

  // Begins to read a page's first bytes as page k, by the warp that has set its place free, or before all else. All lanes.
  __device__ __forceinline__ void Fill(int k, const uint8_t* page, int bytes) {
    const int stage = k % kRingStages;
    const uint32_t barrier = BarrierOf(stage), to = memory_ + stage * page_bytes_;
#if __CUDA_ARCH__ >= 900
    if (lane_ != 0) return;
    Announce(stage, k);
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(page), "r"(bytes),
                 "r"(barrier)
                 : "memory");
#else
    if (lane_ == 0) Announce(stage, k);
    for (int at = 16 * lane_; at < bytes; at += 16 * 32) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + at), "l"(page + at) : "memory");
    }
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
#endif
  }

  // This warp, which has seen it come, is done with page k - 3, which both read. Whether it is the second: page k may come in its place.
  // All lanes, all of which are done; on sm_90 the answer is lane 0's, which fills. A counter tells who is second, and orders what the
  // other warp has read before what is written; all lanes arrive on the mbarrier too, for compute-sanitizer sees no order in a counter.
  __device__ __forceinline__ bool Leave(int k) const {
    const int stage = k % kRingStages;
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(LeavingOf(stage)) : "memory");
    __syncwarp();
    int before = 0;
    if (lane_ == 0) {
      asm volatile("atom.acq_rel.cta.shared.add.u32 %0, [%1], 1;" : "=r"(before) : "r"(LeftOf(stage)) : "memory");
      if (before % 2 == 1) AwaitPhase(LeavingOf(stage), before / 2 & 1);  // it is complete
    }
#if __CUDA_ARCH__ < 900
    before = __shfl_sync(~0u, before, 0);
    __syncwarp();  // what the other warp has read is read before any lane writes
#endif
    return before % 2 == 1;
  }

  __device__ __forceinline__ const uint8_t* At(int k) const { return generic_ + k % kRingStages * page_bytes_; }

  // Page k, once it is there. All lanes. The parity alone cannot tell a page that nobody has even asked for from one two turns before it:
  // hence the number; a warp that has seen page k - 3 come needs none.
  __device__ __forceinline__ const uint8_t* Wait(int k, bool known) const {
    const int stage = k % kRingStages;
    const uint32_t barrier = BarrierOf(stage), parity = k / kRingStages & 1;
    int announced = k;
    if (!known) do {  // by an atomic operation, which tells compute-sanitizer too that this is no race; one lane's, or they queue up
      if (lane_ == 0) asm volatile("atom.acquire.cta.shared.or.b32 %0, [%1], 0;" : "=r"(announced) : "r"(NumberOf(stage)) : "memory");
      announced = __shfl_sync(~0u, announced, 0);
    } while (announced != k);
    AwaitPhase(barrier, parity);
    return At(k);
  }

 private:
#if __CUDA_ARCH__ >= 900
  static constexpr int kArrivals = 1;
#else
  static constexpr int kArrivals = 32;
#endif
  __device__ __forceinline__ uint32_t BarrierOf(int stage) const { return control_ + 24 * stage; }
  __device__ __forceinline__ uint32_t NumberOf(int stage) const { return BarrierOf(stage) + 8; }
  __device__ __forceinline__ uint32_t LeftOf(int stage) const { return BarrierOf(stage) + 12; }
  __device__ __forceinline__ uint32_t LeavingOf(int stage) const { return BarrierOf(stage) + 16; }
  __device__ __forceinline__ void Announce(int stage, int k) const {
    asm volatile("atom.release.cta.shared.exch.b32 _, [%0], %1;" ::"r"(NumberOf(stage)), "r"(k) : "memory");
  }
  __device__ __forceinline__ static void AwaitPhase(uint32_t barrier, int parity) {
    int done;
    do {
#if __CUDA_ARCH__ >= 900
      asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.s32 %0, 1, 0, p;\n}" : "=r"(done)
                   : "r"(barrier), "r"(parity)
                   : "memory");
#else
      asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\nselp.s32 %0, 1, 0, p;\n}" : "=r"(done)
                   : "r"(barrier), "r"(parity)
                   : "memory");
#endif
    } while (done == 0);
  }

  uint32_t memory_, control_;
  const uint8_t* generic_;
  int page_bytes_, lane_;
};

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_PAGE_RING_CUH_
