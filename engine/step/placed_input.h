#ifndef SPHERICAL_ENGINE_STEP_PLACED_INPUT_H_
#define SPHERICAL_ENGINE_STEP_PLACED_INPUT_H_

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/units.h"
#include "kernels/cuda/dense_rows.h"
#include "kernels/cuda/device_runtime.h"

namespace spherical::engine {

// Small arrays that a step brings to where kernels look for them step after step. They are gathered in pinned memory, and the kernel that
// places them reads them there: a copy before it would make the device wait another 10 us.
//
//   input.Begin();                                                  // the stream has passed all that was sent
//   input.Place(std::span(positions_of_rows), positions);           // `positions` is device memory
//   status = input.Send(stream);                                    // what was placed or taken since the last Send
//
// Several threads can place at once, each into a section of its own:
//
//   PlacedInput::Section section = input.SectionAt(from, bytes);    // of a range that nothing else uses in this step
//   section.Place(std::span(parts), to);
//   input.Take(section);                                            // by one thread, when all are done
class PlacedInput {
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
      const std::span<T> gathered = Gather(values);
      PlaceAgain(gathered, to);
      return gathered;
    }
    template <class T>
    void PlaceAgain(std::span<T> gathered, T* to) {
      if (gathered.empty()) return;
      pieces_.push_back({.from = gathered.data(), .to = to, .bytes = RoundUp(static_cast<int64_t>(gathered.size_bytes()), 16)});
    }

   private:
    friend class PlacedInput;
    template <class T>
    std::span<T> Gather(std::span<const T> values) {
      const int64_t at = used_;
      used_ += BytesFor(static_cast<int64_t>(values.size_bytes()));
      SPH_CHECK(used_ <= bytes_);
      if (!values.empty()) std::memcpy(base_ + at, values.data(), values.size_bytes());
      return {reinterpret_cast<T*>(base_ + at), values.size()};
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
  kernels::cuda::CudaStatus Create(int64_t bytes, int32_t pieces) {
    bytes += BytesFor(pieces * int64_t{sizeof(kernels::cuda::Piece)});
    if (const auto taken = pinned_.Allocate(bytes); taken != kernels::cuda::CudaStatus::kOk) return taken;
    all_ = SectionAt(0, bytes);
    all_.pieces_.reserve(static_cast<size_t>(pieces));
    return kernels::cuda::CudaStatus::kOk;
  }
  // from: what is gathered goes behind this, the range of sections.
  void Begin(int64_t from = 0) { all_.used_ = from; }
  template <class T>
  void Place(std::span<const T> values, T* to) {
    all_.Place(values, to);
  }
  kernels::cuda::CudaStatus Send(kernels::cuda::Stream stream) {
    const auto pieces = all_.Gather(std::span<const kernels::cuda::Piece>(all_.pieces_));
    all_.pieces_.clear();
    return kernels::cuda::CopyPieces(stream, pieces.data(), static_cast<int32_t>(pieces.size()));
  }

 private:
  static int64_t BytesFor(int64_t bytes) { return RoundUp(bytes, 256); }
  kernels::cuda::PinnedMemory pinned_;
  Section all_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_PLACED_INPUT_H_
