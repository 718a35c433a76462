// Every implementation of exact attention against the reference, and the promises its header makes about bits.
#include "kernels/attention/exact_attention.h"

#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/base/float16.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kEpsilon = 0x1p-24;  // half a unit in the last place of 1: one rounding

struct States {
  std::vector<float> max, sum, output;
  States(int64_t states, int32_t head_dim) : max(states, -77), sum(states, -77), output(states * head_dim, -77) {}
  AttentionState view() { return {max.data(), sum.data(), output.data()}; }
  bool SameBits(const States& other) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
    };
    return same(max, other.max) && same(sum, other.sum) && same(output, other.output);
  }
};

// A sequence of one kv head: its pages somewhere in an arena full of NaN, so that a read of what was never written shows.
struct Sequence {
  AttentionShape shape;
  int32_t tokens;
  std::vector<uint8_t> arena;
  std::vector<PageId> pages;
  std::vector<float> keys, values;  // [tokens, D], as f32

  Sequence(int32_t head_dim, int32_t group, int32_t tokens, uint64_t seed, double key_size = 1) : tokens(tokens) {
    shape = {.head_dim = head_dim, .group = group, .scale = 1 / std::sqrt(static_cast<float>(head_dim)),
             .page_bytes = PageBytes(head_dim)};
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < int64_t{tokens} * head_dim; ++i) {
      keys.push_back(static_cast<float>(key_size * normal(random)));
      values.push_back(static_cast<float>(normal(random)));
    }
    pages.resize(CeilDiv(tokens, kExactTokensPerPage));
    Place(random());
  }

  // Puts the pages in the order of `seed` and writes all tokens.
  void Place(uint64_t seed) {
    const int64_t count = static_cast<int64_t>(pages.size());
    arena.assign((2 * count + 1) * shape.page_bytes, 0xff);
    std::vector<PageId> ids(2 * count + 1);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937_64(seed));
    std::copy_n(ids.begin(), count, pages.begin());
    Write();
  }

  void Write() {
    for (int32_t t = 0; t < tokens; ++t) {
      BestExactAttention().append(shape.head_dim, &keys[t * shape.head_dim], &values[t * shape.head_dim], t % kExactTokensPerPage,
                                  &arena[pages[t / kExactTokensPerPage] * shape.page_bytes]);
    }
  }
  float* key(int32_t t) { return &keys[t * shape.head_dim]; }
  float* value(int32_t t) { return &values[t * shape.head_dim]; }

  // Attention of `rows` rows at `position`... to the tokens [first, first + count).
  States Attend(const ExactAttentionImpl& impl, const std::vector<float>& query, int32_t rows, int32_t position, int32_t first = 0,
                int32_t count = -1) const {
    States states(int64_t{rows} * shape.group, shape.head_dim);
    const int64_t stride = int64_t{shape.group} * shape.head_dim;
    impl.attend(shape, arena.data(),
                {.query = query.data(), .query_stride = stride, .rows = rows, .row_position = position,
                 .pages = pages.data() + first / kExactTokensPerPage, .first_position = first,
                 .tokens = count < 0 ? tokens - first : count, .state = states.view()});
    return states;
  }
};

std::vector<float> RandomRows(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> rows(count);
  for (float& x : rows) x = normal(random);
  return rows;
}

std::vector<ExactAttentionImpl> Supported() {
  std::vector<ExactAttentionImpl> impls;
  for (const ExactAttentionImpl& impl : ExactAttentionImpls()) {
    if (impl.supported()) impls.push_back(impl);
  }
  return impls;
}

// How far a float32 implementation may be from the reference, for one row and head.
//
// A logit is a chain of D products of |scale q_i k_i| summing to at most `mass`: each addition rounds a partial sum below mass, the
// products (unfused) and the scale once more: |error| <= (D + 2) eps mass. Softcap adds the rounding of tanh: 4 eps softcap. The
// logit of the reference is exact, its maximum is rounded to a float: both move e^(logit - max) by that much, relatively (`logit_error`).
// Exp itself is within 2 eps (1.1e-7). Sums over n tokens (n / 16 + 4 additions deep for `sum`, n deep for `output`) and one scaling
// per strip of 256 tokens: (n + 8) eps and 4 n / 256 eps of what is summed in absolute value.
struct Tolerance {
  double logit = 0;      // absolute, of max
  double relative = 0;   // of sum, and of output against sum_t p |v_t|
};

