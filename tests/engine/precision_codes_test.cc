// Measuring and repricing on real codes: each token ends as it would alone, and stands where a slow, obviously right measure puts it.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "engine/kv/head_notes.h"
#include "engine/kv/retier.h"
#include "engine/step/measure_run.h"
#include "engine/step/retier_run.h"
#include "kernels/attention/exact_attention.h"
#include "kernels/base/float16.h"
#include "kernels/spherical/codec.h"

namespace spherical::engine {
namespace {

using kernels::kLadderTiers;
using kernels::Tier;

// One head, its pages in an arena, and what measuring is told of the model.
struct Room {
  explicit Room(int32_t head_dim, int32_t pages)
      : geometry(ModelGeometry::Plain({.layers = 1, .kv_heads = 1, .head_dim = head_dim})),
        coded(static_cast<size_t>(pages) * kernels::PageBytes(head_dim), 0xff),
        exact(static_cast<size_t>(pages) * kernels::ExactBytesUsed(head_dim), 0xff) {
    spec.layers = spec.kv_heads = 1;
    spec.heads = 2;
    spec.head_dim = head_dim;
    spec.attention_scale = 1 / std::sqrt(static_cast<float>(head_dim));
  }
  KvArenas arenas() {
    return {.exact = exact.data(), .exact_page_bytes = kernels::ExactBytesUsed(spec.head_dim), .coded = coded.data(),
            .coded_page_bytes = kernels::PageBytes(spec.head_dim)};
  }
  MeasureContext context() const { return {.geometry = geometry, .spec = spec, .value_weights = weights}; }
  uint8_t* PageAt(Tier tier, int32_t slot, const std::vector<PageId>& list) {
    return coded.data() + list[static_cast<size_t>(slot / kernels::TokensPerPage(tier, spec.head_dim))] * kernels::PageBytes(spec.head_dim);
  }

