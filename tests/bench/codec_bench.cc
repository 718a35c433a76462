// What coding costs, one thread, in CPU time. Sealing: nanoseconds per token of a kv head for every step from exact pages to codes, and for
// all of them. Demotion: GB per second of the bytes it takes in, run by run and token by token, and their share of what the same thread
// reads from one end of memory to the other.
//
//   bazel run --config=opt //tests/bench:codec_bench [-- IMPLEMENTATION ...]      default: the best one
//
// Each number is the median of repetitions. Pages are more than a cache holds.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/spherical/codec.h"
#include "tests/bench/median.h"

namespace spherical::kernels {
namespace {

constexpr int kRepetitions = 7;
constexpr int32_t kHeadDims[] = {64, 80, 96, 128, 256};
constexpr int64_t kPagesBytes = int64_t{64} << 20;
constexpr const char* kTierNames[] = {"T8", "T4", "T3", "T2", "T1"};

// Pages begin on lines, as those of the pool do.
struct alignas(kPageAlignment) Line {
  uint8_t bytes[kPageAlignment];
};

double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

template <class Function>
double MedianSeconds(Function function) {
  std::vector<double> seconds;
  for (int i = 0; i < kRepetitions; ++i) {
    const double start = CpuSeconds();
    function();
    seconds.push_back(CpuSeconds() - start);
  }
  return Median(std::move(seconds));
}

// Bytes per second of reading it once, in order.
double ReadBandwidth(const std::vector<Line>& lines) {
  volatile uint64_t sink = 0;
  const double seconds = MedianSeconds([&] {
    uint64_t sums[8] = {};
    for (const Line& line : lines) {
      uint64_t words[16];
      std::memcpy(words, line.bytes, sizeof words);
      for (int i = 0; i < 16; ++i) sums[i % 8] += words[i];
    }
    for (const uint64_t sum : sums) sink = sink + sum;
  });
  return static_cast<double>(lines.size() * sizeof(Line)) / seconds;
}

void Measure(const CodecImpl& impl, int32_t head_dim) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> centre(head_dim), map(head_dim * head_dim), importance(head_dim / kGroup);
  std::vector<float> shaping(head_dim * kGroup);  // errors weigh on each other as a calibrated head's do
  for (int32_t i = 0; i < head_dim; ++i) {
    for (int32_t k = 0; k <= i % kGroup; ++k) shaping[i * kGroup + k] = k == i % kGroup ? 1.0f : 0.3f / static_cast<float>(1 + k);
  }
  for (float& x : map) x = normal(random);
  for (size_t g = 0; g < importance.size(); ++g) importance[g] = 10.0f / static_cast<float>(g + 1);
  KeyGeometry geometry = {.head_dim = head_dim, .centre = centre.data(), .map = map.data(), .importance = importance.data(),
                          .shaping = shaping.data()};
  for (int32_t t = 0; t < kTierCount; ++t) {
    AllotWidths(importance.data(), head_dim / kGroup, KeyWidths(static_cast<Tier>(t), head_dim), geometry.widths[t]);
  }
  const int32_t page_bytes = PageBytes(head_dim);
  const int64_t pages = kPagesBytes / page_bytes;
  std::vector<Line> from_lines(pages * page_bytes / sizeof(Line)), to_lines(from_lines.size());
  uint8_t *const from = from_lines[0].bytes, *const to = to_lines[0].bytes;

