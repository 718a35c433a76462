// What the codec costs on the device, for the heads of an 8B Llama: 32 layers of 8 kv heads, head dim 128, every head with a map and a
// shaping of its own.
//
//   bazel build --config=opt --config=cuda //tests/bench/gpu:codec_bench
//
// Prints, each the median of repetitions of a launch and the wait for it:
//   encode   exact pages to codes, 4,096 tokens of every head: microseconds a token (all heads), GB/s of exact pages
//   weigh    what the four tiers would lose, nothing written: microseconds a token
//   append   the newest token of every head of so many sequences, raw keys and values in f32, into T8 pages: microseconds a step
//   demote   whole pages: GB/s of the bytes that it takes in
//   ladders  nanoseconds a token of a head
//   sample   1,024 queries (256 positions of 4 heads) of every head about its 4,096 exact tokens: microseconds a token of all heads
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cuda/codec.h"
#include "kernels/cuda/exact_sample.h"
#include "tests/bench/median.h"

namespace spherical::kernels::cuda {
namespace {

constexpr int32_t kHeadDim = 128, kHeads = 32 * 8, kTokens = 4096, kRepetitions = 9;
constexpr const char* kTierNames[] = {"T8", "T4", "T3", "T2", "T1"};

void Check(CudaStatus status) {
  if (status == CudaStatus::kOk) return;
  std::fprintf(stderr, "codec_bench: %s\n", TextOf(status));
  std::exit(1);
}

class Bench {
 public:
  Bench() {
    Check(UseDevice(0));
    Check(stream_.Create());
    MakeGeometries();
    const int64_t exact_pages = int64_t{kHeads} * kTokens / kTokenTile;
    exact_ = Room(exact_pages * PageBytes(kHeadDim));
    // All pages alike but for nothing that costs time: one is drawn, then copied.
    std::vector<uint16_t> page(PageBytes(kHeadDim) / 2);
    for (uint16_t& half : page) half = static_cast<uint16_t>((random_() & 0x8fff) | 0x3000);  // +-[0.125, 2)
    Check(CopyToDevice(stream_.get(), exact_, page.data(), PageBytes(kHeadDim)));
    for (int64_t done = 1; done < exact_pages; done *= 2) {
      Check(CopyOnDevice(stream_.get(), exact_ + done * PageBytes(kHeadDim), exact_,
                         std::min(done, exact_pages - done) * PageBytes(kHeadDim)));
    }
    for (int32_t t = 0; t < 4; ++t) coded_[t] = Room(CodedPages(static_cast<Tier>(t)) * PageBytes(kHeadDim));
  }

  void Run() {
    for (int32_t t = 0; t < 4; ++t) Encode(static_cast<Tier>(t));
    Weigh();
    for (const int32_t sequences : {1, 8, 16, 32, 128}) Append(sequences);
    Demote(Tier::kT8, Tier::kT8);
    Demote(Tier::kT8, Tier::kT4);
    Demote(Tier::kT4, Tier::kT3);
    Demote(Tier::kT3, Tier::kT2);
    Ladders();
    Sample();
  }

 private:
  static int64_t CodedPages(Tier tier) {  // of all heads; a head's are side by side
    return int64_t{kHeads} * ((kTokens + TokensPerPage(tier, kHeadDim) - 1) / TokensPerPage(tier, kHeadDim));
  }
  uint8_t* PageOf(int32_t head, Tier tier, int32_t token) const {
    const int64_t page = head * (CodedPages(tier) / kHeads) + token / TokensPerPage(tier, kHeadDim);
    return coded_[static_cast<int32_t>(tier)] + page * PageBytes(kHeadDim);
  }
  uint8_t* Room(int64_t bytes) {
    memory_.emplace_back();
    Check(memory_.back().Allocate(bytes));
    return memory_.back().data();
  }
  template <class T>
  T* Put(const std::vector<T>& host) {
    const int64_t bytes = static_cast<int64_t>(host.size() * sizeof(T));
    T* const device = reinterpret_cast<T*>(Room(bytes));
    Check(CopyToDevice(stream_.get(), device, host.data(), bytes));
    return device;
  }