  ThreadPool threads{1};
  TransformerSpec spec;
  ModelGeometry geometry;
  std::vector<float> weights = {0.7f};
  std::vector<uint8_t> coded, exact;
  HeadPages head;
  PageId next = 0;
};

std::vector<float> Normal(std::mt19937& random, int32_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(count));
  for (float& value : x) value = normal(random);
  return x;
}

// A head that was sealed some time ago: random tokens on every tier, utilities all over the range.
void FillCoded(Room& room, const std::array<int32_t, kLadderTiers>& tokens, int32_t settled, std::mt19937& random) {
  const int32_t d = room.spec.head_dim;
  for (int32_t t = 0; t < kLadderTiers; ++t) {
    const Tier tier = static_cast<Tier>(t);
    HeadPages::Coded& list = room.head.of(tier);
    const kernels::TierLayout layout = kernels::LayoutOf(tier, d);
    for (; list.tokens < tokens[static_cast<size_t>(t)]; ++list.tokens) {
      if (list.tokens % layout.tokens == 0) list.pages.push_back(room.next++);
      const std::vector<float> z = Normal(random, d), v = Normal(random, d);
      uint8_t* page = room.PageAt(tier, list.tokens, list.pages);
      kernels::BestCodec().encode(room.geometry.key(0), tier, z.data(), v.data(), 1, list.tokens % layout.tokens, page, nullptr);
      page[layout.utilities + list.tokens % layout.tokens] = static_cast<uint8_t>(random() % 256);
    }
  }
  room.head.settled = settled;
  room.head.sealed = true;
}

// A token as bytes: what is in the first slot of a page that holds nothing else once it was moved there to `to`.
using Token = std::vector<uint8_t>;
Token Moved(Room& room, Tier from, const uint8_t* page, int32_t slot, Tier to) {
  Token bytes(static_cast<size_t>(kernels::PageBytes(room.spec.head_dim)), 0);
  kernels::CodecImpls()[0].demote(room.geometry.key(0), from, page, slot, 1, to, bytes.data(), 0);  // the reference
  return bytes;
}

bool Before(const Token& a, const Token& b) { return std::memcmp(a.data(), b.data(), a.size()) < 0; }  // all are of one size

std::vector<Token> TokensOf(Room& room, Tier tier, const std::vector<PageId>& list, int32_t begin, int32_t end) {
  std::vector<Token> tokens;
  for (int32_t slot = begin; slot < end; ++slot) {
    tokens.push_back(Moved(room, tier, room.PageAt(tier, slot, list), slot % kernels::TokensPerPage(tier, room.spec.head_dim), tier));
  }
  return tokens;
}

void CheckReprice(int32_t head_dim, std::array<int32_t, kLadderTiers> tokens, int32_t settled, int32_t price, bool whole_only,
                  bool keeps_all, uint32_t seed) {
  CAPTURE(head_dim, settled, price, whole_only, keeps_all, seed);
  std::mt19937 random(seed);
  Room room(head_dim, 200);
  FillCoded(room, tokens, settled, random);
  const MeasureItem question = {.kind = whole_only ? MeasureItem::Kind::kWhole : MeasureItem::Kind::kCoded, .pages = &room.head};
  RungCounts rungs = RunMeasure(room.context(), room.arenas(), std::span(&question, 1), room.threads)[0].CountsAt(price);
  if (keeps_all) rungs[kLadderTiers - 1] += std::exchange(rungs[kLadderTiers], 0);
  if (whole_only) rungs = SettledRungs(rungs, room.head);
  RetierItem item = {.kind = RetierItem::Kind::kReprice, .pages = &room.head, .priced = true, .keeps_all = keeps_all, .price = price,
                     .rungs = rungs, .whole_only = whole_only};

  // Where each token goes, asked one by one; and what it is there.
  const kernels::CodedLosses losses = kernels::CodedLossesOf(room.geometry.key(0), room.spec.attention_scale);
  kernels::TileSteps steps;
  std::array<std::vector<Token>, kLadderTiers> want;
  const int32_t first_ordered = FirstOrdered(room.head);
  int32_t dropped = 0, old = 0;  // old: that stay in T8 before those that keep their order
  for (int32_t t = 0; t < kLadderTiers; ++t) {
    const Tier tier = static_cast<Tier>(t);
    const kernels::TierLayout layout = kernels::LayoutOf(tier, head_dim);
    const HeadPages::Coded& list = room.head.of(tier);
    for (int32_t slot = 0; slot < list.tokens; ++slot) {
      const uint8_t* page = room.PageAt(tier, slot, list.pages);
      const bool may_move = t == 0 ? slot >= kSinkTokens && slot < kSinkTokens + settled : !whole_only;
      int32_t rung = t;
      if (may_move) {
        kernels::CodecImpls()[0].ladders(losses, head_dim, tier, page, slot % layout.tokens / kernels::kTokenTile, steps);
        while (rung < kLadderTiers && steps.leaves[rung][slot % kernels::kTokenTile] <= price) ++rung;
      }
      if (may_move && keeps_all) rung = std::min(rung, kLadderTiers - 1);
      if (may_move && whole_only) rung = std::min(rung, static_cast<int32_t>(Tier::kT3));
      if (rung == kLadderTiers) {
        ++dropped;
      } else {
        old += rung == 0 && slot < first_ordered;
        want[static_cast<size_t>(rung)].push_back(Moved(room, tier, page, slot % layout.tokens, static_cast<Tier>(rung)));
      }
    }
  }
  REQUIRE(rungs[kLadderTiers] == dropped);

  AssignLists(item, head_dim, [&] { return room.next++; });
  RunRetier(room.geometry, room.spec.attention_scale, room.arenas(), std::span(&item, 1), room.threads);
  RecordRetier(item, room.head);
  CHECK(room.head.dropped == dropped);
  for (int32_t t = 0; t < kLadderTiers; ++t) {
    const Tier tier = static_cast<Tier>(t);
    const HeadPages::Coded& list = room.head.of(tier);
    std::vector<Token> got = TokensOf(room, tier, list.pages, 0, list.tokens);
    std::vector<Token>& expected = want[static_cast<size_t>(t)];
    CAPTURE(t);
    REQUIRE(got.size() == expected.size());
    // The newest of T8 keep their order; that of those before them and of other lists is free.
    const auto free = static_cast<std::ptrdiff_t>(tier == Tier::kT8 ? old : got.size());
    std::sort(got.begin(), got.begin() + free, Before);
    std::sort(expected.begin(), expected.begin() + free, Before);
    CHECK(got == expected);
  }
}

TEST_CASE("A repriced head holds each token as it would be had it moved alone, utilities and the newest ones' order kept") {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    const int32_t head_dim = seed % 3 == 0 ? 128 : 64, price = 20 + static_cast<int32_t>(seed * 97 % 480);
    CheckReprice(head_dim, {4 + 50 + 70, 90, 130, 200}, 50, price, seed % 4 == 1, seed % 4 == 2, seed);
  }
}

