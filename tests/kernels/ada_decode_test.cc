// Every implementation of angle-domain attention, the reference too, against plain arithmetic on the codes that were packed.
#include "kernels/attention/ada_decode.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/base/float16.h"
#include "tests/fakes/coded_pages.h"

namespace spherical::kernels {
namespace {

constexpr double kEpsilon = 0x1p-24;
constexpr Tier kTiers[] = {Tier::kT8, Tier::kT4, Tier::kT3, Tier::kT2, Tier::kT1};

struct States {
  std::vector<float> max, sum, output;
  States(int64_t states, int32_t head_dim) : max(states, -77), sum(states, -77), output(states * head_dim, -77) {}
  AttentionState view() { return {max.data(), sum.data(), output.data()}; }
  void Append(const States& other) {
    max.insert(max.end(), other.max.begin(), other.max.end());
    sum.insert(sum.end(), other.sum.begin(), other.sum.end());
    output.insert(output.end(), other.output.begin(), other.output.end());
  }
  bool SameBits(const States& other) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
    };
    return same(max, other.max) && same(sum, other.sum) && same(output, other.output);
  }
};

// G random queries and a random map, digits by the reference.
struct Queries {
  AttentionShape shape;
  std::vector<float> map, rows;
  QueryGeometry geometry;
  AdaQuery digits = {};
  int32_t skip = 0;  // tokens that have left their window

  Queries(const CodedPages& pages, int32_t group, uint64_t seed, float size = 1) {
    const int32_t dims = pages.head_dim;
    shape = {.head_dim = dims, .group = group, .scale = 1 / std::sqrt(static_cast<float>(dims)), .page_bytes = PageBytes(dims)};
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    map.resize(dims * dims);
    for (float& x : map) x = normal(random) / std::sqrt(static_cast<float>(dims));
    rows.resize(group * dims);
    for (float& x : rows) x = size * normal(random);
    geometry = {.head_dim = dims, .map = map.data()};
    std::copy(pages.widths.begin(), pages.widths.end(), geometry.widths[static_cast<int32_t>(pages.tier)]);
    PrepareAdaQuery(AdaDecodeImpls()[0], geometry, pages.tier, rows.data(), group, digits);
  }
};

States Attend(const AdaDecodeImpl& impl, const CodedPages& pages, const Queries& queries, int32_t first_page = 0, int32_t tokens = -1) {
  States states(queries.shape.group, pages.head_dim);
  impl.attend(queries.shape, pages.arena.data(),
              {.query = &queries.digits, .pages = pages.pages.data() + first_page, .tokens = tokens < 0 ? pages.tokens : tokens,
               .skip = queries.skip, .tier = pages.tier, .widths = pages.widths.data(), .state = states.view()});
  return states;
}

std::vector<AdaDecodeImpl> Supported() {
  std::vector<AdaDecodeImpl> impls;
  for (const AdaDecodeImpl& impl : AdaDecodeImpls()) {
    if (impl.supported()) impls.push_back(impl);
  }
  return impls;
}

// The mapped query that head g's digits stand for.
std::vector<double> FromDigits(const CodedPages& pages, const Queries& queries, int32_t g) {
  std::vector<double> mapped(pages.head_dim);
  for (int32_t d = 0; d < pages.head_dim; ++d) {
    const uint8_t width = pages.widths[d / kGroup];
    const double digits = std::ldexp(queries.digits.high[g][d] + queries.digits.low[g][d] / 256.0, 8 - width);
    if (width > 0) mapped[d] = queries.digits.scale[g] * digits / kReadStep[width];
  }
  return mapped;
}
// The same, not split: F^(-T) q in double.
std::vector<double> NotSplit(const Queries& queries, int32_t g) {
  const int32_t dims = queries.shape.head_dim;
  std::vector<double> mapped(dims);
  for (int32_t i = 0; i < dims; ++i) {
    for (int32_t d = 0; d < dims; ++d) mapped[i] += double{queries.map[i * dims + d]} * queries.rows[g * dims + d];
  }
  return mapped;
}

// Attention of one mapped query by arithmetic on codes and radii.
struct Plain {
  std::vector<double> logits, p, output;
  double max = -std::numeric_limits<double>::infinity(), sum = 0;

