#ifndef SPHERICAL_KERNELS_DENSE_PACKED_MATRIX_H_
#define SPHERICAL_KERNELS_DENSE_PACKED_MATRIX_H_

#include <cstdint>

#include "kernels/base/units.h"
#include "kernels/dense/weight_format.h"

namespace spherical::kernels {

inline constexpr int32_t kTileOutputs = 16;  // rows of W side by side: the lanes of one 512-bit vector

// How a packed matrix holds its weights. A tile is 16 rows of W; it is a sequence of units, 32 columns each:
//
//   quantised:  | scales [s][16] | mins [s][16]? | nibbles 4 x 64 bytes | bit plane 4: 64 bytes? | bit plane 5: 64 bytes? |
//               | scales [s][16] | bytes 8 x 64 |                                                           (bits == 8)
//   floats:     | value [32][16] |                                                                             (bits == 16, 32)
//
// Row r of the tile owns 32-bit lane r of every 64-byte vector. Nibble vector j holds, in byte b of a lane, column 4j + b low and column
// 16 + 4j + b high; byte vector j holds column 4j + b. A bit plane is eight 64-bit words: bit 4r + b of word j is column 4j + b's bit. So
// an int8 dot product over four columns of 16 rows is one instruction on one vector, and no product ever needs a horizontal sum.
struct PackedLayout {
  int8_t bits = 0;           // 4, 5, 6, 8: integer quants; 16: bf16 or f16; 32: f32
  int8_t scales = 1;         // s: 2 if each 16 columns have their own scale (Q6_K)
  uint8_t zero = 0;          // weight = scale * (quant - zero) + min
  bool has_min = false;
  bool wide_scales = false;  // scales and mins are f32 (products, in the K formats); otherwise f16 as in the file

  int32_t scale_bytes() const { return scales * kTileOutputs * (wide_scales ? 4 : 2); }
  int32_t quant_offset() const { return scale_bytes() * (has_min ? 2 : 1); }
  int32_t unit_bytes() const {
    return bits >= 16 ? kUnitElements * kTileOutputs * bits / 8 : quant_offset() + kUnitElements * kTileOutputs * bits / 8;
  }
};
PackedLayout PackedLayoutOf(WeightType type);

// One weight matrix W [N, K], packed: a view of bytes that its maker owns (64-byte aligned). Cheap to copy; read-only after packing.
class PackedMatrix {
 public:
  PackedMatrix() = default;

  int64_t outputs() const { return n_; }  // N
  int64_t inputs() const { return k_; }   // K
  WeightType type() const { return type_; }
  const PackedLayout& layout() const { return layout_; }
  int64_t tiles() const { return CeilDiv(n_, kTileOutputs); }
  int64_t tile_bytes() const { return k_ / kUnitElements * layout_.unit_bytes(); }
  const uint8_t* tile(int64_t i) const { return bytes_ + i * tile_bytes(); }
  int64_t bytes() const { return tiles() * tile_bytes(); }

 private:
  friend PackedMatrix PackMatrix(WeightType type, const uint8_t* rows, int64_t n, int64_t k, uint8_t* memory);

  WeightType type_ = WeightType::kF32;
  PackedLayout layout_;
  int64_t n_ = 0, k_ = 0;
  const uint8_t* bytes_ = nullptr;
};

// Bytes that PackMatrix needs: a multiple of 64.
int64_t PackedBytes(WeightType type, int64_t n, int64_t k);

// Packs N rows of K weights into `memory`: PackedBytes, 64-byte aligned, outliving the matrix. N is any positive number (the last tile is
// padded with zero rows); K is a multiple of the format's block and of 32. `rows` is read once and may be unmapped afterwards.
PackedMatrix PackMatrix(WeightType type, const uint8_t* rows, int64_t n, int64_t k, uint8_t* memory);

// Decodes row `n` to f32 [K]: exactly DequantizeRow's values. Embeddings are looked up so, in a tied matrix that is kept once.
void UnpackRow(const PackedMatrix& matrix, int64_t n, float* destination);

// Unit `unit` of row `n` of a quantised matrix: what ReadUnit read from the file.
void UnpackUnit(const PackedMatrix& matrix, int64_t n, int64_t unit, WeightUnit& out);

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_DENSE_PACKED_MATRIX_H_
