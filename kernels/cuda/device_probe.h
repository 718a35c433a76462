#ifndef SPHERICAL_KERNELS_CUDA_DEVICE_PROBE_H_
#define SPHERICAL_KERNELS_CUDA_DEVICE_PROBE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace spherical::kernels {

// What CUDA says about one device.
struct CudaDevice {
  int32_t index = 0;           // CUDA's
  std::string name;            // "NVIDIA H200"
  int32_t compute_major = 0;   // 9.0: major 9, minor 0
  int32_t compute_minor = 0;
  int32_t multiprocessors = 0;
  int64_t memory_bytes = 0;    // in all
  int64_t free_bytes = 0;      // at the time of asking
  std::string why_not;         // a device that cannot run our kernels: what it said when one was tried
};

// The devices that can run our kernels, or why there are none.
struct CudaProbe {
  std::vector<CudaDevice> devices;   // by CUDA's index
  std::vector<CudaDevice> unusable;  // there, but not for us
  std::string why_none;              // empty if there are devices
};

// Below 8.0 nothing copies to shared memory beside a kernel's work, and this build has no code.
inline constexpr int32_t kComputeMajorLeast = 8;

// Asks the CUDA runtime; in a build without CUDA (the default) it says so. Creates a context on every device to learn how much of
// its memory is free, so ask once, at start. Also runs one small kernel on each: a device whose compute capability this build has
// no code for is reported here, and not in the middle of a request.
CudaProbe ProbeCudaDevices();

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_CUDA_DEVICE_PROBE_H_
