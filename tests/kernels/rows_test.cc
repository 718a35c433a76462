// Row-wise work: every implementation against the double reference, bits against each other, and the plain functions' meaning.
#include "kernels/dense/rows.h"

#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace spherical::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kEpsilon = 0x1p-24;  // one rounding

const std::vector<int64_t> kLengths = {1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 576, 1536, 4099};

std::vector<float> RandomValues(int64_t count, uint64_t seed, double size = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<float> values(count);
  for (float& x : values) x = static_cast<float>(size * normal(random));
  return values;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

double WorstRelative(const std::vector<float>& got, const std::vector<float>& want) {
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] != want[i]) worst = std::max(worst, std::fabs(double{got[i]} - want[i]) / std::fabs(double{want[i]}));
  }
  return worst;
}

std::vector<RowsImpl> Supported() {
  std::vector<RowsImpl> impls;
  for (const RowsImpl& impl : RowsImpls()) {
    if (impl.supported()) impls.push_back(impl);
  }
  return impls;
}
const RowsImpl& Reference() { return RowsImpls()[0]; }
const RowsImpl& Portable() { return RowsImpls()[1]; }

std::vector<float> Normed(const RowsImpl& impl, const std::vector<float>& x, const std::vector<float>& weight, float epsilon, int64_t m) {
  std::vector<float> y(x.size(), -77);
  impl.rms_norm(x.data(), weight.data(), epsilon, m, static_cast<int64_t>(weight.size()), y.data());
  return y;
}

std::vector<float> Gated(const RowsImpl& impl, std::vector<float> gate, const std::vector<float>& up, int64_t m) {
  impl.silu_gate(up.data(), m, static_cast<int64_t>(gate.size()) / m, gate.data());
  return gate;
}

TEST_CASE("RmsNorm agrees with double: squares and the inverse root are rounded once, the result twice, the reference once") {
  for (const int64_t d : kLengths) {
    for (const double size : {1e-15, 1e-3, 1.0, 1e4, 1e15}) {
      const std::vector<float> x = RandomValues(3 * d, d, size);
      const std::vector<float> weight = RandomValues(d, d + 1);
      const std::vector<float> want = Normed(Reference(), x, weight, 1e-5f, 3);
      for (const RowsImpl& impl : Supported()) {
        INFO(impl.name << " D " << d << " size " << size);
        const std::vector<float> got = Normed(impl, x, weight, 1e-5f, 3);
        CHECK(WorstRelative(got, want) <= 5 * kEpsilon);
        if (impl.name != std::string("reference")) CHECK(SameBits(got, Normed(Portable(), x, weight, 1e-5f, 3)));
      }
    }
  }
}

TEST_CASE("RmsNorm of zeros is zero, in place is allowed, and a row of zeros does not touch its neighbours") {
  const int64_t d = 40;
  std::vector<float> x = RandomValues(3 * d, 1);
  std::fill_n(x.begin() + d, d, 0.0f);
  const std::vector<float> weight = RandomValues(d, 2);
  for (const RowsImpl& impl : Supported()) {
    const std::vector<float> want = Normed(impl, x, weight, 1e-6f, 3);
    std::vector<float> in_place = x;
    impl.rms_norm(in_place.data(), weight.data(), 1e-6f, 3, d, in_place.data());
    INFO(impl.name);
    CHECK(SameBits(in_place, want));
    for (int64_t i = 0; i < d; ++i) CHECK(want[d + i] == 0);
    CHECK(want[0] != 0);
    CHECK(want[3 * d - 1] != 0);
  }
}

TEST_CASE("SiluGate agrees with double: e^x is within 2 roundings, three more follow, the reference rounds once") {
  for (const int64_t d : kLengths) {
    const std::vector<float> gate = RandomValues(2 * d, d, 4);
    const std::vector<float> up = RandomValues(2 * d, d + 1);
    const std::vector<float> want = Gated(Reference(), gate, up, 2);
    for (const RowsImpl& impl : Supported()) {
      INFO(impl.name << " D " << d);
      const std::vector<float> got = Gated(impl, gate, up, 2);
      CHECK(WorstRelative(got, want) <= 6 * kEpsilon);
      if (impl.name != std::string("reference")) CHECK(SameBits(got, Gated(Portable(), gate, up, 2)));
    }
  }
}

