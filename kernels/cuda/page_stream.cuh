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
// the next part is, and its first page ids, is read while this part's pages are.
template <int kHeadDim>
class PageStream {
 public:
  __device__ __forceinline__ PageStream(const AdaReadArguments& arguments, PageRing ring, int part, int end, int lane)
      : arguments_(arguments), ring_(ring), part_(part), end_(end), lane_(lane) {
    coming_ = Load(part);
    coming_ids_ = IdsFrom(coming_, 0);
  }
  // The first warp asks for the first three pages.
  __device__ __forceinline__ void Begin(int warp) {
    for (int k = 0; k < kRingStages; ++k) Pass<PageUse::kMine>(warp == 0);
  }
  // The stream's page k. One of which it is `known` that this warp has waited for page k - 3 too needs no more than waiting.
  __device__ __forceinline__ const uint8_t* Wait(int k, bool known = false) const { return ring_.Wait(k, known); }
  __device__ __forceinline__ const uint8_t* At(int k) const { return ring_.At(k); }
  // The next page has been read, or is none of this warp's; the next but two is fetched in its place. By all lanes, all of which are done.
  template <PageUse kUse>
  __device__ __forceinline__ void Pass(bool fill = true) {
    Settle();
    const bool more = next_ < now_.pages;
    int64_t id = 0;
    if (more) {
      if (next_ - base_ >= 32) base_ += 32, here_ = after_, after_ = IdsFrom(now_, base_ + 32);
      id = __shfl_sync(~0u, here_, next_ - base_);
      ++next_;
    }
    if constexpr (kUse == PageUse::kShared) fill = ring_.Leave(number_);
    if (fill && more) ring_.Fill(number_, arguments_.arena + id * arguments_.page_bytes, now_.bytes);
    ++number_;
  }

 private:
  struct Pages {
    int ids, pages, bytes;
  };
  // At a page, or at the end.
  __device__ __forceinline__ void Settle() {
    if (next_ < now_.pages || part_ == end_) return;
    now_ = coming_, here_ = coming_ids_, after_ = IdsFrom(now_, 32);
    next_ = base_ = 0;
    if (++part_ < end_) {
      coming_ = Load(part_);
      coming_ids_ = IdsFrom(coming_, 0);
    }
  }
  __device__ __forceinline__ Pages Load(int part) const {
    const AdaPart& of = arguments_.parts[part];
    const Tier tier = static_cast<Tier>(of.tier);
    const int bytes = tier == Tier::kT8   ? BytesRead(Tier::kT8, kHeadDim)
                      : tier == Tier::kT4 ? BytesRead(Tier::kT4, kHeadDim)
                      : tier == Tier::kT3 ? BytesRead(Tier::kT3, kHeadDim)
                      : tier == Tier::kT2 ? BytesRead(Tier::kT2, kHeadDim)
                                          : BytesRead(Tier::kT1, kHeadDim);
    return {of.ids, of.pages, bytes};
  }
  // Of 32 pages, one a lane.
  __device__ __forceinline__ PageId IdsFrom(const Pages& of, int page) const {
    return page + lane_ < of.pages ? __ldg(arguments_.pages + of.ids + page + lane_) : 0;
  }

  const AdaReadArguments& arguments_;
  PageRing ring_;
  int part_, end_, lane_;
  Pages now_ = {}, coming_;
  PageId here_ = 0, after_ = 0, coming_ids_;
  int next_ = 0, base_ = 0;  // of the part's pages, where this is; where `here_` begins
  int number_ = 0;           // of the stream: what is fetched next
};

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_PAGE_STREAM_CUH_