Tolerance ToleranceOf(const Sequence& s, const float* query, int32_t n) {
  double mass = 0;
  for (int32_t t = 0; t < s.tokens; ++t) {
    double row = 0;
    const float* key = &s.keys[t * s.shape.head_dim];
    for (int32_t d = 0; d < s.shape.head_dim; ++d) row += std::fabs(double{query[d]} * F16ToF32(F32ToF16(key[d])));
    mass = std::max(mass, row * s.shape.scale);
  }
  Tolerance tolerance;
  tolerance.logit = (s.shape.head_dim + 3) * kEpsilon * mass + 4 * kEpsilon * s.shape.softcap;
  tolerance.relative = std::expm1(2 * tolerance.logit + (n + 8 + n / 64 + 4) * kEpsilon);
  return tolerance;
}

// Compares states seen by any rows of `query` at `position`, both relative to the same maximum.
void CheckNear(const std::string& name, const Sequence& s, const std::vector<float>& query, int32_t rows, int32_t position, int32_t first,
               int32_t count, const States& got, const States& want) {
  const int32_t dims = s.shape.head_dim;
  std::vector<double> largest(dims);  // sum_t p |v_t| <= sum * max |v_t|
  for (int32_t t = first; t < first + count; ++t) {
    for (int32_t d = 0; d < dims; ++d) largest[d] = std::max(largest[d], std::fabs(double{s.values[t * dims + d]}));
  }
  double worst = 0;  // error / tolerance
  for (int64_t i = 0; i < int64_t{rows} * s.shape.group; ++i) {
    if (want.sum[i] == 0) {
      CHECK(got.max[i] == -kInfinity);
      CHECK(got.sum[i] == 0);
      CHECK(std::all_of(&got.output[i * dims], &got.output[(i + 1) * dims], [](float x) { return x == 0; }));
      continue;
    }
    const Tolerance tolerance = ToleranceOf(s, &query[i * dims], count);
    worst = std::max(worst, std::fabs(double{got.max[i]} - want.max[i]) / (tolerance.logit + 1e-30));
    const double shift = std::exp(double{got.max[i]} - want.max[i]);
    worst = std::max(worst, std::fabs(got.sum[i] * shift / want.sum[i] - 1) / tolerance.relative);
    for (int32_t d = 0; d < dims; ++d) {
      const double error = std::fabs(got.output[i * dims + d] * shift - want.output[i * dims + d]);
      worst = std::max(worst, error / (tolerance.relative * want.sum[i] * largest[d] + 1e-30));
    }
  }
  INFO(name << " D " << dims << " G " << s.shape.group << " rows " << rows << " position " << position << " tokens " << count);
  CHECK(worst <= 1);
}

void CheckAll(const Sequence& s, int32_t rows, int32_t position, uint64_t seed, float query_size = 1) {
  std::vector<float> query = RandomRows(int64_t{rows} * s.shape.group * s.shape.head_dim, seed);
  for (float& x : query) x *= query_size;
  const States want = s.Attend(ExactAttentionImpls()[0], query, rows, position);
  for (const ExactAttentionImpl& impl : Supported()) {
    CheckNear(impl.name, s, query, rows, position, 0, s.tokens, s.Attend(impl, query, rows, position), want);
  }
}

TEST_CASE("Every implementation of exact attention agrees with the reference for all head dims and group sizes") {
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
    for (int32_t group = 1; group <= 16; ++group) {
      CheckAll(Sequence(head_dim, group, 83 + group, group), 1, 82 + group, 7);
      CheckAll(Sequence(head_dim, group, 40, group), 5, 35, 8);
    }
  }
}

