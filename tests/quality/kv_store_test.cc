// Sequences that share, copy, code and give back pages.
#include "tests/quality/kv_store.h"

#include <cmath>
#include <memory>
#include <random>
#include <tuple>
#include <vector>

#include <catch2/catch.hpp>

namespace spherical::quality {
namespace {

using kernels::Tier;

constexpr int32_t kHeadDim = 64;
constexpr TokenCount kTokensMax(1000);
const engine::KvShape kShape = engine::MakeKvShape(2, 3, kHeadDim);

struct Room {
  engine::ThreadPool threads{2};
  std::unique_ptr<KvStore> store = *KvStore::Make(kShape, kTokensMax, threads);
};

void Enter(KvStore& store, Kv& kv, int32_t tokens) {
  store.Lend(kv, tokens);
  store.Record(kv, tokens);
}

float NumberOf(int32_t head, int32_t position) { return static_cast<float>(head * 1000 + position); }

KvStore::Handle Numbered(KvStore& store, int32_t tokens) {
  KvStore::Handle kv = store.Begin();
  Enter(store, *kv, tokens);
  store.Rewrite(*kv, [](int32_t head, int32_t position, std::span<float> key, std::span<float> value) {
    for (size_t i = 0; i < key.size(); ++i) key[i] = NumberOf(head, position), value[i] = static_cast<float>(i);
  });
  return kv;
}

// Whether every key of positions below `tokens` is still what Numbered wrote.
bool IsNumbered(KvStore& store, Kv& kv, int32_t tokens) {
  bool same = true;
  store.Rewrite(kv, [&](int32_t head, int32_t position, std::span<float> key, std::span<float> value) {
    if (position < tokens && (std::fabs(key[7] - NumberOf(head, position)) > 2 || value[9] != 9)) same = false;  // 2: of f16 at 5,000
  });
  return same;
}

TEST_CASE("What is rewritten is read again, in f16") {
  Room room;
  const KvStore::Handle kv = Numbered(*room.store, 100);
  CHECK(IsNumbered(*room.store, *kv, 100));
}

TEST_CASE("A copy is another sequence") {
  Room room;
  const KvStore::Handle kv = Numbered(*room.store, 50), copy = room.store->Copy(*kv);
  CHECK(IsNumbered(*room.store, *copy, 50));
  room.store->Rewrite(*copy, [](int32_t, int32_t, std::span<float> key, std::span<float>) { key[7] = -1; });
  CHECK(IsNumbered(*room.store, *kv, 50));
  CHECK_FALSE(IsNumbered(*room.store, *copy, 50));
}

TEST_CASE("A sequence that shares pages continues in its own, from within a page too") {
  Room room;
  for (const int32_t tokens : {1, 16, 40}) {
    const KvStore::Handle kv = Numbered(*room.store, tokens);
    {
      const KvStore::Handle shared = room.store->Share(*kv);
      Enter(*room.store, *shared, 100);
      CHECK(shared->tokens == tokens + 100);
      for (int32_t i = 0; i < kv->pages.heads(); ++i) {
        const std::vector<PageId>&mine = shared->pages.head(i).exact, &theirs = kv->pages.head(i).exact;
        REQUIRE(mine.size() == static_cast<size_t>(CeilDiv(tokens + 100, 16)));
        const size_t full = static_cast<size_t>(tokens / 16);
        for (size_t page = 0; page < theirs.size(); ++page) CHECK((mine[page] == theirs[page]) == (page < full));
      }
      room.store->Rewind(*shared, tokens);
      CHECK(shared->tokens == tokens);
    }
    CHECK(IsNumbered(*room.store, *kv, tokens));
  }
}

TEST_CASE("An exact sequence takes 16 bits, and its pages more") {
  Room room;
  const KvStore::Handle kv = Numbered(*room.store, 160);
  CHECK(room.store->RateOf(*kv).bits == 16);
  CHECK(room.store->RateOf(*kv).real_bits == 18.5);  // 16 tokens to a page of 4,736 bytes
}

TEST_CASE("A sealed sequence takes what its tiers take") {
  Room room;
  const engine::ModelGeometry geometry = engine::ModelGeometry::Plain({.layers = 2, .kv_heads = 3, .head_dim = kHeadDim});
  const KvStore::Handle kv = Numbered(*room.store, 500);
  // Tier, bytes of a token, tokens to a page: 432 tokens of it, 68 of T8 at 133 bytes and 32 to a page.
  for (const auto& [tier, bytes, per_page] : {std::tuple(Tier::kT4, 73, 64), std::tuple(Tier::kT3, 57, 80), std::tuple(Tier::kT2, 41, 112),
                                              std::tuple(Tier::kT1, 29, 160)}) {
    const KvStore::Handle coded = room.store->Seal(*kv, geometry, tier);
    const KvRate rate = room.store->RateOf(*coded);
    CHECK(rate.bits == Approx((432.0 * bytes + 68 * 133) * 8 / (500 * 128)));
    CHECK(rate.real_bits == Approx((std::ceil(432.0 / per_page) + 3) * 4736 * 8 / (500 * 128)));
    // New tokens are T8, and are forgotten without a trace.
    Enter(*room.store, *coded, 70);
    CHECK(coded->pages.head(5).of(Tier::kT8).tokens == 138);
    CHECK(coded->pages.head(5).of(Tier::kT8).pages.size() == 5);
    room.store->Rewind(*coded, 500);
    CHECK(room.store->RateOf(*coded).real_bits == rate.real_bits);
  }
  CHECK(IsNumbered(*room.store, *kv, 500));
  const KvRate whole = room.store->RateOf(*room.store->Seal(*kv, geometry, Tier::kT8));
  CHECK(whole.bits == Approx(133 * 8.0 / 128));
}

TEST_CASE("A prompt shorter than what always stays T8 is all T8") {
  Room room;
  const engine::ModelGeometry geometry = engine::ModelGeometry::Plain({.layers = 2, .kv_heads = 3, .head_dim = kHeadDim});
  for (const int32_t tokens : {1, 3, 4, 5, 67, 68}) {
    const KvStore::Handle kv = Numbered(*room.store, tokens), coded = room.store->Seal(*kv, geometry, Tier::kT1);
    CHECK(coded->pages.head(0).of(Tier::kT8).tokens == tokens);
    CHECK(coded->pages.head(0).of(Tier::kT1).tokens == 0);
  }
}

TEST_CASE("There is room for what the store promises") {
  Room room;
  const engine::ModelGeometry geometry = engine::ModelGeometry::Plain({.layers = 2, .kv_heads = 3, .head_dim = kHeadDim});
  for (int32_t round = 0; round < 3; ++round) {  // pages come back
    const KvStore::Handle kv = Numbered(*room.store, 900), copy = room.store->Copy(*kv), shared = room.store->Share(*kv);
    const KvStore::Handle coded = room.store->Seal(*kv, geometry, Tier::kT8), other = room.store->Seal(*kv, geometry, Tier::kT2);
    for (const KvStore::Handle* one : {&copy, &shared, &coded, &other}) Enter(*room.store, **one, 100);
    CHECK(coded->tokens == 1000);
  }
}

}  // namespace
}  // namespace spherical::quality
