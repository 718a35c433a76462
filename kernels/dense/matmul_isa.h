// What the instruction-set files of the weight product see: plain data and declarations, no std templates, so that nothing compiled with
// their flags can be picked by the linker for other code.
#ifndef SPHERICAL_KERNELS_DENSE_MATMUL_ISA_H_
#define SPHERICAL_KERNELS_DENSE_MATMUL_ISA_H_

#include <stdint.h>

namespace spherical::kernels {

// Activations of a unit that are all smaller count as zeros: the inverse of their scale would leave f32's range.
inline constexpr float kSmallestActivation = 0x1p-100f;

// A product's operands. Shapes as in matmul.h; `layout` fields as in packed_matrix.h.
struct MatMulOperands {
  const uint8_t* tiles;   // first tile of W
  int64_t tile_bytes;
  int64_t units;          // K / 32
  int32_t unit_bytes, scale_bytes, quant_offset;
  int32_t bits, scales, zero;
  bool has_min, wide_scales;
  bool bf16;              // bits == 16: bfloat16, otherwise half
  bool f32_activations;

  const float* x;         // [M, K]
  const int8_t* quants;   // [M, K]
  const float* row_scales;  // [M, K/32]
  const int32_t* sums;    // [M, K/16]
  const float* scaled_sums;  // [M, K/32]
  int64_t m;

  float* y;               // [M, y_stride]
  int64_t y_stride, outputs;
  int64_t first_tile, last_tile;
};

// Rows to quantise: K / 32 units each.
struct QuantizeOperands {
  const float* x;
  int64_t units;
  int64_t first_row, last_row;
  int8_t* quants;
  float* scales;
  int32_t* sums;
  float* scaled_sums;
};

namespace avx2 {
void Multiply(const MatMulOperands& o);
void Quantize(const QuantizeOperands& o);
}  // namespace avx2
namespace avx512vnni {
void Multiply(const MatMulOperands& o);
void Quantize(const QuantizeOperands& o);
}  // namespace avx512vnni
namespace portable {
void Multiply(const MatMulOperands& o);
void Quantize(const QuantizeOperands& o);
}  // namespace portable

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_DENSE_MATMUL_ISA_H_
