// What budgets, prices and reservations of mode `rdr` are, each against the slow way to say it.
#include "engine/budget/pricing.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "engine/budget/budget_shares.h"
#include "engine/budget/reservation_size.h"
#include "engine/kv/kv_mode.h"
#include "engine/kv/rate_curve.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

using kernels::Tier;

// ---- Budgets ------------------------------------------------------------------------------------------------------------------------

// Drop by drop: always to the one who has least of what is above his base, by weight, and is not full.
std::vector<double> Pour(const std::vector<BudgetNeed>& needs, double pages) {
  std::vector<double> base, most, level;
  for (const BudgetNeed& need : needs) {
    base.push_back(static_cast<double>(std::max(need.reserved, std::min(need.guarantee, need.wanted)).value()));
    most.push_back(std::max(base.back(), static_cast<double>(std::min(need.limit, need.wanted).value())));
    level.push_back(base.back());
    pages -= base.back();
  }
  constexpr double kDrop = 1.0 / 64;
  for (; pages > 0; pages -= kDrop) {
    int best = -1;
    for (size_t i = 0; i < needs.size(); ++i) {
      if (level[i] + kDrop > most[i]) continue;
      const auto due = [&](size_t t) { return (level[t] - base[t]) / needs[t].weight; };
      if (best < 0 || due(i) < due(static_cast<size_t>(best))) best = static_cast<int>(i);
    }
    if (best < 0) break;
    level[static_cast<size_t>(best)] += kDrop;
  }
  return level;
}

std::vector<BudgetNeed> RandomNeeds(std::mt19937_64& random, int64_t& pool) {
  std::vector<BudgetNeed> needs(1 + random() % 5);
  int64_t bases = 0;
  for (BudgetNeed& need : needs) {
    need.reserved = PageCount(static_cast<int64_t>(random() % 40));
    need.guarantee = PageCount(random() % 2 == 0 ? 0 : static_cast<int64_t>(random() % 60));
    need.limit = need.guarantee + PageCount(static_cast<int64_t>(random() % 200));
    need.wanted = need.reserved + PageCount(random() % 3 == 0 ? 0 : static_cast<int64_t>(random() % 200));
    need.weight = 0.25 * static_cast<double>(1 + random() % 16);
    bases += std::max(need.reserved, need.guarantee).value();
  }
  pool = bases + static_cast<int64_t>(random() % 200);
  return needs;
}

TEST_CASE("budgets are what water poured by weight gives, within a page a tenant") {
  std::mt19937_64 random(1);
  for (int32_t trial = 0; trial < 300; ++trial) {
    INFO("trial " << trial);
    int64_t pool = 0;
    const std::vector<BudgetNeed> needs = RandomNeeds(random, pool);
    const std::vector<PageCount> budgets = ShareBudgets(needs, PageCount(pool));
    const std::vector<double> poured = Pour(needs, static_cast<double>(pool));
    int64_t sum = 0;
    for (size_t i = 0; i < needs.size(); ++i) {
      const BudgetNeed& need = needs[i];
      REQUIRE(budgets[i] >= std::max(need.reserved, std::min(need.guarantee, need.wanted)));
      REQUIRE(budgets[i] <= std::max({need.reserved, std::min(need.guarantee, need.wanted), std::min(need.limit, need.wanted)}));
      REQUIRE(std::abs(static_cast<double>(budgets[i].value()) - poured[i]) <= 1.1);
      sum += budgets[i].value();
    }
    REQUIRE(sum <= pool);
  }
}

