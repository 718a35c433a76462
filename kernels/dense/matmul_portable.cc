// The weight product in plain C++, 16 lanes as arrays that a compiler may vectorise. For machines without AVX2.
#include <math.h>
#include <string.h>

#include "kernels/base/float16.h"
#include "kernels/dense/matmul_isa.h"

namespace spherical::kernels::portable {
namespace {

constexpr int kLanes = 16;

struct Unit {
  uint8_t quads[8][64];  // [column / 4][lane * 4 + column % 4]
  float scale[2][kLanes], min[2][kLanes];
};

void ReadScales(const MatMulOperands& o, const uint8_t* bytes, float (*out)[kLanes]) {
  for (int s = 0; s < o.scales; ++s) {
    for (int lane = 0; lane < kLanes; ++lane) {
      if (o.wide_scales) {
        memcpy(&out[s][lane], bytes + (s * kLanes + lane) * 4, 4);
      } else {
        uint16_t half;
        memcpy(&half, bytes + (s * kLanes + lane) * 2, 2);
        out[s][lane] = F16ToF32(half);
      }
    }
  }
}

void ReadQuads(const MatMulOperands& o, const uint8_t* quants, uint8_t (*out)[64]) {
  if (o.bits == 8) {
    memcpy(out, quants, 8 * 64);
    return;
  }
  for (int j = 0; j < 4; ++j) {
    for (int i = 0; i < 64; ++i) {
      out[j][i] = quants[j * 64 + i] & 15;
      out[j + 4][i] = quants[j * 64 + i] >> 4;
    }
  }
  for (int bit = 4; bit < o.bits; ++bit) {
    const uint8_t* plane = quants + 4 * 64 + (bit - 4) * 64;
    for (int j = 0; j < 8; ++j) {
      for (int i = 0; i < 64; ++i) out[j][i] |= static_cast<uint8_t>(((plane[j * 8 + i / 8] >> (i % 8)) & 1) << bit);
    }
  }
}

void Read(const MatMulOperands& o, const uint8_t* bytes, Unit& unit) {
  ReadScales(o, bytes, unit.scale);
  if (o.has_min) ReadScales(o, bytes + o.scale_bytes, unit.min);
  ReadQuads(o, bytes + o.quant_offset, unit.quads);
}

// Adds one unit's part of row m to sum[lane], by integers.
void AddInt8(const MatMulOperands& o, const Unit& unit, int64_t m, int64_t u, float* sum) {
  const int8_t* row = o.quants + (m * o.units + u) * 32;
  const float d = o.row_scales[m * o.units + u], d_sum = o.scaled_sums[m * o.units + u];
  const int32_t* sums = o.sums + (m * o.units + u) * 2;
  const int quads = 8 / o.scales;
  for (int s = 0; s < o.scales; ++s) {
    const int32_t quants = o.scales == 2 ? sums[s] : sums[0] + sums[1];
    for (int lane = 0; lane < kLanes; ++lane) {
      int32_t dot = -o.zero * quants;
      for (int j = s * quads; j < (s + 1) * quads; ++j) {
        for (int b = 0; b < 4; ++b) dot += unit.quads[j][lane * 4 + b] * row[j * 4 + b];
      }
      if (o.has_min) sum[lane] = fmaf(unit.min[s][lane], d_sum, sum[lane]);
      sum[lane] = fmaf(unit.scale[s][lane] * d, static_cast<float>(dot), sum[lane]);
    }
  }
}

// Decodes a unit to weights [32][16].
void Dequantise(const MatMulOperands& o, const uint8_t* bytes, float (*weights)[kLanes]) {
  if (o.bits == 32) {
    memcpy(weights, bytes, 32 * kLanes * sizeof(float));
    return;
  }
  if (o.bits == 16) {
    for (int i = 0; i < 32 * kLanes; ++i) {
      uint16_t value;
      memcpy(&value, bytes + 2 * i, 2);
      weights[i / kLanes][i % kLanes] = o.bf16 ? BF16ToF32(value) : F16ToF32(value);
    }
    return;
  }
  Unit unit;
  Read(o, bytes, unit);
  for (int k = 0; k < 32; ++k) {
    const int s = o.scales == 2 ? k / 16 : 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      const float scaled = unit.scale[s][lane] * static_cast<float>(unit.quads[k / 4][lane * 4 + k % 4] - o.zero);
      weights[k][lane] = o.has_min ? scaled + unit.min[s][lane] : scaled;
    }
  }
}

// Sums of k = 0, 1, 2, 3 modulo 4.
void AddF32(const MatMulOperands& o, const float (*weights)[kLanes], int64_t m, int64_t u, float (*sums)[kLanes]) {
  const float* row = o.x + (m * o.units + u) * 32;
  for (int k = 0; k < 32; ++k) {
    float* sum = sums[k % 4];
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] = fmaf(weights[k][lane], row[k], sum[lane]);
  }
}

constexpr int kRows = 8;  // activation rows that share one decoded unit

void MultiplyRows(const MatMulOperands& o, int64_t tile, int64_t first, int rows) {
  float sums[kRows][4][kLanes] = {};  // integers need only the first of the four
  const bool floats = o.f32_activations || o.bits >= 16;
  for (int64_t u = 0; u < o.units; ++u) {
    const uint8_t* bytes = o.tiles + tile * o.tile_bytes + u * o.unit_bytes;
    if (floats) {
      float weights[32][kLanes];
      Dequantise(o, bytes, weights);
      for (int r = 0; r < rows; ++r) AddF32(o, weights, first + r, u, sums[r]);
    } else {
      Unit unit;
      Read(o, bytes, unit);
      for (int r = 0; r < rows; ++r) AddInt8(o, unit, first + r, u, sums[r][0]);
    }
  }
  const int64_t left = o.outputs - tile * kLanes;
  const size_t lanes = static_cast<size_t>(left < kLanes ? left : kLanes);
  for (int r = 0; r < rows; ++r) {
    float* y = sums[r][0];
    for (int lane = 0; floats && lane < kLanes; ++lane) y[lane] = (y[lane] + sums[r][1][lane]) + (sums[r][2][lane] + sums[r][3][lane]);
    memcpy(o.y + (first + r) * o.y_stride + tile * kLanes, y, lanes * sizeof(float));
  }
}

#include "kernels/dense/quantize.inc"

}  // namespace

void Multiply(const MatMulOperands& o) {
  for (int64_t tile = o.first_tile; tile < o.last_tile; ++tile) {
    for (int64_t m = 0; m < o.m; m += kRows) MultiplyRows(o, tile, m, static_cast<int>(o.m - m < kRows ? o.m - m : kRows));
  }
}

void Quantize(const QuantizeOperands& o) { QuantizeRows(o); }

}  // namespace spherical::kernels::portable