  constexpr int32_t kRows = 16;  // a page of tier `exact`
  std::vector<float> keys(kRows * head_dim), values(keys.size()), z(keys.size()), v(keys.size());
  for (uint8_t *at = from, *end = from + pages * page_bytes; at < end; at += 2) {
    const uint16_t half = static_cast<uint16_t>((random() & 0x8fff) | 0x3000);  // +-[0.125, 2)
    std::memcpy(at, &half, sizeof half);
  }
  const auto nanoseconds = [&](auto step) {
    return 1e9 / static_cast<double>(pages * kRows) * MedianSeconds([&] {
      for (int64_t p = 0; p < pages; ++p) step(p);
    });
  };
  const auto read = [&](int64_t p) { impl.read_exact(head_dim, from + p * page_bytes, 0, kRows, keys.data(), values.data()); };
  const auto map_keys = [&](int64_t) { impl.map_keys(geometry, keys.data(), head_dim, kRows, z.data()); };
  const auto rotate = [&](int64_t) { impl.rotate_values(head_dim, values.data(), head_dim, kRows, v.data()); };
  const auto unrotate = [&](int64_t) { impl.unrotate_values(head_dim, values.data(), head_dim, kRows, v.data()); };
  std::printf("%-9s D %3d  ns per token  read %5.1f  map %6.1f  rotate %5.1f  back %5.1f\n", impl.name, head_dim, nanoseconds(read),
              nanoseconds(map_keys), nanoseconds(rotate), nanoseconds(unrotate));
  for (int32_t t = 0; t < kTierCount; ++t) {
    const Tier tier = static_cast<Tier>(t);
    const int64_t tiles = TokensPerPage(tier, head_dim) / kRows;
    const auto encode = [&](int64_t p) {
      impl.encode(geometry, tier, z.data(), v.data(), kRows, static_cast<int32_t>(p % tiles * kRows), to + p / tiles * page_bytes, nullptr);
    };
    const double encoded = nanoseconds(encode), sealed = nanoseconds([&](int64_t p) { read(p), map_keys(p), rotate(p), encode(p); });
    std::printf("%-9s D %3d  ns per token  encode %s %6.1f  sealed %6.1f\n", impl.name, head_dim, kTierNames[t], encoded, sealed);
  }

  // Runs from whole pages into whole pages, a run being what one page of both sides holds.
  const auto demote = [&](Tier above, Tier below, int32_t at_most) {
    const int64_t n = TokensPerPage(above, head_dim), lower = TokensPerPage(below, head_dim), tokens = pages * n;
    for (int64_t p = 0; p < pages; ++p) {
      for (int32_t slot = 0; slot < n; slot += kRows) {
        impl.encode(geometry, above, z.data(), v.data(), kRows, slot, from + p * page_bytes, nullptr);
      }
    }
    const double seconds = MedianSeconds([&] {
      for (int64_t i = 0; i < tokens;) {
        const int64_t rows = std::min({n - i % n, lower - i % lower, int64_t{at_most}});
        impl.demote(geometry, above, from + i / n * page_bytes, static_cast<int32_t>(i % n), static_cast<int32_t>(rows), below,
                    to + i / lower * page_bytes, static_cast<int32_t>(i % lower));
        i += rows;
      }
    });
    const double bytes = static_cast<double>(tokens) * TokenBytes(above, head_dim);
    std::printf("%-9s D %3d  %s to %s  %6.1f ns per token  %5.2f GB/s of %s, %3.0f %% of read bandwidth%s\n", impl.name, head_dim,
                kTierNames[static_cast<int32_t>(above)], kTierNames[static_cast<int32_t>(below)],
                seconds / static_cast<double>(tokens) * 1e9, bytes / seconds / 1e9, kTierNames[static_cast<int32_t>(above)],
                100 * bytes / seconds / ReadBandwidth(from_lines), at_most == 1 ? "   token by token" : "");
  };
  constexpr int32_t kAll = 1 << 20;
  for (const Tier below : {Tier::kT8, Tier::kT4, Tier::kT3, Tier::kT2}) {
    demote(Tier::kT8, below, kAll);
    demote(Tier::kT8, below, 1);
  }
  demote(Tier::kT4, Tier::kT4, kAll);
  demote(Tier::kT4, Tier::kT3, kAll);
  demote(Tier::kT3, Tier::kT2, kAll);
}

int Run(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const auto impls = CodecImpls();
    const auto impl = std::find_if(impls.begin(), impls.end(), [&](const CodecImpl& i) { return i.name == name; });
    if (impl == impls.end() || !impl->supported()) {
      std::fprintf(stderr, "codec_bench: this machine has no implementation named %s\n", name.c_str());
      return 1;
    }
    for (const int32_t head_dim : kHeadDims) Measure(*impl, head_dim);
  }
  return 0;
}

}  // namespace
}  // namespace spherical::kernels

int main(int argc, char** argv) {
  std::vector<std::string> names(argv + 1, argv + argc);
  if (names.empty()) names.push_back(spherical::kernels::BestCodec().name);
  return spherical::kernels::Run(names);
}
