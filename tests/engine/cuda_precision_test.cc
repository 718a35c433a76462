// Measuring, sealing and repricing on the device against the CPU's, on the same pages. Without a device the cases are skipped and say so.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/kv/head_notes.h"
#include "engine/kv/retier.h"
#include "engine/step/cuda_geometry.h"
#include "engine/step/cuda_rates.h"
#include "engine/step/cuda_retier.h"
#include "engine/step/measure_run.h"
#include "engine/step/retier_run.h"
#include "kernels/attention/exact_attention.h"
#include "kernels/base/float16.h"
#include "kernels/cuda/device_probe.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/spherical/codec.h"
#include "tests/engine/skewed_geometry.h"
#include "tests/skip.h"

namespace spherical::engine {
namespace {

using kernels::kLadderTiers;
using kernels::Tier;
using kernels::cuda::CudaStatus;

constexpr int32_t kHeads = 3, kPages = 1200, kContext = 4096;

void Require(CudaStatus status) {
  INFO(kernels::cuda::TextOf(status));
  REQUIRE(status == CudaStatus::kOk);
}

// Heads of one layer, with pages on the host and the same on the device.
class Room {
 public:
  Room(int32_t head_dim, int32_t window) : random_(static_cast<uint32_t>(head_dim + window)) {
    spec.layers = 1;
    spec.kv_heads = kHeads;
    spec.heads = 2 * kHeads;
    spec.head_dim = head_dim;
    spec.attention_scale = 1 / std::sqrt(static_cast<float>(head_dim));
    if (window > 0) spec.windows = {window};
    geometry = SkewedGeometry(spec);
    exact.resize(int64_t{kPages} * kernels::ExactBytesUsed(head_dim), 0xff);
    coded.resize(int64_t{kPages} * kernels::PageBytes(head_dim), 0xff);
    Require(kernels::cuda::UseDevice(0));
    Require(stream.Create());
    Require(device_exact.Allocate(static_cast<int64_t>(exact.size())));
    Require(device_coded.Allocate(static_cast<int64_t>(coded.size())));
    Require(on_device.Create(stream.get(), spec, geometry));
    rates.emplace(spec, threads, stream.get());
    retier.emplace(spec, threads, stream.get());
    Require(rates->Create(2, kContext, device_arenas(), weights, on_device.keys(), on_device.losses()));
    Require(retier->Create(kContext, device_arenas(), on_device.keys(), on_device.losses()));
    for (HeadPages& head : heads) head.window = window;
  }

  KvArenas arenas() { return ArenasOf(exact.data(), coded.data()); }
  KvArenas device_arenas() { return ArenasOf(device_exact.data(), device_coded.data()); }
  MeasureContext context() const { return {.geometry = geometry, .spec = spec, .value_weights = weights}; }

  void ToDevice() {
    Require(kernels::cuda::CopyToDevice(stream.get(), device_exact.data(), exact.data(), device_exact.bytes()));
    Require(kernels::cuda::CopyToDevice(stream.get(), device_coded.data(), coded.data(), device_coded.bytes()));
    Require(kernels::cuda::Synchronize(stream.get()));
  }
  std::vector<uint8_t> FromDevice(const kernels::cuda::DeviceMemory& memory) {
    std::vector<uint8_t> bytes(static_cast<size_t>(memory.bytes()));
    Require(kernels::cuda::CopyToHost(stream.get(), bytes.data(), memory.data(), memory.bytes()));
    Require(kernels::cuda::Synchronize(stream.get()));
    return bytes;
  }

  std::vector<float> Normal(int32_t count, float scale) {
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<size_t>(count));
    for (float& value : x) value = scale * normal(random_);
    return x;
  }
  void FillExact(HeadPages& head, int32_t tokens, int32_t samples) {
    const int32_t d = spec.head_dim;
    const std::vector<float> common = Normal(d, 1);  // what all values have, so that drops add up
    for (int32_t t = 0; t < tokens; ++t) {
      if (t % kernels::kExactTokensPerPage == 0) head.exact.push_back(next_exact++);
      const std::vector<float> key = Normal(d, 1);
      std::vector<float> value = Normal(d, 1);
      for (size_t i = 0; i < value.size(); ++i) value[i] += t < kSinkTokens ? 0 : common[i];
      kernels::BestExactAttention().append(d, key.data(), value.data(), t % kernels::kExactTokensPerPage,
                                           exact.data() + head.exact.back() * kernels::ExactBytesUsed(d));
    }
    const int32_t vectors = samples * 2;
    for (int32_t i = 0; i < SamplePages(samples, 2); ++i) head.samples.push_back(next_exact++);
    for (int32_t q = 0; q < vectors; ++q) {
      const std::vector<float> query = Normal(d, 3);
      uint8_t* const page = exact.data() + head.samples[static_cast<size_t>(q / kSampleVectorsPerPage)] * kernels::ExactBytesUsed(d);
      for (int32_t i = 0; i < d; ++i) {
        const uint16_t half = kernels::F32ToF16(query[static_cast<size_t>(i)]);
        std::memcpy(page + 2 * ((q % kSampleVectorsPerPage) * d + i), &half, sizeof(half));
      }
    }
    for (int32_t i = 0; i < NotePages(tokens, d); ++i) head.notes.push_back(next_exact++);
  }
  void Lend(HeadPages& head, const TierCounts& after) {
    for (int32_t t = 0; t < kernels::kTierCount; ++t) {
      HeadPages::Coded& list = head.tiers[static_cast<size_t>(t)];
      const int32_t page_tokens = kernels::TokensPerPage(static_cast<Tier>(t), spec.head_dim);
      while (static_cast<int64_t>(list.pages.size()) < CeilDiv(after[static_cast<size_t>(t)], page_tokens)) {
        list.pages.push_back(next_coded++ * 7 % kPages);
      }
    }
  }

