// Rows and products on the device against their twins in kernels/dense.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/base/float16.h"
#include "kernels/cuda/dense_rows.h"
#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/products.h"
#include "kernels/dense/rows.h"
#include "kernels/spherical/page_layout.h"
#include "tests/kernels/cuda/device_arrays.h"
#include "tests/skip.h"

namespace spherical::kernels::cuda {
namespace {

constexpr double kHalf = 0x1p-11 * 1.1;  // half a unit in the last place, relative, and a little for the f32 before it
constexpr float kEpsilon = 1e-5f;

std::vector<float> Normals(int64_t n, uint64_t seed, double deviation = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal(0, deviation);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& x : values) x = static_cast<float>(normal(random));
  return values;
}
std::vector<uint16_t> ToHalf(const std::vector<float>& values) {
  std::vector<uint16_t> out;
  for (const float x : values) out.push_back(F32ToF16(x));
  return out;
}
std::vector<float> OfHalf(const std::vector<uint16_t>& values) {
  std::vector<float> out;
  for (const uint16_t x : values) out.push_back(F16ToF32(x));
  return out;
}
std::vector<float> OfGated(const std::vector<uint16_t>& values) {
  std::vector<float> out = OfHalf(values);
  for (float& x : out) x *= kGatedUnit;
  return out;
}

// Every value within `relative` of its twin, or within `absolute`; says the first that is not.
void CheckClose(const std::vector<float>& got, const std::vector<float>& want, double relative, double absolute) {
  REQUIRE(got.size() == want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::abs(got[i] - want[i]) <= relative * std::abs(want[i]) + absolute) continue;
    CAPTURE(i, got[i], want[i]);
    FAIL("first of the values that differ");
  }
}

TEST_CASE("rows on the device: embedding, residual and norms agree with the twins") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  for (const int32_t d : {96, 576, 4096, 5120}) {
    CAPTURE(d);
    constexpr int32_t kRows = 5;
    const std::vector<float> x = Normals(kRows * d, 1), delta = Normals(kRows * d, 2, 3), weight = Normals(d, 3), post = Normals(d, 4);

    const std::vector<uint16_t> embedding = ToHalf(Normals(7 * d, 5));
    const std::vector<int32_t> tokens = {6, 0, 3, 3, 1};
    const DeviceArray<uint16_t> table(device, embedding);
    const DeviceArray<int32_t> ids(device, tokens);
    const DeviceArray<float> embedded(device, kRows * d);
    Require(EmbedRows(device.stream(), table.data(), ids.data(), kRows, d, 2.5f, embedded.data()));
    std::vector<float> want;
    for (const int32_t token : tokens) {
      for (int32_t i = 0; i < d; ++i) want.push_back(F16ToF32(embedding[static_cast<size_t>(token * d + i)]) * 2.5f);
    }
    CHECK(embedded.Fetch() == want);

    for (const bool add : {false, true}) {
      for (const bool normed : {false, true}) {
        if (normed && !add) continue;
        CAPTURE(add, normed);
        std::vector<float> sum = x, added = delta, out(x.size());
        if (normed) RmsNorm(added.data(), post.data(), kEpsilon, kRows, d, added.data());
        if (add) AddRows(added.data(), kRows, d, sum.data());
        RmsNorm(sum.data(), weight.data(), kEpsilon, kRows, d, out.data());
        const DeviceArray<float> device_x(device, x), device_delta(device, delta), device_weight(device, weight), device_post(device, post);
        const DeviceArray<uint16_t> device_out(device, kRows * d);
        Require(AddAndNorm(device.stream(), {.x = device_x.data(), .delta = add ? device_delta.data() : nullptr,
                                             .post_weight = normed ? device_post.data() : nullptr, .weight = device_weight.data(),
                                             .out = device_out.data(), .epsilon = kEpsilon, .m = kRows, .d = d}));
        CheckClose(device_x.Fetch(), sum, 1e-5, 1e-5);
        CheckClose(OfHalf(device_out.Fetch()), out, kHalf, 1e-6);
      }
    }
    SECTION("gathered rows") {
      const std::vector<int32_t> rows = {4, 1};
      std::vector<float> gathered, out(static_cast<size_t>(2 * d));
      for (const int32_t row : rows) gathered.insert(gathered.end(), x.begin() + row * d, x.begin() + (row + 1) * d);
      RmsNorm(gathered.data(), weight.data(), kEpsilon, 2, d, out.data());
      const DeviceArray<float> device_x(device, x), device_weight(device, weight);
      const DeviceArray<int32_t> device_rows(device, rows);
      const DeviceArray<uint16_t> device_out(device, 2 * d);
      Require(AddAndNorm(device.stream(), {.x = device_x.data(), .weight = device_weight.data(), .rows = device_rows.data(),
                                           .out = device_out.data(), .epsilon = kEpsilon, .m = 2, .d = d}));
      CheckClose(OfHalf(device_out.Fetch()), out, kHalf, 1e-6);
    }
  }
}