TEST_CASE("SiluGate of large gates is the identity or nothing, and NaN stays NaN") {
  const std::vector<float> gate = {0.0f, -0.0f, 80.0f, 1e4f, 3e38f, -80.0f, -88.5f, -1e4f, -3e38f, kNan, 1.0f};
  std::vector<float> up(gate.size(), 1.0f);
  up.back() = kNan;
  for (const RowsImpl& impl : Supported()) {
    const std::vector<float> got = Gated(impl, gate, up, 1);
    INFO(impl.name);
    CHECK(got[0] == 0);
    CHECK(got[1] == 0);
    for (int i = 2; i < 5; ++i) CHECK(got[i] == gate[i]);
    CHECK(std::fabs(got[5]) < 1e-30);
    CHECK(std::fabs(got[6]) < 1e-30);
    CHECK(std::fabs(got[7]) < 1e-30);
    CHECK(std::fabs(got[8]) <= 3);  // -3e38 / e^88: the saturated e^x, never infinity
    CHECK(std::isnan(got[9]));
    CHECK(std::isnan(got[10]));
  }
}

std::vector<float> GeluGated(const RowsImpl& impl, std::vector<float> gate, const std::vector<float>& up, int64_t m) {
  impl.gelu_gate(up.data(), m, static_cast<int64_t>(gate.size()) / m, gate.data());
  return gate;
}

// The argument t of e^-t is off by 5 roundings, which the result is by |t| / (1 + e^t) as much; the rest as SiluGate's.
TEST_CASE("GeluGate agrees with double: where e^-t decides, by the roundings of t, elsewhere by SiluGate's") {
  for (const int64_t d : kLengths) {
    const std::vector<float> gate = RandomValues(2 * d, d, 2);
    const std::vector<float> up = RandomValues(2 * d, d + 1);
    const std::vector<float> want = GeluGated(Reference(), gate, up, 2);
    for (const RowsImpl& impl : Supported()) {
      INFO(impl.name << " D " << d);
      const std::vector<float> got = GeluGated(impl, gate, up, 2);
      for (size_t i = 0; i < got.size(); ++i) {
        const double g = gate[i], t = 1.5957691216 * (g + 0.044715 * g * g * g);
        const double tolerance = (6 + 5 * std::fabs(t) / (1 + std::exp(t))) * kEpsilon * std::fabs(double{want[i]});
        REQUIRE(std::fabs(double{got[i]} - want[i]) <= tolerance);
      }
      if (impl.name != std::string("reference")) CHECK(SameBits(got, GeluGated(Portable(), gate, up, 2)));
    }
  }
}

TEST_CASE("GeluGate is GELU: known values, zero, the identity or nothing for large gates, and NaN stays NaN") {
  // 0.5 g (1 + tanh(sqrt(2 / pi) (g + 0.044715 g^3))), as Python's math computes it.
  const std::vector<float> gate = {0.0f, 1.0f, -1.0f, 2.0f, -3.0f, 80.0f, 1e4f, 3e38f, -80.0f, -1e4f, -3e38f, kNan};
  const std::vector<float> up(gate.size(), 1.0f);
  for (const RowsImpl& impl : Supported()) {
    const std::vector<float> got = GeluGated(impl, gate, up, 1);
    INFO(impl.name);
    CHECK(got[0] == 0);
    CHECK(got[1] == Approx(0.841191990608).epsilon(1e-6));
    CHECK(got[2] == Approx(-0.158808009392).epsilon(1e-6));
    CHECK(got[3] == Approx(1.954597694087).epsilon(1e-6));
    CHECK(got[4] == Approx(-0.003637392).epsilon(1e-5));
    for (size_t i = 5; i < 8; ++i) CHECK(got[i] == gate[i]);
    for (size_t i = 8; i < 10; ++i) CHECK(std::fabs(got[i]) < 1e-30);
    CHECK(std::fabs(got[10]) <= 3);  // -3e38 / e^88: the saturated e^x, never infinity
    CHECK(std::isnan(got[11]));
  }
}