  Plain(const CodedPages& pages, const Queries& queries, int32_t g) : Plain(pages, queries, FromDigits(pages, queries, g)) {}
  Plain(const CodedPages& pages, const Queries& queries, const std::vector<double>& mapped) : output(pages.head_dim) {
    const AttentionShape& shape = queries.shape;
    for (int32_t t = 0; t < pages.tokens; ++t) {
      double dot = 0;
      for (int32_t d = 0; d < pages.head_dim; ++d) dot += mapped[d] * pages.Key(t, d);
      double logit = double{shape.scale} * pages.key_radii[t] * dot;
      if (shape.softcap > 0) logit = shape.softcap * std::tanh(logit / shape.softcap);
      logits.push_back(logit);
      if (t >= queries.skip) max = std::max(max, logit);
    }
    for (int32_t t = 0; t < pages.tokens; ++t) {
      p.push_back(t < queries.skip ? 0 : std::exp(logits[t] - max));
      sum += p[t];
      for (int32_t d = 0; d < pages.head_dim; ++d) output[d] += p[t] * pages.value_radii[t] * pages.Value(t, d);
    }
  }
};

// How far a kernel's state may be from the truth, for one head. Integer sums are exact but for a half step; a logit is one conversion, one
// sum and four float products: 6 eps of it, and as much for the maximum it is measured from; softcap adds the rounding of tanh. Exp2 is
// within 2.6 eps. Sums and rescalings: n / 16 + n / 256 + 8 additions at most for `sum`, n / 32 + n / 256 + 8 for `output`. Digits round
// p * radius to half of 1 / 32,639 of their unit's largest, plus 4 eps of the float steps around them, one of which takes off the codes'
// offset.
void CheckNear(const std::string& name, const CodedPages& pages, const Queries& queries, const States& got) {
  const int32_t dims = pages.head_dim;
  double worst_max = 0, worst_sum = 0, worst_output = 0;  // error / tolerance
  for (int32_t g = 0; g < queries.shape.group; ++g) {
    const Plain want(pages, queries, g);
    double largest_logit = 0;
    for (const double logit : want.logits) largest_logit = std::max(largest_logit, std::fabs(logit));
    const double logit_error = 6 * kEpsilon * largest_logit + 4 * kEpsilon * queries.shape.softcap;
    const double relative = std::expm1(2 * logit_error + (pages.tokens / 16 + pages.tokens / 256 + 12) * kEpsilon);
    double units = 0, mass = 0;  // sum of 32 x the largest weight of each unit; of weights
    for (int32_t first = 0; first < pages.tokens; first += kAdaUnitTokens) {
      double largest = 0;
      for (int32_t t = first; t < std::min(first + kAdaUnitTokens, pages.tokens); ++t) {
        largest = std::max(largest, want.p[t] * pages.value_radii[t]);
        mass += want.p[t] * pages.value_radii[t];
      }
      units += kAdaUnitTokens * largest;
    }
    const double value = (1 << ValueWidth(pages.tier)) / 2.0 * kReadStep[ValueWidth(pages.tier)];  // largest |v| / radius
    const double shift = std::exp(double{got.max[g]} - want.max);
    worst_max = std::max(worst_max, std::fabs(got.max[g] - want.max) / (logit_error + 1e-30));
    worst_sum = std::max(worst_sum, std::fabs(got.sum[g] * shift / want.sum - 1) / relative);
    for (int32_t d = 0; d < dims; ++d) {
      const double error = std::fabs(got.output[g * dims + d] * shift - want.output[d]);
      const double tolerance = value * (units * (0.5 / kAdaDigitMax + 4 * kEpsilon) + mass * relative);
      worst_output = std::max(worst_output, error / (tolerance + 1e-30));
    }
  }
  INFO(name << " tier " << static_cast<int>(pages.tier) << " D " << dims << " G " << queries.shape.group << " tokens " << pages.tokens);
  CHECK(worst_max <= 1);
  CHECK(worst_sum <= 1);
  CHECK(worst_output <= 1);
}

