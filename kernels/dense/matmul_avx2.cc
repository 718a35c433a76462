#include <immintrin.h>
#include <stdint.h>

#include "kernels/dense/matmul_isa.h"

namespace spherical::kernels::avx2 {
namespace {
#include "kernels/dense/quads_avx2.inc"

#include "kernels/dense/matmul.inc"
#include "kernels/dense/quantize.inc"
}  // namespace

void Multiply(const MatMulOperands& o) { RunAny(o); }

void Quantize(const QuantizeOperands& o) { QuantizeRows(o); }

}  // namespace spherical::kernels::avx2
