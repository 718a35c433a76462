#include "kernels/dense/rows.h"

#include <bit>
#include <cmath>

#include "kernels/base/cpu.h"
#include "kernels/dense/rows_isa.h"

namespace spherical::kernels {

std::span<const RowsImpl> RowsImpls() {
  static constexpr RowsImpl kImpls[] = {
      {"reference", CpuHasAlways, reference::RmsNorm, reference::SiluGate, reference::GeluGate, reference::LogSumExp},
      {"portable", CpuHasAlways, portable::RmsNorm, portable::SiluGate, portable::GeluGate, portable::LogSumExp},
      {"avx2", CpuHasAvx2, avx2::RmsNorm, avx2::SiluGate, avx2::GeluGate, avx2::LogSumExp},
      {"avx512", CpuHasAvx512, avx512::RmsNorm, avx512::SiluGate, avx512::GeluGate, avx512::LogSumExp},
  };
  return kImpls;
}

const RowsImpl& BestRows() {
  static const RowsImpl& best = []() -> const RowsImpl& {
    const RowsImpl* last = nullptr;
    for (const RowsImpl& impl : RowsImpls()) {
      if (impl.supported()) last = &impl;
    }
    return *last;
  }();
  return best;
}

void RmsNorm(const float* x, const float* weight, float epsilon, int64_t m, int64_t d, float* y) {
  BestRows().rms_norm(x, weight, epsilon, m, d, y);
}

void SiluGate(const float* up, int64_t m, int64_t d, float* gate) { BestRows().silu_gate(up, m, d, gate); }

void GeluGate(const float* up, int64_t m, int64_t d, float* gate) { BestRows().gelu_gate(up, m, d, gate); }

double LogSumExp(const float* x, int64_t n) { return BestRows().log_sum_exp(x, n); }

void AddRows(const float* delta, int64_t m, int64_t d, float* x) {
  for (int64_t i = 0; i < m * d; ++i) x[i] += delta[i];
}

void AddBias(const float* bias, int64_t m, int64_t d, float* x) {
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t i = 0; i < d; ++i) x[row * d + i] += bias[i];
  }
}

void RotaryAngles(const double* frequency, int32_t rotary_dim, int64_t position, float* out) {
  const int32_t pairs = rotary_dim / 2;
  for (int32_t i = 0; i < pairs; ++i) {
    const double angle = static_cast<double>(position) * frequency[i];
    out[i] = static_cast<float>(std::cos(angle));
    out[pairs + i] = static_cast<float>(std::sin(angle));
  }
}

void ApplyRotary(const float* angles, RotaryPairing pairing, int32_t heads, int32_t head_dim, int32_t rotary_dim, float* x) {
  const int32_t pairs = rotary_dim / 2;
  const float* cosine = angles;
  const float* sine = angles + pairs;
  // Coordinate i of a pair: adjacent pairs are (2i, 2i + 1), halves are (i, i + rotary_dim / 2).
  const int32_t step = pairing == RotaryPairing::kAdjacent ? 2 : 1;
  const int32_t apart = pairing == RotaryPairing::kAdjacent ? 1 : pairs;
  for (int32_t h = 0; h < heads; ++h) {
    float* head = x + static_cast<int64_t>(h) * head_dim;
    for (int32_t i = 0; i < pairs; ++i) {
      const float a = head[i * step];
      const float b = head[i * step + apart];
      head[i * step] = a * cosine[i] - b * sine[i];
      head[i * step + apart] = a * sine[i] + b * cosine[i];
    }
  }
}

void CapRows(float cap, int64_t n, float* x) {
  for (int64_t i = 0; i < n; ++i) x[i] = cap * std::tanh(x[i] / cap);
}

bool AllFinite(const float* x, int64_t n) {
  uint32_t all_ones = 0;  // an exponent of all ones: infinity or NaN. No early exit, so that the loop runs in vectors.
  for (int64_t i = 0; i < n; ++i) all_ones |= (std::bit_cast<uint32_t>(x[i]) & 0x7f800000u) == 0x7f800000u;
  return all_ones == 0;
}

}  // namespace spherical::kernels
