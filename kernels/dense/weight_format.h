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

// Decodes `elements` weights of one row to f32. Plain loops, the definition of what the bytes mean: used to look up embedding
// rows, as the twin in tests, and where speed does not matter. `source` may be unaligned.
void DequantizeRow(WeightType type, const uint8_t* source, int64_t elements, float* destination);

}  // namespace spherical::kernels

#endif  // SPHERICAL_KERNELS_DENSE_WEIGHT_FORMAT_H_
