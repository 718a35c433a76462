// The order in which a worker's two warps fetch pages.
#ifndef SPHERICAL_KERNELS_CUDA_PAGE_STREAM_CUH_
#define SPHERICAL_KERNELS_CUDA_PAGE_STREAM_CUH_

#include <cstdint>

#include "kernels/cuda/ada_launch.h"
#include "kernels/cuda/page_ring.cuh"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels::cuda {

// Who reads a page: this warp alone, or both of the worker's.
enum class PageUse { kMine, kShared };

// The pages of a worker's parts, one after another, as one of its two warps sees them: the ring is filled across the borders of parts. What
// comes next, its page id too, is read a page ahead. Where one lane has pages fetched, it alone knows where the stream is.
template <int kHeadDim>
class PageStream {
 public:
  __device__ __forceinline__ PageStream(const AdaReadArguments& arguments, PageRing ring, int part, int end, int lane)
      : arguments_(arguments),
        ring_(ring),
        page_bytes_(static_cast<uint32_t>(arguments.page_bytes)),
        part_(part),
        end_(end),
        fills_(!PageRing::kOneLaneFills || lane == 0) {
    if (!fills_) return;
    Load(part);
    Settle();
  }
  // The first warp asks for the first three pages.
  __device__ __forceinline__ void Begin(int warp) {
#pragma unroll 1
    for (uint32_t k = 0; k < kRingStages; ++k) Pass<PageUse::kMine>(warp == 0);
  }
  // The next page has been read, or is none of this warp's; the next but two is fetched in its place. By all lanes, all of which are done.
  template <PageUse kUse>
  __device__ __forceinline__ void Pass(bool fill = true) {
    const uint32_t turn = turn_, stage = PageTurn::StageOf(turn);
    turn_ = PageTurn::NextOf(turn);
    if constexpr (kUse == PageUse::kShared) ring_.Leave(stage);
    if (!fills_) return;
    if constexpr (kUse == PageUse::kShared) fill = ring_.IsLast(stage);
    if (left_ == 0) return;
    if (fill) ring_.Fill(turn, arguments_.arena + static_cast<uint64_t>(static_cast<uint32_t>(id_)) * page_bytes_, bytes_);
    if (--left_ > 0) {
      id_ = __ldg(++ids_);
    } else if (part_ < end_) {
      Settle();
    }
  }

 private:
  // At a part's first page; the next part is looked up.
  __device__ __forceinline__ void Settle() {
    ids_ = coming_ids_, left_ = coming_pages_, bytes_ = coming_bytes_, id_ = coming_id_;
    if (++part_ < end_) Load(part_);
  }
  __device__ __forceinline__ void Load(int part) {
    const AdaPart& of = arguments_.parts[part];
    const Tier tier = static_cast<Tier>(of.tier);
    coming_ids_ = arguments_.pages + of.ids, coming_pages_ = of.pages;
    coming_bytes_ = tier == Tier::kT8   ? BytesRead(Tier::kT8, kHeadDim)
                    : tier == Tier::kT4 ? BytesRead(Tier::kT4, kHeadDim)
                    : tier == Tier::kT3 ? BytesRead(Tier::kT3, kHeadDim)
                    : tier == Tier::kT2 ? BytesRead(Tier::kT2, kHeadDim)
                                        : BytesRead(Tier::kT1, kHeadDim);
    coming_id_ = __ldg(coming_ids_);
  }

  const AdaReadArguments& arguments_;
  PageRing ring_;
  uint32_t page_bytes_;
  int part_, end_;
  bool fills_;
  // Of the part: from what is fetched next; its pages that are still to be fetched; what is read of each; and of the next part.
  const PageId *ids_ = nullptr, *coming_ids_ = nullptr;
  int left_ = 0, bytes_ = 0, coming_pages_ = 0, coming_bytes_ = 0;
  PageId id_ = 0, coming_id_ = 0;
  uint32_t turn_ = 0;  // of what is fetched next
};

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_PAGE_STREAM_CUH_