TEST_CASE("Of many T8 tokens the newest keep their order, and holes among the older are filled with the last of them") {
  for (uint32_t seed = 0; seed < 6; ++seed) {
    const int32_t settled = 500 + static_cast<int32_t>(seed) * 150, price = 120 + static_cast<int32_t>(seed) * 70;
    CheckReprice(64, {4 + settled + 70, 40, 30, 20}, settled, price, seed % 2 == 0, false, 100 + seed);
  }
  CheckReprice(64, {4 + 100 + 900, 0, 0, 0}, 100, 400, true, false, 7);  // more new ones than keep their order anyway
}

TEST_CASE("Repricing at the ends: nothing is pressed, and all that may go goes") {
  for (const int32_t price : {0, kernels::kPriceSteps - 1}) {
    CheckReprice(64, {4 + 33 + 64, 64, 0, 113}, 33, price, false, false, 1);
    CheckReprice(64, {4 + 64, 0, 0, 0}, 0, price, false, false, 2);  // nothing may move
    CheckReprice(64, {4 + 32 + 64, 1, 1, 1}, 32, price, true, false, 3);
  }
}

// ---- Measuring exact tokens --------------------------------------------------------------------------------------------------------

struct Prompt {
  std::vector<float> keys, values, queries;  // [tokens, D], [samples * 2, D]: as f16 has them
};

float Rounded(float x) { return kernels::F16ToF32(kernels::F32ToF16(x)); }

Prompt FillExact(Room& room, int32_t tokens, int32_t samples, std::mt19937& random) {
  const int32_t d = room.spec.head_dim;
  Prompt prompt{Normal(random, tokens * d), Normal(random, tokens * d), Normal(random, samples * 2 * d)};
  for (float& x : prompt.queries) x *= 3;  // so that attention is not flat
  for (std::vector<float>* rows : {&prompt.keys, &prompt.values, &prompt.queries}) std::ranges::transform(*rows, rows->begin(), Rounded);
  const auto page = [&](PageId id) { return room.exact.data() + id * kernels::ExactBytesUsed(d); };
  for (int32_t t = 0; t < tokens; ++t) {
    if (t % kernels::kExactTokensPerPage == 0) room.head.exact.push_back(room.next++);
    kernels::BestExactAttention().append(d, &prompt.keys[t * d], &prompt.values[t * d], t % kernels::kExactTokensPerPage,
                                         page(room.head.exact.back()));
  }
  for (int32_t i = 0; i < SamplePages(samples, 2); ++i) room.head.samples.push_back(room.next++);
  for (int32_t q = 0; q < samples * 2; ++q) {
    for (int32_t i = 0; i < d; ++i) {
      const uint16_t half = kernels::F32ToF16(prompt.queries[q * d + i]);
      uint8_t* const to = page(room.head.samples[static_cast<size_t>(q / kSampleVectorsPerPage)]);
      std::memcpy(to + 2 * ((q % kSampleVectorsPerPage) * d + i), &half, sizeof(half));
    }
  }
  for (int32_t i = 0; i < NotePages(tokens, d); ++i) room.head.notes.push_back(room.next++);
  return prompt;
}

