#include "kernels/cuda/device_probe.h"

#include <cuda_runtime.h>

namespace spherical::kernels {
namespace {

constexpr int32_t kAnswer = 0x5b4e51ca;

__global__ void AnswerKernel(int32_t* answer) { *answer = kAnswer; }

// Device memory for one int32, given back at the end of the scope.
class DeviceInt32 {
 public:
  DeviceInt32() : status_(cudaMalloc(&data_, sizeof(int32_t))) {}
  ~DeviceInt32() { cudaFree(data_); }
  DeviceInt32(const DeviceInt32&) = delete;
  DeviceInt32& operator=(const DeviceInt32&) = delete;

  cudaError_t status() const { return status_; }
  int32_t* data() const { return data_; }

 private:
  int32_t* data_ = nullptr;
  cudaError_t status_;
};

// Runs a kernel on the current device and fetches its result: proof that this build has code for it.
cudaError_t RunOnCurrentDevice() {
  DeviceInt32 device_answer;
  if (device_answer.status() != cudaSuccess) return device_answer.status();
  AnswerKernel<<<1, 1>>>(device_answer.data());
  if (const cudaError_t launched = cudaGetLastError(); launched != cudaSuccess) return launched;
  int32_t answer = 0;
  const cudaError_t copied = cudaMemcpy(&answer, device_answer.data(), sizeof(answer), cudaMemcpyDeviceToHost);
  if (copied != cudaSuccess) return copied;
  return answer == kAnswer ? cudaSuccess : cudaErrorUnknown;
}

cudaError_t ProbeDevice(int index, CudaDevice* device) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, index); error != cudaSuccess) return error;
  if (const cudaError_t error = cudaSetDevice(index); error != cudaSuccess) return error;
  size_t free_bytes = 0;
  size_t memory_bytes = 0;
  if (const cudaError_t error = cudaMemGetInfo(&free_bytes, &memory_bytes); error != cudaSuccess) return error;
  *device = {.index = index,
             .name = properties.name,
             .compute_major = properties.major,
             .compute_minor = properties.minor,
             .multiprocessors = properties.multiProcessorCount,
             .memory_bytes = static_cast<int64_t>(memory_bytes),
             .free_bytes = static_cast<int64_t>(free_bytes),
             .why_not = {}};
  return RunOnCurrentDevice();
}

}  // namespace

CudaProbe ProbeCudaDevices() {
  CudaProbe probe;
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    probe.why_none = cudaGetErrorString(error);
    return probe;
  }
  for (int index = 0; index < count; ++index) {
    CudaDevice device;
    if (const cudaError_t error = ProbeDevice(index, &device); error == cudaSuccess) {
      probe.devices.push_back(device);
    } else {
      device.index = index;
      device.why_not = cudaGetErrorString(error);
      cudaGetLastError();  // or the next device is told of it
      probe.why_none += "device " + std::to_string(index) + " " + device.name + ": " + device.why_not + ". ";
      probe.unusable.push_back(device);
    }
  }
  if (!probe.devices.empty()) probe.why_none.clear();
  return probe;
}

}  // namespace spherical::kernels
