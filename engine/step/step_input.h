#ifndef SPHERICAL_ENGINE_STEP_STEP_INPUT_H_
#define SPHERICAL_ENGINE_STEP_STEP_INPUT_H_

#include <cstdint>
#include <cstring>
#include <span>

#include "kernels/base/check.h"
#include "kernels/base/units.h"
#include "kernels/cuda/device_runtime.h"

namespace spherical::engine {

// Small arrays that a step brings to the device, to lie wherever there is room: gathered in pinned memory, sent by one copy, or a few.
// For arrays that have a place of their own: placed_input.h.
//
//   input.Begin();                                                  // the stream has passed all that was sent
//   const PageId* pages = input.Put(std::span(pages_of_list));      // where it will be on the device
//   status = input.Send(stream);                                    // what was put since the last Send
class StepInput {
 public:
  kernels::cuda::CudaStatus Create(int64_t bytes) {
    using kernels::cuda::CudaStatus;
    if (const CudaStatus taken = device_.Allocate(bytes); taken != CudaStatus::kOk) return taken;
    return pinned_.Allocate(bytes);
  }
  void Begin() { used_ = sent_ = 0; }
  int64_t bytes() const { return pinned_.bytes(); }

  // Of the room, what an array of so many takes.
  static int64_t BytesFor(int64_t bytes) { return RoundUp(bytes, 256); }
  template <class T>
  T* Put(std::span<const T> values) {
    const int64_t at = used_, bytes = static_cast<int64_t>(values.size_bytes());
    used_ += BytesFor(bytes);
    SPH_CHECK(used_ <= pinned_.bytes());
    if (!values.empty()) std::memcpy(pinned_.data() + at, values.data(), values.size_bytes());
    return reinterpret_cast<T*>(device_.data() + at);
  }
  kernels::cuda::CudaStatus Send(kernels::cuda::Stream stream) {
    const int64_t first = sent_;
    sent_ = used_;
    if (first == used_) return kernels::cuda::CudaStatus::kOk;
    return kernels::cuda::CopyToDevice(stream, device_.data() + first, pinned_.data() + first, used_ - first);
  }

 private:
  kernels::cuda::DeviceMemory device_;
  kernels::cuda::PinnedMemory pinned_;
  int64_t used_ = 0, sent_ = 0;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_STEP_INPUT_H_