// The definition, in double: attention of every sampled query to every token, then distortion of each token on each rung.
std::vector<kernels::LadderSteps> Naive(Room& room, const Prompt& prompt, int32_t tokens, int32_t samples, float residual,
                                        std::vector<uint8_t>& utilities) {
  const int32_t d = room.spec.head_dim;
  std::vector<double> mean(static_cast<size_t>(tokens)), square(mean.size());
  for (int32_t q = 0; q < samples * 2; ++q) {
    std::vector<double> p(mean.size());
    double total = 0;
    for (int32_t t = 0; t < tokens; ++t) {
      double dot = 0;
      for (int32_t i = 0; i < d; ++i) dot += double{prompt.queries[q * d + i]} * prompt.keys[t * d + i];
      total += p[static_cast<size_t>(t)] = std::exp(dot * room.spec.attention_scale);
    }
    for (size_t t = 0; t < p.size(); ++t) {
      mean[t] += p[t] / total / (samples * 2);
      square[t] += p[t] / total * p[t] / total / (samples * 2);
    }
  }
  const std::vector<float> seen_mean(mean.begin(), mean.end()), seen_square(square.begin(), square.end());
  std::vector<float> utility(mean.size());
  BestUtilityEstimator().estimate({.mean = seen_mean, .square = seen_square}, utility);
  std::vector<double> output(static_cast<size_t>(d));
  for (int32_t t = 0; t < tokens; ++t) {
    for (int32_t i = 0; i < d; ++i) output[static_cast<size_t>(i)] += mean[static_cast<size_t>(t)] * prompt.values[t * d + i];
  }
  // What dropping those below the mean utility costs together, over each for itself.
  const double mean_square = std::accumulate(square.begin(), square.end(), 0.0) / tokens;
  std::vector<double> together(static_cast<size_t>(d));
  double alone = 0;
  for (int32_t t = kSinkTokens; t < tokens; ++t) {
    if (square[static_cast<size_t>(t)] > mean_square) continue;
    for (int32_t i = 0; i < d; ++i) {
      const double away = prompt.values[t * d + i] - output[static_cast<size_t>(i)];
      together[static_cast<size_t>(i)] += mean[static_cast<size_t>(t)] * away;
      alone += square[static_cast<size_t>(t)] * away * away;
    }
  }
  const double drops = 1 + std::inner_product(together.begin(), together.end(), together.begin(), 0.0) / alone;
  float bytes[kernels::kRungs];
  kernels::RungBytes(d, bytes);
  const kernels::CodecImpl& codec = kernels::CodecImpls()[0];
  std::vector<uint8_t> page(static_cast<size_t>(kernels::PageBytes(d)));
  std::vector<kernels::LadderSteps> steps;
  for (int32_t t = 0; t < tokens; ++t) {
    std::vector<float> z(static_cast<size_t>(d)), v(z.size());
    codec.map_keys(room.geometry.key(0), &prompt.keys[t * d], d, 1, z.data());
    codec.rotate_values(d, &prompt.values[t * d], d, 1, v.data());
    double away = 0;
    for (int32_t i = 0; i < d; ++i) away += std::pow(prompt.values[t * d + i] - output[static_cast<size_t>(i)], 2);
    const double w = double{utility[static_cast<size_t>(t)]} * room.weights[0] / residual;
    float distortion[kernels::kRungs];
    for (int32_t r = 0; r < kLadderTiers; ++r) {
      kernels::CodingError error;
      codec.encode(room.geometry.key(0), static_cast<Tier>(r), z.data(), v.data(), 1, 0, page.data(), &error);
      const double of_key = std::min(2.0, double{error.key} * room.spec.attention_scale * room.spec.attention_scale);
      distortion[r] = static_cast<float>(w * (of_key * away + error.value));
    }
    distortion[kLadderTiers] = static_cast<float>(2 * w * away * drops);
    steps.push_back(kernels::LadderOf(distortion, bytes));
    utilities.push_back(kernels::UtilityByteOf(static_cast<float>(2 * w * away)));
  }
  return steps;
}

