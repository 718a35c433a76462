// Refreshed utilities against their definition in double: logits from the codes, one by one; bytes may differ where rounding decides.
#include "kernels/cuda/utility_refresh.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/base/float16.h"
#include "kernels/spherical/code_planes.h"
#include "kernels/spherical/ladder.h"
#include "kernels/spherical/page_layout.h"
#include "kernels/spherical/query_geometry.h"
#include "tests/kernels/cuda/device_arrays.h"
#include "tests/skip.h"

namespace spherical::kernels::cuda {
namespace {

constexpr int32_t kKvHeads = 2, kRows = 3, kPages = 200, kStates = 3;  // states of a head: of others, of nobody, of others
constexpr float kUnit = 0.01f;

// A (row, kv head) and its T8 tokens; item of no two the same.
struct Asked {
  int32_t row, kv_head, tokens, gone, position;
};
constexpr Asked kAsked[] = {{0, 1, 1500, 37, 1600}, {2, 0, 40, 0, 77}, {1, 1, 1024, 0, 2048}, {2, 1, 1025, 1024, 4000}};

class Scene {
 public:
  Scene(int32_t head_dim, int32_t group, float softcap)
      : d_(head_dim), group_(group), layout_(LayoutOf(Tier::kT8, head_dim)), random_(static_cast<uint32_t>(head_dim + group)) {
    shape = {.head_dim = d_, .group = group, .scale = 1 / std::sqrt(static_cast<float>(d_)), .softcap = softcap,
             .page_bytes = PageBytes(d_)};
    maps = Normal(kKvHeads * d_ * d_, 1 / std::sqrt(static_cast<float>(d_)));
    centres = Normal(kKvHeads * d_, 0.5f);
    query = Normal(kRows * kKvHeads * group * d_, 3);
    arena.resize(static_cast<size_t>(kPages * shape.page_bytes));
    for (uint8_t& byte : arena) byte = static_cast<uint8_t>(random_());
    state_max.assign(static_cast<size_t>(kRows * kKvHeads * kStates * group), -std::numeric_limits<float>::infinity());
    state_sum.assign(state_max.size(), 0);
    for (int32_t head = 0; head < kRows * kKvHeads; ++head) head_states.push_back({.first = kStates * head, .count = kStates});
    PageId next = 0;
    for (const Asked& asked : kAsked) {
      first_page.push_back(static_cast<int32_t>(pages.size()));
      for (int32_t t = 0; t < asked.tokens; t += layout_.tokens) {
        pages.push_back(next++ * 7 % kPages);
        for (int32_t slot = 0; slot < layout_.tokens; ++slot) FillSlot(&arena[static_cast<size_t>(pages.back() * shape.page_bytes)], slot);
      }
    }
    wanted = arena;
    for (size_t i = 0; i < std::size(kAsked); ++i) Refresh(kAsked[i], first_page[i]);
  }

  AttentionShape shape;
  std::vector<float> maps, centres, query, state_max, state_sum;
  std::vector<AdaHeadStates> head_states;
  std::vector<uint8_t> arena, wanted;  // before, and as it shall be
  std::vector<PageId> pages;
  std::vector<int32_t> first_page;     // of each that is asked

 private:
  std::vector<float> Normal(int32_t count, float scale) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> x(static_cast<size_t>(count));
    for (float& value : x) value = normal(random_);
    return x;
  }
  void FillSlot(uint8_t* page, int32_t slot) {
    std::uniform_real_distribution<float> radius(0.3f, 1.5f);
    const uint16_t key = F32ToF16(radius(random_)), value = F32ToF16(radius(random_));
    std::memcpy(page + layout_.key_radii + 2 * slot, &key, sizeof(key));
    std::memcpy(page + layout_.value_radii + 2 * slot, &value, sizeof(value));
    if (random_() % 4 == 0) page[layout_.utilities + slot] = 0;  // nobody has looked at it yet
  }
  static float HalfAt(const uint8_t* at) {
    uint16_t half;
    std::memcpy(&half, at, sizeof(half));
    return F16ToF32(half);
  }

  double Logit(const std::vector<double>& mapped, double centre, const uint8_t* page, int32_t slot) const {
    double sum = 0;
    for (int32_t i = 0; i < d_; ++i) {
      const uint8_t* block = page + slot / kTokenTile * layout_.key_tile + i / kGroup * 32 * 8;
      sum += mapped[static_cast<size_t>(i)] * (static_cast<double>(ReadCode(block, 8, slot % kTokenTile, i % kGroup)) - 127.5);
    }
    const double logit = shape.scale * (sum * kReadStep[8] * HalfAt(page + layout_.key_radii + 2 * slot) + centre);
    return shape.softcap > 0 ? shape.softcap * std::tanh(logit / shape.softcap) : logit;
  }

