// Demotion: every implementation against the reference, and what it costs beside coding once.
#include "kernels/spherical/codec.h"

#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "kernels/base/float16.h"
#include "tests/kernels/codec_heads.h"

namespace spherical::kernels {
namespace {

// Mean squared error of each tier when tokens walk `ladder` from T8, and when they are coded once.
void CheckLadder(const Head& head, const std::vector<Tier>& ladder, uint64_t seed) {
  Rng random(seed);
  const int32_t head_dim = head.geometry.head_dim;
  std::vector<Errors> walked(ladder.size()), once(ladder.size());
  const CodecImpl& codec = BestCodec();
  for (int32_t trial = 0; trial < 1500; ++trial) {
    const std::vector<float> z = Normal(head_dim, random), v = Normal(head_dim, random);
    std::vector<uint8_t> page(PageBytes(head_dim)), next(PageBytes(head_dim)), fresh(PageBytes(head_dim));
    codec.encode(head.geometry, Tier::kT8, z.data(), v.data(), 1, 5, page.data(), nullptr);
    Tier from = Tier::kT8;
    for (size_t i = 0; i < ladder.size(); ++i) {
      codec.demote(head.geometry, from, page.data(), 5, 1, ladder[i], next.data(), 5);
      codec.encode(head.geometry, ladder[i], z.data(), v.data(), 1, 5, fresh.data(), nullptr);
      const Errors a = MeasuredErrors(head, ladder[i], next, z.data(), v.data(), 5);
      const Errors b = MeasuredErrors(head, ladder[i], fresh, z.data(), v.data(), 5);
      walked[i].key += a.key, walked[i].value += a.value, once[i].key += b.key, once[i].value += b.value;
      std::swap(page, next);
      from = ladder[i];
    }
  }
  for (size_t i = 0; i < ladder.size(); ++i) {
    INFO("D " << head_dim << " importance falls by " << head.importance[1] / head.importance[0] << " tier "
              << static_cast<int32_t>(ladder[i])
              << " keys " << walked[i].key / once[i].key << " values " << walked[i].value / once[i].value);
    CHECK(walked[i].key <= 1.2 * once[i].key);
    CHECK(walked[i].value <= 1.2 * once[i].value);
  }
}

TEST_CASE("Demotion down the whole ladder costs at most 1.2 times the error of coding once, in every tier") {
  for (const int32_t head_dim : kHeadDims) {
    for (const double decay : {1.0, 0.7, 0.4}) {
      const Head head(head_dim, decay);
      CheckLadder(head, {Tier::kT4, Tier::kT3, Tier::kT2}, 6);
      CheckLadder(head, {Tier::kT3, Tier::kT2}, 7);
      CheckLadder(head, {Tier::kT4, Tier::kT2}, 8);
      CheckLadder(head, {Tier::kT2, Tier::kT1}, 9);
    }
  }
  for (const double most : {0.3, 0.8}) {
    Head shaped(64, 0.5);
    Rng random(12);
    DrawShaping(shaped, random, most);
    CheckLadder(shaped, {Tier::kT4, Tier::kT3, Tier::kT2}, 13);
    CheckLadder(shaped, {Tier::kT4}, 14);
  }
  CheckLadder(Head(64, 1.0), {Tier::kT4, Tier::kT3, Tier::kT2, Tier::kT1}, 10);
  CheckLadder(Head(128, 0.9), {Tier::kT4, Tier::kT3, Tier::kT2, Tier::kT1}, 11);
}

TEST_CASE("Demotion to the same tier moves a token without changing it") {
  Rng random(12);
  for (const int32_t head_dim : kHeadDims) {
    Head head(head_dim);
    head.DrawWidths(random);
    for (const Tier tier : kTiers) {
      const int32_t n = TokensPerPage(tier, head_dim);
      std::vector<uint8_t> from = RandomPage(head_dim, random), to = RandomPage(head_dim, random);
      const std::vector<float> z = Normal(head_dim, random), v = Normal(head_dim, random);
      Reference().encode(head.geometry, tier, z.data(), v.data(), 1, n - 1, from.data(), nullptr);
      Reference().demote(head.geometry, tier, from.data(), n - 1, 1, tier, to.data(), 1);
      CHECK(TokenAt(head, tier, to, 1) == TokenAt(head, tier, from, n - 1));
    }
  }
}

TEST_CASE("Every implementation demotes to the bits of the reference, between all tiers and slots, under any widths") {
  Rng random(13);
  for (const int32_t head_dim : kHeadDims) {
    for (int32_t trial = 0; trial < 4; ++trial) {
      Head head(head_dim);
      if (trial > 0) head.DrawWidths(random);
      if (trial > 1) DrawShaping(head, random, trial == 2 ? 0.7 : 20);
      for (const Tier from : kTiers) {
        const int32_t n = TokensPerPage(from, head_dim);
        std::vector<uint8_t> page = RandomPage(head_dim, random);
        const std::vector<float> z = Vectors(n, head_dim, random), v = Vectors(n, head_dim, random);
        Reference().encode(head.geometry, from, z.data(), v.data(), n, 0, page.data(), nullptr);
        for (const Tier to : kTiers) {
          if (to < from) continue;
          for (int32_t i = 0; i < 24; ++i) {
            const int32_t from_slot = static_cast<int32_t>(random() % n);
            const int32_t to_slot = static_cast<int32_t>(random() % TokensPerPage(to, head_dim));
            const std::vector<uint8_t> before = RandomPage(head_dim, random);
            std::vector<uint8_t> want = before;
            Reference().demote(head.geometry, from, page.data(), from_slot, 1, to, want.data(), to_slot);
            for (const CodecImpl& impl : Others()) {
              std::vector<uint8_t> got = before;
              impl.demote(head.geometry, from, page.data(), from_slot, 1, to, got.data(), to_slot);
              INFO(impl.name << " D " << head_dim << " from tier " << static_cast<int32_t>(from) << " to " << static_cast<int32_t>(to));
              CHECK(got == want);
            }
          }
        }
      }
    }
  }
}

// Every token of it coded, under a geometry drawn for the head.
std::vector<uint8_t> FullPage(Head& head, Tier tier, Rng& random) {
  const int32_t head_dim = head.geometry.head_dim, n = TokensPerPage(tier, head_dim);
  if (head_dim != 64) head.DrawWidths(random);
  if (head_dim != 80) DrawShaping(head, random, 0.7);
  std::vector<uint8_t> page = RandomPage(head_dim, random);
  const std::vector<float> z = Vectors(n, head_dim, random), v = Vectors(n, head_dim, random);
  Reference().encode(head.geometry, tier, z.data(), v.data(), n, 0, page.data(), nullptr);
  return page;
}

TEST_CASE("A run of tokens demotes as its tokens do one by one, wherever it begins and ends") {
  Rng random(17);
  for (const int32_t head_dim : kHeadDims) {
    for (const Tier from : kTiers) {
      Head head(head_dim);
      const std::vector<uint8_t> page = FullPage(head, from, random);
      const int32_t n = TokensPerPage(from, head_dim);
      for (const Tier to : kTiers) {
        if (to < from) continue;
        for (int32_t i = 0; i < 8; ++i) {
          const int32_t room = std::min(n, TokensPerPage(to, head_dim));
          const int32_t rows = i < 2 ? std::min(room, 16 << i) : 1 + static_cast<int32_t>(random() % room);
          int32_t from_slot = static_cast<int32_t>(random() % (n - rows + 1));
          int32_t to_slot = static_cast<int32_t>(random() % (TokensPerPage(to, head_dim) - rows + 1));
          if (i < 3) from_slot -= from_slot % 16, to_slot -= to_slot % 16;
          const std::vector<uint8_t> before = RandomPage(head_dim, random);
          std::vector<uint8_t> want = before;
          for (int32_t r = 0; r < rows; ++r) {
            Reference().demote(head.geometry, from, page.data(), from_slot + r, 1, to, want.data(), to_slot + r);
          }
          for (const CodecImpl& impl : CodecImpls()) {
            if (!impl.supported()) continue;
            std::vector<uint8_t> got = before;
            impl.demote(head.geometry, from, page.data(), from_slot, rows, to, got.data(), to_slot);
            INFO(impl.name << " D " << head_dim << " from tier " << static_cast<int32_t>(from) << " slot " << from_slot << " to "
                           << static_cast<int32_t>(to) << " slot " << to_slot << " rows " << rows);
            CHECK(got == want);
          }
        }
      }
    }
  }
}

TEST_CASE("Any tokens of a tile demote as they do one by one, and close up to the front of their own page") {
  Rng random(18);
  for (const int32_t head_dim : kHeadDims) {
    for (const Tier from : kTiers) {
      Head head(head_dim);
      const std::vector<uint8_t> page = FullPage(head, from, random);
      const int32_t n = TokensPerPage(from, head_dim);
      for (const Tier to : kTiers) {
        for (int32_t i = 0; to >= from && i < 12; ++i) {
          const int32_t tile = static_cast<int32_t>(random() % (n / 16));
          const uint32_t some = static_cast<uint32_t>(random() & random() & 0xffff) | (i % 2 == 0 ? 0x4410u : 0);
          const uint32_t which = i == 0 ? 0 : i == 1 ? 0xffff : some;
          const int32_t count = std::popcount(which);
          // Into its own page: to the front, by as much as it likes.
          const bool same_page = to == from && i % 3 == 0;
          const int32_t most = same_page ? 16 * tile : TokensPerPage(to, head_dim) - count;
          const int32_t to_slot = static_cast<int32_t>(random() % (most + 1));
          const std::vector<uint8_t> before = same_page ? page : RandomPage(head_dim, random);
          std::vector<uint8_t> want = before;
          int32_t slot = to_slot;
          for (int32_t bit = 0; bit < 16; ++bit) {
            if ((which >> bit & 1) == 0) continue;
            Reference().demote(head.geometry, from, page.data(), 16 * tile + bit, 1, to, want.data(), slot++);
          }
          for (const CodecImpl& impl : CodecImpls()) {
            if (!impl.supported()) continue;
            std::vector<uint8_t> got = before;
            impl.demote_those(head.geometry, from, same_page ? got.data() : page.data(), tile, which, to, got.data(), to_slot);
            INFO(impl.name << " D " << head_dim << " from tier " << static_cast<int32_t>(from) << " tile " << tile << " tokens " << which
                           << " to " << static_cast<int32_t>(to) << " slot " << to_slot << (same_page ? " of its own page" : ""));
            CHECK(got == want);
          }
        }
      }
    }
  }
}

TEST_CASE("Ladders of coded tokens are those of what their pages say, to a step, and the same in every implementation") {
  Rng random(19);
  for (const int32_t head_dim : kHeadDims) {
    Head head(head_dim);
    head.DrawWidths(random);
    float bytes[kRungs];
    RungBytes(head_dim, bytes);
    const float scale = 1 / std::sqrt(static_cast<float>(head_dim));
    const CodedLosses losses = CodedLossesOf(head.geometry, scale);
    for (int32_t t = 0; t < kLadderTiers; ++t) {
      const Tier tier = static_cast<Tier>(t);
      const TierLayout layout = LayoutOf(tier, head_dim);
      std::vector<uint8_t> page = RandomPage(head_dim, random);
      for (int32_t slot = 0; slot < layout.tokens; ++slot) {  // radii from nothing to all that f16 has
        const uint16_t radius = static_cast<uint16_t>(random() % 0x7c00);
        std::memcpy(page.data() + layout.key_radii + 2 * slot, &radius, sizeof radius);
      }
      for (int32_t tile = 0; tile < layout.tokens / kTokenTile; ++tile) {
        TileSteps want;
        Reference().ladders(losses, head_dim, tier, page.data(), tile, want);
        for (int32_t i = 0; i < kTokenTile; ++i) {
          const int32_t slot = tile * kTokenTile + i;
          uint16_t half;
          std::memcpy(&half, page.data() + layout.key_radii + 2 * slot, sizeof half);
          const double radius = F16ToF32(half), drop = UtilityOf(page[layout.utilities + slot]);
          float distortion[kRungs];
          for (int32_t r = 0; r < kLadderTiers; ++r) {
            const Tier rung = static_cast<Tier>(r);
            const double of_key = std::min(2.0, scale * scale * radius * radius * KeyLoss(head.geometry, rung));
            distortion[r] = static_cast<float>(drop / 2 * (of_key + ExpectedError(ValueWidth(rung))));
          }
          distortion[kLadderTiers] = static_cast<float>(drop);
          const LadderSteps steps = LadderOf(distortion, bytes);
          for (int32_t r = 0; r < kLadderTiers; ++r) CHECK(std::abs(steps.leaves[r] - want.leaves[r][i]) <= 1);
        }
        for (const CodecImpl& impl : Others()) {
          TileSteps got;
          impl.ladders(losses, head_dim, tier, page.data(), tile, got);
          INFO(impl.name << " D " << head_dim << " tier " << t << " tile " << tile);
          CHECK(std::memcmp(&got, &want, sizeof got) == 0);
        }
      }
    }
  }
}

TEST_CASE("A heavy-tailed T8 token, whose radius was raised, demotes as well as it is coded") {
  Rng random(14);
  const Head head(128, 1.0);
  Errors walked, once;
  for (int32_t trial = 0; trial < 500; ++trial) {
    std::vector<float> x = Normal(128, random);
    x[trial % 128] = 30;
    std::vector<uint8_t> page(PageBytes(128)), lower(PageBytes(128));
    Reference().encode(head.geometry, Tier::kT8, x.data(), x.data(), 1, 0, page.data(), nullptr);
    Reference().demote(head.geometry, Tier::kT8, page.data(), 0, 1, Tier::kT4, lower.data(), 0);
    Reference().encode(head.geometry, Tier::kT4, x.data(), x.data(), 1, 0, page.data(), nullptr);
    const Errors a = MeasuredErrors(head, Tier::kT4, lower, x.data(), x.data(), 0);
    const Errors b = MeasuredErrors(head, Tier::kT4, page, x.data(), x.data(), 0);
    walked.key += a.key, walked.value += a.value, once.key += b.key, once.value += b.value;
  }
  CHECK(walked.key <= 1.2 * once.key);
  CHECK(walked.value <= 1.2 * once.value);
}

}  // namespace
}  // namespace spherical::kernels