// Logits alone: as far off as those behind a state are.
std::vector<float> Score(const AdaDecodeImpl& impl, const CodedPages& pages, const Queries& queries) {
  const int64_t stride = RoundUp(pages.tokens, kAdaUnitTokens);
  std::vector<float> logits(static_cast<size_t>(stride * queries.shape.group));
  impl.score(queries.shape, pages.arena.data(),
             {.query = &queries.digits, .pages = pages.pages.data(), .tokens = pages.tokens, .tier = pages.tier,
              .widths = pages.widths.data(), .state = {}},
             logits.data(), stride);
  std::vector<float> seen;  // without what lies beyond the last token
  for (int64_t g = 0; g < queries.shape.group; ++g) seen.insert(seen.end(), &logits[g * stride], &logits[g * stride] + pages.tokens);
  return seen;
}

void CheckScores(const std::string& name, const CodedPages& pages, const Queries& queries, const std::vector<float>& got) {
  double worst = 0;  // error / tolerance
  for (int32_t g = 0; g < queries.shape.group; ++g) {
    const Plain want(pages, queries, g);
    for (int32_t t = 0; t < pages.tokens; ++t) {
      const double tolerance = 6 * kEpsilon * std::fabs(want.logits[t]) + 4 * kEpsilon * queries.shape.softcap + 1e-30;
      worst = std::max(worst, std::fabs(got[g * pages.tokens + t] - want.logits[t]) / tolerance);
    }
  }
  INFO(name << " scores, tier " << static_cast<int>(pages.tier) << " D " << pages.head_dim << " tokens " << pages.tokens);
  CHECK(worst <= 1);
}

// All implementations are near the truth, and all but the reference give the same bits.
void CheckAll(const CodedPages& pages, const Queries& queries) {
  const std::vector<AdaDecodeImpl> impls = Supported();
  const States portable = Attend(impls[1], pages, queries);
  CheckNear(impls[0].name, pages, queries, Attend(impls[0], pages, queries));
  CheckNear(impls[1].name, pages, queries, portable);
  const std::vector<float> scores = Score(impls[1], pages, queries);
  for (const AdaDecodeImpl& impl : {impls[0], impls[1]}) CheckScores(impl.name, pages, queries, Score(impl, pages, queries));
  for (size_t i = 2; i < impls.size(); ++i) {
    INFO(impls[i].name << " tier " << static_cast<int>(pages.tier) << " D " << pages.head_dim << " G " << queries.shape.group);
    CHECK(Attend(impls[i], pages, queries).SameBits(portable));
    CHECK(Score(impls[i], pages, queries) == scores);
  }
}

TEST_CASE("Every implementation agrees with arithmetic on the codes, for all tiers, head dims and group sizes") {
  for (const Tier tier : kTiers) {
    for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
      for (int32_t group = 1; group <= 16; ++group) {
        const uint64_t seed = 100 * group + head_dim;
        const CodedPages pages(head_dim, tier, RandomWidths(head_dim, tier, seed), 33 + 2 * group, seed);
        CheckAll(pages, Queries(pages, group, seed + 1));
      }
    }
  }
}

TEST_CASE("Every implementation agrees at every length around tiles, units, pages and strips") {
  for (const Tier tier : kTiers) {
    const int32_t page = TokensPerPage(tier, 64);
    for (const int32_t tokens : {1, 15, 16, 17, 31, 32, 33, 48, page - 1, page, page + 1, page + 17, 3 * page, 3 * page + 5, 255, 256, 257,
                                 529}) {
      const CodedPages pages(64, tier, RandomWidths(64, tier, tokens), tokens, tokens);
      CheckAll(pages, Queries(pages, 3, tokens + 1));
    }
  }
}

TEST_CASE("Tokens that have left the window count for nothing, whatever they are") {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (const Tier tier : kTiers) {
    for (const int32_t skip : {1, 15, 16, 17, 31, 32, 33, 60}) {
      for (const int32_t tokens : {skip + 1, skip + 20, 300}) {
        CodedPages pages(64, tier, RandomWidths(64, tier, tokens), tokens, tokens + skip);
        Queries queries(pages, 3, tokens + 1);
        queries.skip = skip;
        queries.shape.softcap = tokens == 300 && skip == 17 ? 5.0f : 0.0f;
        CheckAll(pages, queries);
        CodedPages poisoned = pages;
        std::fill_n(poisoned.key_radii.begin(), skip, kNan);
        std::fill_n(poisoned.value_radii.begin(), skip, skip % 2 != 0 ? kNan : std::numeric_limits<float>::infinity());
        poisoned.Write();
        for (const AdaDecodeImpl& impl : Supported()) CHECK(Attend(impl, poisoned, queries).SameBits(Attend(impl, pages, queries)));
      }
    }
  }
}

