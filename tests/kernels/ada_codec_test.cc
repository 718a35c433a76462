// Attention over pages that the codec wrote is attention over the keys and values that those pages decode to.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention/ada_decode.h"
#include "kernels/spherical/codec.h"
#include "kernels/spherical/decode.h"

namespace spherical::kernels {
namespace {

constexpr Tier kTiers[] = {Tier::kT8, Tier::kT4, Tier::kT3, Tier::kT2, Tier::kT1};

// F = S H, S a diagonal of sizes and H a product of reflections: F^(-T) = S^(-1) H, F^(-1) = H' S^(-1). Importance falls with the group;
// sizes are what that means for queries of unit variance: q' carries sqrt(importance).
struct Head {
  std::vector<float> centre, map, query_map, importance;
  KeyGeometry keys;
  QueryGeometry queries;

  Head(int32_t dims, std::mt19937_64& random) : centre(dims), map(dims * dims), query_map(dims * dims), importance(dims / kGroup) {
    std::normal_distribution<double> normal;
    std::vector<double> h(dims * dims, 0.0);
    for (int32_t i = 0; i < dims; ++i) h[i * dims + i] = 1;
    for (int32_t reflection = 0; reflection < 8; ++reflection) {
      std::vector<double> x(dims);
      double square = 0;
      for (double& a : x) {
        a = normal(random);
        square += a * a;
      }
      for (int32_t row = 0; row < dims; ++row) {
        double dot = 0;
        for (int32_t i = 0; i < dims; ++i) dot += h[row * dims + i] * x[i];
        for (int32_t i = 0; i < dims; ++i) h[row * dims + i] -= 2 * dot / square * x[i];
      }
    }
    for (int32_t g = 0; g < dims / kGroup; ++g) importance[g] = static_cast<float>(std::pow(0.6, g));
    for (int32_t i = 0; i < dims; ++i) {
      const double size = 1 / std::sqrt(importance[i / kGroup]);
      for (int32_t j = 0; j < dims; ++j) {
        map[i * dims + j] = static_cast<float>(size * h[i * dims + j]);
        query_map[i * dims + j] = static_cast<float>(h[i * dims + j] / size);
      }
      centre[i] = static_cast<float>(3 * normal(random));
    }
    keys = {.head_dim = dims, .centre = centre.data(), .map = map.data(), .importance = importance.data()};
    queries = {.head_dim = dims, .map = query_map.data(), .centre = centre.data()};
    for (const Tier tier : kTiers) {
      uint8_t* widths = keys.widths[static_cast<int32_t>(tier)];
      AllotWidths(importance.data(), dims / kGroup, KeyWidths(tier, dims), widths);
      std::copy_n(widths, dims / kGroup, queries.widths[static_cast<int32_t>(tier)]);
    }
  }
};

// What attention reads a code point as, over the centroid that the codec's is.
double Lengthened(int32_t width) { return width == 0 ? 1 : double{kReadStep[width]} / double{kCodeStep[width]}; }

void CheckTier(int32_t dims, Tier tier, float softcap = 0, bool centroids = false) {
  std::mt19937_64 random(dims + static_cast<int32_t>(tier));
  Head head(dims, random);
  head.queries.centroids = centroids;
  std::normal_distribution<float> normal;
  const auto draw = [&](int64_t count) {
    std::vector<float> x(count);
    for (float& a : x) a = normal(random);
    return x;
  };
  const int32_t page_tokens = TokensPerPage(tier, dims), tokens = 2 * page_tokens + 7, group = 3;
  const std::vector<float> values = draw(tokens * dims), query = draw(group * dims);
  std::vector<float> z = draw(tokens * dims), keys(tokens * dims);
  for (int32_t t = 0; t < tokens; ++t) {  // k = F^(-1) z + mu
    for (int32_t j = 0; j < dims; ++j) {
      keys[t * dims + j] = head.centre[j];
      for (int32_t i = 0; i < dims; ++i) keys[t * dims + j] += head.query_map[i * dims + j] * z[t * dims + i];
    }
  }
  BestCodec().map_keys(head.keys, keys.data(), dims, tokens, z.data());
  std::vector<uint8_t> arena(3 * PageBytes(dims), 0xff);
  const PageId pages[] = {2, 0, 1};
  std::vector<double> decoded_keys(tokens * dims), decoded_values(tokens * dims);
  const uint8_t* widths = head.queries.widths[static_cast<int32_t>(tier)];
  for (int32_t t = 0; t < tokens; ++t) {
    uint8_t* page = &arena[pages[t / page_tokens] * PageBytes(dims)];
    BestCodec().encode(head.keys, tier, &z[t * dims], &values[t * dims], 1, t % page_tokens, page, nullptr);
    std::vector<float> coded(dims), value(dims);
    DecodeToken(tier, dims, widths, page, t % page_tokens, coded.data(), value.data());
    for (int32_t j = 0; j < dims; ++j) {
      double key = head.centre[j];  // F^(-1) is the transpose of F^(-T)
      for (int32_t i = 0; i < dims; ++i) {
        key += double{head.query_map[i * dims + j]} * coded[i] * (centroids ? 1 : Lengthened(widths[i / kGroup]));
      }
      decoded_keys[t * dims + j] = key;
      decoded_values[t * dims + j] = value[j] * Lengthened(ValueWidth(tier));
    }
  }
  const AttentionShape shape = {.head_dim = dims, .group = group, .scale = 1 / std::sqrt(static_cast<float>(dims)), .softcap = softcap,
                                .page_bytes = PageBytes(dims)};
  for (const AdaDecodeImpl& impl : AdaDecodeImpls()) {
    if (!impl.supported()) continue;
    AdaQuery digits = {};
    PrepareAdaQuery(impl, head.queries, tier, query.data(), group, digits);
    std::vector<float> max(group), sum(group), output(group * dims);
    impl.attend(shape, arena.data(), {.query = &digits, .pages = pages, .tokens = tokens, .tier = tier, .widths = widths,
                                      .state = {max.data(), sum.data(), output.data()}});
    for (int32_t g = 0; g < group; ++g) {
      std::vector<double> logits(tokens), want(dims);
      for (int32_t t = 0; t < tokens; ++t) {
        for (int32_t d = 0; d < dims; ++d) logits[t] += shape.scale * query[g * dims + d] * decoded_keys[t * dims + d];
        if (softcap > 0) logits[t] = softcap * std::tanh(logits[t] / softcap);
      }
      const double top = *std::max_element(logits.begin(), logits.end());
      double total = 0;
      for (int32_t t = 0; t < tokens; ++t) {
        const double p = std::exp(logits[t] - top);
        total += p;
        for (int32_t d = 0; d < dims; ++d) want[d] += p * decoded_values[t * dims + d];
      }
      double error = 0, size = 0;
      for (int32_t d = 0; d < dims; ++d) {
        error += std::pow(output[g * dims + d] / double{sum[g]} - want[d] / total, 2);
        size += std::pow(want[d] / total, 2);
      }
      INFO(impl.name << " tier " << static_cast<int>(tier) << " D " << dims << " head " << g);
      CHECK(max[g] + CentreLogit(shape, digits, g) == Approx(top).epsilon(1e-4).margin(1e-4));  // of q.k, centre and all
      CHECK(std::sqrt(error / size) <= 5e-4);  // queries to 16 bits of their largest coordinate; one digit would be wrong by 256 times that
    }
  }
}

TEST_CASE("Attention over what the codec wrote is attention over what it decodes to") {
  for (const int32_t dims : {64, 80, 96, 128, 256}) {
    for (const Tier tier : kTiers) CheckTier(dims, tier);
  }
}

// What attention reads of coded vectors is theirs on average: nothing is missing from all of them alike.
TEST_CASE("The part of a coded vector along itself is all of it, on average") {
  const int32_t dims = 128;
  std::mt19937_64 random(3);
  const Head head(dims, random);
  std::normal_distribution<float> normal;
  for (const Tier tier : {Tier::kT4, Tier::kT3, Tier::kT2, Tier::kT1}) {
    const uint8_t* widths = head.queries.widths[static_cast<int32_t>(tier)];
    std::vector<double> along(dims / kGroup), all(dims / kGroup);
    double value_along = 0, value_all = 0;
    for (int32_t trial = 0; trial < 2000; ++trial) {
      std::vector<float> z(dims), v(dims), coded(dims), value(dims);
      for (int32_t i = 0; i < dims; ++i) z[i] = normal(random), v[i] = normal(random);
      std::vector<uint8_t> page(PageBytes(dims));
      BestCodec().encode(head.keys, tier, z.data(), v.data(), 1, 0, page.data(), nullptr);
      DecodeToken(tier, dims, widths, page.data(), 0, coded.data(), value.data());
      for (int32_t i = 0; i < dims; ++i) {
        along[i / kGroup] += double{z[i]} * coded[i] * Lengthened(widths[i / kGroup]);
        all[i / kGroup] += double{z[i]} * z[i];
        value_along += double{v[i]} * value[i] * Lengthened(ValueWidth(tier));
        value_all += double{v[i]} * v[i];
      }
    }
    INFO("tier " << static_cast<int>(tier));
    CHECK(value_along / value_all == Approx(1).epsilon(0.01));
    for (int32_t g = 0; g < dims / kGroup; ++g) {
      if (widths[g] == 0) continue;
      INFO("group " << g << " of width " << static_cast<int>(widths[g]));
      CHECK(along[g] / all[g] == Approx(1).epsilon(0.03));
    }
  }
}

TEST_CASE("Keys of a plain geometry are read as the centroids that they are") {
  for (const int32_t dims : {64, 128}) CheckTier(dims, Tier::kT2, 0, true);
}

TEST_CASE("Under a softcap too, which sees the centre's part of the logit") {
  for (const int32_t dims : {64, 128}) CheckTier(dims, Tier::kT4, 4.0f);
}

}  // namespace
}  // namespace spherical::kernels
