#ifndef SPHERICAL_ENGINE_STEP_STEP_INPUT_H_
#define SPHERICAL_ENGINE_STEP_STEP_INPUT_H_

#include <cstdint>
#include <cstring>
#include <span>

#include "kernels/base/check.h"
#include "kernels/base/units.h"
#include "kernels/cuda/device_runtime.h"

namespace spherical::engine {

// Small arrays that a step brings to the device: gathered in pinned memory, sent by one copy, or a few.
//
//   input.Begin();                                                  // the stream has passed all that was sent
//   const int32_t* tokens = input.Put(std::span(tokens_of_rows));   // where it will be on the device
//   status = input.Send(stream);                                    // what was put since the last Send
class StepInput {
 public:
  kernels::cuda::CudaStatus Create(int64_t bytes) {
    const kernels::cuda::CudaStatus taken = device_.Allocate(bytes);
    return taken == kernels::cuda::CudaStatus::kOk ? pinned_.Allocate(bytes) : taken;
  }
  void Begin() { used_ = sent_ = 0; }
  int64_t bytes() const { return pinned_.bytes(); }

  static int64_t BytesFor(int64_t bytes) { return RoundUp(bytes, kAlignment); }
  template <class T>
  T* Put(std::span<const T> values) {
    const int64_t at = used_;
    used_ += BytesFor(static_cast<int64_t>(values.size_bytes()));
    SPH_CHECK(used_ <= pinned_.bytes());
    if (!values.empty()) std::memcpy(pinned_.data() + at, values.data(), values.size_bytes());
    return reinterpret_cast<T*>(device_.data() + at);
  }
  kernels::cuda::CudaStatus Send(kernels::cuda::Stream stream) {
    const int64_t first = sent_;
    sent_ = used_;
    return kernels::cuda::CopyToDevice(stream, device_.data() + first, pinned_.data() + first, used_ - first);
  }

 private:
  static constexpr int64_t kAlignment = 256;
  kernels::cuda::DeviceMemory device_;
  kernels::cuda::PinnedMemory pinned_;
  int64_t used_ = 0, sent_ = 0;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_STEP_INPUT_H_
