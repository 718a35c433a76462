#ifndef SPHERICAL_KERNELS_CUDA_DEVICE_PROBE_H_
#define SPHERICAL_KERNELS_CUDA_DEVICE_PROBE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace spherical::kernels {

// What CUDA says about one device.
struct CudaDevice {
  std::string name;            // "NVIDIA H200"
  int32_t compute_major = 0;   // 9.0: major 9, minor 0
  int32_t compute_minor = 0;
  int32_t multiprocessors = 0;
  int64_t memory_bytes = 0;    // in all
  int64_t free_bytes = 0;      // at the time of asking
};

// The devices that can run our kernels, or why there are none.
struct CudaProbe {
  std::vector<CudaDevice> devices;  // by CUDA's index
  std::string why_none;             // empty if there are devices
};

// Asks the CUDA runtime; in a build without CUDA (the default) it says so. Creates a context on every device to learn how much of
// its memory is free, so ask once, at start. Also runs one small kernel on each: a device whose compute capability this build has
// no code for is reported here, and not in the middle of a request.
CudaProbe ProbeCudaDevices();

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_CUDA_DEVICE_PROBE_H_