TEST_CASE("Every width of a key's group is read where it lies, groups without codes too") {
  for (const uint8_t width : {0, 1, 2, 3, 4, 5, 6, 8}) {
    for (const int32_t at : {0, 1, 3}) {
      std::vector<uint8_t> widths = {2, 2, 2, 2};
      widths[at] = width;
      const CodedPages pages(64, Tier::kT4, widths, 70, width * 10 + at);
      CheckAll(pages, Queries(pages, 2, 9));
    }
  }
  const CodedPages none(64, Tier::kT1, {0, 0, 0, 0}, 70, 3);  // every logit is 0
  CheckAll(none, Queries(none, 2, 9));
}

TEST_CASE("The largest sums of integers do not overflow") {
  for (const int32_t code : {-128, 127, -32, 31, -16, 15, -8, 7, -4, 3, -2, 1, -1, 0}) {  // of 8, 6, 5, 4, 3, 2, 1 bits
    const int32_t sign = code < 0 ? -1 : 1;
    uint8_t width = 1;
    while (code < -(1 << (width - 1)) || code >= 1 << (width - 1)) ++width;
    CodedPages pages(256, Tier::kT8, std::vector<uint8_t>(16, width), 64, 4);
    std::fill(pages.key_codes.begin(), pages.key_codes.end(), code);
    std::fill(pages.value_codes.begin(), pages.value_codes.end(), sign < 0 ? -128 : 127);
    std::fill(pages.key_radii.begin(), pages.key_radii.end(), 0.01f);
    pages.Write();
    Queries queries(pages, 2, 5);
    std::fill(queries.map.begin(), queries.map.end(), 1 / 256.0f);  // all coordinates alike: every digit is the largest
    std::fill(queries.rows.begin(), queries.rows.end(), 1.0f);
    PrepareAdaQuery(AdaDecodeImpls()[0], queries.geometry, pages.tier, queries.rows.data(), 2, queries.digits);
    REQUIRE(queries.digits.high[0][0] == 127);
    REQUIRE(queries.digits.low[1][255] == 127);
    CheckAll(pages, queries);
  }
}

TEST_CASE("Softcap agrees") {
  const CodedPages pages(64, Tier::kT4, RandomWidths(64, Tier::kT4, 1), 100, 1);
  for (const float softcap : {1.0f, 30.0f}) {
    Queries queries(pages, 3, 2, /*size=*/5);
    queries.shape.softcap = softcap;
    CheckAll(pages, queries);
  }
}

TEST_CASE("Digits of queries are the query to 16 bits, the same from every instruction set") {
  for (const int32_t head_dim : {64, 80, 256}) {
    for (const Tier tier : kTiers) {
      const CodedPages pages(head_dim, tier, RandomWidths(head_dim, tier, 6), 1, 1);
      const Queries queries(pages, 5, 7);
      const std::vector<AdaDecodeImpl> impls = Supported();
      AdaQuery first = {};
      PrepareAdaQuery(impls[1], queries.geometry, tier, queries.rows.data(), 5, first);
      for (int32_t g = 0; g < 5; ++g) {
        CHECK(first.scale[g] == Approx(queries.digits.scale[g]).epsilon(1e-5));
        int32_t apart = 0;
        int64_t offset = 0;
        for (int32_t d = 0; d < head_dim; ++d) {
          const int32_t got = 256 * first.high[g][d] + first.low[g][d];
          apart = std::max(apart, std::abs(got - 256 * queries.digits.high[g][d] - queries.digits.low[g][d]));
          offset += int64_t{got} * (256 - (1 << (8 - pages.widths[d / kGroup])));
        }
        CHECK(apart <= 1);
        CHECK(first.offset[g] == offset);
      }
      for (size_t i = 2; i < impls.size(); ++i) {
        AdaQuery other = {};
        PrepareAdaQuery(impls[i], queries.geometry, tier, queries.rows.data(), 5, other);
        INFO(impls[i].name);
        CHECK(std::memcmp(&first, &other, sizeof(first)) == 0);
      }
    }
  }
}