TEST_CASE("rows on the device: gates, caps and the greatest value agree with the twins") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  constexpr int32_t kRows = 3, kWidth = 1000;
  const std::vector<float> joined = Normals(kRows * 2 * kWidth, 7, 4);
  const DeviceArray<float> device_joined(device, joined);
  for (const Gate gate : {Gate::kSilu, Gate::kGeluTanh}) {
    std::vector<float> want;
    for (int32_t r = 0; r < kRows; ++r) {
      std::vector<float> row(joined.begin() + 2 * r * kWidth, joined.begin() + (2 * r + 1) * kWidth);
      (gate == Gate::kSilu ? SiluGate : GeluGate)(&joined[static_cast<size_t>((2 * r + 1) * kWidth)], 1, kWidth, row.data());
      want.insert(want.end(), row.begin(), row.end());
    }
    const DeviceArray<uint16_t> out(device, kRows * kWidth);
    Require(GateRows(device.stream(), gate, device_joined.data(), kRows, kWidth, out.data()));
    CheckClose(OfGated(out.Fetch()), want, kHalf, 1e-5);
  }

  std::vector<float> capped = joined;
  CapRows(3, static_cast<int64_t>(capped.size()), capped.data());
  Require(CapValues(device.stream(), 3, static_cast<int64_t>(joined.size()), device_joined.data()));
  CheckClose(device_joined.Fetch(), capped, 1e-5, 1e-5);

  std::vector<float> rows = Normals(4 * 12345, 8);
  rows[5000] = rows[9000] = 50;                                          // equals: the lowest id
  rows[12345 + 12344] = 50;                                              // the last
  rows[2 * 12345 + 77] = std::numeric_limits<float>::quiet_NaN();
  rows[3 * 12345 + 78] = -std::numeric_limits<float>::infinity();
  const DeviceArray<float> device_rows(device, rows);
  const DeviceArray<int32_t> ids(device, 4);
  const DeviceArray<Greatest> scratch(device, 4 * kGreatestPieces);
  Require(GreatestOf(device.stream(), device_rows.data(), 4, 12345, scratch.data(), ids.data()));
  CHECK(ids.Fetch() == std::vector<int32_t>{5000, 12344, -1, -1});
  Require(GreatestOf(device.stream(), device_rows.data(), 2, 20, scratch.data(), ids.data()));  // fewer values than pieces
  const auto greatest = [&](size_t first) {
    const float* const row = &rows[first];
    return static_cast<int32_t>(std::max_element(row, row + 20) - row);
  };
  std::vector<int32_t> got = ids.Fetch();
  CHECK(got[0] == greatest(0));
  CHECK(got[1] == greatest(20));
}

TEST_CASE("rows on the device: what f16 cannot hold is cut off, and what is not a number stays so") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  constexpr float kLargest = 65504, kNan = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> gates = {3e4f, 3e4f, 1024, kNan, 2, kInfinity, 4096, -200}, ups = {3e4f, -3e4f, 1024, 1, kNan, 1, 1024, 5e6f};
  std::vector<float> joined = gates;
  joined.insert(joined.end(), ups.begin(), ups.end());
  const std::vector<float> want = {kLargest, -kLargest, 1024.0f * 1024 / kGatedUnit, kNan, kNan, kLargest, kLargest, 0};
  const int32_t d = static_cast<int32_t>(gates.size());
  const DeviceArray<float> device_joined(device, joined);
  const DeviceArray<uint16_t> out(device, d);
  Require(GateRows(device.stream(), Gate::kSilu, device_joined.data(), 1, d, out.data()));
  const std::vector<float> got = OfHalf(out.Fetch());
  for (size_t i = 0; i < want.size(); ++i) {
    CAPTURE(i, gates[i], ups[i], got[i]);
    CHECK((std::isnan(want[i]) ? std::isnan(got[i]) : got[i] == want[i]));
  }

  // One coordinate has all of a row's energy, its weight is large.
  std::vector<float> x(128, 0), weight(128, 1e5f);
  x[7] = -3;
  const DeviceArray<float> device_x(device, x), device_weight(device, weight);
  const DeviceArray<uint16_t> normed(device, 128);
  Require(AddAndNorm(device.stream(), {.x = device_x.data(), .weight = device_weight.data(), .out = normed.data(), .epsilon = kEpsilon,
                                       .m = 1, .d = 128}));
  CHECK(OfHalf(normed.Fetch())[7] == -kLargest);
}

