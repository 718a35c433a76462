// Weight products on the CPU: y = x W', W [N, K] packed, x [M, K] f32, y [M, N] f32.
//
// Once per set of rows, `prepare` quantises the activations (int8 per 32, unless the mode is kF32); then every worker calls MatMul with its
// own Shard of the N outputs.
//
//   PackedMatrix w = PackMatrix(WeightType::kQ4_1, bytes, n, k, memory);
//   rows.Bind(ActivationType::kInt8, x, m, k);                     // rows: the caller's scratch
//   impl.prepare({0, m}, rows);
//   MatMul(impl, w, rows, y, /*y_stride=*/n, shard);               // each worker
//
// The arithmetic of one output (m, n) is the same whatever M and whatever the sharding, and the same in every implementation: batching
// never changes a bit. With u the unit of 32 columns and d, s the activations' scale and quants, in f32 with one rounding per fma:
//
//   kInt8:  for each u, for each of its scales:  y = fma(min, d * sum(s), y);  y = fma(scale * d, sum((quant - zero) s), y)
//   kF32, and float weights:  for each k:  s[k % 4] = fma(dequantised weight, x[k], s[k % 4]);  y = (s[0] + s[1]) + (s[2] + s[3])
//
// The four sums of kF32 are what one row needs to keep the multipliers busy, and round less than one.
#ifndef SPHERICAL_KERNELS_DENSE_MATMUL_H_
#define SPHERICAL_KERNELS_DENSE_MATMUL_H_

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/base/units.h"
#include "kernels/dense/packed_matrix.h"

namespace spherical::kernels {

// What activations become before a product.
enum class ActivationType : uint8_t {
  kInt8,  // int8 per 32, f32 scale: the default, integer dot products
  kF32,   // untouched; weights are dequantised into registers: the reference mode that quality is measured with
};

// M activation rows, made ready for products. Scratch owned by the caller and reused from step to step.
struct PreparedRows {
  ActivationType type = ActivationType::kInt8;
  int64_t m = 0, k = 0;
  const float* x = nullptr;     // [M, K]      the rows themselves
  std::vector<int8_t> quants;   // [M, K]      x / scale, rounded to nearest even
  std::vector<float> scales;    // [M, K/32]   max|x| / 127; 0 below 2^-100; NaN where x is not finite, so that the product is not either
  std::vector<int32_t> sums;    // [M, K/16]   sums of quants, for zero points
  std::vector<float> scaled_sums;  // [M, K/32]   scale * sum of quants, for mins

  // Points at rows x [M, K], K a multiple of 32, which stay alive until the products are done. Memory grows and never shrinks.
  void Bind(ActivationType type, const float* x, int64_t m, int64_t k);
};

// One implementation of the product.
struct MatMulImpl {
  const char* name;  // "reference", "portable", "avx2", "avx512vnni"
  bool (*supported)();
  void (*prepare)(Range rows, PreparedRows& out);
  void (*multiply)(const PackedMatrix& w, const PreparedRows& x, float* y, int64_t y_stride, Range tiles);  // tiles of 16 outputs
};
std::span<const MatMulImpl> MatMulImpls();  // slowest first; the reference is [0]
const MatMulImpl& BestMatMul();             // the last supported one, decided once

// y[m, n] for all m and the shard's outputs n. y_stride in floats, >= N.
void MatMul(const MatMulImpl& impl, const PackedMatrix& w, const PreparedRows& x, float* y, int64_t y_stride, Shard shard);

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_DENSE_MATMUL_H_
