// What angle-domain attention makes of this machine, one thread: per tier and shape, GB/s of codes and radii, the share of what the same
// thread reads from one end of memory to the other, ns per token, and the time of exact attention over as many tokens divided by it.
//
//   bazel run --config=opt //tests/bench:ada_decode_bench [-- IMPLEMENTATION ...]      default: the best one
//
// Processor time, medians of repetitions between which the others are measured. Pages lie in random order, on huge pages where there are
// any.
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention/ada_decode.h"
#include "kernels/attention/exact_attention.h"
#include "kernels/spherical/page_layout.h"
#include "tests/bench/median.h"

namespace spherical::kernels {
namespace {

constexpr int kRepetitions = 7;
constexpr int64_t kTokens = 1 << 19;  // of all lists together: far more bytes than any cache holds

struct Case {
  int32_t group, head_dim, tokens;
};
constexpr Case kCases[] = {{3, 64, 1024}, {3, 64, 8192}, {4, 80, 8192}, {4, 96, 8192}, {4, 128, 1024}, {4, 128, 8192}, {4, 256, 8192}};
// Widths of a quarter of the groups each, as a calibrated model's profiles fall; less where that is more than the tier's keys may take.
constexpr uint8_t kProfiles[kTierCount][4] = {{8, 8, 8, 8}, {6, 5, 4, 3}, {5, 4, 3, 2}, {4, 3, 2, 1}, {3, 2, 2, 1}};
constexpr const char* kTierNames[kTierCount] = {"T8", "T4", "T3", "T2", "T1"};

template <class Function>
double Seconds(Function function) {
  const auto now = [] {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  const double start = now();
  function();
  return now() - start;
}

class Arena {
 public:
  explicit Arena(int64_t bytes) : bytes_(RoundUp(bytes, int64_t{2} << 20)) {
    void* mapped = mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) std::abort();
    madvise(mapped, static_cast<size_t>(bytes_), MADV_HUGEPAGE);
    memory_ = static_cast<uint8_t*>(mapped);
    std::mt19937_64 random(1);
    for (int64_t i = 0; i < bytes_; i += 8) {
      const uint64_t bits = (random() & 0x8fff8fff8fff8fff) | 0x3000300030003000;  // as halves, +-[0.125, 2)
      std::memcpy(memory_ + i, &bits, sizeof(bits));
    }
  }
  ~Arena() { munmap(memory_, static_cast<size_t>(bytes_)); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  const uint8_t* data() const { return memory_; }

  // Bytes per second of reading it once, in order.
  double ReadOnce() const {
    uint64_t sums[8] = {};
    const double seconds = Seconds([&] {
      for (int64_t i = 0; i < bytes_; i += 64) {
        uint64_t words[8];
        std::memcpy(words, memory_ + i, sizeof(words));
        for (int j = 0; j < 8; ++j) sums[j] += words[j];
      }
    });
    sink_ = std::accumulate(sums, sums + 8, uint64_t{0});
    return static_cast<double>(bytes_) / seconds;
  }

  // Random codes, radii in [0.5, 1).
  void Fill(Tier tier, int32_t head_dim, int64_t pages) {
    std::mt19937_64 random(2);
    const TierLayout layout = LayoutOf(tier, head_dim);
    for (int64_t page = 0; page < pages; ++page) {
      uint8_t* bytes = memory_ + page * PageBytes(head_dim);
      for (int32_t i = 0; i + 8 <= layout.key_radii; i += 8) {
        const uint64_t bits = random();
        std::memcpy(bytes + i, &bits, sizeof(bits));
      }
      for (int32_t i = 0; i < 2 * layout.tokens; ++i) {
        const uint16_t half = static_cast<uint16_t>(0x3800u | (random() & 0x3ffu));
        std::memcpy(bytes + layout.key_radii + 2 * i, &half, sizeof(half));
      }
    }
  }

 private:
  int64_t bytes_;
  uint8_t* memory_;
  mutable volatile uint64_t sink_ = 0;
};

// All lists of a case, as one worker of a step would have them.
class Work {
 public:
  Work(const Case& c, int32_t page_tokens) : case_(c), page_tokens_(page_tokens) {
    shape_ = {.head_dim = c.head_dim, .group = c.group, .scale = 1 / std::sqrt(static_cast<float>(c.head_dim)),
              .page_bytes = PageBytes(c.head_dim)};
    pages_.resize(static_cast<size_t>(kTokens / c.tokens * PagesPerList()));
    std::iota(pages_.begin(), pages_.end(), 0);
    std::mt19937 random(3);
    std::shuffle(pages_.begin(), pages_.end(), random);
    std::normal_distribution<float> normal;
    query_.resize(c.group * c.head_dim);
    for (float& x : query_) x = normal(random);
    map_.resize(c.head_dim * c.head_dim);
    for (float& x : map_) x = normal(random) / std::sqrt(static_cast<float>(c.head_dim));
    max_.resize(c.group);
    sum_.resize(c.group);
    output_.resize(query_.size());
  }

  int64_t page_count() const { return static_cast<int64_t>(pages_.size()); }

  void Run(const AdaDecodeImpl& impl, Tier tier, const uint8_t* arena) {
    const QueryGeometry geometry = Geometry(tier);
    const uint8_t* widths = geometry.widths[static_cast<int32_t>(tier)];
    for (int64_t list = 0; list < kTokens / case_.tokens; ++list) {
      PrepareAdaQuery(impl, geometry, tier, query_.data(), case_.group, digits_);
      impl.attend(shape_, arena, {.query = &digits_, .pages = pages_.data() + list * PagesPerList(), .tokens = case_.tokens, .tier = tier,
                                  .widths = widths, .state = {max_.data(), sum_.data(), output_.data()}});
    }
  }

  // Nanoseconds to map the queries of a kv head, and to split them for one tier.
  void MeasureQueries(const AdaDecodeImpl& impl) {
    constexpr int kTimes = 2000;
    const QueryGeometry geometry = Geometry(Tier::kT4);
    static AdaMappedQuery mapped;
    std::vector<double> map, split;
    for (int i = 0; i < kRepetitions; ++i) {
      map.push_back(Seconds([&] {
        for (int k = 0; k < kTimes; ++k) impl.map(geometry, query_.data(), case_.group, mapped);
      }));
      split.push_back(Seconds([&] {
        for (int k = 0; k < kTimes; ++k) impl.split(geometry, Tier::kT4, mapped, case_.group, digits_);
      }));
    }
    std::printf("%-10s     G %d  D %3d  queries: map %5.0f ns, split %4.0f ns per tier\n", impl.name, case_.group, case_.head_dim,
                Median(map) / kTimes * 1e9, Median(split) / kTimes * 1e9);
  }

  void RunExact(const ExactAttentionImpl& impl, const uint8_t* arena) {
    for (int64_t list = 0; list < kTokens / case_.tokens; ++list) {
      for (int32_t first = 0; first < case_.tokens; first += kRunTokens) {
        impl.attend(shape_, arena,
                    {.query = query_.data(), .query_stride = int64_t{case_.group} * case_.head_dim, .rows = 1,
                     .row_position = case_.tokens - 1,
                     .pages = pages_.data() + list * PagesPerList() + first / kExactTokensPerPage, .first_position = first,
                     .tokens = std::min(kRunTokens, case_.tokens - first), .state = {max_.data(), sum_.data(), output_.data()}});
      }
    }
  }

 private:
  QueryGeometry Geometry(Tier tier) const {
    QueryGeometry geometry = {.head_dim = case_.head_dim, .map = map_.data()};
    uint8_t* widths = geometry.widths[static_cast<int32_t>(tier)];
    const int32_t groups = case_.head_dim / kGroup;
    for (int32_t i = 0; i < groups; ++i) widths[i] = kProfiles[static_cast<int32_t>(tier)][i * 4 / groups];
    for (int32_t i = 0; std::accumulate(widths, widths + groups, 0) > KeyWidths(tier, case_.head_dim); i = (i + 1) % groups) --widths[i];
    return geometry;
  }
  int64_t PagesPerList() const { return CeilDiv(case_.tokens, page_tokens_); }

  Case case_;
  int32_t page_tokens_;
  AttentionShape shape_;
  std::vector<PageId> pages_;
  std::vector<float> query_, map_, max_, sum_, output_;
  AdaQuery digits_ = {};
};

void Measure(const AdaDecodeImpl& impl, const Case& c, const Arena& exact_arena) {
  Work exact(c, kExactTokensPerPage);
  exact.MeasureQueries(impl);
  for (int32_t t = 0; t < kTierCount; ++t) {
    const Tier tier = static_cast<Tier>(t);
    Work work(c, TokensPerPage(tier, c.head_dim));
    Arena arena(work.page_count() * PageBytes(c.head_dim));
    arena.Fill(tier, c.head_dim, work.page_count());
    const double bytes = static_cast<double>(kTokens) * (TokenBytes(tier, c.head_dim) - 1);  // utilities are not read
    std::vector<double> seconds, shares, ratios;
    for (int i = 0; i < kRepetitions; ++i) {
      const double read = arena.ReadOnce();
      seconds.push_back(Seconds([&] { work.Run(impl, tier, arena.data()); }));
      shares.push_back(bytes / seconds.back() / read);
      ratios.push_back(Seconds([&] { exact.RunExact(BestExactAttention(), exact_arena.data()); }) / seconds.back());
    }
    const double median = Median(seconds);
    std::printf("%-10s %s  G %d  D %3d  depth %4d  %6.2f ns per token  %5.1f GB/s of codes  "
                "%3.0f %% of read bandwidth  exact takes %.2f x\n",
                impl.name, kTierNames[t], c.group, c.head_dim, c.tokens, median / kTokens * 1e9, bytes / median / 1e9,
                100 * Median(shares), Median(ratios));
    std::fflush(stdout);
  }
}

int Run(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const auto impls = AdaDecodeImpls();
    const auto impl = std::find_if(impls.begin(), impls.end(), [&](const AdaDecodeImpl& i) { return i.name == name; });
    if (impl == impls.end() || !impl->supported()) {
      std::fprintf(stderr, "ada_decode_bench: this machine has no implementation named %s\n", name.c_str());
      return 1;
    }
    for (const Case& c : kCases) {
      const Arena exact_arena(kTokens / kExactTokensPerPage * PageBytes(c.head_dim));
      Measure(*impl, c, exact_arena);
    }
  }
  return 0;
}

}  // namespace
}  // namespace spherical::kernels

int main(int argc, char** argv) {
  std::vector<std::string> names(argv + 1, argv + argc);
  if (names.empty()) names.push_back(spherical::kernels::BestAdaDecode().name);
  return spherical::kernels::Run(names);
}
