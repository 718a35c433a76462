// Tokens per minute, on a clock that may do anything.
#include "engine/budget/token_bucket.h"

#include <catch2/catch.hpp>
#include <random>

namespace spherical::engine {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1'700'000'000);

TEST_CASE("a bucket starts full, fills evenly, and holds one minute's worth at most") {
  TokenBucket bucket;
  bucket.Refill(600, kStart);
  CHECK(bucket.Has(600));
  CHECK_FALSE(bucket.Has(601));
  bucket.Draw(600);
  CHECK_FALSE(bucket.Has(1));
  bucket.Refill(600, kStart + absl::Seconds(1));
  CHECK(bucket.Has(10));
  CHECK_FALSE(bucket.Has(11));
  bucket.Refill(600, kStart + absl::Hours(1));
  CHECK_FALSE(bucket.Has(601));
}

TEST_CASE("output takes a bucket into debt, and what is owed is filled up first") {
  TokenBucket bucket;
  bucket.Refill(60, kStart);
  bucket.Draw(100);
  bucket.Refill(60, kStart + absl::Seconds(40));
  CHECK_FALSE(bucket.Has(1));
  bucket.Refill(60, kStart + absl::Seconds(41));
  CHECK(bucket.Has(1));
}

TEST_CASE("the time it names is when it has them, and not much before") {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    INFO("seed " << seed);
    std::mt19937_64 random(seed);
    const int64_t per_minute = 1 + static_cast<int64_t>(random() % (random() % 2 == 0 ? 100 : 1'000'000'000));
    TokenBucket bucket;
    absl::Time now = kStart + absl::Nanoseconds(static_cast<int64_t>(random() % 1'000'000'000'000));
    bucket.Refill(per_minute, now);
    for (int32_t i = 0; i < 20; ++i) {
      bucket.Draw(static_cast<int64_t>(random() % static_cast<uint64_t>(per_minute)));
      const int64_t wanted = 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(per_minute));
      const absl::Time when = bucket.WhenHas(wanted);
      if (bucket.Has(wanted)) {
        REQUIRE(when == now);
        continue;
      }
      TokenBucket early = bucket;
      early.Refill(per_minute, when - absl::Milliseconds(10));
      const bool soon = when - absl::Milliseconds(10) <= now || per_minute > 1'000'000;
      REQUIRE((soon || !early.Has(wanted)));
      bucket.Refill(per_minute, when);
      REQUIRE(bucket.Has(wanted));  // an engine that wakes then finds it: no spinning
      now = when;
    }
  }
}

TEST_CASE("a jump forwards gives a minute's worth, a jump backwards takes nothing and time goes on from there") {
  TokenBucket bucket;
  bucket.Refill(600, kStart);
  bucket.Draw(600);
  bucket.Refill(600, kStart - absl::Hours(24 * 365));
  CHECK_FALSE(bucket.Has(1));
  CHECK(bucket.WhenHas(10) <= kStart - absl::Hours(24 * 365) + absl::Seconds(1.01));
  bucket.Refill(600, kStart - absl::Hours(24 * 365) + absl::Seconds(1));
  CHECK(bucket.Has(10));
  bucket.Refill(600, kStart + absl::Hours(24 * 365 * 100));
  CHECK(bucket.Has(600));
  CHECK_FALSE(bucket.Has(601));
  bucket.Draw(600);
  bucket.Refill(600, absl::InfinitePast());
  bucket.Refill(600, kStart);
  CHECK(bucket.Has(600));
}

TEST_CASE("a rate that comes, changes and goes") {
  TokenBucket bucket;
  CHECK(bucket.Has(1'000'000));
  bucket.Draw(1'000'000);  // nobody counts
  bucket.Refill(60, kStart);
  CHECK(bucket.Has(60));
  bucket.Draw(30);
  bucket.Refill(20, kStart);
  CHECK(bucket.Has(20));
  CHECK_FALSE(bucket.Has(21));
  bucket.Refill(6000, kStart);
  CHECK_FALSE(bucket.Has(21));
  bucket.Draw(5000);
  bucket.Refill(0, kStart);
  CHECK(bucket.Has(1'000'000));
  bucket.Refill(60, kStart);
  CHECK(bucket.Has(60));  // debts are forgotten
}

}  // namespace
}  // namespace spherical::engine
