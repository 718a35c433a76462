// The weight product with AVX-512 VNNI: a vector holds four columns of 16 outputs, and vpdpbusd multiplies them with four quants of a row.
#include <immintrin.h>
#include <math.h>

#include "kernels/dense/matmul_isa.h"

namespace spherical::kernels::avx512vnni {
namespace {

// A layout as template parameters: what a unit's bytes are (packed_matrix.h).
template <int kBits, int kScales, int kZero, bool kMin, bool kWide>
struct Format {
  static constexpr int kScaleBytes = kScales * 16 * (kWide ? 4 : 2);
  static constexpr int kQuantOffset = kScaleBytes * (kMin ? 2 : 1);
  static constexpr int kUnitBytes = kQuantOffset + 32 * 16 * kBits / 8;

  static __m512 Scale(const uint8_t* unit, int s) { return Load(unit, s); }
  static __m512 Min(const uint8_t* unit, int s) { return Load(unit + kScaleBytes, s); }

  // The eight vectors of four columns each.
  static void Quads(const uint8_t* unit, __m512i w[8]) {
    const uint8_t* quants = unit + kQuantOffset;
    if constexpr (kBits == 8) {
      for (int j = 0; j < 8; ++j) w[j] = _mm512_loadu_si512(quants + 64 * j);
      return;
    }
    const __m512i low = _mm512_set1_epi8(15);
    for (int j = 0; j < 4; ++j) {
      const __m512i both = _mm512_loadu_si512(quants + 64 * j);
      w[j] = _mm512_and_si512(both, low);
      w[j + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
    for (int bit = 4; bit < kBits; ++bit) {
      const __mmask64* plane = reinterpret_cast<const __mmask64*>(quants + 4 * 64 + (bit - 4) * 64);
      const __m512i value = _mm512_set1_epi8(static_cast<char>(1 << bit));
      for (int j = 0; j < 8; ++j) w[j] = _mm512_mask_add_epi8(w[j], plane[j], w[j], value);
    }
  }

 private:
  static __m512 Load(const uint8_t* scales, int s) {
    if constexpr (kWide) return _mm512_loadu_ps(scales + 64 * s);
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales + 32 * s)));
  }
};

// Adds unit u to the sums of rows [row, row + kRows), for kTiles tiles beginning at `tile`.
template <class F, int kScales, int kZero, bool kMin, int kRows>
inline void AddUnit(const MatMulOperands& o, const uint8_t* unit, int64_t row, int64_t u, __m512* sum) {
  __m512i w[8];
  F::Quads(unit, w);
  __m512 scale[kScales], min[kScales];
  for (int s = 0; s < kScales; ++s) {
    scale[s] = F::Scale(unit, s);
    if constexpr (kMin) min[s] = F::Min(unit, s);
  }
  for (int r = 0; r < kRows; ++r) {
    const int64_t at = (row + r) * o.units + u;
    const int32_t* quads = reinterpret_cast<const int32_t*>(o.quants + at * 32);
    const float d = o.row_scales[at];
    const int32_t* sums = o.sums + at * 2;
    __m512i dot[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    for (int j = 0; j < 4; ++j) {
      dot[0] = _mm512_dpbusd_epi32(dot[0], w[j], _mm512_set1_epi32(quads[j]));
      dot[1] = _mm512_dpbusd_epi32(dot[1], w[j + 4], _mm512_set1_epi32(quads[j + 4]));
    }
    if constexpr (kScales == 1) dot[0] = _mm512_add_epi32(dot[0], dot[1]);
    for (int s = 0; s < kScales; ++s) {
      const int32_t quants = kScales == 2 ? sums[s] : sums[0] + sums[1];
      if constexpr (kZero != 0) dot[s] = _mm512_sub_epi32(dot[s], _mm512_set1_epi32(kZero * quants));
      if constexpr (kMin) sum[r] = _mm512_fmadd_ps(min[s], _mm512_set1_ps(d * static_cast<float>(quants)), sum[r]);
      sum[r] = _mm512_fmadd_ps(_mm512_mul_ps(scale[s], _mm512_set1_ps(d)), _mm512_cvtepi32_ps(dot[s]), sum[r]);
    }
  }
}

inline void Store(const MatMulOperands& o, int64_t tile, int64_t row, __m512 sum) {
  const int64_t left = o.outputs - tile * 16;
  const __mmask16 mask = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
  _mm512_mask_storeu_ps(o.y + row * o.y_stride + tile * 16, mask, sum);
}

template <int kBits, int kScales, int kZero, bool kMin, bool kWide>
struct Int8Product {
  using F = Format<kBits, kScales, kZero, kMin, kWide>;

  template <int kRows>
  static void Rows(const MatMulOperands& o, int64_t tile, int64_t row) {
    const uint8_t* unit = o.tiles + tile * o.tile_bytes;
    __m512 sum[kRows];
    for (int r = 0; r < kRows; ++r) sum[r] = _mm512_setzero_ps();
    for (int64_t u = 0; u < o.units; ++u, unit += F::kUnitBytes) AddUnit<F, kScales, kZero, kMin, kRows>(o, unit, row, u, sum);
    for (int r = 0; r < kRows; ++r) Store(o, tile, row + r, sum[r]);
  }

  // One row and several tiles at once: a single tile would wait for its own chain of sums, and one stream of memory for another.
  template <int kTiles>
  static void Tiles(const MatMulOperands& o, int64_t tile, int64_t row) {
    const uint8_t* unit = o.tiles + tile * o.tile_bytes;
    __m512 sum[kTiles];
    for (int t = 0; t < kTiles; ++t) sum[t] = _mm512_setzero_ps();
    for (int64_t u = 0; u < o.units; ++u, unit += F::kUnitBytes) {
      for (int t = 0; t < kTiles; ++t) AddUnit<F, kScales, kZero, kMin, 1>(o, unit + t * o.tile_bytes, row, u, sum + t);
    }
    for (int t = 0; t < kTiles; ++t) Store(o, tile + t, row, sum[t]);
  }
};

// Float weights, or quants dequantised on the way: weight = scale * (quant - zero) [+ min], rounded as DequantizeRow does.
template <int kBits, int kScales, int kZero, bool kMin, bool kWide>
struct F32Product {
  using F = Format<kBits, kScales, kZero, kMin, kWide>;

  template <int kRows>
  static void Rows(const MatMulOperands& o, int64_t tile, int64_t row) {
    const uint8_t* unit = o.tiles + tile * o.tile_bytes;
    __m512 sum[kRows];
    for (int r = 0; r < kRows; ++r) sum[r] = _mm512_setzero_ps();
    for (int64_t u = 0; u < o.units; ++u, unit += F::kUnitBytes) {
      __m512i w[8];
      F::Quads(unit, w);
      for (int k = 0; k < 32; ++k) {
        const int s = kScales == 2 ? k / 16 : 0;
        const __m512i quant = _mm512_and_si512(_mm512_srli_epi32(w[k / 4], 8 * (k % 4)), _mm512_set1_epi32(255));
        __m512 weight = _mm512_mul_ps(F::Scale(unit, s), _mm512_cvtepi32_ps(_mm512_sub_epi32(quant, _mm512_set1_epi32(kZero))));
        if constexpr (kMin) weight = _mm512_add_ps(weight, F::Min(unit, s));
        for (int r = 0; r < kRows; ++r) sum[r] = _mm512_fmadd_ps(weight, _mm512_set1_ps(o.x[((row + r) * o.units + u) * 32 + k]), sum[r]);
      }
    }
    for (int r = 0; r < kRows; ++r) Store(o, tile, row + r, sum[r]);
  }

  template <int kTiles>
  static void Tiles(const MatMulOperands& o, int64_t tile, int64_t row) {
    for (int t = 0; t < kTiles; ++t) Rows<1>(o, tile + t, row);
  }
};

enum class FloatKind { kF32, kF16, kBF16 };

template <FloatKind kKind>
struct FloatProduct {
  static __m512 Load(const uint8_t* weights, int k) {
    if constexpr (kKind == FloatKind::kF32) return _mm512_loadu_ps(weights + 64 * k);
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + 32 * k));
    if constexpr (kKind == FloatKind::kF16) return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }

