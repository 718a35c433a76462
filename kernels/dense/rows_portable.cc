// Row-wise work for one instruction set: all of it is in rows.inc, this file chooses the lanes.
#include <stdint.h>

#include "kernels/base/float16.h"
#include "kernels/dense/rows_isa.h"

namespace spherical::kernels::portable {
namespace {
#include "kernels/base/lanes_portable.inc"
#include "kernels/base/exp.inc"
#include "kernels/dense/rows.inc"
}  // namespace

void RmsNorm(const float* x, const float* weight, float epsilon, int64_t m, int64_t d, float* y) {
  for (int64_t row = 0; row < m; ++row) NormRow(x + row * d, weight, epsilon, d, y + row * d);
}

void SiluGate(const float* up, int64_t m, int64_t d, float* gate) {
  for (int64_t row = 0; row < m; ++row) GateRow<SiluGated>(up + row * d, d, gate + row * d);
}

void GeluGate(const float* up, int64_t m, int64_t d, float* gate) {
  for (int64_t row = 0; row < m; ++row) GateRow<GeluGated>(up + row * d, d, gate + row * d);
}

double LogSumExp(const float* x, int64_t n) { return LogSumExpOf(x, n); }

}  // namespace spherical::kernels::portable