double RelativeError(const float* got, double scale, const std::vector<double>& want) {
  double error = 0, size = 0;
  for (size_t d = 0; d < want.size(); ++d) {
    error += (got[d] * scale - want[d]) * (got[d] * scale - want[d]);
    size += want[d] * want[d];
  }
  return std::sqrt(error / size);
}

TEST_CASE("A sink 8 to 14 nats above 131,072 diffuse tokens, value radii from 1e-3 to 1e3, are right to 1e-3 of the output") {
  const int32_t tokens = 131072;
  std::mt19937_64 random(12);
  std::uniform_real_distribution<float> exponent(-3, 3);
  for (const bool spread : {false, true}) {
    CodedPages pages(64, Tier::kT4, spread ? std::vector<uint8_t>{6, 5, 4, 3} : std::vector<uint8_t>{8, 1, 1, 6}, tokens, 11);
    for (const double gap : {8.0, 11.0, 14.0}) {
      Queries queries(pages, 1, 13);
      for (int32_t t = 0; t < tokens; ++t) {
        pages.key_radii[t] = 0.01f;
        pages.value_radii[t] = spread ? std::pow(10.0f, exponent(random)) : 1.0f;
      }
      std::copy_n(&pages.key_codes[0], 64, &pages.key_codes[5 * 64]);
      for (int32_t d = 0; d < 64; ++d) {  // token 5's key points where the query does
        const int32_t half = 1 << (pages.widths[d / 16] - 1);
        pages.key_codes[5 * 64 + d] = queries.digits.high[0][d] > 0 ? half - 1 : -half;
      }
      pages.Write();
      pages.key_radii[5] *= static_cast<float>(gap / Plain(pages, queries, NotSplit(queries, 0)).logits[5]);
      pages.Write();
      const Plain want(pages, queries, NotSplit(queries, 0));
      for (const AdaDecodeImpl& impl : Supported()) {
        const States whole = Attend(impl, pages, queries);
        INFO(impl.name << " gap " << gap << " spread " << spread);
        CHECK(RelativeError(whole.output.data(), std::exp(whole.max[0] - want.max), want.output) <= 1e-3);
        States parts(0, 64);
        const int32_t run_pages = 16;
        for (int32_t page = 0; page < tokens / 64; page += run_pages) parts.Append(Attend(impl, pages, queries, page, run_pages * 64));
        std::vector<float> merged(64);
        MergeAttention(parts.view(), tokens / 64 / run_pages, 1, 1, 64, merged.data(), 64);
        CHECK(RelativeError(merged.data(), want.sum, want.output) <= 1e-3);
      }
    }
  }
}

// The worst head's output against attention whose queries are not split, relative to its norm. Splits them by `impl`.
double ErrorOf(const AdaDecodeImpl& impl, const CodedPages& pages, Queries& queries, const std::vector<Plain>& want) {
  PrepareAdaQuery(impl, queries.geometry, pages.tier, queries.rows.data(), queries.shape.group, queries.digits);
  const States got = Attend(impl, pages, queries);
  double worst = 0;
  for (size_t g = 0; g < want.size(); ++g) {
    worst = std::max(worst, RelativeError(&got.output[g * pages.head_dim], want[g].sum / got.sum[g], want[g].output));
  }
  return worst;
}
std::vector<Plain> NotSplit(const CodedPages& pages, const Queries& queries) {
  std::vector<Plain> heads;
  for (int32_t g = 0; g < queries.shape.group; ++g) heads.emplace_back(pages, queries, NotSplit(queries, g));
  return heads;
}
void CheckSplit(const CodedPages& pages, Queries& queries, const std::string& what) {
  const std::vector<Plain> want = NotSplit(pages, queries);
  double largest = 0;
  for (const Plain& head : want) {
    for (const double logit : head.logits) largest = std::max(largest, std::fabs(logit));
  }
  for (const AdaDecodeImpl& impl : Supported()) {
    INFO(impl.name << " tier " << static_cast<int>(pages.tier) << " D " << pages.head_dim << " " << what << ", largest logit " << largest);
    CHECK(ErrorOf(impl, pages, queries, want) <= 1e-3);
  }
}