  void MakeGeometries() {
    std::normal_distribution<float> normal;
    std::vector<DeviceGeometry> geometries;
    for (int32_t head = 0; head < kHeads; ++head) {
      std::vector<float> map(kHeadDim * kHeadDim), shaping(kHeadDim * kGroup), importance(kHeadDim / kGroup);
      for (float& x : map) x = 0.1f * normal(random_);
      for (int32_t i = 0; i < kHeadDim; ++i) {
        for (int32_t k = 0; k <= i % kGroup; ++k) shaping[i * kGroup + k] = k == i % kGroup ? 1.0f : 0.3f / static_cast<float>(1 + k);
      }
      for (size_t g = 0; g < importance.size(); ++g) importance[g] = 10.0f / static_cast<float>(g + 1);
      DeviceGeometry geometry = {.centre = Put(std::vector<float>(kHeadDim)), .map = Put(map), .importance = Put(importance),
                                 .shaping = Put(shaping), .widths = {}};
      KeyGeometry host = {.head_dim = kHeadDim, .importance = importance.data()};
      for (int32_t t = 0; t < kTierCount; ++t) {
        AllotWidths(importance.data(), kHeadDim / kGroup, KeyWidths(static_cast<Tier>(t), kHeadDim), geometry.widths[t]);
      }
      std::memcpy(host.widths, geometry.widths, sizeof host.widths);
      losses_.push_back(CodedLossesOf(host, 0.09f));
      geometries.push_back(geometry);
    }
    geometries_ = Put(geometries);
  }

  // Seconds of one launch.
  template <class Launch>
  double Seconds(Launch launch) {
    std::vector<double> seconds;
    launch();
    Check(Synchronize(stream_.get()));
    constexpr int32_t kLaunches = 10;
    for (int32_t i = 0; i < kRepetitions; ++i) {
      const auto start = std::chrono::steady_clock::now();
      for (int32_t j = 0; j < kLaunches; ++j) launch();
      Check(Synchronize(stream_.get()));
      seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / kLaunches);
    }
    return Median(seconds);
  }

  void Encode(Tier tier) {
    std::vector<CodedSlot> slots;
    for (int32_t head = 0; head < kHeads; ++head) {
      for (int32_t token = 0; token < kTokens; ++token) {
        slots.push_back({.page = PageOf(head, tier, token), .slot = static_cast<int16_t>(token % TokensPerPage(tier, kHeadDim)),
                         .tier = tier, .utility = 100, .noted = true});
      }
    }
    const CodedSlot* const device_slots = Put(slots);
    std::vector<EncodeItem> items;
    for (int32_t i = 0; i < kHeads * kTokens / kTokenTile; ++i) {
      items.push_back({.head = i / (kTokens / kTokenTile), .rows = kTokenTile, .codings = 1, .source = TokenSource::kExactPage, .first = 0,
                       .keys = exact_ + int64_t{i} * PageBytes(kHeadDim), .values = nullptr, .key_stride = 0, .value_stride = 0,
                       .slots = device_slots + i * kTokenTile, .errors = nullptr});
    }
    const EncodeItem* const device_items = Put(items);
    const double seconds = Seconds([&] {
      Check(cuda::Encode(stream_.get(), kHeadDim, geometries_, device_items, static_cast<int32_t>(items.size())));
    });
    std::printf("encode   %s           %8.3f us a token of all heads  %6.1f M tokens of a head/s  %6.1f GB/s of exact pages\n",
                kTierNames[static_cast<int32_t>(tier)], seconds / kTokens * 1e6, kHeads * 1e-6 * kTokens / seconds,
                1e-9 * kHeads * kTokens * 4 * kHeadDim / seconds);
  }

