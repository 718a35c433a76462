// What tests of device kernels share: a stream and arrays that are put on the device and fetched back. CUDA's errors fail the test.
#ifndef SPHERICAL_TESTS_KERNELS_CUDA_CODEC_ARRAYS_H_
#define SPHERICAL_TESTS_KERNELS_CUDA_CODEC_ARRAYS_H_

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdint>
#include <vector>

#include "kernels/cuda/device_runtime.h"

namespace spherical::kernels::cuda {

class DeviceArrays {
 public:
  DeviceArrays() { Check(stream_.Create()); }

  // A copy that lives as long as this object.
  template <class T>
  T* Put(const std::vector<T>& host) {
    const int64_t bytes = static_cast<int64_t>(host.size() * sizeof(T));
    memory_.emplace_back();
    Check(memory_.back().Allocate(std::max<int64_t>(bytes, 1)));
    Check(CopyToDevice(stream_.get(), memory_.back().data(), host.data(), bytes));
    return memory_.back().template data<T>();
  }
  // After all that was queued is done.
  template <class T>
  std::vector<T> Get(const T* device, size_t count) {
    std::vector<T> host(count);
    Check(CopyToHost(stream_.get(), host.data(), device, static_cast<int64_t>(count * sizeof(T))));
    Check(Synchronize(stream_.get()));
    return host;
  }
  Stream stream() const { return stream_.get(); }

  static void Check(CudaStatus status) {
    INFO(TextOf(status));
    REQUIRE(status == CudaStatus::kOk);
  }

 private:
  OwnStream stream_;
  std::vector<DeviceMemory> memory_;
};

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_TESTS_KERNELS_CUDA_CODEC_ARRAYS_H_
