#ifndef SPHERICAL_KERNELS_DENSE_WEIGHT_FORMAT_H_
#define SPHERICAL_KERNELS_DENSE_WEIGHT_FORMAT_H_

#include <cstdint>

namespace spherical::kernels {

// How a stored matrix row is encoded. Names and byte layouts are GGML's, as GGUF files hold them: each row is a sequence of
// blocks, each block `block_elements` weights in `block_bytes` bytes.
enum class WeightType : uint8_t { kF32, kF16, kBF16, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ4_K, kQ5_K, kQ6_K };
inline constexpr int32_t kWeightTypeCount = 11;

struct WeightFormat {
  WeightType type;
  const char* name;        // "Q4_1"
  int32_t block_elements;  // a row's length is a multiple of this
  int32_t block_bytes;
};
const WeightFormat& FormatOf(WeightType type);

// Bytes of a row of `elements` weights. `elements` is a multiple of block_elements.
int64_t RowBytes(WeightType type, int64_t elements);

// Elements that share a scale never straddle a unit, and every quantised format's block is one or more units: the common measure in which
// rows are read, packed and multiplied.
inline constexpr int32_t kUnitElements = 32;

// One unit of a quantised row, decoded as far as its integers: weight[i] = scale[h] * (quant[i] - zero) + min[h], h = i / 16.
// Formats with one scale per 32 say it twice. Formats without mins have min = 0.
struct WeightUnit {
  uint8_t quant[kUnitElements];
  float scale[2];
  float min[2];
};

// What all units of a format have in common.
struct QuantFormat {
  int8_t bits;       // quants are below 1 << bits; 0: not quantised
  uint8_t zero;      // subtracted from every quant
  bool has_min;
  int8_t scales;     // different scales in a unit: 1 or 2
  bool wide_scales;  // scales are products that f16 cannot hold
};
const QuantFormat& QuantFormatOf(WeightType type);

// Reads unit `unit` of a quantised row. The one place that knows the bytes of the block formats. `row` may be unaligned.
void ReadUnit(WeightType type, const uint8_t* row, int64_t unit, WeightUnit& out);

// Decodes `elements` weights of one row to f32, plainly: used to read vectors and as the twin in tests. `source` may be unaligned.
void DequantizeRow(WeightType type, const uint8_t* source, int64_t elements, float* destination);

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_DENSE_WEIGHT_FORMAT_H_