  template <int kRows>
  static void Rows(const MatMulOperands& o, int64_t tile, int64_t row) {
    const uint8_t* unit = o.tiles + tile * o.tile_bytes;
    __m512 sum[kRows];
    for (int r = 0; r < kRows; ++r) sum[r] = _mm512_setzero_ps();
    for (int64_t u = 0; u < o.units; ++u, unit += o.unit_bytes) {
      for (int k = 0; k < 32; ++k) {
        const __m512 weight = Load(unit, k);
        for (int r = 0; r < kRows; ++r) sum[r] = _mm512_fmadd_ps(weight, _mm512_set1_ps(o.x[((row + r) * o.units + u) * 32 + k]), sum[r]);
      }
    }
    for (int r = 0; r < kRows; ++r) Store(o, tile, row + r, sum[r]);
  }

  template <int kTiles>
  static void Tiles(const MatMulOperands& o, int64_t tile, int64_t row) {
    const uint8_t* unit = o.tiles + tile * o.tile_bytes;
    __m512 sum[kTiles];
    for (int t = 0; t < kTiles; ++t) sum[t] = _mm512_setzero_ps();
    for (int64_t u = 0; u < o.units; ++u, unit += o.unit_bytes) {
      for (int k = 0; k < 32; ++k) {
        const __m512 x = _mm512_set1_ps(o.x[(row * o.units + u) * 32 + k]);
        for (int t = 0; t < kTiles; ++t) sum[t] = _mm512_fmadd_ps(Load(unit + t * o.tile_bytes, k), x, sum[t]);
      }
    }
    for (int t = 0; t < kTiles; ++t) Store(o, tile + t, row, sum[t]);
  }
};