TEST_CASE("Exact attention agrees with the reference at every length up to three pages and around strips and runs") {
  std::vector<int32_t> lengths = {255, 256, 257, 511, 513, 1023, 1024};
  for (int32_t n = 1; n <= 49; ++n) lengths.push_back(n);
  for (const int32_t n : lengths) CheckAll(Sequence(64, 3, n, n), 1, n - 1, 3);
}

TEST_CASE("Rows of a prompt chunk see exactly the keys at or before them, whole chunks of 512 rows too") {
  CheckAll(Sequence(64, 3, 700, 1), 512, 188, 2);
  CheckAll(Sequence(64, 1, 300, 2), 300, 0, 3);
  CheckAll(Sequence(128, 4, 300, 3), 60, 240, 4);
  CheckAll(Sequence(64, 2, 64, 4), 20, 30, 5);  // keys after every row's position
}

TEST_CASE("Softcap and sliding window agree with the reference") {
  for (const float softcap : {0.0f, 5.0f, 50.0f}) {
    for (const int32_t window : {0, 1, 2, 15, 16, 17, 100, 255, 300, 5000}) {
      Sequence s(64, 2, 400, 11, /*key_size=*/3);
      s.shape.softcap = softcap;
      s.shape.window = window;
      CheckAll(s, 1, 399, 21);
      CheckAll(s, 19, 381, 22);
      CheckAll(s, 3, 500, 23);  // rows beyond the run: its oldest keys, or none, are in the window
    }
  }
}

TEST_CASE("A row that sees no key of the run returns an empty state") {
  Sequence s(64, 3, 40, 5);
  s.shape.window = 8;
  const std::vector<float> query = RandomRows(4 * 3 * 64, 6);
  for (const ExactAttentionImpl& impl : Supported()) {
    for (const int32_t position : {-4, 47, 400}) {  // the run is later than the rows; has left the window
      const States states = s.Attend(impl, query, 4, position);
      CHECK(std::all_of(states.max.begin(), states.max.end(), [](float x) { return x == -kInfinity; }));
      CHECK(std::all_of(states.sum.begin(), states.sum.end(), [](float x) { return x == 0; }));
      CHECK(std::all_of(states.output.begin(), states.output.end(), [](float x) { return x == 0; }));
    }
    const States partly = s.Attend(impl, query, 4, 45);  // rows 45 and 46 see keys 38, 39; rows 47 and 48 nothing
    CHECK(partly.sum[0] > 0);
    CHECK(partly.sum[5] > 0);
    CHECK(partly.sum[6] == 0);
    CHECK(partly.max[11] == -kInfinity);
  }
}

TEST_CASE("A row's bits do not depend on the rows beside it") {
  for (const int32_t head_dim : {64, 80, 128, 256}) {
    for (const int32_t group : {1, 2, 3, 4, 5, 8, 13, 16}) {
      for (const int32_t window : {0, 5, 70}) {
        Sequence s(head_dim, group, 300, 31);
        s.shape.window = window;
        const int64_t row = int64_t{group} * head_dim;
        const int32_t rows = 17, position = 283;
        const std::vector<float> query = RandomRows(rows * row, 32);
        for (const ExactAttentionImpl& impl : Supported()) {
          if (impl.name == std::string("reference")) continue;  // has no tiles
          const States together = s.Attend(impl, query, rows, position);
          States apart(0, head_dim);
          for (int32_t begin = 0, cut = 1; begin < rows; begin += cut, cut = cut % 4 + 1) {  // 1, 2, 3, 4, 1 ... rows
            cut = std::min(cut, rows - begin);
            const std::vector<float> part(query.begin() + begin * row, query.begin() + (begin + cut) * row);
            const States piece = s.Attend(impl, part, cut, position + begin);
            apart.max.insert(apart.max.end(), piece.max.begin(), piece.max.end());
            apart.sum.insert(apart.sum.end(), piece.sum.begin(), piece.sum.end());
            apart.output.insert(apart.output.end(), piece.output.begin(), piece.output.end());
          }
          INFO(impl.name << " D " << head_dim << " G " << group << " window " << window);
          CHECK(together.SameBits(apart));
        }
      }
    }
  }
}

