#include "kernels/dense/matmul.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/base/check.h"
#include "kernels/base/cpu.h"
#include "kernels/dense/matmul_isa.h"

namespace spherical::kernels {
namespace {

float ReferenceDot(const float* weights, const float* x, int64_t k) {
  float sums[4] = {};
  for (int64_t i = 0; i < k; ++i) sums[i % 4] = std::fma(weights[i], x[i], sums[i % 4]);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// The definition: one output at a time, in the order that matmul.h states.
void ReferenceMultiply(const PackedMatrix& w, const PreparedRows& x, float* y, int64_t y_stride, Range tiles) {
  const bool floats = x.type == ActivationType::kF32 || w.layout().bits >= 16;
  const int64_t units = x.k / kUnitElements;
  const int64_t last = std::min(tiles.end * kTileOutputs, w.outputs());
  std::vector<float> row(static_cast<size_t>(x.k));
  WeightUnit unit;
  for (int64_t n = tiles.begin * kTileOutputs; n < last; ++n) {
    if (floats) UnpackRow(w, n, row.data());
    for (int64_t m = 0; m < x.m; ++m) {
      float sum = floats ? ReferenceDot(row.data(), x.x + m * x.k, x.k) : 0;
      for (int64_t u = 0; !floats && u < units; ++u) {
        UnpackUnit(w, n, u, unit);
        const float d = x.scales[static_cast<size_t>(m * units + u)];
        const int32_t width = kUnitElements / w.layout().scales;
        for (int32_t first = 0; first < kUnitElements; first += width) {
          int32_t dot = 0, quants = 0;
          for (int32_t i = first; i < first + width; ++i) {
            const int32_t s = x.quants[static_cast<size_t>(m * x.k + u * kUnitElements + i)];
            dot += (unit.quant[i] - w.layout().zero) * s;
            quants += s;
          }
          if (w.layout().has_min) sum = std::fma(unit.min[first / 16], d * static_cast<float>(quants), sum);
          sum = std::fma(unit.scale[first / 16] * d, static_cast<float>(dot), sum);
        }
      }
      y[m * y_stride + n] = sum;
    }
  }
}

void ReferencePrepare(Range rows, PreparedRows& out) {
  if (out.type == ActivationType::kF32) return;
  for (int64_t unit = rows.begin * out.k / kUnitElements; unit < rows.end * out.k / kUnitElements; ++unit) {
    const float* x = out.x + unit * kUnitElements;
    float largest = 0;
    bool finite = true;
    for (int32_t i = 0; i < kUnitElements; ++i) {
      finite &= std::isfinite(x[i]);
      largest = std::max(largest, std::abs(x[i]));
    }
    const bool zero = largest < kSmallestActivation;
    const float scale = !finite ? std::nanf("") : zero ? 0 : largest / 127;
    const float inverse = !finite || zero ? 0 : 1 / scale;
    int32_t both = 0;
    out.scales[static_cast<size_t>(unit)] = scale;
    for (int32_t h = 0; h < 2; ++h) {
      int32_t sum = 0;
      for (int32_t i = 16 * h; i < 16 * h + 16; ++i) {
        const int32_t quant = finite ? static_cast<int32_t>(std::lrintf(x[i] * inverse)) : 0;
        out.quants[static_cast<size_t>(unit * kUnitElements + i)] = static_cast<int8_t>(quant);
        sum += quant;
      }
      out.sums[static_cast<size_t>(unit * 2 + h)] = sum;
      both += sum;
    }
    out.scaled_sums[static_cast<size_t>(unit)] = scale * static_cast<float>(both);
  }
}

template <void (*kQuantize)(const QuantizeOperands&)>
void Prepare(Range rows, PreparedRows& out) {
  if (out.type == ActivationType::kF32) return;
  kQuantize({.x = out.x,
             .units = out.k / kUnitElements,
             .first_row = rows.begin,
             .last_row = rows.end,
             .quants = out.quants.data(),
             .scales = out.scales.data(),
             .sums = out.sums.data(),
             .scaled_sums = out.scaled_sums.data()});
}

template <void (*kMultiply)(const MatMulOperands&)>
void Multiply(const PackedMatrix& w, const PreparedRows& x, float* y, int64_t y_stride, Range tiles) {
  const PackedLayout& layout = w.layout();
  kMultiply({.tiles = w.tile(0),
             .tile_bytes = w.tile_bytes(),
             .units = x.k / kUnitElements,
             .unit_bytes = layout.unit_bytes(),
             .scale_bytes = layout.scale_bytes(),
             .quant_offset = layout.quant_offset(),
             .bits = layout.bits,
             .scales = layout.scales,
             .zero = layout.zero,
             .has_min = layout.has_min,
             .wide_scales = layout.wide_scales,
             .bf16 = w.type() == WeightType::kBF16,
             .f32_activations = x.type == ActivationType::kF32,
             .x = x.x,
             .quants = x.quants.data(),
             .row_scales = x.scales.data(),
             .sums = x.sums.data(),
             .scaled_sums = x.scaled_sums.data(),
             .m = x.m,
             .y = y,
             .y_stride = y_stride,
             .outputs = w.outputs(),
             .first_tile = tiles.begin,
             .last_tile = tiles.end});
}

bool HasAvx512Vnni() { return CpuHasAvx512() && __builtin_cpu_supports("avx512vnni"); }

constexpr MatMulImpl kImpls[] = {
    {"reference", CpuHasAlways, ReferencePrepare, ReferenceMultiply},
    {"portable", CpuHasAlways, Prepare<portable::Quantize>, Multiply<portable::Multiply>},
    {"avx2", CpuHasAvx2, Prepare<avx2::Quantize>, Multiply<avx2::Multiply>},
    {"avx512vnni", HasAvx512Vnni, Prepare<avx512vnni::Quantize>, Multiply<avx512vnni::Multiply>},
};

}  // namespace

void PreparedRows::Bind(ActivationType new_type, const float* rows, int64_t new_m, int64_t new_k) {
  SPH_CHECK(new_k % kUnitElements == 0);
  type = new_type;
  x = rows;
  m = new_m;
  k = new_k;
  const auto grow = [](auto& v, int64_t size) {
    if (static_cast<int64_t>(v.size()) < size) v.resize(static_cast<size_t>(size));
  };
  if (type == ActivationType::kF32) return;
  grow(quants, m * k);
  grow(scales, m * k / kUnitElements);
  grow(sums, m * k / 16);
  grow(scaled_sums, m * k / kUnitElements);
}

std::span<const MatMulImpl> MatMulImpls() { return kImpls; }

const MatMulImpl& BestMatMul() {
  static const MatMulImpl& best = *std::find_if(std::rbegin(kImpls), std::rend(kImpls), [](const MatMulImpl& i) { return i.supported(); });
  return best;
}

void MatMul(const MatMulImpl& impl, const PackedMatrix& w, const PreparedRows& x, float* y, int64_t y_stride, Shard shard) {
  SPH_DCHECK(w.inputs() == x.k);
  const Range tiles = RangeOf(shard, w.tiles());
  if (tiles.begin < tiles.end) impl.multiply(w, x, y, y_stride, tiles);
}

}  // namespace spherical::kernels