TEST_CASE("Exact tokens are measured as the definition says, to a step of the price") {
  for (const int32_t head_dim : {64, 128}) {
    for (const int32_t tokens : {90, 333}) {
      const int32_t samples = 20, newest = tokens - kNewestTokens;
      CAPTURE(head_dim, tokens);
      std::mt19937 random(static_cast<uint32_t>(head_dim + tokens));
      Room room(head_dim, 200);
      const Prompt prompt = FillExact(room, tokens, samples, random);
      std::vector<uint8_t> utilities;
      const std::vector<kernels::LadderSteps> want = Naive(room, prompt, tokens, samples, 2.5f, utilities);
      const MeasureItem question = {.pages = &room.head, .end = tokens, .newest = newest, .samples = samples, .residual = 2.5f};
      const RateCurve curve = RunMeasure(room.context(), room.arenas(), std::span(&question, 1), room.threads)[0];
      CHECK(curve.tokens == newest - kSinkTokens);
      CHECK(curve.newest.size() == kNewestTokens);
      RateCurve counted;  // of the notes: the curve must be what they say
      int32_t worst = 0, worst_utility = 0;
      for (int32_t t = 0; t < tokens; ++t) {
        const PageId page = room.head.notes[static_cast<size_t>(t / NotesPerPage(head_dim))];
        const NotesPage notes(room.exact.data() + page * kernels::ExactBytesUsed(head_dim), head_dim);
        const kernels::LadderSteps got = notes.StepsOf(t % NotesPerPage(head_dim));
        const size_t at = static_cast<size_t>(t);
        for (int32_t r = 0; r < kLadderTiers; ++r) worst = std::max(worst, std::abs(got.leaves[r] - want[at].leaves[r]));
        worst_utility = std::max(worst_utility, std::abs(notes.UtilityOf(t % NotesPerPage(head_dim)) - utilities[at]));
        if (t >= kSinkTokens && t < newest) counted.Add(got);
        if (t >= newest) {
          CHECK(std::equal(got.leaves, got.leaves + kLadderTiers, curve.newest[static_cast<size_t>(t - newest)].leaves));
        }
      }
      counted.Finish();
      CHECK(counted.below == curve.below);
      CHECK(worst <= 1);  // rounding may fall on either side of a step's edge
      CHECK(worst_utility <= 1);
    }
  }
}

// What prices would do to each token alone, averaged: the mean price at which they leave a rung is the mean token's.
TEST_CASE("A local head is measured as its mean token, by the queries in its window, and never dropped") {
  const int32_t head_dim = 64, tokens = 333, samples = 20, asked = 7, newest = tokens - kNewestTokens;
  std::mt19937 random(5);
  Room room(head_dim, 200);
  Prompt prompt = FillExact(room, tokens, samples, random);
  room.head.window = 300;
  // Slots 250 to 255 and slot 0 are asked, around the ring: the first seven of the prompt's are there, whose others nobody may look at.
  const std::vector<PageId> made = room.head.samples;
  room.head.samples.assign(SamplePages(kSampledPositions, 2), made[0]);
  for (int32_t q = 0; q < asked * 2; ++q) {
    const int32_t vector = (250 + q / 2) % kSampledPositions * 2 + q % 2;
    PageId& page = room.head.samples[static_cast<size_t>(vector / kSampleVectorsPerPage)];
    if (page == made[0]) page = room.next++;
    for (int32_t i = 0; i < head_dim; ++i) {
      const uint16_t half = kernels::F32ToF16(prompt.queries[q * head_dim + i]);
      uint8_t* const to = room.exact.data() + page * kernels::ExactBytesUsed(head_dim);
      std::memcpy(to + 2 * ((vector % kSampleVectorsPerPage) * head_dim + i), &half, sizeof(half));
    }
  }
  prompt.queries.resize(static_cast<size_t>(asked * 2 * head_dim));
  std::vector<uint8_t> utilities;
  const std::vector<kernels::LadderSteps> alone = Naive(room, prompt, tokens, asked, 2.5f, utilities);
  const MeasureItem question = {.pages = &room.head, .end = tokens, .newest = newest, .samples = asked, .first_sample = 250,
                                .residual = 2.5f};
  const RateCurve curve = RunMeasure(room.context(), room.arenas(), std::span(&question, 1), room.threads)[0];
  CHECK(curve.tokens == newest);
  CHECK(curve.newest.size() == kNewestTokens);
  int32_t last = 0;
  for (int32_t r = 0; r + 1 < kLadderTiers; ++r) {
    double mean = 0;
    for (const kernels::LadderSteps& steps : alone) mean += static_cast<double>(kernels::PriceOf(steps.leaves[r])) / tokens;
    int32_t step = 0;
    while (step + 1 < kernels::kPriceSteps && curve.below[static_cast<size_t>(r)][static_cast<size_t>(step)] == 0) ++step;
    CAPTURE(r, step, kernels::PriceStepOf(static_cast<float>(mean)));
    CHECK(curve.below[static_cast<size_t>(r)][static_cast<size_t>(step)] == newest);  // all together
    CHECK(step >= last);
    // A token that would be dropped before it reaches the rung leaves it sooner than it does here.
    CHECK(std::abs(step - kernels::PriceStepOf(static_cast<float>(mean))) <= 16);
    last = step;
  }
  CHECK(curve.CountsAt(kernels::kPriceSteps - 1)[kLadderTiers] == 0);
  CHECK(curve.CountsAt(kernels::kPriceSteps - 1, 3)[kLadderTiers - 1] == newest + 3);
}

