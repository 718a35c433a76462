// Row-wise work in double precision, plain loops: the definition of correct.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "kernels/dense/rows_isa.h"

namespace spherical::kernels::reference {

void RmsNorm(const float* x, const float* weight, float epsilon, int64_t m, int64_t d, float* y) {
  for (int64_t row = 0; row < m; ++row) {
    const float* in = x + row * d;
    double squares = 0;
    for (int64_t i = 0; i < d; ++i) squares += static_cast<double>(in[i]) * in[i];
    const double root = std::sqrt(squares / static_cast<double>(d) + epsilon);
    for (int64_t i = 0; i < d; ++i) y[row * d + i] = static_cast<float>(in[i] / root * weight[i]);
  }
}

void SiluGate(const float* up, int64_t m, int64_t d, float* gate) {
  for (int64_t i = 0; i < m * d; ++i) {
    const double g = gate[i];
    gate[i] = static_cast<float>(g / (1 + std::exp(-g)) * up[i]);
  }
}

void GeluGate(const float* up, int64_t m, int64_t d, float* gate) {
  for (int64_t i = 0; i < m * d; ++i) {
    const double g = gate[i];
    const double t = 2 * std::sqrt(2 / std::numbers::pi) * (g + 0.044715 * g * g * g);
    gate[i] = static_cast<float>(g / (1 + std::exp(-t)) * up[i]);
  }
}

double LogSumExp(const float* x, int64_t n) {
  double max = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < n; ++i) max = std::max(max, static_cast<double>(x[i]));
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - max);
  return max + std::log(sum);
}

}  // namespace spherical::kernels::reference
