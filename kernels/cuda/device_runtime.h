// What the CUDA side stands on: memory, streams and errors of one device, without CUDA's headers, so that the engine needs no toolkit to
// compile. Only in builds with --config=cuda.
//
// Every object belongs to the device it was made on; there is no global state but CUDA's own notion of the calling thread's device, which
// UseDevice sets once per thread.
#ifndef SPHERICAL_KERNELS_CUDA_DEVICE_RUNTIME_H_
#define SPHERICAL_KERNELS_CUDA_DEVICE_RUNTIME_H_

#include <cstdint>
#include <utility>

struct CUevent_st;
struct CUgraphExec_st;
struct CUstream_st;

namespace spherical::kernels::cuda {

using Stream = CUstream_st*;  // CUDA's own handle: work on one runs in order

// CUDA's error code. Launches only queue: what goes wrong inside a kernel is told by a later call, Synchronize at the latest.
enum class [[nodiscard]] CudaStatus : int32_t { kOk = 0 };
const char* TextOf(CudaStatus status);  // "an illegal memory access was encountered"

// Makes `device` the calling thread's; all below is about that one.
CudaStatus UseDevice(int32_t device);
CudaStatus FreeMemory(int64_t* free_bytes, int64_t* all_bytes);

// Bytes of memory, given back at the end: on the device, or of the host and pinned, which copies need not stage. Aligned to 256.
enum class MemoryKind : uint8_t { kDevice, kPinned };
template <MemoryKind kKind>
class Memory {
 public:
  Memory() = default;
  Memory(Memory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory();

  // Not initialised. What was held is given back first.
  CudaStatus Allocate(int64_t bytes);

  template <class T = uint8_t>
  T* data() const { return static_cast<T*>(data_); }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};
using DeviceMemory = Memory<MemoryKind::kDevice>;
using PinnedMemory = Memory<MemoryKind::kPinned>;

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

// A point of a stream's work that another stream waits for. Of recorded streams too: they are recorded together then.
class Event {
 public:
  Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event();

  CudaStatus Create();                    // once, before the others
  CudaStatus Record(Stream stream);       // all that has been queued on the stream
  CudaStatus Await(Stream stream) const;  // what is queued on the stream from here on comes after what was recorded last

 private:
  CUevent_st* event_ = nullptr;
};

// What was queued on a stream, recorded once and then queued again by one call, with the arguments that it had.
//
//   graph.BeginRecording(stream);   // what the calling thread queues on the stream from here on does not run
//   ...
//   graph.EndRecording(stream);     // takes device memory for it; an error of anything since is told here, and nothing is recorded
//   graph.Launch(stream);
class Graph {
 public:
  Graph() = default;
  Graph(Graph&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(graph_, other.graph_);
    return *this;
  }
  ~Graph();

  CudaStatus BeginRecording(Stream stream);
  CudaStatus EndRecording(Stream stream);
  CudaStatus Launch(Stream stream) const;
  bool recorded() const { return graph_ != nullptr; }

 private:
  CUgraphExec_st* graph_ = nullptr;
};

// Whether launches that ask to begin while the one before them ends may (launch_overlap.cuh): from Hopper on.
bool LaunchesOverlap();

// Queued on the stream. Host memory that is not pinned makes the call wait for the copy.
CudaStatus CopyToDevice(Stream stream, void* to, const void* from, int64_t bytes);
CudaStatus CopyToHost(Stream stream, void* to, const void* from, int64_t bytes);
CudaStatus CopyOnDevice(Stream stream, void* to, const void* from, int64_t bytes);
CudaStatus FillBytes(Stream stream, void* to, uint8_t value, int64_t bytes);

// Waits for all that was queued; an error of any of it is told here.
CudaStatus Synchronize(Stream stream);

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_DEVICE_RUNTIME_H_