// Widths of a quarter of the groups each.
std::vector<uint8_t> Quarters(int32_t head_dim, const std::vector<uint8_t>& widths) {
  std::vector<uint8_t> all;
  for (int32_t g = 0; g < head_dim / kGroup; ++g) all.push_back(widths[g % 4]);
  return all;
}
const std::vector<std::vector<uint8_t>> kUnequal = {{8, 1, 1, 1}, {8, 8, 0, 0}, {1, 8, 0, 1}, {8, 4, 3, 1},
                                                    {6, 6, 1, 1}, {5, 1, 5, 5}, {2, 8, 3, 3}};

TEST_CASE("Splitting a query costs an output less than 1e-3 of it, whatever widths stand side by side, from flat logits to 50 nats") {
  for (const float size : {0.01f, 1.0f, 4.0f}) {
    for (const int32_t head_dim : {64, 128, 256}) {
      for (const Tier tier : kTiers) {
        for (uint64_t seed = 0; seed < 6; ++seed) {
          const CodedPages pages(head_dim, tier, RandomWidths(head_dim, tier, seed), 120, seed);
          Queries queries(pages, 3, seed + 1, size);
          CheckSplit(pages, queries, "size " + std::to_string(size) + " seed " + std::to_string(seed));
        }
      }
      for (size_t i = 0; i < kUnequal.size(); ++i) {
        const CodedPages pages(head_dim, Tier::kT4, Quarters(head_dim, kUnequal[i]), 120, i);
        Queries queries(pages, 3, i + 1, size);
        CheckSplit(pages, queries, "size " + std::to_string(size) + " unequal widths " + std::to_string(i));
      }
    }
  }
}

// The hardest that a model has: one coordinate of the query is ten times the others, and two tokens share the attention, so that an error
// of a logit is one of the output. (Two digits do not do for everything: 30 nats above the rest cost 1.3e-3.)
TEST_CASE("Splitting costs less than 1e-3 of an output when one coordinate leads the query and two tokens far above the rest compete") {
  for (size_t i = 0; i < kUnequal.size(); ++i) {
    for (const int32_t leader : {-1, 3, 19, 35, 51}) {
      for (const double top : {14.0, 20.0}) {
        CodedPages pages(64, Tier::kT4, Quarters(64, kUnequal[i]), 300, 7 + i);
        if (leader >= 0 && pages.widths[leader / kGroup] == 0) continue;
        Queries queries(pages, 2, 8 + i);
        for (int32_t d = 0; d < 64 && leader >= 0; ++d) queries.map[leader * 64 + d] *= 10;
        for (int32_t t = 0; t < 300; ++t) pages.key_radii[t] = 0.05f;
        pages.Write();
        // The two tokens that head 0 likes best get its logit `top`; head 1 sees what comes of it.
        const Plain found(pages, queries, NotSplit(queries, 0));
        std::vector<int32_t> order(300);
        std::iota(order.begin(), order.end(), 0);
        std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return found.logits[a] > found.logits[b]; });
        for (const int32_t t : {order[0], order[1]}) pages.key_radii[t] = static_cast<float>(0.05 * top / found.logits[t]);
        pages.Write();
        CheckSplit(pages, queries, "unequal widths " + std::to_string(i) + " leader " + std::to_string(leader) + " top " +
                                       std::to_string(top));
      }
    }
  }
}

TEST_CASE("Nothing drifts with length: pages seen 200 times give what they give once") {
  for (const Tier tier : kTiers) {
    CodedPages pages(64, tier, RandomWidths(64, tier, 3), 16 * TokensPerPage(tier, 64), 3);
    const Queries queries(pages, 3, 4);
    const int32_t tokens = pages.tokens;
    const std::vector<PageId> once = pages.pages;
    for (int32_t i = 1; i < 200; ++i) pages.pages.insert(pages.pages.end(), once.begin(), once.end());
    for (const AdaDecodeImpl& impl : Supported()) {
      if (impl.name == std::string("reference") || impl.name == std::string("portable")) continue;  // the same bits, slowly
      const States one = Attend(impl, pages, queries, 0, tokens);
      const States many = Attend(impl, pages, queries, 0, 200 * tokens);
      INFO(impl.name << " tier " << static_cast<int>(tier));
      for (int32_t g = 0; g < 3; ++g) {
        std::vector<double> want;
        for (int32_t d = 0; d < 64; ++d) want.push_back(double{one.output[g * 64 + d]} / one.sum[g]);
        CHECK(RelativeError(&many.output[g * 64], 1 / double{many.sum[g]}, want) <= 1e-4);
      }
    }
  }
}

