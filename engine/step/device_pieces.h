#ifndef SPHERICAL_ENGINE_STEP_DEVICE_PIECES_H_
#define SPHERICAL_ENGINE_STEP_DEVICE_PIECES_H_

#include <cstdint>

#include "kernels/base/units.h"

namespace spherical::engine {

// Hands out the pieces of one allocation in order, each aligned to 256 bytes; from null it only counts.
class DevicePieces {
 public:
  explicit DevicePieces(uint8_t* base) : base_(base) {}
  template <class T>
  T* Take(int64_t count) {
    T* const piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += RoundUp(count * int64_t{sizeof(T)}, kAlignment);
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  static constexpr int64_t kAlignment = 256;
  uint8_t* base_;
  int64_t used_ = 0;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_DEVICE_PIECES_H_