  // Sums of p^2 over the group, and the states that attention would have left, tokens of lower tiers among them.
  std::vector<double> Squares(const Asked& asked, int32_t first) {
    std::vector<double> squares(static_cast<size_t>(asked.tokens));
    for (int32_t g = 0; g < group_; ++g) {
      const int32_t at = (asked.row * kKvHeads + asked.kv_head) * group_ + g;
      std::vector<double> mapped(static_cast<size_t>(d_)), logits;
      double centre = 0;
      for (int32_t i = 0; i < d_; ++i) {
        const double q = query[static_cast<size_t>(at * d_ + i)];
        centre += centres[static_cast<size_t>(asked.kv_head * d_ + i)] * q;
        for (int32_t j = 0; j < d_; ++j) mapped[static_cast<size_t>(j)] += maps[static_cast<size_t>((asked.kv_head * d_ + i) * d_ + j)] * q;
      }
      for (int32_t t = 0; t < asked.tokens; ++t) logits.push_back(Logit(mapped, centre, PageOf(first, t), t % layout_.tokens));
      const double top = *std::ranges::max_element(logits);
      double total = 0;
      for (int32_t t = asked.gone; t < asked.tokens; ++t) total += std::exp(logits[static_cast<size_t>(t)] - top);
      total *= 1.7;  // the others'
      const size_t state = static_cast<size_t>((asked.row * kKvHeads + asked.kv_head) * kStates * group_ + g);
      const size_t last = state + static_cast<size_t>(2 * group_);
      state_max[state] = static_cast<float>(top - 2);
      state_sum[state] = static_cast<float>(total / 4 * std::exp(2));
      state_max[last] = static_cast<float>(top + 1);
      state_sum[last] = static_cast<float>(total * 3 / 4 * std::exp(-1));
      for (int32_t t = asked.gone; t < asked.tokens; ++t) {
        const double p = std::exp(logits[static_cast<size_t>(t)] - top) / total;
        if (p > std::exp(-9)) squares[static_cast<size_t>(t)] += p * p;
      }
    }
    return squares;
  }
  const uint8_t* PageOf(int32_t first, int32_t t) const {
    return &arena[static_cast<size_t>(pages[static_cast<size_t>(first + t / layout_.tokens)] * shape.page_bytes)];
  }

  void Refresh(const Asked& asked, int32_t first) {
    const std::vector<double> squares = Squares(asked, first);
    for (int32_t t = 0; t < asked.tokens; ++t) {
      const int32_t slot = t % layout_.tokens;
      uint8_t* const page = wanted.data() + (PageOf(first, t) - arena.data());
      const float radius = HalfAt(page + layout_.value_radii + 2 * slot);
      const float seen = static_cast<float>(squares[static_cast<size_t>(t)]) * radius * radius * kUnit * 2.1f;
      uint8_t& utility = page[layout_.utilities + slot];
      const float by = utility == 0 ? 1.0f : 1.0f / static_cast<float>(std::min((asked.tokens - t) / 16 + 1, 32));
      const uint32_t draw = (static_cast<uint32_t>(asked.position) * 0x9e3779b9u + static_cast<uint32_t>(t * 31)) * 0x85ebca6bu;
      utility = DitheredUtilityByteOf(UtilityOf(utility) + by * (seen - UtilityOf(utility)), draw ^ (draw >> 13));
    }
  }

  const int32_t d_, group_;
  const TierLayout layout_;
  std::mt19937 random_;
};

void CheckRefresh(int32_t head_dim, int32_t group, float softcap) {
  CAPTURE(head_dim, group, softcap);
  const Scene scene(head_dim, group, softcap);
  const Device device;
  const DeviceArray<float> maps(device, scene.maps), centres(device, scene.centres), query(device, scene.query),
      state_max(device, scene.state_max), state_sum(device, scene.state_sum);
  const DeviceArray<AdaHeadStates> head_states(device, scene.head_states);
  const DeviceArray<uint8_t> arena(device, scene.arena);
  const DeviceArray<PageId> pages(device, scene.pages);
  RefreshWork work;
  std::vector<RefreshItem> items;
  for (size_t i = 0; i < std::size(kAsked); ++i) {
    const Asked& asked = kAsked[i];
    items.push_back({.first_chunk = work.chunks, .row = asked.row, .kv_head = asked.kv_head, .position = asked.position,
                     .pages = pages.data() + scene.first_page[i], .tokens = asked.tokens, .gone = asked.gone, .unit = kUnit});
    work.chunks += RefreshChunks(asked.tokens);
    ++work.items;
  }
  const DeviceArray<RefreshItem> on_device(device, items);
  const DeviceArray<RefreshWork> all(device, std::vector<RefreshWork>{work}), nothing(device, std::vector<RefreshWork>{RefreshWork{}});
  const AdaHeads heads = {.maps = maps.data(), .centres = centres.data()};
  const RefreshBatch batch = {.shape = scene.shape,
                              .kv_heads = kKvHeads,
                              .query = query.data(),
                              .head_states = head_states.data(),
                              .states = {.max = state_max.data(), .sum = state_sum.data(), .output = nullptr},
                              .arena = arena.data(),
                              .step = kReadStep[8]};
  Require(RefreshUtilities(device.stream(), heads, batch, nothing.data(), on_device.data()));
  CHECK(arena.Fetch() == scene.arena);
  Require(RefreshUtilities(device.stream(), heads, batch, all.data(), on_device.data()));
  const std::vector<uint8_t> got = arena.Fetch();
  int32_t worst = 0, apart = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    worst = std::max(worst, std::abs(got[i] - scene.wanted[i]));
    apart += got[i] != scene.wanted[i];
  }
  CHECK(worst <= 1);
  CHECK(apart <= 8);
}

TEST_CASE("Refreshed utilities on the device follow what a row paid attention to, for several rows and heads together") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
    for (const int32_t group : {1, 4, 6, 16}) CheckRefresh(head_dim, group, group == 6 ? 20.0f : 0.0f);
  }
}

}  // namespace
}  // namespace spherical::kernels::cuda
