#include "kernels/dense/packed_matrix.h"

#include <cstring>

#include "kernels/base/check.h"
#include "kernels/base/float16.h"

namespace spherical::kernels {
namespace {

constexpr int32_t kLaneBytes = 4;
constexpr int32_t kVectorBytes = kTileOutputs * kLaneBytes;

void PutScale(const PackedLayout& layout, float value, int32_t index, uint8_t* scales) {
  if (layout.wide_scales) {
    std::memcpy(scales + index * 4, &value, 4);
  } else {
    const uint16_t half = F32ToF16(value);  // exact: it was read from an f16
    std::memcpy(scales + index * 2, &half, 2);
  }
}

float GetScale(const PackedLayout& layout, const uint8_t* scales, int32_t index) {
  if (layout.wide_scales) {
    float value;
    std::memcpy(&value, scales + index * 4, 4);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, scales + index * 2, 2);
  return F16ToF32(half);
}

// Writes row `lane` of a quantised unit.
void PutUnit(const PackedLayout& layout, const WeightUnit& unit, int32_t lane, uint8_t* out) {
  for (int32_t s = 0; s < layout.scales; ++s) {
    PutScale(layout, unit.scale[s], s * kTileOutputs + lane, out);
    if (layout.has_min) PutScale(layout, unit.min[s], s * kTileOutputs + lane, out + layout.scale_bytes());
  }
  uint8_t* quants = out + layout.quant_offset();
  for (int32_t k = 0; k < kUnitElements; ++k) {
    const int32_t vector = k / 4, byte = lane * kLaneBytes + k % 4;
    if (layout.bits == 8) {
      quants[vector * kVectorBytes + byte] = unit.quant[k];
      continue;
    }
    const uint8_t nibble = unit.quant[k] & 15;
    quants[vector % 4 * kVectorBytes + byte] |= static_cast<uint8_t>(vector < 4 ? nibble : nibble << 4);
    for (int32_t bit = 4; bit < layout.bits; ++bit) {
      uint8_t* plane = quants + (4 + bit - 4) * kVectorBytes;
      plane[vector * 8 + byte / 8] |= static_cast<uint8_t>(((unit.quant[k] >> bit) & 1) << (byte % 8));
    }
  }
}

void PutFloats(const PackedLayout& layout, const uint8_t* row, int64_t unit, int32_t lane, uint8_t* out) {
  const int32_t bytes = layout.bits / 8;
  for (int32_t k = 0; k < kUnitElements; ++k) {
    std::memcpy(out + (k * kTileOutputs + lane) * bytes, row + (unit * kUnitElements + k) * bytes, static_cast<size_t>(bytes));
  }
}

}  // namespace

PackedLayout PackedLayoutOf(WeightType type) {
  if (type == WeightType::kF32) return {.bits = 32};
  if (type == WeightType::kF16 || type == WeightType::kBF16) return {.bits = 16};
  const QuantFormat& format = QuantFormatOf(type);
  return {.bits = format.bits, .scales = format.scales, .zero = format.zero, .has_min = format.has_min, .wide_scales = format.wide_scales};
}

int64_t PackedBytes(WeightType type, int64_t n, int64_t k) {
  return RoundUp(CeilDiv(n, kTileOutputs) * (k / kUnitElements) * PackedLayoutOf(type).unit_bytes(), 64);
}

PackedMatrix PackMatrix(WeightType type, const uint8_t* rows, int64_t n, int64_t k, uint8_t* memory) {
  SPH_CHECK(n > 0 && k > 0 && k % kUnitElements == 0 && k % FormatOf(type).block_elements == 0);
  PackedMatrix matrix;
  matrix.type_ = type;
  matrix.layout_ = PackedLayoutOf(type);
  matrix.n_ = n;
  matrix.k_ = k;
  matrix.bytes_ = memory;
  std::memset(memory, 0, static_cast<size_t>(PackedBytes(type, n, k)));

  const PackedLayout& layout = matrix.layout_;
  const int64_t row_bytes = RowBytes(type, k);
  WeightUnit unit;
  for (int64_t row = 0; row < n; ++row) {
    uint8_t* tile = memory + row / kTileOutputs * matrix.tile_bytes();
    const int32_t lane = static_cast<int32_t>(row % kTileOutputs);
    for (int64_t u = 0; u < k / kUnitElements; ++u) {
      uint8_t* out = tile + u * layout.unit_bytes();
      if (layout.bits >= 16) {
        PutFloats(layout, rows + row * row_bytes, u, lane, out);
      } else {
        ReadUnit(type, rows + row * row_bytes, u, unit);
        PutUnit(layout, unit, lane, out);
      }
    }
  }
  return matrix;
}

void UnpackUnit(const PackedMatrix& matrix, int64_t n, int64_t unit, WeightUnit& out) {
  const PackedLayout& layout = matrix.layout();
  const uint8_t* in = matrix.tile(n / kTileOutputs) + unit * layout.unit_bytes();
  const int32_t lane = static_cast<int32_t>(n % kTileOutputs);
  for (int32_t h = 0; h < 2; ++h) {
    const int32_t index = (layout.scales == 2 ? h * kTileOutputs : 0) + lane;
    out.scale[h] = GetScale(layout, in, index);
    out.min[h] = layout.has_min ? GetScale(layout, in + layout.scale_bytes(), index) : 0;
  }
  const uint8_t* quants = in + layout.quant_offset();
  for (int32_t k = 0; k < kUnitElements; ++k) {
    const int32_t vector = k / 4, byte = lane * kLaneBytes + k % 4;
    if (layout.bits == 8) {
      out.quant[k] = quants[vector * kVectorBytes + byte];
      continue;
    }
    const uint8_t both = quants[vector % 4 * kVectorBytes + byte];
    out.quant[k] = vector < 4 ? both & 15 : both >> 4;
    for (int32_t bit = 4; bit < layout.bits; ++bit) {
      const uint8_t* plane = quants + (4 + bit - 4) * kVectorBytes;
      out.quant[k] |= static_cast<uint8_t>(((plane[vector * 8 + byte / 8] >> (byte % 8)) & 1) << bit);
    }
  }
}

void UnpackRow(const PackedMatrix& matrix, int64_t n, float* destination) {
  const PackedLayout& layout = matrix.layout();
  const uint8_t* tile = matrix.tile(n / kTileOutputs);
  const int64_t lane = n % kTileOutputs;
  WeightUnit unit;
  for (int64_t u = 0; u < matrix.inputs() / kUnitElements; ++u, destination += kUnitElements) {
    if (layout.bits >= 16) {
      for (int32_t k = 0; k < kUnitElements; ++k) {
        const uint8_t* value = tile + ((u * kUnitElements + k) * kTileOutputs + lane) * (layout.bits / 8);
        DequantizeRow(matrix.type(), value, 1, destination + k);
      }
      continue;
    }
    UnpackUnit(matrix, n, u, unit);
    for (int32_t k = 0; k < kUnitElements; ++k) {
      const float scaled = unit.scale[k / 16] * static_cast<float>(unit.quant[k] - layout.zero);
      destination[k] = layout.has_min ? scaled + unit.min[k / 16] : scaled;
    }
  }
}

}  // namespace spherical::kernels
