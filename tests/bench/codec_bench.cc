// What coding costs, one thread, in CPU time: tokens per second to map and to code a kv head's keys and values, and GB/s of T8 bytes that
// demotion takes in.
//
//   bazel run --config=opt //tests/bench:codec_bench [-- IMPLEMENTATION ...]      default: the best one
//
// Each number is the median of repetitions. Pages are more than a cache holds.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "kernels/spherical/codec.h"

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
  std::nth_element(seconds.begin(), seconds.begin() + kRepetitions / 2, seconds.end());
  return seconds[kRepetitions / 2];
}

void Measure(const CodecImpl& impl, int32_t head_dim) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> centre(head_dim), map(head_dim * head_dim), importance(head_dim / kGroup);
  for (float& x : map) x = normal(random);
  for (size_t g = 0; g < importance.size(); ++g) importance[g] = 10.0f / static_cast<float>(g + 1);
  KeyGeometry geometry = {.head_dim = head_dim, .centre = centre.data(), .map = map.data(), .importance = importance.data()};
  for (int32_t t = 0; t < kTierCount; ++t) {
    AllotWidths(importance.data(), head_dim / kGroup, KeyWidths(static_cast<Tier>(t), head_dim), geometry.widths[t]);
  }
  const int32_t page_bytes = PageBytes(head_dim);
  const int64_t pages = kPagesBytes / page_bytes;
  std::vector<Line> from_lines(pages * page_bytes / sizeof(Line)), to_lines(from_lines.size());
  uint8_t *const from = from_lines[0].bytes, *const to = to_lines[0].bytes;

  constexpr int32_t kRows = 512;
  std::vector<float> keys(kRows * head_dim), z(keys.size()), v(keys.size());
  for (float& x : keys) x = normal(random);
  for (float& x : v) x = normal(random);
  const double map_seconds = MedianSeconds([&] { impl.map_keys(geometry, keys.data(), head_dim, kRows, z.data()); });
  const double rotate_seconds = MedianSeconds([&] {
    for (int32_t r = 0; r < kRows; ++r) RotateValue(head_dim, &v[r * head_dim]);
  });
  std::printf("%-9s D %3d  map %6.2f  rotate %6.2f M tokens/s\n", impl.name, head_dim, kRows / map_seconds / 1e6,
              kRows / rotate_seconds / 1e6);

  for (int32_t t = kTierCount - 1; t >= 0; --t) {  // T8 last: demoted below
    const Tier tier = static_cast<Tier>(t);
    const int32_t n = TokensPerPage(tier, head_dim);
    const double seconds = MedianSeconds([&] {
      for (int64_t p = 0; p < pages; ++p) {
        impl.encode(geometry, tier, &z[p % 2 * n * head_dim], &v[p % 2 * n * head_dim], n, 0, &from[p * page_bytes], nullptr);
      }
    });
    std::printf("%-9s D %3d  encode %s         %6.2f M tokens/s\n", impl.name, head_dim, kTierNames[t],
                static_cast<double>(pages * n) / seconds / 1e6);
  }
  const auto demote = [&](Tier above, Tier below) {
    const int64_t n = TokensPerPage(above, head_dim), lower = TokensPerPage(below, head_dim), tokens = pages * n;
    const double seconds = MedianSeconds([&] {
      for (int64_t i = 0; i < tokens; ++i) {
        impl.demote(geometry, above, &from[i / n * page_bytes], static_cast<int32_t>(i % n), 1, below, &to[i / lower * page_bytes],
                    static_cast<int32_t>(i % lower));
      }
    });
    std::printf("%-9s D %3d  demote %s to %s   %6.2f M tokens/s   %5.2f GB/s of %s\n", impl.name, head_dim,
                kTierNames[static_cast<int32_t>(above)], kTierNames[static_cast<int32_t>(below)],
                static_cast<double>(tokens) / seconds / 1e6,
                static_cast<double>(tokens) * TokenBytes(above, head_dim) / seconds / 1e9, kTierNames[static_cast<int32_t>(above)]);
  };
  for (const Tier below : {Tier::kT4, Tier::kT3, Tier::kT2}) demote(Tier::kT8, below);
  impl.encode(geometry, Tier::kT4, z.data(), v.data(), TokensPerPage(Tier::kT4, head_dim), 0, from, nullptr);
  for (int64_t p = 1; p < pages; ++p) std::copy_n(from, page_bytes, from + p * page_bytes);
  demote(Tier::kT4, Tier::kT3);
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