TEST_CASE("more pages and more weight never make a tenant's budget smaller, and all that is wanted is given") {
  std::mt19937_64 random(2);
  for (int32_t trial = 0; trial < 2000; ++trial) {
    INFO("trial " << trial);
    int64_t pool = 0;
    std::vector<BudgetNeed> needs = RandomNeeds(random, pool);
    const std::vector<PageCount> budgets = ShareBudgets(needs, PageCount(pool));
    const std::vector<PageCount> richer = ShareBudgets(needs, PageCount(pool + 1 + static_cast<int64_t>(random() % 100)));
    for (size_t i = 0; i < needs.size(); ++i) REQUIRE(richer[i] >= budgets[i]);
    const size_t who = random() % needs.size();
    needs[who].weight *= 2;
    REQUIRE(ShareBudgets(needs, PageCount(pool))[who] >= budgets[who]);
    const std::vector<PageCount> plenty = ShareBudgets(needs, PageCount(100'000));
    for (size_t i = 0; i < needs.size(); ++i) REQUIRE(plenty[i] >= std::min(needs[i].limit, needs[i].wanted));
  }
}

// ---- Prices -------------------------------------------------------------------------------------------------------------------------

kernels::LadderSteps RandomSteps(std::mt19937_64& random) {
  kernels::LadderSteps steps;
  for (uint16_t& leaves : steps.leaves) leaves = static_cast<uint16_t>(1 + random() % (kernels::kPriceSteps - 1));
  std::sort(std::begin(steps.leaves), std::end(steps.leaves));
  return steps;
}

struct CountedCurve {
  std::vector<kernels::LadderSteps> tokens, newest;
  RateCurve curve;
};
CountedCurve RandomCurve(std::mt19937_64& random) {
  CountedCurve made;
  for (uint64_t n = random() % 60; n > 0; --n) {
    made.tokens.push_back(RandomSteps(random));
    made.curve.Add(made.tokens.back());
  }
  for (uint64_t n = random() % 8; n > 0; --n) made.newest.push_back(RandomSteps(random));
  made.curve.newest = made.newest;
  made.curve.Finish();
  return made;
}

TEST_CASE("a curve counts what counting its tokens counts") {
  std::mt19937_64 random(3);
  for (int32_t trial = 0; trial < 50; ++trial) {
    const CountedCurve made = RandomCurve(random);
    for (int32_t step = 0; step < kernels::kPriceSteps; ++step) {
      const int32_t joined = static_cast<int32_t>(random() % (made.newest.size() + 1));
      RungCounts counts = {};
      for (const kernels::LadderSteps& token : made.tokens) ++counts[static_cast<size_t>(token.RungAt(step))];
      for (int32_t i = 0; i < joined; ++i) ++counts[static_cast<size_t>(made.newest[static_cast<size_t>(i)].RungAt(step))];
      REQUIRE(made.curve.CountsAt(step, joined) == counts);
      RungCounts kept = counts;
      kept[3] += kept[4];
      kept[4] = 0;
      REQUIRE(KeepAll(counts) == kept);
    }
  }
}

TEST_CASE("prices are the least that fit, tried one by one, and what is left is spent") {
  std::mt19937_64 random(4);
  for (int32_t trial = 0; trial < 60; ++trial) {
    INFO("trial " << trial);
    std::vector<RateCurve> curves;
    for (uint64_t n = 1 + random() % 4; n > 0; --n) curves.push_back(RandomCurve(random).curve);
    const bool keeps_all = random() % 2 == 0;
    const auto bytes_of = [&](const RateCurve& curve, int32_t step) {
      const RungCounts counts = curve.CountsAt(step);
      return BytesOf(keeps_all ? KeepAll(counts) : counts, 64);
    };
    const auto bytes_at = [&](int32_t step) {
      int64_t sum = 0;
      for (const RateCurve& curve : curves) sum += bytes_of(curve, step);
      return sum;
    };
    const int64_t bytes = bytes_at(0) == 0 ? 0 : static_cast<int64_t>(random() % static_cast<uint64_t>(bytes_at(0) + 100));
    int32_t least = 0;
    while (least < kernels::kPriceSteps - 1 && bytes_at(least) > bytes) ++least;
    REQUIRE(LeastStep(bytes_at, bytes) == least);
    const std::vector<int32_t> prices = PricesFor(curves, 64, keeps_all, bytes);
    int64_t spent = 0;
    for (size_t i = 0; i < curves.size(); ++i) {
      REQUIRE((prices[i] == least || prices[i] == least - 1));
      spent += bytes_of(curves[i], prices[i]);
    }
    if (bytes_at(least) <= bytes) REQUIRE(spent <= bytes);
    for (size_t i = 0; i < curves.size() && least > 0; ++i) {  // whoever did not stay lower would not have fitted any more
      if (prices[i] == least) REQUIRE(spent + bytes_of(curves[i], least - 1) - bytes_of(curves[i], least) > bytes);
    }
  }
}

// ---- Reservations and modes -----------------------------------------------------------------------------------------------------------

TEST_CASE("a reservation of mode rdr covers its floor, however the tokens lie in tiers") {
  std::mt19937_64 random(5);
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
    for (const double floor : {0.5, 1.0, 2.0, 3.0, 5.0, 8.0}) {
      const KvShape shape = MakeKvShape(1, 2, head_dim, {.coded = true, .priced = true});
      for (int32_t trial = 0; trial < 3000; ++trial) {
        const int64_t tokens = 1 + static_cast<int64_t>(random() % 6000), lower = std::max<int64_t>(0, tokens - 68);
        const int64_t promised = ReservedPages(shape, TokenCount(tokens), floor).value();
        double bytes = floor / 8 * 2 * head_dim * static_cast<double>(lower) * shape.heads();  // that may be kept of those that may go
        int64_t pages = 0;
        for (int32_t head = 0; head < shape.heads(); ++head) {
          int64_t left = lower, counts[kernels::kLadderTiers] = {};
          // Mostly one tier, or a little of each, which opens most pages.
          for (const int32_t t : {static_cast<int32_t>(random() % 4), 3, 2, 1, 0}) {
            const Tier tier = static_cast<Tier>(t);
            int64_t n = std::min(left, static_cast<int64_t>(bytes / kernels::TokenBytes(tier, head_dim)));
            n = random() % 2 == 0 ? std::min<int64_t>(n, 1) : n / (1 + static_cast<int64_t>(random() % 2));
            left -= n;
            bytes -= static_cast<double>(n * kernels::TokenBytes(tier, head_dim));
            counts[t] += n;
          }
          counts[0] += std::min<int64_t>(tokens, kSinkTokens + kNewestTokens);
          for (int32_t t = 0; t < kernels::kLadderTiers; ++t) {
            pages += CeilDiv(counts[t], kernels::TokensPerPage(static_cast<Tier>(t), head_dim));
          }
        }
        CAPTURE(head_dim, floor, tokens);
        REQUIRE(pages <= promised);
      }
    }
  }
}

TEST_CASE("a reservation of mode rdr grows with tokens and floor, and is never less than a page a head") {
  const KvShape shape = MakeKvShape(2, 2, 64, {.coded = true, .priced = true});
  PageCount before;
  for (int64_t tokens = 1; tokens < 3000; ++tokens) {
    const PageCount pages = ReservedPages(shape, TokenCount(tokens), 2);
    REQUIRE(pages >= before);
    REQUIRE(pages >= PageCount(shape.heads()));
    REQUIRE(ReservedPages(shape, TokenCount(tokens), 3) >= pages);
    REQUIRE(TokensWithin(shape, pages, 2) >= TokenCount(tokens));
    before = pages;
  }
}

TEST_CASE("modes are found by their names, and rdr by its rate") {
  for (const NamedKvMode& known : KvModes()) {
    const std::optional<KvMode> found = FindKvMode(known.name);
    REQUIRE(found.has_value());
    CHECK((found->coded == known.mode.coded && found->tier == known.mode.tier && found->priced == known.mode.priced));
    CHECK(found->rate == 0);
  }
  for (const double rate : {0.5, 1.0, 2.25, 8.0}) {
    const std::optional<KvMode> found = FindKvMode("rdr:" + std::to_string(rate));
    REQUIRE(found.has_value());
    CHECK((found->coded && found->priced && found->rate == rate));
  }
  for (const char* wrong : {"", "rd", "rdr:", "rdr: 2", "rdr:2 ", "rdr:2x", "rdr:0.49", "rdr:8.01", "rdr:nan", "rdr:inf", "rdr:-1",
                            "rdr:1e9", "RDR", "uniform", "uniform:", "uniform:T5", "uniform:T4 ", "exact:", "Exact"}) {
    CAPTURE(wrong);
    CHECK_FALSE(FindKvMode(wrong).has_value());
  }
}

// ---- Curves -------------------------------------------------------------------------------------------------------------------------

TEST_CASE("A curve that keeps what lies between its steps says what the tokens say, counted one by one or put in rung by rung") {
  std::mt19937 random(5);
  float bytes[kernels::kRungs];
  kernels::RungBytes(128, bytes);
  for (const int32_t count : {0, 1, 7, 400}) {
    for (const int32_t spread : {1, 60, 500}) {
      CAPTURE(count, spread);
      RateCurve curve;
      std::vector<kernels::LadderSteps> tokens;
      std::vector<std::vector<int32_t>> leaves(kernels::kLadderTiers, std::vector<int32_t>(kernels::kPriceSteps));
      for (int32_t i = 0; i < count; ++i) {
        kernels::LadderSteps steps;
        int32_t last = 0;
        for (size_t r = 0; r < leaves.size(); ++r) {
          last = std::min(kernels::kPriceSteps - 1, std::max(last, 1) + static_cast<int32_t>(random() % static_cast<uint32_t>(spread)));
          steps.leaves[r] = static_cast<uint16_t>(last);
          ++leaves[r][static_cast<size_t>(last)];
        }
        tokens.push_back(steps);
        curve.Add(steps);
      }
      curve.Finish();
      RateCurve put;
      put.tokens = count;
      for (size_t r = 0; r < leaves.size(); ++r) {
        const auto left = [](int32_t n) { return n > 0; };
        const auto begin = std::ranges::find_if(leaves[r], left);
        const auto end = std::find_if(leaves[r].rbegin(), leaves[r].rend(), left).base();
        const bool any = begin < end;
        put.below.Put(r, any ? static_cast<int32_t>(begin - leaves[r].begin()) : 0, any ? std::span(begin, end) : std::span<int32_t>());
      }
      CHECK(put.below == curve.below);
      for (int32_t step = 0; step < kernels::kPriceSteps; ++step) {
        RungCounts want = {};
        double distortion = 0;
        for (const kernels::LadderSteps& token : tokens) {
          ++want[static_cast<size_t>(token.RungAt(step))];
          for (size_t r = 0; r < leaves.size() && token.leaves[r] <= step; ++r) {
            distortion += static_cast<double>(bytes[r] - bytes[r + 1]) * kernels::PriceOf(token.leaves[r]);
          }
        }
        if (curve.CountsAt(step) != want || std::abs(curve.DistortionAt(step, bytes) - distortion) > 1e-9 * distortion) {
          CAPTURE(step, distortion, curve.DistortionAt(step, bytes));
          CHECK(curve.CountsAt(step) == want);
          FAIL();
        }
      }
    }
  }
}

}  // namespace
}  // namespace spherical::engine