TEST_CASE("CapRows leaves small values, bounds large ones, and keeps NaN") {
  std::vector<float> x = {0, 1e-3f, -3, 30, -1e30f, kNan};
  CapRows(3, 6, x.data());
  CHECK(x[0] == 0);
  CHECK(x[1] == Approx(1e-3));
  CHECK(x[2] == Approx(-3 * std::tanh(1.0)));
  CHECK(x[3] == Approx(3));
  CHECK(x[4] == -3);
  CHECK(std::isnan(x[5]));
}

TEST_CASE("LogSumExp agrees with double to the error of e^x, which is all it rounds") {
  for (const int64_t n : {1L, 5L, 16L, 33L, 1000L, 49152L, 49155L}) {
    for (const double size : {0.01, 3.0, 100.0}) {
      const std::vector<float> x = RandomValues(n, n, size);
      const double want = Reference().log_sum_exp(x.data(), n);
      for (const RowsImpl& impl : Supported()) {
        INFO(impl.name << " n " << n << " size " << size);
        const double got = impl.log_sum_exp(x.data(), n);
        // x - max is rounded: half a unit of at most 88, 64 eps, for what counts. e^x is within 2 eps. Both as shares of the sum.
        CHECK(std::fabs(got - want) <= (2 + 64) * kEpsilon + 1e-15 * std::fabs(want));
        if (impl.name != std::string("reference")) CHECK(got == Portable().log_sum_exp(x.data(), n));
      }
    }
  }
}

TEST_CASE("LogSumExp stands logits of any size, minus infinity among them") {
  std::vector<float> x(100, -kInfinity);
  x[57] = 12345.5f;
  for (const RowsImpl& impl : Supported()) {
    INFO(impl.name);
    CHECK(impl.log_sum_exp(x.data(), 100) == 12345.5);
    x[99] = 12345.5f;
    CHECK(impl.log_sum_exp(x.data(), 100) == Approx(12345.5 + std::log(2.0)).epsilon(1e-12));
    x[99] = kNan;
    CHECK(std::isnan(impl.log_sum_exp(x.data(), 100)));
    x[99] = -kInfinity;
  }
}

TEST_CASE("A row's bits do not depend on the rows beside it") {
  const int64_t d = 100, m = 7;
  const std::vector<float> x = RandomValues(m * d, 1), up = RandomValues(m * d, 2), weight = RandomValues(d, 3);
  for (const RowsImpl& impl : Supported()) {
    const std::vector<float> normed = Normed(impl, x, weight, 1e-5f, m);
    const std::vector<float> gated = Gated(impl, x, up, m), gelu = GeluGated(impl, x, up, m);
    for (int64_t row = 0; row < m; ++row) {
      const auto part = [&](const std::vector<float>& all) { return std::vector<float>(&all[row * d], &all[row * d] + d); };
      CHECK(SameBits(part(normed), Normed(impl, part(x), weight, 1e-5f, 1)));
      CHECK(SameBits(part(gated), Gated(impl, part(x), part(up), 1)));
      CHECK(SameBits(part(gelu), GeluGated(impl, part(x), part(up), 1)));
    }
  }
}

TEST_CASE("The plain functions are the best implementation") {
  const std::vector<float> x = RandomValues(576, 1), weight = RandomValues(576, 2);
  std::vector<float> y(576);
  RmsNorm(x.data(), weight.data(), 1e-5f, 1, 576, y.data());
  CHECK(SameBits(y, Normed(BestRows(), x, weight, 1e-5f, 1)));
  y = x;
  SiluGate(weight.data(), 1, 576, y.data());
  CHECK(SameBits(y, Gated(BestRows(), x, weight, 1)));
  y = x;
  GeluGate(weight.data(), 1, 576, y.data());
  CHECK(SameBits(y, GeluGated(BestRows(), x, weight, 1)));
  CHECK(LogSumExp(x.data(), 576) == BestRows().log_sum_exp(x.data(), 576));
}