TEST_CASE("Under a window a row's bits do not depend on where before its oldest key the run begins") {
  for (const int32_t window : {5, 100, 300}) {
    Sequence s(64, 3, 1200, 35);
    s.shape.window = window;
    for (const int32_t position : {511, 512, 700, 1023, 1199}) {
      const std::vector<float> query = RandomRows(3 * 64, 36);
      const int32_t oldest = (position + 1 - window) / 16 * 16;
      for (const ExactAttentionImpl& impl : Supported()) {
        const States whole = s.Attend(impl, query, 1, position);
        for (const int32_t first : {16, oldest - 16, oldest}) {
          INFO(impl.name << " window " << window << " position " << position << " first " << first);
          CHECK(s.Attend(impl, query, 1, position, first, s.tokens - first).SameBits(whole));
        }
      }
    }
  }
}

TEST_CASE("A row's bits do not depend on later tokens of its run, even infinite ones") {
  Sequence s(64, 3, 90, 41);
  const int32_t rows = 12, position = 70;
  const std::vector<float> query = RandomRows(rows * 3 * 64, 42);
  for (const ExactAttentionImpl& impl : Supported()) {
    Sequence poisoned = s;
    for (int32_t t = position + 1; t < 90; ++t) {
      std::fill_n(poisoned.value(t), 64, t % 2 != 0 ? kInfinity : std::numeric_limits<float>::quiet_NaN());
      std::fill_n(poisoned.key(t), 64, 1e9f);
    }
    poisoned.Write();
    const States clean = s.Attend(impl, query, rows, position);
    const States states = poisoned.Attend(impl, query, rows, position);
    INFO(impl.name);
    CHECK(std::memcmp(clean.output.data(), states.output.data(), sizeof(float) * 3 * 64) == 0);  // row 0
    CHECK(std::memcmp(clean.sum.data(), states.sum.data(), sizeof(float) * 3) == 0);
    CHECK_FALSE(clean.SameBits(states));
  }
}

TEST_CASE("Bits do not depend on where pages lie, nor on the stride of the rows") {
  Sequence s(64, 3, 1000, 51);
  const std::vector<float> query = RandomRows(4 * 3 * 64, 52);
  for (const ExactAttentionImpl& impl : Supported()) {
    const States first = s.Attend(impl, query, 4, 996);
    s.Place(99);
    CHECK(first.SameBits(s.Attend(impl, query, 4, 996)));

    std::vector<float> spread(4 * 1000, NAN);
    for (int r = 0; r < 4; ++r) std::copy_n(&query[r * 192], 192, &spread[r * 1000]);
    States states(12, 64);
    impl.attend(s.shape, s.arena.data(), {.query = spread.data(), .query_stride = 1000, .rows = 4, .row_position = 996,
                                          .pages = s.pages.data(), .first_position = 0, .tokens = 1000, .state = states.view()});
    CHECK(first.SameBits(states));
  }
}

TEST_CASE("avx2 and avx512 give the same bits") {
  const std::span<const ExactAttentionImpl> impls = ExactAttentionImpls();
  const ExactAttentionImpl& avx2 = impls[2];
  const ExactAttentionImpl& avx512 = impls[3];
  REQUIRE(std::string(avx2.name) == "avx2");
  REQUIRE(std::string(avx512.name) == "avx512");
  if (!avx512.supported()) return;
  Sequence s(96, 5, 500, 61);
  s.shape.softcap = 30;
  const std::vector<float> query = RandomRows(9 * 5 * 96, 62);
  CHECK(s.Attend(avx2, query, 9, 491).SameBits(s.Attend(avx512, query, 9, 491)));
}

