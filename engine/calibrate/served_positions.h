// What rotary positions make of vectors, averaged over all the positions that will be served. In closed form, because a model's own short
// samples never reach most of them: the slow planes would stay where they are, and keys at later positions would be coded with a geometry
// that has never seen them.
//
// A plane of coordinates (x_i, x_j) that turns by w per position is a complex number z, which position p turns into z e^(iwp). So the mean
// of products over positions is that of the pairs of planes, each times an average of a turning number:
//
//     E[z_a conj z_b] -> E[z_a conj z_b] T(w_a - w_b)        T(w) = mean over p in [0, context) of e^(iwp)
//     E[z_a z_b]      -> E[z_a z_b]      T(w_a + w_b)
//     E[z_a]          -> E[z_a]          T(w_a)
//
// Coordinates past the rotary ones do not turn: w = 0.
#ifndef SPHERICAL_ENGINE_CALIBRATE_SERVED_POSITIONS_H_
#define SPHERICAL_ENGINE_CALIBRATE_SERVED_POSITIONS_H_

#include <complex>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kernels/dense/rows.h"

namespace spherical::engine {

class ServedPositions {
 public:
  struct Rotary {
    int32_t head_dim = 0;  // even
    int32_t rotary_dim = 0;
    kernels::RotaryPairing pairing = kernels::RotaryPairing::kAdjacent;
    std::span<const double> frequency;  // [rotary_dim / 2]
  };
  // Positions 0 to context - 1.
  ServedPositions(const Rotary& rotary, int32_t context);

  int32_t head_dim() const { return head_dim_; }
  // Mean of vectors before rotary positions -> their mean over all positions.   [D], in place
  void AverageMean(std::span<double> mean) const;
  // Mean of x x' before -> over all positions.   [D, D], symmetric, in place
  void AverageProducts(std::span<double> products) const;

 private:
  struct Plane {
    int32_t i, j;      // coordinates
    double frequency;  // radians per position
  };
  std::complex<double> Turn(double frequency) const;  // T

  int32_t head_dim_;
  int32_t context_;
  std::vector<Plane> planes_;  // [D / 2]
};

// Those of a model's layers: local ones may turn otherwise than the rest.
class ModelPositions {
 public:
  // All layers alike.
  ModelPositions(ServedPositions positions) : whole_(std::move(positions)) {}
  ModelPositions(ServedPositions whole, ServedPositions local, std::vector<bool> is_local)
      : whole_(std::move(whole)), local_(std::move(local)), is_local_(std::move(is_local)) {}

  const ServedPositions& at(int32_t layer) const {
    return local_ && is_local_[static_cast<size_t>(layer)] ? *local_ : whole_;
  }

 private:
  ServedPositions whole_;
  std::optional<ServedPositions> local_;
  std::vector<bool> is_local_;  // [layers], if there is a local_
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_CALIBRATE_SERVED_POSITIONS_H_