TEST_CASE("AddRows adds element by element, AddBias the same row to all") {
  std::vector<float> x = {1, 2, 3, 4, 5, 6};
  const std::vector<float> delta = {10, 20, 30, 40, 50, 60};
  AddRows(delta.data(), 2, 3, x.data());
  CHECK(x == std::vector<float>{11, 22, 33, 44, 55, 66});
  AddBias(delta.data(), 2, 3, x.data());
  CHECK(x == std::vector<float>{21, 42, 63, 54, 75, 96});
}

TEST_CASE("Rotary angles are right to the last bit of a float even far from the start") {
  const std::vector<double> frequency = {1.0, 0.1, 1e-3, 1.0 / 3};
  for (const int64_t position : {0L, 1L, 4096L, 131072L, 1000003L}) {
    std::vector<float> angles(8);
    RotaryAngles(frequency.data(), 8, position, angles.data());
    for (int i = 0; i < 4; ++i) {
      CHECK(angles[i] == static_cast<float>(std::cos(static_cast<double>(position) * frequency[i])));
      CHECK(angles[4 + i] == static_cast<float>(std::sin(static_cast<double>(position) * frequency[i])));
    }
  }
}

TEST_CASE("ApplyRotary turns pairs of either kind, leaves the rest of the head alone, and keeps lengths") {
  const int32_t heads = 3, head_dim = 24, rotary_dim = 16, pairs = rotary_dim / 2;
  std::vector<double> frequency(pairs);
  for (int i = 0; i < pairs; ++i) frequency[i] = std::pow(10000.0, -i / static_cast<double>(pairs));
  std::vector<float> angles(rotary_dim);
  RotaryAngles(frequency.data(), rotary_dim, 1234, angles.data());
  const std::vector<float> before = RandomValues(heads * head_dim, 5);
  for (const RotaryPairing pairing : {RotaryPairing::kAdjacent, RotaryPairing::kHalves}) {
    std::vector<float> x = before;
    ApplyRotary(angles.data(), pairing, heads, head_dim, rotary_dim, x.data());
    for (int h = 0; h < heads; ++h) {
      const float* from = &before[h * head_dim];
      const float* to = &x[h * head_dim];
      for (int i = 0; i < pairs; ++i) {
        const int a = pairing == RotaryPairing::kAdjacent ? 2 * i : i;
        const int b = pairing == RotaryPairing::kAdjacent ? 2 * i + 1 : i + pairs;
        const double c = std::cos(1234 * frequency[i]), s = std::sin(1234 * frequency[i]);
        // Two products of rounded factors and one sum: three roundings each of at most |a| + |b|.
        const double tolerance = 3 * kEpsilon * (std::fabs(from[a]) + std::fabs(from[b]));
        CHECK(std::fabs(to[a] - (from[a] * c - from[b] * s)) <= tolerance);
        CHECK(std::fabs(to[b] - (from[a] * s + from[b] * c)) <= tolerance);
      }
      for (int i = rotary_dim; i < head_dim; ++i) CHECK(to[i] == from[i]);
    }
  }
}

TEST_CASE("AllFinite finds one infinity or NaN anywhere, and minds no other value") {
  for (const int64_t n : {1, 7, 16, 100, 1000}) {
    std::vector<float> x = RandomValues(n, n, 1e30);
    x[0] = std::numeric_limits<float>::max();
    x[n / 2] = std::numeric_limits<float>::denorm_min();
    CHECK(AllFinite(x.data(), n));
    for (const float bad : {kInfinity, -kInfinity, kNan, std::bit_cast<float>(0xff800001u)}) {
      for (const int64_t i : {int64_t{0}, n / 2, n - 1}) {
        std::vector<float> y = x;
        y[i] = bad;
        CHECK_FALSE(AllFinite(y.data(), n));
      }
    }
  }
  CHECK(AllFinite(nullptr, 0));
}

}  // namespace
}  // namespace spherical::kernels
