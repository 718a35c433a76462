#include "kernels/dense/weight_format.h"

#include <cstring>

#include "kernels/base/check.h"
#include "kernels/base/float16.h"

namespace spherical::kernels {
namespace {

constexpr WeightFormat kFormats[kWeightTypeCount] = {
    {WeightType::kF32, "F32", 1, 4},       {WeightType::kF16, "F16", 1, 2},      {WeightType::kBF16, "BF16", 1, 2},
    {WeightType::kQ4_0, "Q4_0", 32, 18},   {WeightType::kQ4_1, "Q4_1", 32, 20},  {WeightType::kQ5_0, "Q5_0", 32, 22},
    {WeightType::kQ5_1, "Q5_1", 32, 24},   {WeightType::kQ8_0, "Q8_0", 32, 34},  {WeightType::kQ4_K, "Q4_K", 256, 144},
    {WeightType::kQ5_K, "Q5_K", 256, 176}, {WeightType::kQ6_K, "Q6_K", 256, 210},
};

constexpr QuantFormat kQuantFormats[kWeightTypeCount] = {
    {}, {}, {},
    {.bits = 4, .zero = 8, .has_min = false, .scales = 1, .wide_scales = false},    // Q4_0
    {.bits = 4, .zero = 0, .has_min = true, .scales = 1, .wide_scales = false},     // Q4_1
    {.bits = 5, .zero = 16, .has_min = false, .scales = 1, .wide_scales = false},   // Q5_0
    {.bits = 5, .zero = 0, .has_min = true, .scales = 1, .wide_scales = false},     // Q5_1
    {.bits = 8, .zero = 128, .has_min = false, .scales = 1, .wide_scales = false},  // Q8_0
    {.bits = 4, .zero = 0, .has_min = true, .scales = 1, .wide_scales = true},      // Q4_K
    {.bits = 5, .zero = 0, .has_min = true, .scales = 1, .wide_scales = true},      // Q5_K
    {.bits = 6, .zero = 32, .has_min = false, .scales = 2, .wide_scales = true},    // Q6_K
};

template <class T>
T Read(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

float Half(const uint8_t* bytes) { return F16ToF32(Read<uint16_t>(bytes)); }

void SetScale(WeightUnit& out, float scale, float min) {
  out.scale[0] = out.scale[1] = scale;
  out.min[0] = out.min[1] = min;
}

// 32 quants of 4 bits: element i in the low nibble of byte i, element 16 + i in the high one.
void ReadNibbles(const uint8_t* bytes, WeightUnit& out) {
  for (int32_t i = 0; i < 16; ++i) {
    out.quant[i] = bytes[i] & 15;
    out.quant[16 + i] = bytes[i] >> 4;
  }
}

// Adds bit 4 of 32 quants from a word: bit i belongs to element i.
void AddFifthBits(uint32_t bits, WeightUnit& out) {
  for (int32_t i = 0; i < 32; ++i) out.quant[i] |= static_cast<uint8_t>(((bits >> i) & 1) << 4);
}

// Scales and mins of a Q4_K or Q5_K block: eight pairs of 6 bits in 12 bytes; the last four keep their top two bits in the first eight.
void ReadScaleAndMin(const uint8_t* packed, int64_t i, uint8_t& scale, uint8_t& min) {
  if (i < 4) {
    scale = packed[i] & 63;
    min = packed[i + 4] & 63;
  } else {
    scale = static_cast<uint8_t>((packed[i + 4] & 15) | ((packed[i - 4] >> 6) << 4));
    min = static_cast<uint8_t>((packed[i + 4] >> 4) | ((packed[i] >> 6) << 4));
  }
}

// Q4_K, Q5_K: d f16, dmin f16, 12 bytes of scales and mins, (Q5_K: 32 bytes of fifth bits, bit `u` of byte i for element i of unit u,)
// 128 bytes of nibbles: units 2j and 2j + 1 are the low and the high nibbles of the same 32 bytes.
void ReadKUnit(const uint8_t* block, int64_t u, bool five_bits, WeightUnit& out) {
  uint8_t scale, min;
  ReadScaleAndMin(block + 4, u, scale, min);
  SetScale(out, Half(block) * static_cast<float>(scale), -(Half(block + 2) * static_cast<float>(min)));
  const uint8_t* fifth = block + 16;
  const uint8_t* nibbles = fifth + (five_bits ? 32 : 0) + u / 2 * 32;
  for (int32_t i = 0; i < 32; ++i) {
    out.quant[i] = u % 2 == 0 ? nibbles[i] & 15 : nibbles[i] >> 4;
    if (five_bits) out.quant[i] |= static_cast<uint8_t>(((fifth[i] >> u) & 1) << 4);
  }
}

// Q6_K: 128 bytes of low nibbles, 64 bytes of high pairs, 16 int8 scales, d f16. Half a block (128 elements) at a time: unit v of a half
// has its nibbles in bytes (v % 2) * 32 + i, low for v < 2 and high for v >= 2, and its pair in bits 2v of high byte i.
void ReadQ6Unit(const uint8_t* block, int64_t u, WeightUnit& out) {
  const int64_t half = u / 4, v = u % 4;
  const uint8_t* low = block + half * 64 + v % 2 * 32;
  const uint8_t* high = block + 128 + half * 32;
  const uint8_t* scales = block + 192 + half * 8 + v * 2;
  const float d = Half(block + 208);
  for (int32_t i = 0; i < 32; ++i) {
    const int nibble = v < 2 ? low[i] & 15 : low[i] >> 4;
    out.quant[i] = static_cast<uint8_t>(nibble | (((high[i] >> (2 * v)) & 3) << 4));
  }
  for (int32_t h = 0; h < 2; ++h) {
    out.scale[h] = d * static_cast<float>(static_cast<int8_t>(scales[h]));
    out.min[h] = 0;
  }
}

}  // namespace

const WeightFormat& FormatOf(WeightType type) { return kFormats[static_cast<int32_t>(type)]; }
const QuantFormat& QuantFormatOf(WeightType type) { return kQuantFormats[static_cast<int32_t>(type)]; }

int64_t RowBytes(WeightType type, int64_t elements) {
  const WeightFormat& format = FormatOf(type);
  return elements / format.block_elements * format.block_bytes;
}

void ReadUnit(WeightType type, const uint8_t* row, int64_t unit, WeightUnit& out) {
  const WeightFormat& format = FormatOf(type);
  const int64_t units = format.block_elements / kUnitElements;
  const uint8_t* block = row + unit / units * format.block_bytes;
  const int64_t u = unit % units;
  switch (type) {
    case WeightType::kQ4_0:
      SetScale(out, Half(block), 0);
      return ReadNibbles(block + 2, out);
    case WeightType::kQ4_1:
      SetScale(out, Half(block), Half(block + 2));
      return ReadNibbles(block + 4, out);
    case WeightType::kQ5_0:
      SetScale(out, Half(block), 0);
      ReadNibbles(block + 6, out);
      return AddFifthBits(Read<uint32_t>(block + 2), out);
    case WeightType::kQ5_1:
      SetScale(out, Half(block), Half(block + 2));
      ReadNibbles(block + 8, out);
      return AddFifthBits(Read<uint32_t>(block + 4), out);
    case WeightType::kQ8_0:
      SetScale(out, Half(block), 0);
      for (int32_t i = 0; i < 32; ++i) out.quant[i] = block[2 + i] ^ 0x80;  // int8 + 128
      return;
    case WeightType::kQ4_K: return ReadKUnit(block, u, false, out);
    case WeightType::kQ5_K: return ReadKUnit(block, u, true, out);
    case WeightType::kQ6_K: return ReadQ6Unit(block, u, out);
    case WeightType::kF32:
    case WeightType::kF16:
    case WeightType::kBF16: break;
  }
  SPH_CHECK(false);
}

void DequantizeRow(WeightType type, const uint8_t* source, int64_t elements, float* destination) {
  switch (type) {
    case WeightType::kF32:
      std::memcpy(destination, source, static_cast<size_t>(elements) * sizeof(float));
      return;
    case WeightType::kF16:
      for (int64_t i = 0; i < elements; ++i) destination[i] = Half(source + 2 * i);
      return;
    case WeightType::kBF16:
      for (int64_t i = 0; i < elements; ++i) destination[i] = BF16ToF32(Read<uint16_t>(source + 2 * i));
      return;
    default: break;
  }
  const QuantFormat& format = QuantFormatOf(type);
  WeightUnit unit;
  for (int64_t u = 0; u < elements / kUnitElements; ++u) {
    ReadUnit(type, source, u, unit);
    for (int32_t i = 0; i < kUnitElements; ++i) {
      const float scaled = unit.scale[i / 16] * static_cast<float>(unit.quant[i] - format.zero);
      destination[u * kUnitElements + i] = format.has_min ? scaled + unit.min[i / 16] : scaled;
    }
  }
}

}  // namespace spherical::kernels
