#include "kernels/dense/matmul.h"

#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/dense/weight_format.h"
#include "tests/fakes/stored_rows.h"

namespace spherical::kernels {
namespace {

constexpr WeightType kTypes[] = {WeightType::kF32,  WeightType::kF16,  WeightType::kBF16, WeightType::kQ4_0,
                                 WeightType::kQ4_1, WeightType::kQ5_0, WeightType::kQ5_1, WeightType::kQ8_0,
                                 WeightType::kQ4_K, WeightType::kQ5_K, WeightType::kQ6_K};
static_assert(std::size(kTypes) == kWeightTypeCount);

struct Shape {
  int64_t m, n, k;
};

// SmolLM2's widths, a lone block, tiles cut short, and every tail of a row tile. K as asked, but at least one block of the format.
std::vector<Shape> ShapesOf(WeightType type) {
  const int64_t block = FormatOf(type).block_elements;
  std::vector<Shape> shapes;
  for (const Shape& s : {Shape{1, 16, 32}, {1, 1, 576}, {3, 17, 96}, {2, 192, 576}, {5, 40, 1536}}) {
    shapes.push_back({s.m, s.n, RoundUp(s.k, std::max<int64_t>(block, 32))});
  }
  for (int64_t m = 1; m <= 17; ++m) shapes.push_back({m, 39, std::max<int64_t>(block, 64)});
  return shapes;
}

std::vector<float> RandomRows(int64_t count, float largest, std::mt19937& random) {
  std::uniform_real_distribution<float> value(-largest, largest);
  std::vector<float> x(static_cast<size_t>(count));
  for (float& v : x) v = value(random);
  return x;
}

std::vector<float> Run(const MatMulImpl& impl, const PackedMatrix& w, ActivationType activations, const std::vector<float>& x, int64_t m,
                       int32_t shards = 1) {
  PreparedRows rows;
  rows.Bind(activations, x.data(), m, w.inputs());
  for (int32_t i = 0; i < shards; ++i) impl.prepare(RangeOf({i, shards}, m), rows);
  std::vector<float> y(static_cast<size_t>(m * w.outputs()), -12345.0f);
  for (int32_t i = 0; i < shards; ++i) MatMul(impl, w, rows, y.data(), w.outputs(), {i, shards});
  return y;
}

// Bit for bit; NaN equals NaN, whatever its payload.
bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) {
      UNSCOPED_INFO("element " << i << ": " << a[i] << " and " << b[i]);
      return false;
    }
  }
  return true;
}

// Calls check(impl, type, shape, rows of W, packed W, x) for every implementation this machine can run.
template <class Check>
void ForAll(uint32_t seed, Check check) {
  for (const WeightType type : kTypes) {
    for (const Shape& shape : ShapesOf(type)) {
      std::mt19937 random(seed);
      const std::vector<uint8_t> rows = StoredRows(type, shape.n, shape.k, StoredQuants::kRandom, random);
      const OwnedMatrix owned = PackOwned(type, rows, shape.n, shape.k);
      const PackedMatrix& packed = owned.matrix;
      const std::vector<float> x = RandomRows(shape.m * shape.k, 3.0f, random);
      for (const MatMulImpl& impl : MatMulImpls()) {
        if (!impl.supported()) continue;
        INFO(impl.name << " " << FormatOf(type).name << " M " << shape.m << " N " << shape.n << " K " << shape.k << " seed " << seed);
        check(impl, type, shape, rows, packed, x);
      }
    }
  }
}

// Activations as the product sees them: in double, scale times quant, or x itself.
std::vector<double> SeenActivations(const PreparedRows& rows, bool quantised) {
  std::vector<double> seen(static_cast<size_t>(rows.m * rows.k));
  for (size_t i = 0; i < seen.size(); ++i) seen[i] = quantised ? double{rows.scales[i / 32]} * rows.quants[i] : rows.x[i];
  return seen;
}