constexpr int kTilesAtOnce = 4;

template <class Product>
void Run(const MatMulOperands& o) {
  int64_t tile = o.first_tile;
  if (o.m == 1) {
    for (; tile + kTilesAtOnce <= o.last_tile; tile += kTilesAtOnce) Product::template Tiles<kTilesAtOnce>(o, tile, 0);
  }
  for (; tile < o.last_tile; ++tile) {
    int64_t row = 0;
    for (; row + 8 <= o.m; row += 8) Product::template Rows<8>(o, tile, row);
    if (row + 4 <= o.m) Product::template Rows<4>(o, tile, row), row += 4;
    if (row + 2 <= o.m) Product::template Rows<2>(o, tile, row), row += 2;
    if (row < o.m) Product::template Rows<1>(o, tile, row);
  }
}

template <template <int, int, int, bool, bool> class Product>
void RunQuantised(const MatMulOperands& o) {
  if (o.bits == 8) return Run<Product<8, 1, 128, false, false>>(o);
  if (o.bits == 6) return Run<Product<6, 2, 32, false, true>>(o);
  if (o.bits == 5 && o.wide_scales) return Run<Product<5, 1, 0, true, true>>(o);
  if (o.bits == 5 && o.has_min) return Run<Product<5, 1, 0, true, false>>(o);
  if (o.bits == 5) return Run<Product<5, 1, 16, false, false>>(o);
  if (o.wide_scales) return Run<Product<4, 1, 0, true, true>>(o);
  if (o.has_min) return Run<Product<4, 1, 0, true, false>>(o);
  Run<Product<4, 1, 8, false, false>>(o);
}

}  // namespace

void Multiply(const MatMulOperands& o) {
  if (o.bits == 32) return Run<FloatProduct<FloatKind::kF32>>(o);
  if (o.bits == 16 && o.bf16) return Run<FloatProduct<FloatKind::kBF16>>(o);
  if (o.bits == 16) return Run<FloatProduct<FloatKind::kF16>>(o);
  if (o.f32_activations) return RunQuantised<F32Product>(o);
  RunQuantised<Int8Product>(o);
}

void Quantize(const QuantizeOperands& o) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (int64_t unit = o.first_row * o.units; unit < o.last_row * o.units; ++unit) {
    const __m512 a = _mm512_loadu_ps(o.x + unit * 32), b = _mm512_loadu_ps(o.x + unit * 32 + 16);
    const __m512i size_a = _mm512_and_si512(_mm512_castps_si512(a), magnitude);
    const __m512i size_b = _mm512_and_si512(_mm512_castps_si512(b), magnitude);
    // As integers, floats without sign compare like floats, and NaN is the largest.
    const int32_t bits = _mm512_reduce_max_epi32(_mm512_max_epi32(size_a, size_b));
    const bool finite = bits < 0x7f800000;
    const float scale = finite ? _mm512_cvtss_f32(_mm512_castsi512_ps(_mm512_set1_epi32(bits))) / 127 : NAN;
    const float inverse = finite && scale > 0 ? 1 / scale : 0;
    const __mmask16 keep = finite ? 0xffff : 0;
    const __m512i qa = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(a, _mm512_set1_ps(inverse)));
    const __m512i qb = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(b, _mm512_set1_ps(inverse)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(o.quants + unit * 32), _mm512_cvtepi32_epi8(qa));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(o.quants + unit * 32 + 16), _mm512_cvtepi32_epi8(qb));
    o.scales[unit] = scale;
    o.sums[unit * 2] = _mm512_reduce_add_epi32(qa);
    o.sums[unit * 2 + 1] = _mm512_reduce_add_epi32(qb);
  }
}

}  // namespace spherical::kernels::avx512vnni
