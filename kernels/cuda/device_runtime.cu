#include "kernels/cuda/device_runtime.h"

#include <cuda_runtime.h>

namespace spherical::kernels::cuda {
namespace {

CudaStatus StatusOf(cudaError_t error) { return static_cast<CudaStatus>(error); }

CudaStatus Copy(Stream stream, void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
  return StatusOf(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, stream));
}

}  // namespace

const char* TextOf(CudaStatus status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

CudaStatus UseDevice(int32_t device) { return StatusOf(cudaSetDevice(device)); }

CudaStatus FreeMemory(int64_t* free_bytes, int64_t* all_bytes) {
  size_t free = 0, all = 0;
  const CudaStatus status = StatusOf(cudaMemGetInfo(&free, &all));
  *free_bytes = static_cast<int64_t>(free);
  *all_bytes = static_cast<int64_t>(all);
  return status;
}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}
DeviceMemory::~DeviceMemory() { cudaFree(data_); }
CudaStatus DeviceMemory::Allocate(int64_t bytes) {
  *this = DeviceMemory();
  const CudaStatus status = StatusOf(cudaMalloc(&data_, static_cast<size_t>(bytes)));
  if (status == CudaStatus::kOk) bytes_ = bytes;
  return status;
}

PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}
PinnedMemory::~PinnedMemory() { cudaFreeHost(data_); }
CudaStatus PinnedMemory::Allocate(int64_t bytes) {
  *this = PinnedMemory();
  const CudaStatus status = StatusOf(cudaMallocHost(&data_, static_cast<size_t>(bytes)));
  if (status == CudaStatus::kOk) bytes_ = bytes;
  return status;
}

OwnStream& OwnStream::operator=(OwnStream&& other) noexcept {
  std::swap(stream_, other.stream_);
  return *this;
}
OwnStream::~OwnStream() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}
CudaStatus OwnStream::Create() {
  *this = OwnStream();
  return StatusOf(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

CudaStatus CopyToDevice(Stream stream, void* to, const void* from, int64_t bytes) {
  return Copy(stream, to, from, bytes, cudaMemcpyHostToDevice);
}
CudaStatus CopyToHost(Stream stream, void* to, const void* from, int64_t bytes) {
  return Copy(stream, to, from, bytes, cudaMemcpyDeviceToHost);
}
CudaStatus CopyOnDevice(Stream stream, void* to, const void* from, int64_t bytes) {
  return Copy(stream, to, from, bytes, cudaMemcpyDeviceToDevice);
}
CudaStatus FillBytes(Stream stream, void* to, uint8_t value, int64_t bytes) {
  return StatusOf(cudaMemsetAsync(to, value, static_cast<size_t>(bytes), stream));
}

CudaStatus Synchronize(Stream stream) { return StatusOf(cudaStreamSynchronize(stream)); }

}  // namespace spherical::kernels::cuda
