#ifndef SPHERICAL_ENGINE_STEP_DEVICE_CHOICE_H_
#define SPHERICAL_ENGINE_STEP_DEVICE_CHOICE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/cuda/device_probe.h"

namespace spherical::engine {

// What runs the model.
struct DeviceChoice {
  int32_t cuda = -1;     // CUDA's index; -1: the CPU
  std::string what;      // for people: "cpu", "CUDA device 0: NVIDIA H200, compute capability 9.0, 140.4 of 141.0 GB free"
  std::string why;       // `auto` took the CPU: why there is no device
  bool on_cuda() const { return cuda >= 0; }
};

// Whether `name` is one of "cpu", "auto" and "cuda:N", N from 0 to 1023.
bool IsDeviceName(std::string_view name);

// Finds the device of that name; `auto` is the first CUDA device that can run our kernels, else the CPU. CUDA is asked only where it is
// named. FailedPrecondition says what is missing: CUDA in the build, a driver, a device of that index, compute capability.
absl::StatusOr<DeviceChoice> ChooseDevice(std::string_view name);
absl::StatusOr<DeviceChoice> ChooseDeviceAmong(std::string_view name, const kernels::CudaProbe& probe);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_DEVICE_CHOICE_H_
