// What the CUDA side stands on: memory, streams and errors of one device, without CUDA's headers, so that the engine needs no toolkit to
// compile. Only in builds with --config=cuda.
//
// Every object belongs to the device it was made on; there is no global state but CUDA's own notion of the calling thread's device, which
// UseDevice sets once per thread.
#ifndef SPHERICAL_KERNELS_CUDA_DEVICE_RUNTIME_H_
#define SPHERICAL_KERNELS_CUDA_DEVICE_RUNTIME_H_

#include <cstdint>
#include <utility>

struct CUstream_st;

namespace spherical::kernels::cuda {

using Stream = CUstream_st*;  // CUDA's own handle: work on one runs in order

// CUDA's error code. Launches only queue: what goes wrong inside a kernel is told by a later call, Synchronize at the latest.
enum class [[nodiscard]] CudaStatus : int32_t { kOk = 0 };
const char* TextOf(CudaStatus status);  // "an illegal memory access was encountered"

// Makes `device` the calling thread's; all below is about that one.
CudaStatus UseDevice(int32_t device);
CudaStatus FreeMemory(int64_t* free_bytes, int64_t* all_bytes);

// Bytes of device memory (or, pinned, of host memory that copies need not stage), given back at the end. Aligned to 256.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(DeviceMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  ~DeviceMemory();

  // Not initialised. What was held is given back first.
  CudaStatus Allocate(int64_t bytes);

  template <class T = uint8_t>
  T* data() const { return static_cast<T*>(data_); }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

class PinnedMemory {
 public:
  PinnedMemory() = default;
  PinnedMemory(PinnedMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  PinnedMemory& operator=(PinnedMemory&& other) noexcept;
  ~PinnedMemory();

  CudaStatus Allocate(int64_t bytes);

  template <class T = uint8_t>
  T* data() const { return static_cast<T*>(data_); }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// A stream of its own, not synchronised with the default one.
class OwnStream {
 public:
  OwnStream() = default;
  OwnStream(OwnStream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  OwnStream& operator=(OwnStream&& other) noexcept;
  ~OwnStream();

  CudaStatus Create();
  Stream get() const { return stream_; }

 private:
  Stream stream_ = nullptr;
};

// Queued on the stream. Host memory that is not pinned makes the call wait for the copy.
CudaStatus CopyToDevice(Stream stream, void* to, const void* from, int64_t bytes);
CudaStatus CopyToHost(Stream stream, void* to, const void* from, int64_t bytes);
CudaStatus CopyOnDevice(Stream stream, void* to, const void* from, int64_t bytes);
CudaStatus FillBytes(Stream stream, void* to, uint8_t value, int64_t bytes);

// Waits for all that was queued; an error of any of it is told here.
CudaStatus Synchronize(Stream stream);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_DEVICE_RUNTIME_H_