TEST_CASE("pieces on the device are copied to where they belong, and nothing beside them") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  constexpr int32_t kInts = 300'000;
  std::vector<int32_t> source(kInts);
  for (int32_t i = 0; i < kInts; ++i) source[static_cast<size_t>(i)] = i;
  const DeviceArray<int32_t> from(device, source), to(device, kInts);
  const int32_t lengths[] = {4, 0, 16, 1024, 100'004, 4096};
  std::vector<Piece> pieces;
  std::vector<int32_t> want(kInts, -1);
  int32_t at = 8, where = 40;
  for (const int32_t length : lengths) {
    pieces.push_back({.from = from.data() + at, .to = to.data() + where, .bytes = int64_t{length} * 4});
    std::copy_n(source.begin() + at, length, want.begin() + where);
    at += length + 4;
    where += length + 8;
  }
  const DeviceArray<Piece> device_pieces(device, pieces);
  Require(CopyPieces(device.stream(), device_pieces.data(), static_cast<int32_t>(pieces.size())));
  CHECK(to.Fetch() == want);
}

// GateRows takes any gate; here the rows are random, the twin a sum in double.
TEST_CASE("products of few rows on the device agree with sums in double, gates too, recorded and overlapped") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  struct Shape {
    int64_t n, k;
  };
  for (const Shape& s : {Shape{1, 8}, Shape{7, 96}, Shape{273, 128}, Shape{960, 576}, Shape{64, 4096}, Shape{129, 14336}}) {
    const std::vector<uint16_t> stored = ToHalf(Normals(2 * s.n * s.k, 21, 0.1)), entered = ToHalf(Normals(kFewRows * s.k, 22));
    const std::vector<float> weights = OfHalf(stored), rows = OfHalf(entered);
    const DeviceArray<uint16_t> device_w(device, stored), device_x(device, entered);
    const auto sum_of = [&](int32_t m, int64_t n) {
      double sum = 0;
      const float *w = &weights[static_cast<size_t>(n * s.k)], *x = &rows[static_cast<size_t>(m * s.k)];
      for (int64_t k = 0; k < s.k; ++k) sum += static_cast<double>(w[k]) * x[k];
      return static_cast<float>(sum);
    };
    for (const int32_t m : {1, 2}) {
      CAPTURE(m, s.n, s.k);
      const DeviceArray<float> out(device, m * s.n), larger(device, m * s.n);
      const DeviceArray<uint16_t> silu(device, m * s.n), gelu(device, m * s.n);
      const FewRowsArgs args = {.weights = device_w.data(), .rows = device_x.data(), .m = m, .n = s.n, .k = s.k,
                                .overlap = LaunchesOverlap()};
      Require(GateFewRows(device.stream(), args, Gate::kSilu, silu.data()));
      device.Wait();
      Graph graph;
      Require(graph.BeginRecording(device.stream()));
      Require(MultiplyFewRows(device.stream(), args, out.data()));
      Require(GateFewRows(device.stream(), args, Gate::kGeluTanh, gelu.data()));
      Require(graph.EndRecording(device.stream()));
      Require(graph.Launch(device.stream()));
      std::vector<float> want, want_silu, want_gelu;
      for (int32_t row = 0; row < m; ++row) {
        for (int64_t n = 0; n < s.n; ++n) {
          const float gate = sum_of(row, n), up = sum_of(row, s.n + n);
          float by_silu = gate, by_gelu = gate;
          SiluGate(&up, 1, 1, &by_silu);
          GeluGate(&up, 1, 1, &by_gelu);
          want.push_back(gate);
          want_silu.push_back(by_silu);
          want_gelu.push_back(by_gelu);
        }
      }
      CheckClose(out.Fetch(), want, 1e-5, 1e-6 * std::sqrt(static_cast<double>(s.k)));
      FewRowsArgs in_units = args;
      in_units.unit = 64;
      Require(MultiplyFewRows(device.stream(), in_units, larger.data()));
      std::vector<float> unscaled = larger.Fetch();
      for (float& value : unscaled) value /= 64;
      CHECK(unscaled == out.Fetch());
      CheckClose(OfGated(silu.Fetch()), want_silu, kHalf, 1e-5 * std::sqrt(static_cast<double>(s.k)));
      CheckClose(OfGated(gelu.Fetch()), want_gelu, kHalf, 1e-5 * std::sqrt(static_cast<double>(s.k)));
    }
  }
}

