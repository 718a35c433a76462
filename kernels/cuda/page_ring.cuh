// A warp's window on the pages it reads: a ring of stages in shared memory, each holding up to four tiles of a page, filled while others are
// worked on. On sm_90 by the copy engine (a few requests a stage, completed on an mbarrier), before it by 16-byte asynchronous copies.
#ifndef SPHERICAL_KERNELS_CUDA_PAGE_RING_CUH_
#define SPHERICAL_KERNELS_CUDA_PAGE_RING_CUH_

#include <cstdint>

#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {

inline constexpr int kRingStages = 2;
inline constexpr int kStepTiles = 4;  // tiles of a stage, at most

// Where the parts of a stage begin; the order of a page, so that a page that fits is one copy.
struct StageLayout {
  int tiles;  // most that are used
  int values, key_radii, value_radii, bytes;
};
constexpr StageLayout StageOf(Tier tier, int head_dim) {
  const TierLayout page = LayoutOf(tier, head_dim);
  const int tiles = page.tokens / kTokenTile < kStepTiles ? page.tokens / kTokenTile : kStepTiles;
  const int values = tiles * page.key_tile, radii = values + tiles * page.value_tile;
  return {.tiles = tiles, .values = values, .key_radii = radii, .value_radii = radii + 2 * kTokenTile * tiles,
          .bytes = radii + 4 * kTokenTile * tiles};
}
constexpr int StageBytes(int head_dim) {
  int most = 0;
  for (int tier = 0; tier < kTierCount; ++tier) {
    const int bytes = StageOf(static_cast<Tier>(tier), head_dim).bytes;
    most = bytes > most ? bytes : most;
  }
  return (most + 127) / 128 * 128;
}

__device__ __forceinline__ uint32_t SharedAddress(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

class PageRing {
 public:
  // memory: kRingStages * stage_bytes, aligned to 128.   barriers [kRingStages], used on sm_90 only
  __device__ __forceinline__ PageRing(uint8_t* memory, uint64_t* barriers, int stage_bytes, int lane)
      : memory_(memory), barriers_(SharedAddress(barriers)), stage_bytes_(stage_bytes), lane_(lane) {
#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
      for (int s = 0; s < kRingStages; ++s) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barriers_ + 8 * s));
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
#endif
  }

  // Begins to fill the next stage: tiles [tile, tile + tiles) of a page. Every call, also one without tiles, is one turn; at most
  // kRingStages may be ahead of Wait. All lanes.
  template <Tier kTier, int kHeadDim>
  __device__ __forceinline__ void Fill(const uint8_t* page, int tile, int tiles) {
    constexpr TierLayout kPage = LayoutOf(kTier, kHeadDim);
    constexpr StageLayout kStage = StageOf(kTier, kHeadDim);
    const int stage = filled_ % kRingStages;
    ++filled_;
#if __CUDA_ARCH__ >= 900
    if (tiles == 0) return;
    const uint32_t barrier = barriers_ + 8 * stage, to = SharedAddress(memory_ + stage * stage_bytes_);
    if (kStage.tiles * kTokenTile == kPage.tokens && tiles == kStage.tiles) {
      if (lane_ == 0) {
        Expect(barrier, kStage.bytes);
        Copy(to, page, kStage.bytes, barrier);
      }
      return;
    }
    if (lane_ == 0) Expect(barrier, tiles * (kPage.key_tile + kPage.value_tile + 4 * kTokenTile));
    __syncwarp();
    if (lane_ == 0) Copy(to, page + tile * kPage.key_tile, tiles * kPage.key_tile, barrier);
    if (lane_ == 1) Copy(to + kStage.values, page + kPage.values + tile * kPage.value_tile, tiles * kPage.value_tile, barrier);
    if (lane_ == 2 || lane_ == 3) {
      const int from = (lane_ == 2 ? kPage.key_radii : kPage.value_radii) + 2 * kTokenTile * tile;
      Copy(to + (lane_ == 2 ? kStage.key_radii : kStage.value_radii), page + from, 2 * kTokenTile * tiles, barrier);
    }
#else
    const uint32_t to = SharedAddress(memory_ + stage * stage_bytes_);
    CopyAll(to, page + tile * kPage.key_tile, tiles * kPage.key_tile);
    CopyAll(to + kStage.values, page + kPage.values + tile * kPage.value_tile, tiles * kPage.value_tile);
    CopyAll(to + kStage.key_radii, page + kPage.key_radii + 2 * kTokenTile * tile, 2 * kTokenTile * tiles);
    CopyAll(to + kStage.value_radii, page + kPage.value_radii + 2 * kTokenTile * tile, 2 * kTokenTile * tiles);
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
    return memory_ + stage * stage_bytes_;
  }

  // Turns that were filled with nothing are not waited for: the next fill takes the stage after the last one waited for.
  __device__ __forceinline__ void Restart() { filled_ = waited_; }

 private:
#if __CUDA_ARCH__ >= 900
  __device__ __forceinline__ static void Expect(uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
  }
  __device__ __forceinline__ static void Copy(uint32_t to, const uint8_t* from, int bytes, uint32_t barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes),
                 "r"(barrier)
                 : "memory");
  }
#else
  __device__ __forceinline__ void CopyAll(uint32_t to, const uint8_t* from, int bytes) const {
    for (int at = 16 * lane_; at < bytes; at += 16 * 32) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + at), "l"(from + at) : "memory");
    }
  }
#endif

  uint8_t* memory_;
  uint32_t barriers_;
  int stage_bytes_, lane_;
  uint32_t filled_ = 0, waited_ = 0;
};

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_PAGE_RING_CUH_