// The min that each weight of a row contains.
std::vector<float> MinsOf(WeightType type, const uint8_t* row, int64_t k) {
  std::vector<float> mins(static_cast<size_t>(k));
  WeightUnit unit;
  for (int64_t i = 0; i < k && QuantFormatOf(type).has_min; ++i) {
    if (i % kUnitElements == 0) ReadUnit(type, row, i / kUnitElements, unit);
    mins[i] = unit.min[i % kUnitElements / 16];
  }
  return mins;
}

TEST_CASE("unpacking gives exactly what dequantising gives, for every format and row") {
  std::mt19937 random(1);
  for (const WeightType type : kTypes) {
    for (const StoredQuants quants : {StoredQuants::kRandom, StoredQuants::kAllZeroBits, StoredQuants::kAllOneBits}) {
      const int64_t n = 35, k = 512;
      INFO(FormatOf(type).name);
      const std::vector<uint8_t> rows = StoredRows(type, n, k, quants, random);
      const OwnedMatrix owned = PackOwned(type, rows, n, k);
      const PackedMatrix& packed = owned.matrix;
      std::vector<float> unpacked(k), dequantised(k);
      for (int64_t i = 0; i < n; ++i) {
        UnpackRow(packed, i, unpacked.data());
        DequantizeRow(type, rows.data() + i * RowBytes(type, k), k, dequantised.data());
        REQUIRE(SameBits(unpacked, dequantised));
      }
    }
  }
}

TEST_CASE("a packed matrix is hardly bigger than the file's") {
  std::mt19937 random(2);
  const int64_t n = 64, k = 1536;
  for (const WeightType type : kTypes) {
    INFO(FormatOf(type).name);
    const std::vector<uint8_t> rows = StoredRows(type, n, k, StoredQuants::kAllZeroBits, random);
    // The K formats hold scales and mins of 6 bits, ours are f32: 6 bits a weight instead of 4.5.
    CHECK(PackOwned(type, rows, n, k).matrix.bytes() <= static_cast<int64_t>(rows.size()) * 4 / 3);
  }
}

// eps = 2^-24. With f32 activations an output is four chains of K / 4 fused steps, joined by two additions: each rounds a partial sum of
// at most sum |w x|, so (K / 4 + 2) eps sum |w x|. With int8 activations the integers are exact; per scale (at most one for every 16
// columns, and as many mins) there is one fused step and one rounded product, of parts that are apart: quant part w - min, and min. So
// (K / 8 + 3) eps sum (|w - min| + |min|) |x|, the last steps for the weights' own rounding, which the parts do not have, and for d sum(s).
TEST_CASE("products agree with double precision within the rounding of their sizes") {
  ForAll(3, [](const MatMulImpl& impl, WeightType type, const Shape& shape, const std::vector<uint8_t>& stored, const PackedMatrix& packed,
               const std::vector<float>& x) {
    std::vector<float> weights(static_cast<size_t>(shape.k));
    for (const ActivationType activations : {ActivationType::kInt8, ActivationType::kF32}) {
      const bool quantised = activations == ActivationType::kInt8 && packed.layout().bits < 16;
      const std::vector<float> y = Run(impl, packed, activations, x, shape.m);
      PreparedRows rows;
      rows.Bind(activations, x.data(), shape.m, shape.k);
      impl.prepare({0, shape.m}, rows);
      const std::vector<double> seen = SeenActivations(rows, quantised);
      for (int64_t n = 0; n < shape.n; n += 7) {
        const uint8_t* row = stored.data() + n * RowBytes(type, shape.k);
        DequantizeRow(type, row, shape.k, weights.data());
        const std::vector<float> mins = MinsOf(type, row, shape.k);
        for (int64_t m = 0; m < shape.m; ++m) {
          double exact = 0, parts = 0, whole = 0;
          for (int64_t i = 0; i < shape.k; ++i) {
            const double activation = seen[m * shape.k + i];
            exact += weights[i] * activation;
            whole += std::fabs(weights[i] * activation);
            parts += (std::fabs(double{weights[i]} - mins[i]) + std::fabs(double{mins[i]})) * std::fabs(activation);
          }
          const double k = static_cast<double>(shape.k);
          const double bound = 0x1p-24 * (quantised ? (k / 8 + 3) * parts : (k / 4 + 2) * whole);
          REQUIRE(std::fabs(y[m * shape.n + n] - exact) <= bound);
        }
      }
    }
  });
}