struct HeadsCase {
  int32_t heads, kv_heads, head_dim, rotary_dim;
  bool adjacent, bias, norm;
};

TEST_CASE("heads on the device: biases, norms, rotary positions and pages agree with the twins") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  const HeadsCase cases[] = {{4, 2, 64, 64, true, false, false}, {3, 1, 80, 80, false, true, false},  {2, 2, 96, 48, true, true, true},
                             {8, 2, 128, 128, false, false, true}, {4, 1, 256, 256, false, false, true}};
  for (const HeadsCase& c : cases) {
    const int32_t d = c.head_dim, all = c.heads + 2 * c.kv_heads;
    CAPTURE(d, c.adjacent, c.bias, c.norm);
    // The sixth is there for the number of rows alone, and writes no page.
    const std::vector<int32_t> positions = {0, 17, 40, 33, 100'000, 0}, slots = {2, 2, 0, 1, 1, -1};
    const int32_t m = static_cast<int32_t>(positions.size()), held = m - 1;
    constexpr int32_t kSlots = 3, kListPages = 7'000, kList = 1;
    const int32_t lists_per_slot = c.kv_heads + 2, pages = kSlots * lists_per_slot;
    // Every list has its own page at each index that is used: row 4's index 6250 has the list's only page too.
    std::vector<int32_t> lists(static_cast<size_t>(kSlots * lists_per_slot * kListPages), -1);
    for (int32_t r = 0; r < held; ++r) {
      for (int32_t g = 0; g < c.kv_heads; ++g) {
        const int32_t list = slots[r] * lists_per_slot + kList + g;
        lists[static_cast<size_t>(list) * kListPages + static_cast<size_t>(positions[r] / 16)] = list * m + r;
      }
    }
    const std::vector<float> joined = Normals(m * all * d, 11), bias = Normals(all * d, 12), query_norm = Normals(d, 13),
                             key_norm = Normals(d, 14);
    std::vector<double> frequency;
    for (int32_t i = 0; i < c.rotary_dim / 2; ++i) frequency.push_back(std::pow(10'000.0, -2.0 * i / c.rotary_dim));

    std::vector<float> want_query, want_key, want_value;
    for (int32_t r = 0; r < m; ++r) {
      std::vector<float> row(joined.begin() + r * all * d, joined.begin() + (r + 1) * all * d), angles(static_cast<size_t>(c.rotary_dim));
      if (c.bias) AddBias(bias.data(), 1, all * d, row.data());
      float *const keys = &row[static_cast<size_t>(c.heads * d)], *const values = keys + c.kv_heads * d;
      if (c.norm) {
        RmsNorm(row.data(), query_norm.data(), kEpsilon, c.heads, d, row.data());
        RmsNorm(keys, key_norm.data(), kEpsilon, c.kv_heads, d, keys);
      }
      RotaryAngles(frequency.data(), c.rotary_dim, positions[static_cast<size_t>(r)], angles.data());
      ApplyRotary(angles.data(), c.adjacent ? RotaryPairing::kAdjacent : RotaryPairing::kHalves, c.heads + c.kv_heads, d, c.rotary_dim,
                  row.data());
      want_query.insert(want_query.end(), row.data(), keys);
      if (r == held) continue;
      want_key.insert(want_key.end(), keys, values);
      want_value.insert(want_value.end(), values, values + c.kv_heads * d);
    }

    const DeviceArray<float> device_joined(device, joined), device_bias(device, bias), device_query_norm(device, query_norm),
        device_key_norm(device, key_norm), angles(device, m * c.rotary_dim);
    const DeviceArray<double> device_frequency(device, frequency);
    const DeviceArray<int32_t> device_positions(device, positions), device_slots(device, slots), device_lists(device, lists);
    const DeviceArray<uint16_t> query(device, m * c.heads * d);
    const int64_t page_bytes = PageBytes(d);
    const DeviceArray<uint8_t> arena(device, int64_t{pages} * m * page_bytes);
    Require(RotaryAnglesOf(device.stream(), device_frequency.data(), c.rotary_dim, device_positions.data(), m, angles.data()));
    Require(PrepareHeads(device.stream(),
                         {.joined = device_joined.data(), .bias = c.bias ? device_bias.data() : nullptr,
                          .query_norm = c.norm ? device_query_norm.data() : nullptr, .key_norm = device_key_norm.data(),
                          .angles = angles.data(), .epsilon = kEpsilon, .m = m, .heads = c.heads, .kv_heads = c.kv_heads, .head_dim = d,
                          .rotary_dim = c.rotary_dim, .adjacent = c.adjacent, .query = query.data(), .positions = device_positions.data(),
                          .slots = device_slots.data(), .lists = device_lists.data(), .list = kList, .lists_per_slot = lists_per_slot,
                          .list_pages = kListPages, .arena = arena.data(), .page_bytes = page_bytes,
                          .needed_next = {.from = {device_bias.data(), nullptr}, .bytes = all * d * 4}}));
    std::vector<float> got_query, got_key, got_value;
    for (const uint16_t half : query.Fetch()) got_query.push_back(F16ToF32(half));
    const std::vector<uint8_t> bytes = arena.Fetch();
    for (int32_t r = 0; r < held; ++r) {
      for (int32_t g = 0; g < c.kv_heads; ++g) {
        const int32_t page = (slots[static_cast<size_t>(r)] * lists_per_slot + kList + g) * m + r;
        const int32_t slot = positions[static_cast<size_t>(r)] % 16;
        const uint16_t* halves = reinterpret_cast<const uint16_t*>(&bytes[static_cast<size_t>(page * page_bytes)]);
        for (int32_t i = 0; i < d; ++i) got_key.push_back(F16ToF32(halves[i * 16 + slot]));
        for (int32_t i = 0; i < d; ++i) got_value.push_back(F16ToF32(halves[ExactValueOffset(d) / 2 + slot * d + i]));
      }
    }
    CheckClose(got_query, want_query, 0x1p-10, 1e-5);
    CheckClose(got_key, want_key, 0x1p-10, 1e-5);
    CheckClose(got_value, want_value, 0x1p-10, 1e-5);
  }
}

TEST_CASE("products on the device agree with sums in double, for every bucket of rows and odd sizes") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const Device device;
  Products products;
  if (!products.Create(32 << 20)) FAIL(products.why());
  struct Shape {
    int32_t m;
    int64_t n, k;
  };
  for (const Shape& s : {Shape{1, 273, 128}, Shape{2, 64, 96}, Shape{3, 273, 96}, Shape{7, 512, 160}, Shape{16, 300, 192},
                         Shape{17, 129, 4096}, Shape{48, 320, 256}, Shape{65, 333, 576}, Shape{512, 256, 128}}) {
    CAPTURE(s.m, s.n, s.k);
    const std::vector<uint16_t> stored = ToHalf(Normals(s.n * s.k, 21)), entered = ToHalf(Normals(int64_t{s.m} * s.k, 22));
    const std::vector<float> weights = OfHalf(stored), rows = OfHalf(entered);
    const DeviceArray<uint16_t> device_w(device, stored), device_x(device, int64_t{PaddedRows(s.m)} * s.k);
    Require(CopyToDevice(device.stream(), device_x.data(), entered.data(), static_cast<int64_t>(entered.size()) * 2));
    const DeviceArray<float> out(device, int64_t{PaddedRows(s.m)} * s.n);
    if (!products.Multiply(device.stream(),
                           {.weights = device_w.data(), .rows = device_x.data(), .out = out.data(), .m = s.m, .n = s.n, .k = s.k,
                            .unit = 64})) {
      FAIL(products.why());
    }
    std::vector<float> got = out.Fetch(), want;
    got.resize(static_cast<size_t>(s.m * s.n));
    for (int64_t r = 0; r < s.m; ++r) {
      for (int64_t n = 0; n < s.n; ++n) {
        double sum = 0;
        const float *w = &weights[static_cast<size_t>(n * s.k)], *x = &rows[static_cast<size_t>(r * s.k)];
        for (int64_t k = 0; k < s.k; ++k) sum += static_cast<double>(w[k]) * x[k];
        want.push_back(static_cast<float>(64 * sum));
      }
    }
    CheckClose(got, want, 1e-5, 64e-5 * std::sqrt(static_cast<double>(s.k)) * 10);
  }
}

}  // namespace
}  // namespace spherical::kernels::cuda
