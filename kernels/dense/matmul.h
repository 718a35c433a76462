// Weight products on the CPU: y = x W', W [N, K] stored row by row in any WeightType, x [M, K] f32, y [M, N] f32.
//
// At load, PackMatrix interleaves 16 rows (one vector lane each) and splits quants into bit planes, so that one template serves
// every block format and no product ever needs a horizontal sum. At run time, PrepareRows quantises the activations once
// (int8 per block of 32) and MatMul is called by every worker with its own Shard of the N outputs.
//
//   PackedMatrix w = PackMatrix(WeightType::kQ4_1, bytes, n, k);
//   PrepareRows(impl, mode, x, m, k, rows);                       // rows: caller's scratch
//   MatMul(impl, w, rows, y, /*y_stride=*/n, shard);              // each worker
//
// The arithmetic of one output (m, n) is the same whatever M and whatever the sharding: batching never changes a bit.
// Threads: PackedMatrix is read-only after packing. Nothing here allocates except PackMatrix and PreparedRows::Resize.
#ifndef SPHERICAL_KERNELS_DENSE_MATMUL_H_
#define SPHERICAL_KERNELS_DENSE_MATMUL_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/base/units.h"
#include "kernels/dense/weight_format.h"

namespace spherical::kernels {

// What activations become before a product.
enum class ActivationType : uint8_t {
  kInt8,  // int8 per block of 32, f32 scale: the default, integer dot products
  kF32,   // untouched; weights are dequantised into registers: the reference mode that quality is measured with
};

// How a packed matrix holds its quants: value = scale * (quant - zero) + min, quants unsigned.
struct PackedLayout {
  int8_t bits = 0;             // 4, 5, 6, 8: integer quants (5 and 6 are a 4-bit plane and 1 or 2 bit planes); 16: bf16/f16; 32: f32
  int8_t block = 32;           // elements of K under one scale: 32 or 16
  uint8_t zero = 0;            // subtracted from every quant, exactly, in integers
  bool has_min = false;        // a min per block is added (Q4_1, Q5_1, Q4_K, Q5_K)
  bool wide_scales = false;    // scales and mins are f32 (products of the K formats); otherwise f16 as in the file
  bool operator==(const PackedLayout&) const = default;
};

// One weight matrix, packed. Owns its bytes (64-byte aligned). Move only.
class PackedMatrix {
 public:
  PackedMatrix() = default;

  int64_t outputs() const { return n_; }  // N
  int64_t inputs() const { return k_; }   // K
  WeightType type() const { return type_; }
  const PackedLayout& layout() const { return layout_; }
  int64_t tile_bytes() const { return tile_bytes_; }    // bytes of 16 rows x K
  const uint8_t* tile(int64_t i) const { return bytes_.get() + i * tile_bytes_; }
  int64_t bytes() const { return CeilDiv(n_, 16) * tile_bytes_; }

 private:
  friend PackedMatrix PackMatrix(WeightType type, const uint8_t* rows, int64_t n, int64_t k);
  struct Free { void operator()(uint8_t* p) const; };

  WeightType type_ = WeightType::kF32;
  PackedLayout layout_;
  int64_t n_ = 0, k_ = 0, tile_bytes_ = 0;
  std::unique_ptr<uint8_t[], Free> bytes_;
};

// Packs N rows of K weights. N is any positive number (the last tile is padded with zero rows); K is a multiple of the format's
// block and of 32. `rows` is read once and may be unmapped afterwards.
PackedMatrix PackMatrix(WeightType type, const uint8_t* rows, int64_t n, int64_t k);

// Decodes row `n` of a packed matrix to f32 [K]: embedding look-up in a tied matrix that is kept once. Exactly DequantizeRow's values.
void UnpackRow(const PackedMatrix& matrix, int64_t n, float* destination);

// M activation rows, made ready for products. Scratch owned by the caller and reused from step to step.
struct PreparedRows {
  ActivationType type = ActivationType::kInt8;
  int64_t m = 0, k = 0;
  const float* x = nullptr;         // [M, K]      the rows themselves (kF32, and bf16/f32 weights)
  std::vector<int8_t> quants;       // [M, K]      round to nearest even of x / scale
  std::vector<float> scales;        // [M, K/32]   max|x| / 127
  std::vector<int32_t> sums;        // [M, K/16]   sums of quants of half blocks, for zero points and mins

  void Resize(ActivationType type, int64_t m, int64_t k);  // grows, never shrinks; no allocation once large enough
};

// One implementation of the product. All give the same bits for kInt8 on the same inputs, the reference included.
struct MatMulImpl {
  const char* name;  // "reference" "portable" "avx2" "avx512vnni"
  bool (*supported)();
  void (*prepare)(const float* x, Range rows, PreparedRows& out);
  void (*multiply)(const PackedMatrix& w, const PreparedRows& x, float* y, int64_t y_stride, Range outputs);
};
std::span<const MatMulImpl> MatMulImpls();  // slowest first; the reference is [0]
const MatMulImpl& BestMatMul();             // the last supported one, decided once

// Quantises rows [0, m) of x, those of `shard`. x stays alive until the products are done.
void PrepareRows(const MatMulImpl& impl, const float* x, PreparedRows& rows, Shard shard);

// y[m, n] for all m and the shard's outputs n (whole tiles of 16). y_stride in floats, >= N.
void MatMul(const MatMulImpl& impl, const PackedMatrix& w, const PreparedRows& x, float* y, int64_t y_stride, Shard shard);

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_DENSE_MATMUL_H_