TEST_CASE("One sink 8 to 14 nats above many diffuse tokens costs neither its nor their share") {
  const int32_t tokens = 131072;
  Sequence s(64, 1, tokens, 71, /*key_size=*/0);  // diffuse tokens: all logits 0
  s.shape.scale = 1;
  for (const float gap : {8.0f, 11.0f, 14.0f}) {
    s.key(2)[0] = gap;
    s.Write();
    std::vector<float> query(64, 0.0f);
    query[0] = 1;
    std::vector<double> want(64);
    double total = 0;
    for (int32_t t = 0; t < tokens; ++t) {
      const double p = std::exp(t == 2 ? double{F16ToF32(F32ToF16(gap))} : 0.0);
      total += p;
      for (int d = 0; d < 64; ++d) want[d] += p * F16ToF32(F32ToF16(s.values[t * 64 + d]));
    }
    for (const ExactAttentionImpl& impl : Supported()) {
      const int32_t runs = tokens / kRunTokens;
      States all(0, 64);
      for (int32_t run = 0; run < runs; ++run) {
        const States part = s.Attend(impl, query, 1, tokens - 1, run * kRunTokens, kRunTokens);
        all.max.insert(all.max.end(), part.max.begin(), part.max.end());
        all.sum.insert(all.sum.end(), part.sum.begin(), part.sum.end());
        all.output.insert(all.output.end(), part.output.begin(), part.output.end());
      }
      std::vector<float> merged(64);
      MergeAttention(all.view(), runs, 1, 1, 64, merged.data(), 64);
      // Of the merge's inputs each run is right to 1024 additions, the merge adds one per run: relative to the mean of |v|, 0.8.
      const double tolerance = (kRunTokens + runs + 32) * kEpsilon * 0.8;
      double worst = 0;
      for (int d = 0; d < 64; ++d) worst = std::max(worst, std::fabs(merged[d] - want[d] / total));
      INFO(impl.name << " gap " << gap);
      CHECK(worst <= tolerance);
    }
  }
}

TEST_CASE("Logits of ten thousand, and keys and queries of zero, are handled") {
  CheckAll(Sequence(64, 3, 300, 81, /*key_size=*/100), 1, 299, 82, /*query_size=*/1000);
  CheckAll(Sequence(64, 3, 300, 81, /*key_size=*/0), 1, 299, 82);
  CheckAll(Sequence(64, 3, 300, 81), 1, 299, 82, /*query_size=*/0);
}

TEST_CASE("A NaN key shows in the sum and output of the rows that see it, and in no other") {
  Sequence s(64, 3, 50, 91);
  s.key(20)[5] = std::numeric_limits<float>::quiet_NaN();
  s.Write();
  const std::vector<float> query = RandomRows(2 * 3 * 64, 92);
  for (const ExactAttentionImpl& impl : Supported()) {
    const States states = s.Attend(impl, query, 2, 19);
    INFO(impl.name);
    for (int i = 0; i < 3; ++i) {
      CHECK(std::isfinite(states.sum[i]));
      CHECK(std::isfinite(states.output[i * 64]));
      CHECK(std::isnan(states.sum[3 + i]));
      CHECK(std::isnan(states.output[(3 + i) * 64]));
    }
    std::vector<float> merged(2 * 3 * 64);
    MergeAttention(States(states).view(), 1, 2, 3, 64, merged.data(), 192);
    CHECK(std::isfinite(merged[0]));
    CHECK(std::isnan(merged[192]));
  }
}

