#include "kernels/cuda/device_runtime.h"

#include <cuda_runtime.h>

namespace spherical::kernels::cuda {
namespace {

CudaStatus StatusOf(cudaError_t error) { return static_cast<CudaStatus>(error); }

CudaStatus Copy(Stream stream, void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
  return StatusOf(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, stream));
}

// Tells which of the architectures in this program runs on the device.
__global__ void NothingKernel() {}

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

template <MemoryKind kKind>
Memory<kKind>::~Memory() {
  if constexpr (kKind == MemoryKind::kDevice) {
    cudaFree(data_);
  } else {
    cudaFreeHost(data_);
  }
}
template <MemoryKind kKind>
CudaStatus Memory<kKind>::Allocate(int64_t bytes) {
  *this = Memory();
  const size_t size = static_cast<size_t>(bytes);
  const CudaStatus status = StatusOf(kKind == MemoryKind::kDevice ? cudaMalloc(&data_, size) : cudaMallocHost(&data_, size));
  if (status == CudaStatus::kOk) bytes_ = bytes;
  return status;
}
template class Memory<MemoryKind::kDevice>;
template class Memory<MemoryKind::kPinned>;

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

Event::~Event() {
  if (event_ != nullptr) cudaEventDestroy(event_);
}
CudaStatus Event::Create() { return StatusOf(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
CudaStatus Event::Record(Stream stream) { return StatusOf(cudaEventRecord(event_, stream)); }
CudaStatus Event::Await(Stream stream) const { return StatusOf(cudaStreamWaitEvent(stream, event_, 0)); }

Graph::~Graph() {
  if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
}
CudaStatus Graph::BeginRecording(Stream stream) { return StatusOf(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal)); }
CudaStatus Graph::EndRecording(Stream stream) {
  *this = Graph();
  cudaGraph_t recorded = nullptr;
  CudaStatus status = StatusOf(cudaStreamEndCapture(stream, &recorded));
  if (status == CudaStatus::kOk) status = StatusOf(cudaGraphInstantiate(&graph_, recorded, 0));
  if (recorded != nullptr) cudaGraphDestroy(recorded);
  if (status == CudaStatus::kOk) status = StatusOf(cudaGraphUpload(graph_, stream));  // else the first launch would
  return status;
}
CudaStatus Graph::Launch(Stream stream) const { return StatusOf(cudaGraphLaunch(graph_, stream)); }

bool LaunchesOverlap() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, NothingKernel) == cudaSuccess && attributes.ptxVersion >= 90;
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
