// Arrays on the device for tests, and a stream. Every CUDA call is required to succeed.
#ifndef SPHERICAL_TESTS_KERNELS_CUDA_DEVICE_ARRAYS_H_
#define SPHERICAL_TESTS_KERNELS_CUDA_DEVICE_ARRAYS_H_

#include <catch2/catch.hpp>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/device_probe.h"
#include "kernels/cuda/device_runtime.h"

namespace spherical::kernels::cuda {

// Empty where there is a device.
inline std::string WhyNoDevice() { return ProbeCudaDevices().why_none; }

inline void Require(CudaStatus status) {
  INFO(TextOf(status));
  REQUIRE(status == CudaStatus::kOk);
}

class Device {
 public:
  Device() {
    Require(UseDevice(0));
    Require(stream_.Create());
  }
  Stream stream() const { return stream_.get(); }
  void Wait() const { Require(Synchronize(stream())); }

 private:
  OwnStream stream_;
};

// n values of T, from the host or filled with bytes that are NaN as any float.
template <class T>
class DeviceArray {
 public:
  DeviceArray(const Device& device, std::span<const T> values) : device_(device), size_(static_cast<int64_t>(values.size())) {
    Require(memory_.Allocate(size_ * int64_t{sizeof(T)}));
    Require(CopyToDevice(device.stream(), memory_.data(), values.data(), memory_.bytes()));
    device.Wait();
  }
  DeviceArray(const Device& device, const std::vector<T>& values) : DeviceArray(device, std::span<const T>(values)) {}
  DeviceArray(const Device& device, int64_t size) : device_(device), size_(size) {
    Require(memory_.Allocate(size * int64_t{sizeof(T)}));
    Require(FillBytes(device.stream(), memory_.data(), 0xff, memory_.bytes()));
  }
  T* data() const { return memory_.data<T>(); }
  std::vector<T> Fetch() const {
    std::vector<T> values(static_cast<size_t>(size_));
    Require(CopyToHost(device_.stream(), values.data(), memory_.data(), memory_.bytes()));
    device_.Wait();
    return values;
  }

 private:
  const Device& device_;
  int64_t size_;
  DeviceMemory memory_;
};

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_TESTS_KERNELS_CUDA_DEVICE_ARRAYS_H_
