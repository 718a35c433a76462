#ifndef SPHERICAL_ENGINE_STEP_STEP_INPUT_H_
#define SPHERICAL_ENGINE_STEP_STEP_INPUT_H_

#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/units.h"
#include "kernels/cuda/dense_rows.h"
#include "kernels/cuda/device_runtime.h"

namespace spherical::engine {

// Small arrays that a step brings to the device: gathered in pinned memory, sent by one copy, or a few. What is placed is read from there
// by the kernel that places it: a copy before it would make the device wait another 10 us.
//
//   input.Begin();                                                  // the stream has passed all that was sent
//   const int32_t* tokens = input.Put(std::span(tokens_of_rows));   // where it will be on the device
//   input.Place(std::span(positions_of_rows), positions);           // to where kernels look for it step after step
//   status = input.Send(stream);                                    // what was put since the last Send
//
// Several threads can place at once, each into a section of its own:
//
//   StepInput::Section section = input.SectionAt(from, bytes);      // of a range that nothing else uses in this step
//   section.Place(std::span(parts), to);
//   input.Take(section);                                            // by one thread, when all are done
class StepInput {
 public:
  // A range of the pinned memory, and what is to be placed from it.
  class Section {
   public:
    Section() = default;
    Section(uint8_t* base, int64_t bytes) : base_(base), bytes_(bytes) {}
    void Begin() { used_ = 0; }
    // `to` is device memory aligned to 256 bytes, as is what lies behind its room. Returns what was gathered, to be placed again.
    template <class T>
    std::span<T> Place(std::span<const T> values, T* to) {
      const std::span<T> gathered(reinterpret_cast<T*>(base_ + Gather(values)), values.size());
      PlaceAgain(gathered, to);
      return gathered;
    }
    template <class T>
    void PlaceAgain(std::span<T> gathered, T* to) {
      if (gathered.empty()) return;
      pieces_.push_back({.from = gathered.data(), .to = to, .bytes = RoundUp(static_cast<int64_t>(gathered.size_bytes()), 16)});
    }

   private:
    friend class StepInput;
    // Returns where in the range.
    template <class T>
    int64_t Gather(std::span<const T> values) {
      const int64_t at = used_;
      used_ += BytesFor(static_cast<int64_t>(values.size_bytes()));
      SPH_CHECK(used_ <= bytes_);
      if (!values.empty()) std::memcpy(base_ + at, values.data(), values.size_bytes());
      return at;
    }
    uint8_t* base_ = nullptr;
    int64_t bytes_ = 0, used_ = 0;
    std::vector<kernels::cuda::Piece> pieces_;
  };
  Section SectionAt(int64_t from, int64_t bytes) const {
    SPH_CHECK(from >= 0 && from + bytes <= pinned_.bytes());
    return {pinned_.data() + from, bytes};
  }
  void Take(Section& section) {
    all_.pieces_.insert(all_.pieces_.end(), section.pieces_.begin(), section.pieces_.end());
    section.pieces_.clear();
  }

  // pieces: that are placed between two Sends, at most.
  kernels::cuda::CudaStatus Create(int64_t bytes, int32_t pieces = 0) {
    using kernels::cuda::CudaStatus;
    bytes += BytesFor(pieces * int64_t{sizeof(kernels::cuda::Piece)});
    if (const CudaStatus taken = device_.Allocate(bytes); taken != CudaStatus::kOk) return taken;
    if (const CudaStatus taken = pinned_.Allocate(bytes); taken != CudaStatus::kOk) return taken;
    all_ = SectionAt(0, bytes);
    all_.pieces_.reserve(static_cast<size_t>(pieces));
    return CudaStatus::kOk;
  }
  // from: what is gathered goes behind this, the range of sections.
  void Begin(int64_t from = 0) {
    all_.used_ = sent_ = from;
    any_put_ = false;
  }
  int64_t bytes() const { return pinned_.bytes(); }

  static int64_t BytesFor(int64_t bytes) { return RoundUp(bytes, kAlignment); }
  template <class T>
  T* Put(std::span<const T> values) {
    any_put_ = true;
    return reinterpret_cast<T*>(device_.data() + all_.Gather(values));
  }
  // As a section's.
  template <class T>
  void Place(std::span<const T> values, T* to) {
    all_.Place(values, to);
  }
  kernels::cuda::CudaStatus Send(kernels::cuda::Stream stream) {
    using kernels::cuda::CudaStatus;
    const int64_t first = sent_, end = all_.used_;
    const int32_t count = static_cast<int32_t>(all_.pieces_.size());
    const int64_t pieces = all_.Gather(std::span<const kernels::cuda::Piece>(all_.pieces_));
    all_.pieces_.clear();
    sent_ = all_.used_;
    const bool copied = std::exchange(any_put_, false);
    CudaStatus sent = CudaStatus::kOk;
    if (copied) sent = kernels::cuda::CopyToDevice(stream, device_.data() + first, pinned_.data() + first, end - first);
    if (sent != CudaStatus::kOk) return sent;
    return kernels::cuda::CopyPieces(stream, reinterpret_cast<const kernels::cuda::Piece*>(pinned_.data() + pieces), count);
  }

 private:
  static constexpr int64_t kAlignment = 256;
  kernels::cuda::DeviceMemory device_;
  kernels::cuda::PinnedMemory pinned_;
  Section all_;
  int64_t sent_ = 0;
  bool any_put_ = false;  // since the last Send: there is something to copy
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_STEP_INPUT_H_