  TransformerSpec spec;
  ModelGeometry geometry = ModelGeometry::Plain({.layers = 1, .kv_heads = 1, .head_dim = 64});
  ThreadPool threads{2};
  std::vector<float> weights = {0.7f, 1.3f, 0.2f};
  std::vector<uint8_t> exact, coded;
  std::array<HeadPages, kHeads> heads;
  PageId next_exact = 0, next_coded = 0;
  kernels::cuda::OwnStream stream;
  kernels::cuda::DeviceMemory device_exact, device_coded;
  CudaGeometry on_device;
  std::optional<CudaRates> rates;
  std::optional<CudaRetier> retier;

 private:
  KvArenas ArenasOf(uint8_t* e, uint8_t* c) const {
    return {.exact = e, .exact_page_bytes = kernels::ExactBytesUsed(spec.head_dim), .coded = c,
            .coded_page_bytes = kernels::PageBytes(spec.head_dim)};
  }
  std::mt19937 random_;
};

// A token as bytes, wherever it stands: what is in the first slot of an empty page once it was moved there.
std::vector<uint8_t> TokenAt(const Room& room, const std::vector<uint8_t>& coded, const HeadPages& head, int32_t index, Tier tier,
                             int32_t slot) {
  const int32_t d = room.spec.head_dim, page_tokens = kernels::TokensPerPage(tier, d);
  std::vector<uint8_t> bytes(static_cast<size_t>(kernels::PageBytes(d)), 0);
  const PageId page = head.of(tier).pages[static_cast<size_t>(slot / page_tokens)];
  kernels::CodecImpls()[0].demote(room.geometry.key(index), tier, coded.data() + page * kernels::PageBytes(d), slot % page_tokens, 1, tier,
                                  bytes.data(), 0);
  return bytes;
}
void CheckSameTokens(Room& room) {
  const std::vector<uint8_t> got = room.FromDevice(room.device_coded);
  for (int32_t h = 0; h < kHeads; ++h) {
    const HeadPages& head = room.heads[static_cast<size_t>(h)];
    for (int32_t t = 0; t < kernels::kTierCount; ++t) {
      const Tier tier = static_cast<Tier>(t);
      int32_t apart = 0, first = -1;
      for (int32_t slot = 0; slot < head.of(tier).tokens; ++slot) {
        if (TokenAt(room, got, head, h, tier, slot) == TokenAt(room, room.coded, head, h, tier, slot)) continue;
        first = apart++ == 0 ? slot : first;
      }
      CAPTURE(h, t, head.of(tier).tokens, first);
      CHECK(apart == 0);
    }
  }
}

// On the device and on the CPU: every token then stands in the same place. items [kHeads], in their order
void RetierOnBoth(Room& room, std::span<const RetierItem> items) {
  Require(room.retier->Run(items));
  RunRetier(room.geometry, room.spec.attention_scale, room.arenas(), items, room.threads);
  for (int32_t h = 0; h < kHeads; ++h) RecordRetier(items[static_cast<size_t>(h)], room.heads[static_cast<size_t>(h)]);
  CheckSameTokens(room);
}

// Every count of one curve lies between those that the other has a step before and a step after.
void CheckStepApart(const RateCurve& got, const RateCurve& want) {
  CHECK(got.tokens == want.tokens);
  REQUIRE(got.newest.size() == want.newest.size());
  int32_t worst = 0;
  for (size_t i = 0; i < got.newest.size(); ++i) {
    for (int32_t r = 0; r < kLadderTiers; ++r) worst = std::max(worst, std::abs(got.newest[i].leaves[r] - want.newest[i].leaves[r]));
  }
  CHECK(worst <= 1);
  int32_t outside = 0;
  for (size_t r = 0; r < got.below.size(); ++r) {
    for (size_t step = 1; step + 1 < got.below[r].size(); ++step) {
      outside += got.below[r][step] < want.below[r][step - 1] || got.below[r][step] > want.below[r][step + 1];
    }
  }
  CHECK(outside == 0);
}

void CheckHeads(int32_t head_dim, int32_t window, int32_t tokens, int32_t price) {
  CAPTURE(head_dim, window, tokens, price);
  Room room(head_dim, window);
  const int32_t samples = 24, newest = tokens - kNewestTokens;
  std::vector<MeasureItem> questions;
  for (int32_t h = 0; h < kHeads; ++h) {
    HeadPages& head = room.heads[static_cast<size_t>(h)];
    room.FillExact(head, tokens + 3 * h, kSampledPositions);
    questions.push_back({.pages = &head, .head = h, .end = tokens + 3 * h, .newest = newest + 3 * h, .samples = samples,
                         .first_sample = kSampledPositions - 10, .residual = 2.5f});
    if (window > 0) {
      questions.back().sample_stride = 4;
      questions.back().sample_position = tokens + 3 * h - 4 * samples + 2;
    }
  }
  questions[1].samples = window > 0 ? samples : 0;  // nobody to ask
  room.ToDevice();
  std::vector<RateCurve> got(questions.size());
  Require(room.rates->Measure(questions, got));
  const std::vector<uint8_t> device_exact = room.FromDevice(room.device_exact);
  const std::vector<RateCurve> want = RunMeasure(room.context(), room.arenas(), questions, room.threads);
  for (size_t i = 0; i < questions.size(); ++i) {
    CAPTURE(i);
    CheckStepApart(got[i], want[i]);
    int32_t worst = 0, worst_utility = 0;
    for (int32_t t = 0; t < questions[i].end; ++t) {
      const int64_t page = room.heads[i].notes[static_cast<size_t>(t / NotesPerPage(head_dim))] * kernels::ExactBytesUsed(head_dim);
      const NotesPage mine(const_cast<uint8_t*>(device_exact.data()) + page, head_dim), its(room.exact.data() + page, head_dim);
      const int32_t slot = t % NotesPerPage(head_dim);
      for (int32_t r = 0; r < kLadderTiers; ++r) {
        worst = std::max(worst, std::abs(mine.StepsOf(slot).leaves[r] - its.StepsOf(slot).leaves[r]));
      }
      worst_utility = std::max(worst_utility, std::abs(mine.UtilityOf(slot) - its.UtilityOf(slot)));
    }
    CHECK(worst <= 1);
    CHECK(worst_utility <= 1);
  }

  // From here on both have the CPU's notes, and everything is the same to the bit.
  room.ToDevice();
  std::vector<RetierItem> seals;
  for (int32_t h = 0; h < kHeads; ++h) {
    HeadPages& head = room.heads[static_cast<size_t>(h)];
    const RateCurve& curve = want[static_cast<size_t>(h)];
    RetierItem item = {.pages = &head, .head = h, .end = questions[static_cast<size_t>(h)].end,
                       .newest = questions[static_cast<size_t>(h)].newest, .last = true, .priced = true, .keeps_all = h == 2,
                       .noted = questions[static_cast<size_t>(h)].end - 5, .price = price, .rungs = curve.CountsAt(price)};
    if (item.keeps_all) item.rungs[kLadderTiers - 1] += std::exchange(item.rungs[kLadderTiers], 0);
    room.Lend(head, CountsAfter(item));
    seals.push_back(item);
  }
  RetierOnBoth(room, seals);
  if (window == 0) CHECK(room.FromDevice(room.device_coded) == room.coded);

  for (const int32_t more : {10, 25, 60}) {
    CAPTURE(more);
    std::vector<MeasureItem> coded;
    for (int32_t h = 0; h < kHeads; ++h) {
      HeadPages& head = room.heads[static_cast<size_t>(h)];
      // Some of the newest are new no more; of one head those alone are asked about.
      head.settled = std::min(head.settled + 16, std::max(0, head.of(Tier::kT8).tokens - head.sinks()));
      coded.push_back({.kind = h == 1 ? MeasureItem::Kind::kWhole : MeasureItem::Kind::kCoded, .pages = &head, .head = h});
    }
    Require(room.rates->Measure(coded, got = std::vector<RateCurve>(coded.size())));
    const std::vector<RateCurve> curves = RunMeasure(room.context(), room.arenas(), coded, room.threads);
    std::vector<RetierItem> reprices;
    for (int32_t h = 0; h < kHeads; ++h) {
      const size_t at = static_cast<size_t>(h);
      CAPTURE(h);
      CHECK(got[at].tokens == curves[at].tokens);
      CHECK(got[at].below == curves[at].below);
      HeadPages& head = room.heads[at];
      RetierItem item = {.kind = RetierItem::Kind::kReprice, .pages = &head, .head = h, .priced = true, .price = price + more,
                         .rungs = curves[at].CountsAt(price + more), .whole_only = h == 1};
      if (item.whole_only) item.rungs = SettledRungs(item.rungs, head);
      AssignLists(item, head_dim, [&] { return room.next_coded++ * 7 % kPages; });
      reprices.push_back(std::move(item));
    }
    RetierOnBoth(room, reprices);
  }
}

TEST_CASE("the device measures heads as the CPU does, and seals and reprices them to the same bits") {
  if (const std::string why = kernels::ProbeCudaDevices().why_none; !why.empty()) SPH_SKIP(why.c_str());
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
    CheckHeads(head_dim, 0, 333, 300);
    CheckHeads(head_dim, 0, 1300, 330);
  }
  for (const int32_t head_dim : {64, 256}) CheckHeads(head_dim, 150, 333, 300);
}