TEST_CASE("Runs merge to what one run gives, empty runs change nothing") {
  Sequence s(128, 4, 2500, 101);
  s.shape.window = 900;  // the first run is empty
  const int32_t rows = 3, position = 2497, group = 4, dims = 128;
  const std::vector<float> query = RandomRows(rows * group * dims, 102);
  const States whole = s.Attend(ExactAttentionImpls()[0], query, rows, position);
  for (const ExactAttentionImpl& impl : Supported()) {
    const int32_t runs = 3;
    States all(0, dims);
    for (int32_t run = 0; run < runs; ++run) {
      const int32_t first = run * kRunTokens;
      const States part = s.Attend(impl, query, rows, position, first, std::min(kRunTokens, s.tokens - first));
      all.max.insert(all.max.end(), part.max.begin(), part.max.end());
      all.sum.insert(all.sum.end(), part.sum.begin(), part.sum.end());
      all.output.insert(all.output.end(), part.output.begin(), part.output.end());
    }
    CHECK(all.sum[0] == 0);
    const int64_t stride = group * dims + 8;
    std::vector<float> merged(rows * stride, 5.0f);
    MergeAttention(all.view(), runs, rows, group, dims, merged.data(), stride);
    double worst = 0;
    for (int64_t i = 0; i < rows * group; ++i) {
      const Tolerance tolerance = ToleranceOf(s, &query[i * dims], 1024);
      for (int64_t d = 0; d < dims; ++d) {
        const double want = double{whole.output[i * dims + d]} / whole.sum[i];
        const double error = std::fabs(merged[i / group * stride + i % group * dims + d] - want);
        worst = std::max(worst, error / (2 * tolerance.relative * 6));  // output and sum; no value here is above 6
      }
    }
    INFO(impl.name);
    CHECK(worst <= 1);
    for (int32_t r = 0; r < rows; ++r) CHECK(merged[r * stride + stride - 1] == 5.0f);
  }
}

TEST_CASE("Merging a single run divides by its sum; merging nothing gives zeros, not NaN") {
  States one(1, 64);
  one.max[0] = 3;
  one.sum[0] = 4;
  for (int d = 0; d < 64; ++d) one.output[d] = static_cast<float>(d);
  std::vector<float> merged(64);
  MergeAttention(one.view(), 1, 1, 1, 64, merged.data(), 64);
  for (int d = 0; d < 64; ++d) CHECK(merged[d] == static_cast<float>(d) / 4);

  States none(2, 64);
  std::fill(none.max.begin(), none.max.end(), -kInfinity);
  std::fill(none.sum.begin(), none.sum.end(), 0.0f);
  std::fill(none.output.begin(), none.output.end(), 0.0f);
  MergeAttention(none.view(), 2, 1, 1, 64, merged.data(), 64);
  for (int d = 0; d < 64; ++d) CHECK(merged[d] == 0);
}

TEST_CASE("Appending writes one slot, rounded to nearest even, with the same bytes in every implementation") {
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
    std::vector<float> key = RandomRows(head_dim, 111), value = RandomRows(head_dim, 112);
    key[0] = 65520.0f;                                     // rounds to infinity
    key[1] = 65519.996f;                                   // rounds down to 65504
    key[2] = -0.0f;
    key[3] = 0x1p-25f;                                     // a tie between 0 and the smallest subnormal: even is 0
    key[4] = std::bit_cast<float>(0x7fa12345u);            // a signalling NaN with payload
    value[0] = 2049.0f;                                    // a tie: 2048
    value[1] = 2051.0f;                                    // a tie: 2052
    value[head_dim - 1] = -kInfinity;
    for (const int32_t slot : {0, 7, 15}) {
      std::vector<uint8_t> want(PageBytes(head_dim), 0xab);
      ExactAttentionImpls()[0].append(head_dim, key.data(), value.data(), slot, want.data());
      const uint16_t* halves = reinterpret_cast<const uint16_t*>(want.data());
      int32_t changed = 0;
      for (int32_t i = 0; i < PageBytes(head_dim) / 2; ++i) changed += halves[i] != 0xabab;
      CHECK(changed == 2 * head_dim);
      CHECK(halves[slot] == 0x7c00);
      CHECK(halves[16 + slot] == 0x7bff);
      CHECK(halves[32 + slot] == 0x8000);
      CHECK(halves[48 + slot] == 0);
      CHECK(halves[head_dim * 16 + slot * head_dim] == F32ToF16(2048.0f));
      CHECK(halves[head_dim * 16 + slot * head_dim + 1] == F32ToF16(2052.0f));
      CHECK(halves[head_dim * 16 + slot * head_dim + head_dim - 1] == 0xfc00);
      for (const ExactAttentionImpl& impl : Supported()) {
        std::vector<uint8_t> got(PageBytes(head_dim), 0xab);
        impl.append(head_dim, key.data(), value.data(), slot, got.data());
        INFO(impl.name << " D " << head_dim << " slot " << slot);
        CHECK(got == want);
      }
    }
  }
}