TEST_CASE("every implementation gives the reference's bits") {
  ForAll(4, [](const MatMulImpl& impl, WeightType, const Shape& shape, const std::vector<uint8_t>&, const PackedMatrix& packed,
               const std::vector<float>& x) {
    for (const ActivationType activations : {ActivationType::kInt8, ActivationType::kF32}) {
      REQUIRE(SameBits(Run(impl, packed, activations, x, shape.m), Run(MatMulImpls()[0], packed, activations, x, shape.m)));
    }
  });
}

TEST_CASE("neither sharding nor the rows beside it change an output's bits") {
  ForAll(5, [](const MatMulImpl& impl, WeightType, const Shape& shape, const std::vector<uint8_t>&, const PackedMatrix& packed,
               const std::vector<float>& x) {
    for (const ActivationType activations : {ActivationType::kInt8, ActivationType::kF32}) {
      const std::vector<float> whole = Run(impl, packed, activations, x, shape.m);
      for (const int32_t shards : {2, 3, 7}) REQUIRE(SameBits(Run(impl, packed, activations, x, shape.m, shards), whole));
      for (int64_t m = 0; m < shape.m; ++m) {
        const std::vector<float> row(x.begin() + m * shape.k, x.begin() + (m + 1) * shape.k);
        const std::vector<float> expected(whole.begin() + m * shape.n, whole.begin() + (m + 1) * shape.n);
        REQUIRE(SameBits(Run(impl, packed, activations, row, 1), expected));
      }
    }
  });
}

TEST_CASE("extreme quants and extreme activations give the reference's bits") {
  std::mt19937 random(6);
  const int64_t m = 9, n = 32, k = 512;
  for (const WeightType type : kTypes) {
    for (const StoredQuants quants : {StoredQuants::kAllZeroBits, StoredQuants::kAllOneBits}) {
      const std::vector<uint8_t> rows = StoredRows(type, n, k, quants, random);
      const OwnedMatrix owned = PackOwned(type, rows, n, k);
      const PackedMatrix& packed = owned.matrix;
      std::vector<float> x = RandomRows(m * k, 1.0f, random);
      for (int64_t i = 0; i < k; ++i) {
        x[0 * k + i] = 1;                                          // every quant 127
        x[1 * k + i] = -1;                                         // every quant -127
        x[2 * k + i] = 0;                                          // no scale at all
        x[3 * k + i] *= 0x1p120f;                                  // near the top of f32's range
        x[4 * k + i] *= std::numeric_limits<float>::denorm_min();  // zeros and the smallest numbers
        x[5 * k + i] *= 0x1p-100f;                                 // around the smallest that count
      }
      x[6 * k + 100] = std::numeric_limits<float>::max();
      for (const MatMulImpl& impl : MatMulImpls()) {
        if (!impl.supported()) continue;
        INFO(impl.name << " " << FormatOf(type).name);
        for (const ActivationType activations : {ActivationType::kInt8, ActivationType::kF32}) {
          const std::vector<float> y = Run(impl, packed, activations, x, m);
          REQUIRE(SameBits(y, Run(MatMulImpls()[0], packed, activations, x, m)));
          for (int64_t i = 0; i < n; ++i) REQUIRE(y[2 * n + i] == 0);
        }
      }
    }
  }
}