TEST_CASE("Zero radii are tokens without a key or without a value") {
  CodedPages pages(64, Tier::kT4, {6, 5, 4, 3}, 90, 21);
  std::fill(pages.key_radii.begin(), pages.key_radii.end(), 0.0f);
  std::fill(pages.value_radii.begin() + 32, pages.value_radii.begin() + 64, 0.0f);  // a whole unit
  pages.Write();
  const Queries queries(pages, 3, 22);
  CheckAll(pages, queries);
  std::fill(pages.value_radii.begin(), pages.value_radii.end(), 0.0f);
  pages.Write();
  for (const AdaDecodeImpl& impl : Supported()) {
    const States states = Attend(impl, pages, queries);
    CHECK(states.sum[1] == 90);
    CHECK(std::all_of(states.output.begin(), states.output.end(), [](float x) { return x == 0; }));
  }
}

TEST_CASE("A query of zero sees all tokens alike; one that is not finite shows in its own sum") {
  CodedPages pages(64, Tier::kT4, {6, 5, 4, 3}, 90, 31);
  for (const AdaDecodeImpl& impl : Supported()) {
    Queries queries(pages, 3, 32);
    std::fill_n(queries.rows.begin(), 64, 0.0f);
    queries.rows[64 + 7] = std::numeric_limits<float>::quiet_NaN();
    PrepareAdaQuery(impl, queries.geometry, pages.tier, queries.rows.data(), 3, queries.digits);
    const States states = Attend(impl, pages, queries);
    INFO(impl.name);
    CHECK(states.sum[0] == 90);
    CHECK(std::isnan(states.sum[1]));
    CHECK(std::isfinite(states.sum[2]));
    CHECK(std::isfinite(states.output[2 * 64]));
  }
}

TEST_CASE("Items of several tiers and of exact pages merge to attention over all of them; an item without tokens changes nothing") {
  const int32_t group = 3, dims = 64;
  for (const AdaDecodeImpl& impl : Supported()) {
    States states(0, dims);
    std::vector<double> output(group * dims, 0.0), sum(group, 0.0);
    for (const Tier tier : {Tier::kT8, Tier::kT4, Tier::kT2}) {
      const CodedPages pages(dims, tier, RandomWidths(dims, tier, 41), 200, 42);
      const Queries queries(pages, group, 43);
      states.Append(Attend(impl, pages, queries));
      states.Append(Attend(impl, pages, queries, 0, 0));
      for (int32_t g = 0; g < group; ++g) {
        const Plain plain(pages, queries, g);
        sum[g] += plain.sum * std::exp(plain.max);
        for (int32_t d = 0; d < dims; ++d) output[g * dims + d] += plain.output[d] * std::exp(plain.max);
      }
    }
    std::vector<uint8_t> page(PageBytes(dims));
    std::vector<float> query(group * dims, 0.25f), key(dims, 0.5f), value(dims, 2.0f);
    for (int32_t slot = 0; slot < 16; ++slot) BestExactAttention().append(dims, key.data(), value.data(), slot, page.data());
    const PageId first = 0;
    States exact(group, dims);
    BestExactAttention().attend({.head_dim = dims, .group = group, .scale = 0.125f, .page_bytes = PageBytes(dims)}, page.data(),
                                {.query = query.data(), .query_stride = group * dims, .rows = 1, .row_position = 15, .pages = &first,
                                 .tokens = 16, .state = exact.view()});
    states.Append(exact);
    for (int32_t g = 0; g < group; ++g) {
      sum[g] += 16 * std::exp(1.0);
      for (int32_t d = 0; d < dims; ++d) output[g * dims + d] += 16 * std::exp(1.0) * 2;
    }
    std::vector<float> merged(group * dims);
    MergeAttention(states.view(), 7, 1, group, dims, merged.data(), group * dims);
    for (int32_t g = 0; g < group; ++g) {
      INFO(impl.name << " head " << g);
      CHECK(RelativeError(&merged[g * dims], sum[g], {output.begin() + g * dims, output.begin() + (g + 1) * dims}) <= 1e-4);
    }
  }
}

}  // namespace
}  // namespace spherical::kernels
