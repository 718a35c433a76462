#include "tests/engine/geometry_error.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/spherical/query_geometry.h"

namespace spherical::testing {
namespace {

// E[(x - coded x)^2] of a normal x with this deviation.
double QuantiserError(int32_t width, double deviation) {
  if (width == 0) return deviation * deviation;
  constexpr int32_t kSteps = 2000;
  const double step = kernels::kCodeStep[width], top = 1 << (width - 1);
  double error = 0, mass = 0;
  for (int32_t i = 0; i < kSteps; ++i) {
    const double t = -6 + 12 * (i + 0.5) / kSteps, x = t * deviation, weight = std::exp(-t * t / 2);
    const double code = std::clamp(std::floor(x / step), -top, top - 1);
    error += weight * std::pow(x - (code + 0.5) * step, 2);
    mass += weight;
  }
  return error / mass;
}

// row' S row
double Form(const float* row, const std::vector<double>& s, size_t d) {
  double sum = 0;
  for (size_t i = 0; i < d; ++i) {
    for (size_t j = 0; j < d; ++j) sum += double{row[i]} * s[i * d + j] * double{row[j]};
  }
  return sum;
}

}  // namespace

double ExpectedLogitError(engine::ModelGeometry& geometry, int32_t head, kernels::Tier tier, const engine::ServedMoments& moments) {
  const size_t d = static_cast<size_t>(geometry.shape().head_dim);
  std::vector<double> around_centre = moments.key_covariance;
  for (size_t i = 0; i < d; ++i) {
    for (size_t j = 0; j < d; ++j) {
      const double* mean = moments.key_mean.data();
      around_centre[i * d + j] += (mean[i] - geometry.centre(head)[i]) * (mean[j] - geometry.centre(head)[j]);
    }
  }
  std::vector<double> variance(d);
  double radius_squared = 0;
  for (size_t i = 0; i < d; ++i) {
    variance[i] = Form(&geometry.map(head)[i * d], around_centre, d);
    radius_squared += variance[i] / static_cast<double>(d);
  }
  // T8's range ends at the largest coordinate, some three deviations out, and not at 3.94 mean ones.
  if (tier == kernels::Tier::kT8) radius_squared = *std::max_element(variance.begin(), variance.end()) * std::pow(3 / 3.94, 2);
  double error = 0;
  for (size_t i = 0; i < d; ++i) {
    const int32_t width = geometry.key(head).widths[static_cast<size_t>(tier)][i / kernels::kGroup];
    error += Form(&geometry.query_map(head)[i * d], moments.query_products, d) * radius_squared *
             QuantiserError(width, std::sqrt(variance[i] / radius_squared));
  }
  return error;
}

}  // namespace spherical::testing