// Heads that hold T8 alone, so many that old ones fill holes and the newest move up; settled again and again at rising prices.
void CheckSettling(int32_t head_dim, std::array<int32_t, kHeads> tokens) {
  CAPTURE(head_dim, tokens[0], tokens[1], tokens[2]);
  Room room(head_dim, 0);
  std::mt19937 random(static_cast<uint32_t>(head_dim));
  for (int32_t h = 0; h < kHeads; ++h) {
    HeadPages& head = room.heads[static_cast<size_t>(h)];
    const int32_t count = tokens[static_cast<size_t>(h)];
    room.FillExact(head, count, 0);
    const RetierItem seal = {.pages = &head, .head = h, .tier = Tier::kT8, .end = count, .newest = count - kNewestTokens, .last = true};
    room.Lend(head, CountsAfter(seal));
    RunRetier(room.geometry, room.spec.attention_scale, room.arenas(), std::span(&seal, 1), room.threads);
    RecordRetier(seal, head);
    const kernels::TierLayout layout = kernels::LayoutOf(Tier::kT8, head_dim);
    for (int32_t slot = 0; slot < count; ++slot) {
      const PageId page = head.of(Tier::kT8).pages[static_cast<size_t>(slot / layout.tokens)];
      room.coded[static_cast<size_t>(page * kernels::PageBytes(head_dim) + layout.utilities + slot % layout.tokens)] =
          static_cast<uint8_t>(60 + random() % 120);
    }
    head.settled = count - kSinkTokens - kNewestTokens;
  }
  room.ToDevice();
  int32_t left_all = 0;
  for (const int32_t price : {0, 130, 180, 230, 240, 300}) {
    CAPTURE(price);
    std::vector<MeasureItem> questions;
    for (int32_t h = 0; h < kHeads; ++h) {
      questions.push_back({.kind = MeasureItem::Kind::kWhole, .pages = &room.heads[static_cast<size_t>(h)], .head = h});
    }
    const std::vector<RateCurve> curves = RunMeasure(room.context(), room.arenas(), questions, room.threads);
    std::vector<RateCurve> got(questions.size());
    Require(room.rates->Measure(questions, got));
    std::vector<RetierItem> items;
    for (int32_t h = 0; h < kHeads; ++h) {
      const size_t at = static_cast<size_t>(h);
      CAPTURE(h);
      CHECK(got[at].tokens == curves[at].tokens);
      CHECK(got[at].below == curves[at].below);
      HeadPages& head = room.heads[at];
      RetierItem item = {.kind = RetierItem::Kind::kReprice, .pages = &head, .head = h, .priced = true, .price = price,
                         .rungs = SettledRungs(curves[at].CountsAt(price), head), .whole_only = true};
      left_all += head.settled - item.rungs[0];
      AssignLists(item, head_dim, [&] { return room.next_coded++ * 7 % kPages; });
      items.push_back(std::move(item));
    }
    RetierOnBoth(room, items);
  }
  CHECK(left_all > tokens[0] / 2);
  CHECK(room.heads[0].of(Tier::kT3).tokens > 0);
}

TEST_CASE("settled tokens leave T8 on the device as on the CPU, to the bit and to the slot") {
  if (const std::string why = kernels::ProbeCudaDevices().why_none; !why.empty()) SPH_SKIP(why.c_str());
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) CheckSettling(head_dim, {1500, 611, 90});
  CheckSettling(128, {4000, 544 + 68, 70});
}

TEST_CASE("a few settled tokens leave T8", "[sanitizer]") {
  if (const std::string why = kernels::ProbeCudaDevices().why_none; !why.empty()) SPH_SKIP(why.c_str());
  CheckSettling(64, {700, 90, 70});
}

}  // namespace
}  // namespace spherical::engine