TEST_CASE("The best implementation is the last that this machine supports") {
  const ExactAttentionImpl* last = nullptr;
  for (const ExactAttentionImpl& impl : ExactAttentionImpls()) {
    if (impl.supported()) last = &impl;
  }
  CHECK(&BestExactAttention() == last);
  CHECK(std::string(ExactAttentionImpls()[0].name) == "reference");
}

// What sampled queries pay attention to. A probability is as far off as sum and logits are; both sums round once more per query.
void CheckSample(const Sequence& s, int32_t queries, uint64_t seed, float poison = 0) {
  const int32_t dims = s.shape.head_dim;
  std::vector<float> query = RandomRows(int64_t{queries} * dims, seed);
  if (poison != 0) query[static_cast<size_t>(dims)] = poison;  // of the second query
  const size_t padded = static_cast<size_t>(RoundUp(s.tokens, kExactTokensPerPage));
  const auto sample = [&](const ExactAttentionImpl& impl, std::vector<float>& mean, std::vector<float>& square) {
    mean.assign(padded, 0);
    square.assign(padded, 0);
    std::vector<float> logits(kSampleQueriesMax * padded);
    return impl.sample(s.shape, s.arena.data(),
                       {.query = query.data(), .queries = queries, .pages = s.pages.data(), .tokens = s.tokens, .logits = logits.data(),
                        .mean = mean.data(), .square = square.data()});
  };
  double relative = 0;
  for (int32_t q = 0; q < queries; ++q) {
    if (poison == 0 || q != 1) relative = std::max(relative, ToleranceOf(s, &query[q * dims], s.tokens).relative);
  }
  relative = 2 * relative + (queries + 4) * kEpsilon;
  std::vector<float> want_mean, want_square, mean, square;
  const int32_t counted = sample(ExactAttentionImpls()[0], want_mean, want_square);
  CHECK(counted == queries - (poison != 0 ? 1 : 0));
  CHECK(std::accumulate(want_mean.begin(), want_mean.begin() + s.tokens, 0.0) == Approx(counted).epsilon(1e-4));
  for (const ExactAttentionImpl& impl : Supported()) {
    INFO(impl.name << " D " << dims << " tokens " << s.tokens << " queries " << queries << " softcap " << s.shape.softcap);
    CHECK(sample(impl, mean, square) == counted);
    double worst = 0;  // error / tolerance
    for (size_t t = 0; t < static_cast<size_t>(s.tokens); ++t) {
      worst = std::max(worst, std::fabs(double{mean[t]} - want_mean[t]) / (relative * want_mean[t] + 1e-30));
      worst = std::max(worst, std::fabs(double{square[t]} - want_square[t]) / (2 * relative * want_square[t] + 1e-30));
    }
    CHECK(worst <= 1);
  }
}

TEST_CASE("What sampled queries see agrees with the reference, for all head dims, lengths and numbers of queries") {
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) CheckSample(Sequence(head_dim, 3, 83, 5), 30, 6);
  for (const int32_t tokens : {1, 15, 16, 17, 255, 256, 257, 600}) CheckSample(Sequence(64, 1, tokens, 7), 13, 8);
  for (const int32_t queries : {1, 11, 12, 24, 25}) CheckSample(Sequence(64, 1, 70, 9), queries, 10);
  Sequence capped(64, 1, 100, 11, /*key_size=*/4);
  capped.shape.softcap = 5;
  CheckSample(capped, 12, 12);
}

TEST_CASE("A sampled query that is not finite is left out, the others are not hurt") {
  for (const float poison : {std::numeric_limits<float>::quiet_NaN(), kInfinity}) CheckSample(Sequence(64, 1, 70, 13), 14, 14, poison);
}

}  // namespace
}  // namespace spherical::kernels