TEST_CASE("activations that are not finite make their row NaN or infinite, and no other") {
  std::mt19937 random(7);
  const int64_t m = 9, n = 24, k = 256;
  for (const WeightType type : kTypes) {
    const std::vector<uint8_t> rows = StoredRows(type, n, k, StoredQuants::kRandom, random);
    const OwnedMatrix owned = PackOwned(type, rows, n, k);
    const PackedMatrix& packed = owned.matrix;
    const std::vector<float> clean = RandomRows(m * k, 1.0f, random);
    std::vector<float> x = clean;
    x[1 * k + 37] = std::numeric_limits<float>::quiet_NaN();
    x[4 * k + 255] = std::numeric_limits<float>::infinity();
    x[8 * k + 0] = -std::numeric_limits<float>::infinity();
    for (const MatMulImpl& impl : MatMulImpls()) {
      if (!impl.supported()) continue;
      INFO(impl.name << " " << FormatOf(type).name);
      for (const ActivationType activations : {ActivationType::kInt8, ActivationType::kF32}) {
        const std::vector<float> y = Run(impl, packed, activations, x, m), expected = Run(impl, packed, activations, clean, m);
        REQUIRE(SameBits(y, Run(MatMulImpls()[0], packed, activations, x, m)));
        for (int64_t row = 0; row < m; ++row) {
          const bool touched = row == 1 || row == 4 || row == 8;
          for (int64_t i = row * n; i < (row + 1) * n; ++i) {
            if (touched) REQUIRE_FALSE(std::isfinite(y[i]));
            if (!touched) REQUIRE(std::bit_cast<uint32_t>(y[i]) == std::bit_cast<uint32_t>(expected[i]));
          }
        }
      }
    }
  }
}

TEST_CASE("a product writes its own outputs and nothing else") {
  std::mt19937 random(8);
  const int64_t m = 3, n = 37, k = 256, stride = 50;
  for (const WeightType type : kTypes) {
    const std::vector<uint8_t> rows = StoredRows(type, n, k, StoredQuants::kRandom, random);
    const OwnedMatrix owned = PackOwned(type, rows, n, k);
    const PackedMatrix& packed = owned.matrix;
    const std::vector<float> x = RandomRows(m * k, 1.0f, random);
    for (const MatMulImpl& impl : MatMulImpls()) {
      if (!impl.supported()) continue;
      INFO(impl.name << " " << FormatOf(type).name);
      PreparedRows prepared;
      prepared.Bind(ActivationType::kInt8, x.data(), m, k);
      impl.prepare({0, m}, prepared);
      std::vector<float> y(m * stride, 7.0f);
      impl.multiply(packed, prepared, y.data(), stride, {1, 3});
      for (int64_t i = 0; i < m * stride; ++i) {
        const bool own = i % stride >= 16 && i % stride < 37;
        REQUIRE((y[i] == 7.0f) == !own);
      }
    }
  }
}

TEST_CASE("prepared rows are reused without allocating once they are large enough") {
  PreparedRows rows;
  const std::vector<float> x(8 * 1536);
  rows.Bind(ActivationType::kInt8, x.data(), 8, 1536);
  const int8_t* const before = rows.quants.data();
  rows.Bind(ActivationType::kF32, x.data(), 1, 64);
  rows.Bind(ActivationType::kInt8, x.data(), 3, 576);
  CHECK(rows.quants.data() == before);
  CHECK(rows.m == 3);
  CHECK(rows.k == 576);
}

TEST_CASE("quantised activations are the nearest multiples of their block's scale") {
  std::mt19937 random(9);
  const int64_t k = 64;
  std::vector<float> x = RandomRows(k, 5.0f, random);
  x[3] = 12.7f;  // the largest of block 0: its scale is 0.1
  x[4] = 0.25f;  // 2.5 steps
  for (const MatMulImpl& impl : MatMulImpls()) {
    if (!impl.supported()) continue;
    INFO(impl.name);
    PreparedRows rows;
    rows.Bind(ActivationType::kInt8, x.data(), 1, k);
    impl.prepare({0, 1}, rows);
    CHECK(rows.scales[0] == 12.7f / 127);
    CHECK(rows.quants[3] == 127);
    int32_t sum = 0;
    for (int64_t i = 0; i < 32; ++i) {
      CHECK(std::fabs(x[i] - rows.scales[0] * static_cast<float>(rows.quants[i])) <= rows.scales[0] * 0.5001f);
      sum += rows.quants[i];
    }
    CHECK(rows.sums[0] + rows.sums[1] == sum);
    CHECK(rows.scaled_sums[0] == rows.scales[0] * static_cast<float>(sum));
  }
}

}  // namespace
}  // namespace spherical::kernels
