#include "engine/calibrate/served_positions.h"

#include <cmath>
#include <numbers>

namespace spherical::engine {

ServedPositions::ServedPositions(const Rotary& rotary, int32_t context) : head_dim_(rotary.head_dim), context_(context) {
  const int32_t pairs = rotary.rotary_dim / 2;
  const bool adjacent = rotary.pairing == kernels::RotaryPairing::kAdjacent;
  for (int32_t p = 0; p < pairs; ++p) {
    const int32_t first = adjacent ? 2 * p : p;
    planes_.push_back({.i = first, .j = first + (adjacent ? 1 : pairs), .frequency = rotary.frequency[static_cast<size_t>(p)]});
  }
  for (int32_t i = rotary.rotary_dim; i < head_dim_; i += 2) planes_.push_back({.i = i, .j = i + 1, .frequency = 0});
}

// A geometric sum: e^(iw(n-1)/2) sin(nw/2) / (n sin(w/2)).
std::complex<double> ServedPositions::Turn(double frequency) const {
  const double w = std::remainder(frequency, 2 * std::numbers::pi);
  if (std::abs(w) < 1e-14) return 1;
  const double n = context_;
  return std::polar(1.0, w * (n - 1) / 2) * (std::sin(w * n / 2) / (n * std::sin(w / 2)));
}

void ServedPositions::AverageMean(std::span<double> mean) const {
  for (const Plane& plane : planes_) {
    double& x = mean[static_cast<size_t>(plane.i)];
    double& y = mean[static_cast<size_t>(plane.j)];
    const std::complex<double> z = std::complex<double>(x, y) * Turn(plane.frequency);
    x = z.real();
    y = z.imag();
  }
}

void ServedPositions::AverageProducts(std::span<double> products) const {
  const auto at = [&](int32_t row, int32_t column) -> double& {
    return products[static_cast<size_t>(row) * static_cast<size_t>(head_dim_) + static_cast<size_t>(column)];
  };
  for (size_t first = 0; first < planes_.size(); ++first) {
    for (size_t second = first; second < planes_.size(); ++second) {
      const Plane &a = planes_[first], &b = planes_[second];
      const double ii = at(a.i, b.i), ij = at(a.i, b.j), ji = at(a.j, b.i), jj = at(a.j, b.j);
      // E[z_a conj z_b] and E[z_a z_b], and back.
      const std::complex<double> apart = std::complex<double>(ii + jj, ji - ij) * Turn(a.frequency - b.frequency);
      const std::complex<double> together = std::complex<double>(ii - jj, ji + ij) * Turn(a.frequency + b.frequency);
      at(a.i, b.i) = at(b.i, a.i) = (apart.real() + together.real()) / 2;
      at(a.j, b.j) = at(b.j, a.j) = (apart.real() - together.real()) / 2;
      at(a.j, b.i) = at(b.i, a.j) = (apart.imag() + together.imag()) / 2;
      at(a.i, b.j) = at(b.j, a.i) = (together.imag() - apart.imag()) / 2;
    }
  }
}

}  // namespace spherical::engine