  void Weigh() {
    std::vector<CodedSlot> slots;
    for (int32_t t = 0; t < 4; ++t) {
      for (int32_t i = 0; i < kTokenTile; ++i) {
        slots.push_back({.page = nullptr, .slot = 0, .tier = static_cast<Tier>(t), .utility = 0, .noted = false});
      }
    }
    const CodedSlot* const device_slots = Put(slots);
    const int64_t codings = int64_t{4} * kHeads * kTokens;
    CodingError* const errors = reinterpret_cast<CodingError*>(Room(codings * static_cast<int64_t>(sizeof(CodingError))));
    std::vector<EncodeItem> items;
    for (int32_t i = 0; i < kHeads * kTokens / kTokenTile; ++i) {
      items.push_back({.head = i / (kTokens / kTokenTile), .rows = kTokenTile, .codings = 4, .source = TokenSource::kExactPage, .first = 0,
                       .keys = exact_ + int64_t{i} * PageBytes(kHeadDim), .values = nullptr, .key_stride = 0, .value_stride = 0,
                       .slots = device_slots, .errors = errors + int64_t{4} * kTokenTile * i});
    }
    const EncodeItem* const device_items = Put(items);
    const double seconds = Seconds([&] {
      Check(cuda::Encode(stream_.get(), kHeadDim, geometries_, device_items, static_cast<int32_t>(items.size())));
    });
    std::printf("weigh    T8 T4 T3 T2  %8.3f us a token of all heads\n", seconds / kTokens * 1e6);
  }

  void Append(int32_t sequences) {
    const float* const raw = reinterpret_cast<const float*>(exact_);  // any floats: these are far from NaN
    std::vector<EncodeItem> items;
    std::vector<CodedSlot> slots;
    for (int32_t head = 0; head < kHeads; ++head) {
      for (int32_t s = 0; s < sequences; ++s) {
        slots.push_back({.page = PageOf(head, Tier::kT8, s * TokensPerPage(Tier::kT8, kHeadDim) % kTokens),
                         .slot = static_cast<int16_t>(s * 7 % TokensPerPage(Tier::kT8, kHeadDim)), .tier = Tier::kT8, .utility = 0,
                         .noted = true});
      }
    }
    const CodedSlot* const device_slots = Put(slots);
    for (int32_t head = 0; head < kHeads; ++head) {
      for (int32_t s = 0; s < sequences; s += kAppendRows) {
        const int64_t row = (int64_t{s} * kHeads + head) * 2 * kHeadDim;
        items.push_back({.head = head, .rows = std::min(kAppendRows, sequences - s), .codings = 1, .source = TokenSource::kRaw, .first = 0,
                         .keys = raw + row, .values = raw + row + kHeadDim, .key_stride = kHeads * 2 * kHeadDim,
                         .value_stride = kHeads * 2 * kHeadDim, .slots = device_slots + head * sequences + s, .errors = nullptr});
      }
    }
    const EncodeItem* const device_items = Put(items);
    const double seconds = Seconds([&] {
      Check(cuda::Append(stream_.get(), kHeadDim, geometries_, device_items, static_cast<int32_t>(items.size())));
    });
    std::printf("append   %3d sequences %8.2f us a step\n", sequences, seconds * 1e6);
  }