TEST_CASE("A local head's queries are asked about what is before them, and count for what is no longer new to them") {
  const int32_t head_dim = 64, tokens = 200, samples = 9;
  const auto curve_of = [&](int32_t position, int32_t stride, std::vector<int32_t> silent) {
    std::mt19937 random(6);
    Room room(head_dim, 200);
    room.head.window = 200;
    FillExact(room, tokens, samples, random);
    for (const int32_t q : silent) {  // such a query would make all that it sees NaN or nothing
      for (int32_t i = 0; i < head_dim; ++i) {
        uint8_t* const page = room.exact.data() + room.head.samples[static_cast<size_t>(q / kSampleVectorsPerPage)] *
                                                      kernels::ExactBytesUsed(head_dim);
        std::memset(page + 2 * (q % kSampleVectorsPerPage * head_dim + i), 0, 2);
      }
    }
    const MeasureItem question = {.pages = &room.head, .end = tokens, .newest = tokens - kNewestTokens, .samples = samples,
                                  .sample_position = position, .sample_stride = stride};
    return RunMeasure(room.context(), room.arenas(), std::span(&question, 1), room.threads)[0].below;
  };
  const auto together = curve_of(0, 0, {});
  CHECK(curve_of(tokens + kNewestTokens, 1, {}) == together);  // all are after all, and old to all
  CHECK(curve_of(tokens - 1, 1, {}) != together);               // the newest are new to most
  // Queries before the first token are asked about nothing: whatever they are changes nothing.
  CHECK(curve_of(-4 * 50, 50, {0, 1, 6, 7}) == curve_of(-4 * 50, 50, {}));
  CHECK(curve_of(-4 * 50, 50, {16, 17}) != curve_of(-4 * 50, 50, {}));
}

TEST_CASE("A coded local head is looked at as a whole, and goes down as a whole") {
  for (const Tier older : {Tier::kT8, Tier::kT4, Tier::kT2}) {
    std::mt19937 random(11);
    Room room(64, 200);
    room.head.window = 400;
    room.head.older = older;
    std::array<int32_t, kLadderTiers> tokens = {};
    tokens[0] = 90;
    tokens[static_cast<size_t>(older)] += 200;
    FillCoded(room, tokens, older == Tier::kT8 ? 200 : 0, random);
    const MeasureItem question = {.kind = MeasureItem::Kind::kCoded, .pages = &room.head};
    const RateCurve curve = RunMeasure(room.context(), room.arenas(), std::span(&question, 1), room.threads)[0];
    for (int32_t price = 0; price < kernels::kPriceSteps; price += 7) {
      const RungCounts rungs = curve.CountsAt(price);
      const int32_t rung = CommonRung(rungs);
      CAPTURE(static_cast<int32_t>(older), price, rung);
      CHECK(rungs[static_cast<size_t>(rung)] == 200);
      CHECK((rung >= static_cast<int32_t>(older) && rung < kLadderTiers));
    }
    CHECK(CommonRung(curve.CountsAt(kernels::kPriceSteps - 1)) == kLadderTiers - 1);
    CHECK(SettledRungs(curve.CountsAt(kernels::kPriceSteps - 1), room.head)[static_cast<size_t>(std::max(older, Tier::kT3))] ==
          (older == Tier::kT4 ? 0 : 200));
  }
}

TEST_CASE("Tokens that nobody was asked about are worth the same") {
  std::mt19937 random(7);
  Room room(64, 200);
  FillExact(room, 90, 0, random);
  const MeasureItem question = {.pages = &room.head, .end = 90, .newest = 26, .samples = 0};
  const RateCurve curve = RunMeasure(room.context(), room.arenas(), std::span(&question, 1), room.threads)[0];
  CHECK(curve.tokens == 22);
  CHECK(curve.CountsAt(kernels::kPriceSteps - 1)[kLadderTiers] == 22);
}

}  // namespace
}  // namespace spherical::engine
