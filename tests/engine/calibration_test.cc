#include "engine/calibrate/calibration.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "engine/calibrate/geometry_solver.h"
#include "engine/model/gguf.h"
#include "tests/fakes/tiny_gguf.h"

namespace spherical::engine {
namespace {

// A loaded tiny model with threads of its own.
struct TinyModel {
  explicit TinyModel(const testing::GgufBuilder& builder, int32_t threads = 2)
      : bytes(builder.Build()),
        file(*GgufFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "tiny")),
        spec(*ReadTransformerSpec(file)),
        tokenizer(*LoadTokenizer(file)),
        weights(*LoadWeights(
            file, spec,
            [](int64_t n, const std::function<void(int64_t)>& work) {
              for (int64_t i = 0; i < n; ++i) work(i);
            },
            [](int64_t, int64_t) {})),
        pool(threads) {}
  CalibratedModel model() { return {.spec = spec, .weights = weights, .tokenizer = *tokenizer, .pool = pool}; }

  const std::string bytes;
  const GgufFile file;
  const TransformerSpec spec;
  const std::unique_ptr<const Tokenizer> tokenizer;
  const Weights weights;
  ThreadPool pool;
};

const testing::TinyModelOptions kGrouped = {.heads = 4, .kv_heads = 2, .head_dim = 64};
constexpr SelfSampling kShort = {.tokens = 1500, .sample_max = 24, .seed = 1};

bool SameBits(const KeyStatistics& a, const KeyStatistics& b) {
  for (int32_t head = 0; head < a.heads(); ++head) {
    if (a.head(head).key_sum != b.head(head).key_sum || a.head(head).key_products != b.head(head).key_products ||
        a.head(head).query_products != b.head(head).query_products) {
      return false;
    }
  }
  return true;
}

TEST_CASE("the model's own text gives the same statistics and geometry whatever the number of threads, and others from another seed") {
  TinyModel one(testing::TinyModel(kGrouped), 1), three(testing::TinyModel(kGrouped), 3);
  const KeyStatistics first = *SampleItself(one.model(), kShort, {}), again = *SampleItself(three.model(), kShort, {});
  CHECK(SameBits(first, again));
  const ModelGeometry a = *SolveGeometry(first, PositionsOf(one.spec, 512), one.pool);
  const ModelGeometry b = *SolveGeometry(again, PositionsOf(three.spec, 512), three.pool);
  for (int32_t head = 0; head < a.heads(); ++head) {
    CHECK(std::equal(a.key(head).map, a.key(head).map + 64 * 64, b.key(head).map));
    CHECK(std::equal(a.query(head).map, a.query(head).map + 64 * 64, b.query(head).map));
    CHECK(std::equal(a.key(head).centre, a.key(head).centre + 64, b.key(head).centre));
  }
  SelfSampling other = kShort;
  other.seed = 2;
  CHECK_FALSE(SameBits(first, *SampleItself(one.model(), other, {})));
}

TEST_CASE("as many tokens are sampled as were asked for, and told on the way") {
  TinyModel tiny(testing::TinyModel(kGrouped));
  std::vector<int64_t> seen;
  const auto progress = [&](int64_t done, int64_t total) {
    CHECK(total == kShort.tokens);
    seen.push_back(done);
  };
  const KeyStatistics statistics = *SampleItself(tiny.model(), kShort, {.progress = progress});
  REQUIRE_FALSE(seen.empty());
  CHECK(std::is_sorted(seen.begin(), seen.end()));
  CHECK(seen.back() == kShort.tokens);
  const HeadMoments& moments = statistics.head(3);
  CHECK(moments.queries >= 2 * kShort.tokens);
  CHECK(moments.queries < 2 * (kShort.tokens + 64));
  CHECK(moments.keys < moments.queries / 2);  // the first of every sample are left out
  CHECK(moments.keys > moments.queries / 4);
}

TEST_CASE("each text is a sample of its own, run in chunks") {
  TinyModel tiny(testing::TinyModel({.heads = 4, .kv_heads = 2, .head_dim = 64, .context = 2048}));
  std::vector<std::vector<TokenId>> texts(2);
  for (int32_t i = 0; i < 1100; ++i) texts[0].push_back(3 + i * 7 % 250);
  for (int32_t i = 0; i < 40; ++i) texts[1].push_back(3 + i * 11 % 250);
  int64_t last = 0;
  const KeyStatistics together = *ReadTexts(tiny.model(), texts, {.progress = [&](int64_t done, int64_t) { last = done; }});
  CHECK(last == 1140);
  CHECK(together.head(0).keys == 1096 + 36);
  CHECK(together.head(0).queries == 2 * 1140);
  const KeyStatistics first = *ReadTexts(tiny.model(), std::span(texts).first(1), {});
  const KeyStatistics second = *ReadTexts(tiny.model(), std::span(texts).last(1), {});
  for (int32_t head = 0; head < together.heads(); ++head) {
    CHECK(together.head(head).key_products[65] ==
          Approx(first.head(head).key_products[65] + second.head(head).key_products[65]).epsilon(1e-9));
  }
}

TEST_CASE("statistics are taken before rotary positions: one token again and again has one key in the first layer") {
  TinyModel tiny(testing::TinyModel(kGrouped));
  const std::vector<std::vector<TokenId>> texts = {std::vector<TokenId>(300, 42)};
  const KeyStatistics statistics = *ReadTexts(tiny.model(), texts, {});
  const ServedMoments still = Average(statistics.head(0), PositionsOf(tiny.spec, 1).at(0));
  const ServedMoments turned = Average(statistics.head(0), PositionsOf(tiny.spec, 512).at(0));
  double size = 0, spread = 0, spread_turned = 0;
  for (size_t i = 0; i < 64; ++i) {
    size += still.key_mean[i] * still.key_mean[i];
    spread += still.key_covariance[i * 65];
    spread_turned += turned.key_covariance[i * 65];
  }
  CHECK(spread < 1e-9 * size);
  CHECK(spread_turned > 0.5 * size);  // and geometries see them turned to every position
}

TEST_CASE("layers with a window are calibrated for the positions that they turn to, the others for theirs") {
  TinyModel tiny(testing::TinyModel({.layers = 7, .heads = 2, .kv_heads = 1, .head_dim = 64, .family = "gemma3", .window = 64}));
  const std::vector<std::vector<TokenId>> texts = {std::vector<TokenId>(40, 42)};
  const KeyStatistics statistics = *ReadTexts(tiny.model(), texts, {});
  const ModelGeometry geometry = *SolveGeometry(statistics, PositionsOf(tiny.spec, 512), tiny.pool);
  const auto with_all_at = [&](const std::vector<double>& frequency) {
    TransformerSpec spec = tiny.spec;
    spec.rotary_frequency = frequency;
    spec.local_rotary_frequency.clear();
    return *SolveGeometry(statistics, PositionsOf(spec, 512), tiny.pool);
  };
  const ModelGeometry local = with_all_at(tiny.spec.local_rotary_frequency), global = with_all_at(tiny.spec.rotary_frequency);
  for (int32_t layer = 0; layer < tiny.spec.layers; ++layer) {
    CAPTURE(layer);
    const auto same_map = [&](const ModelGeometry& other) {
      return std::equal(geometry.key(layer).map, geometry.key(layer).map + 64 * 64, other.key(layer).map);
    };
    CHECK(same_map(layer == 5 ? global : local));
    CHECK_FALSE(same_map(layer == 5 ? local : global));
  }
}

TEST_CASE("calibration stops when told") {
  TinyModel tiny(testing::TinyModel(kGrouped));
  std::atomic<bool> stop{false};
  int32_t steps = 0;
  const CalibrationRun run = {.progress = [&](int64_t, int64_t) { stop.store(++steps == 3); }, .stop = &stop};
  CHECK(absl::IsCancelled(SampleItself(tiny.model(), kShort, run).status()));
  CHECK(steps == 3);
  stop.store(true);
  CHECK(absl::IsCancelled(ReadTexts(tiny.model(), {{std::vector<TokenId>(600, 42)}}, run).status()));
  CHECK(steps == 3);
}

TEST_CASE("a model whose logits are not finite is refused") {
  testing::GgufBuilder builder = testing::TinyModel(kGrouped);
  const std::vector<float> huge(128, 3e38f);
  builder.Tensor("output_norm.weight", 0, {128}, std::string(reinterpret_cast<const char*>(huge.data()), huge.size() * sizeof(float)));
  TinyModel tiny(builder);
  const auto statistics = SampleItself(tiny.model(), kShort, {});
  CHECK(absl::IsInternal(statistics.status()));
  CHECK(std::string(statistics.status().message()).find("not finite") != std::string::npos);
}

}  // namespace
}  // namespace spherical::engine