  void Demote(Tier from, Tier to) {
    std::vector<MoveItem> items;
    uint8_t* const elsewhere = exact_;  // moves within a tier
    for (int32_t head = 0; head < kHeads; ++head) {
      for (int32_t token = 0; token < kTokens; token += kTokenTile) {
        uint8_t* const page = PageOf(head, to, token);
        items.push_back({.head = head, .from = from, .to = to, .which = 0xffff,
                         .from_tile = token % TokensPerPage(from, kHeadDim) / kTokenTile, .to_slot = token % TokensPerPage(to, kHeadDim),
                         .from_page = PageOf(head, from, token),
                         .to_page = from == to ? elsewhere + (page - coded_[static_cast<int32_t>(to)]) : page});
      }
    }
    const MoveItem* const device_items = Put(items);
    const double seconds = Seconds([&] {
      Check(cuda::Demote(stream_.get(), kHeadDim, geometries_, device_items, nullptr, static_cast<int32_t>(items.size())));
    });
    const double tokens = static_cast<double>(kHeads) * kTokens;
    std::printf("demote   %s to %s     %8.3f ns a token of a head  %6.1f GB/s of %s\n", kTierNames[static_cast<int32_t>(from)],
                kTierNames[static_cast<int32_t>(to)], seconds / tokens * 1e9, 1e-9 * tokens * TokenBytes(from, kHeadDim) / seconds,
                kTierNames[static_cast<int32_t>(from)]);
  }

  void Ladders() {
    const CodedLosses* const losses = Put(losses_);
    std::vector<LadderItem> items;
    for (int32_t head = 0; head < kHeads; ++head) {
      for (int32_t token = 0; token < kTokens; token += kTokenTile) {
        items.push_back({.head = head, .tier = Tier::kT4, .tile = token % TokensPerPage(Tier::kT4, kHeadDim) / kTokenTile,
                         .page = PageOf(head, Tier::kT4, token)});
      }
    }
    const LadderItem* const device_items = Put(items);
    TileSteps* const steps = Put(std::vector<TileSteps>(items.size()));
    const double seconds = Seconds([&] {
      Check(cuda::Ladders(stream_.get(), kHeadDim, losses, device_items, static_cast<int32_t>(items.size()), steps));
    });
    std::printf("ladders  T4           %8.4f ns a token of a head\n", seconds / kHeads / kTokens * 1e9);
  }

  void Sample() {
    constexpr int32_t kQueries = 1024, kPages = kTokens / kTokenTile;
    const int32_t rows = kTokens / kSampleChunkTokens + 1;
    SampleState* const states = Put(std::vector<SampleState>(static_cast<size_t>(kHeads) * rows * kQueries));
    float* const sums = Put(std::vector<float>(2 * kHeads * kTokens));
    int32_t* const counted = Put(std::vector<int32_t>(kHeads));
    std::vector<PageId> pages(kHeads * kPages);
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<PageId>(i);
    const PageId* const device_pages = Put(pages);
    std::vector<SampleItem> items;
    for (int32_t head = 0; head < kHeads; ++head) {
      items.push_back({.query_pages = device_pages + (head + 1) % kHeads * kPages, .first_vector = 0, .ring = kQueries,
                       .queries = kQueries, .pages = device_pages + head * kPages, .tokens = kTokens,
                       .states = states + int64_t{head} * rows * kQueries, .mean = sums + 2 * head * kTokens,
                       .square = sums + (2 * head + 1) * kTokens, .counted = counted + head});
    }
    const SampleItem* const device_items = Put(items);
    const SampleShape shape = {.head_dim = kHeadDim, .scale = 0.01f, .softcap = 0, .page_bytes = PageBytes(kHeadDim),
                               .queries_max = kQueries, .tokens_max = kTokens};
    const double seconds = Seconds([&] { Check(SampleExact(stream_.get(), shape, exact_, device_items, kHeads)); });
    std::printf("sample                %8.3f us a token of all heads  %6.1f TFLOP/s, logits counted twice\n", seconds / kTokens * 1e6,
                4e-12 * kQueries * kHeads * kTokens * kHeadDim / seconds);
  }

  OwnStream stream_;
  std::vector<DeviceMemory> memory_;
  std::mt19937 random_{1};
  DeviceGeometry* geometries_ = nullptr;
  std::vector<CodedLosses> losses_;
  uint8_t* exact_ = nullptr;
  uint8_t* coded_[4] = {};
};

}  // namespace
}  // namespace spherical::kernels::cuda

int main() { spherical::kernels::cuda::Bench().Run(); }
