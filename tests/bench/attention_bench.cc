// What exact attention makes of this machine, one thread. Decoding reads every K and V once: GB/s, and the share of what the same
// thread reads from one end of memory to the other, and from pieces of half a page in random order. A prompt multiplies: GMAC/s.
//
//   bazel run --config=opt //tests/bench:attention_bench [-- IMPLEMENTATION ...]      default: the best one
//
// Each number is the median of repetitions, read bandwidth in order measured between them. Pages lie in random order.
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention/exact_attention.h"
#include "kernels/base/float16.h"
#include "kernels/spherical/page_layout.h"
#include "tests/bench/median.h"

namespace spherical::kernels {
namespace {

constexpr int kRepetitions = 9;
constexpr int64_t kDecodeBytes = int64_t{256} << 20;  // K and V per measurement: far more than any cache holds

struct Case {
  int32_t group, head_dim, tokens, rows;
};
constexpr Case kDecode[] = {{3, 64, 1024, 1},  {3, 64, 4096, 1},  {3, 64, 8192, 1},  {4, 128, 1024, 1}, {4, 128, 4096, 1},
                            {4, 128, 8192, 1}, {4, 256, 1024, 1}, {4, 256, 4096, 1}, {4, 256, 8192, 1}};
constexpr Case kPrefill[] = {{3, 64, 512, 512}, {3, 64, 4096, 512}, {4, 128, 512, 512}, {4, 128, 4096, 512}, {4, 256, 4096, 512}};

template <class Function>
double Seconds(Function function) {
  const absl::Time start = absl::Now();
  function();
  return absl::ToDoubleSeconds(absl::Now() - start);
}

// The arena of the pool: huge pages where the kernel gives them, as engine/step asks for.
class Arena {
 public:
  explicit Arena(int64_t bytes) : bytes_(RoundUp(bytes, int64_t{2} << 20)) {
    void* mapped = mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) std::abort();
    madvise(mapped, static_cast<size_t>(bytes_), MADV_HUGEPAGE);
    memory_ = static_cast<uint8_t*>(mapped);
    std::mt19937 random(1);
    uint16_t* halves = reinterpret_cast<uint16_t*>(memory_);
    for (int64_t i = 0; i < bytes_ / 2; ++i) halves[i] = static_cast<uint16_t>((random() & 0x8fffu) | 0x3000u);  // +-[0.125, 2)
  }
  ~Arena() { munmap(memory_, static_cast<size_t>(bytes_)); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  const uint8_t* data() const { return memory_; }

  // Bytes per second of reading it once, in order.
  double ReadInOrder() const {
    const double seconds = Seconds([&] { sink_ = SumOf(memory_, bytes_, memory_, 0); });
    return static_cast<double>(bytes_) / seconds;
  }

  // The same for pieces of K or V size at D = 64 in random order, each prefetched four pieces ahead.
  double ReadPieces() const {
    constexpr int64_t kPiece = 2048, kAhead = 4;
    std::vector<int64_t> starts(static_cast<size_t>(bytes_ / kPiece));
    for (size_t i = 0; i < starts.size(); ++i) starts[i] = static_cast<int64_t>(i) * kPiece;
    std::mt19937 random(3);
    std::shuffle(starts.begin(), starts.end(), random);
    const double seconds = Seconds([&] {
      uint64_t sum = 0;
      for (size_t i = 0; i + kAhead < starts.size(); ++i) sum += SumOf(memory_ + starts[i], kPiece, memory_ + starts[i + kAhead], kPiece);
      sink_ = sum;
    });
    return static_cast<double>(bytes_) / seconds;
  }

 private:
  // Adds up `bytes` at `from`, prefetching `ahead_bytes` at `ahead` meanwhile.
  static uint64_t SumOf(const uint8_t* from, int64_t bytes, const uint8_t* ahead, int64_t ahead_bytes) {
    uint64_t sums[8] = {};
    for (int64_t i = 0; i < bytes; i += 64) {
      if (i < ahead_bytes) __builtin_prefetch(ahead + i, 0, 2);
      const uint64_t* words = reinterpret_cast<const uint64_t*>(from + i);
      for (int j = 0; j < 8; ++j) sums[j] += words[j];
    }
    return std::accumulate(sums, sums + 8, uint64_t{0});
  }

  int64_t bytes_;
  uint8_t* memory_;
  mutable volatile uint64_t sink_ = 0;
};

// All runs of `heads` kv heads, as one worker of a step would.
class Work {
 public:
  Work(const Case& c, int32_t heads) : case_(c), heads_(heads) {
    shape_ = {.head_dim = c.head_dim, .group = c.group, .scale = 1 / std::sqrt(static_cast<float>(c.head_dim)),
              .page_bytes = PageBytes(c.head_dim)};
    pages_.resize(static_cast<size_t>(heads) * PagesPerHead());
    std::iota(pages_.begin(), pages_.end(), 0);
    std::mt19937 random(2);
    std::shuffle(pages_.begin(), pages_.end(), random);
    const int64_t states = int64_t{c.rows} * c.group;
    query_.resize(states * c.head_dim);
    std::normal_distribution<float> normal;
    for (float& x : query_) x = normal(random);
    max_.resize(states);
    sum_.resize(states);
    output_.resize(states * c.head_dim);
  }

  int64_t arena_bytes() const { return static_cast<int64_t>(pages_.size()) * shape_.page_bytes; }
  double key_value_bytes() const { return static_cast<double>(pages_.size()) * ExactBytesUsed(case_.head_dim); }
  double multiply_adds() const {
    const double rows = case_.rows;
    const double pairs = rows * (case_.tokens - case_.rows) + rows * (rows + 1) / 2;  // causal
    return 2.0 * heads_ * pairs * case_.group * case_.head_dim;
  }

  void Run(const ExactAttentionImpl& impl, const uint8_t* arena) {
    for (int32_t head = 0; head < heads_; ++head) {
      for (int32_t first = 0; first < case_.tokens; first += kRunTokens) {
        impl.attend(shape_, arena,
                    {.query = query_.data(), .query_stride = int64_t{case_.group} * case_.head_dim, .rows = case_.rows,
                     .row_position = case_.tokens - case_.rows,
                     .pages = pages_.data() + head * PagesPerHead() + first / kExactTokensPerPage, .first_position = first,
                     .tokens = std::min(kRunTokens, case_.tokens - first), .state = {max_.data(), sum_.data(), output_.data()}});
      }
    }
  }

 private:
  int64_t PagesPerHead() const { return CeilDiv(case_.tokens, kExactTokensPerPage); }

  Case case_;
  int32_t heads_;
  AttentionShape shape_;
  std::vector<PageId> pages_;
  std::vector<float> query_, max_, sum_, output_;
};

void MeasureDecode(const ExactAttentionImpl& impl, const Arena& arena, const Case& c) {
  const int64_t head_bytes = int64_t{c.tokens} * c.head_dim * 4;
  Work work(c, static_cast<int32_t>(kDecodeBytes / head_bytes));
  std::vector<double> rates, shares;
  for (int i = 0; i < kRepetitions; ++i) {
    const double read = arena.ReadInOrder();
    const double rate = work.key_value_bytes() / Seconds([&] { work.Run(impl, arena.data()); });
    rates.push_back(rate / 1e9);
    shares.push_back(rate / read);
  }
  std::printf("%-9s decode   G %2d  D %3d  depth %5d   %6.1f GB/s of K and V   %3.0f %% of reading in order\n", impl.name, c.group,
              c.head_dim, c.tokens, Median(rates), 100 * Median(shares));
}

void MeasurePrefill(const ExactAttentionImpl& impl, const Arena& arena, const Case& c) {
  Work work(c, 1);
  std::vector<double> rates;
  for (int i = 0; i < kRepetitions; ++i) rates.push_back(work.multiply_adds() / Seconds([&] { work.Run(impl, arena.data()); }) / 1e9);
  std::printf("%-9s prefill  G %2d  D %3d  depth %5d   %6.1f GMAC/s, %d rows\n", impl.name, c.group, c.head_dim, c.tokens,
              Median(rates), c.rows);
}

int Run(const std::vector<std::string>& names) {
  int64_t arena_bytes = 0;
  for (const Case& c : kDecode) {
    arena_bytes = std::max(arena_bytes, Work(c, static_cast<int32_t>(kDecodeBytes / (int64_t{c.tokens} * c.head_dim * 4))).arena_bytes());
  }
  const Arena arena(arena_bytes);
  std::vector<double> in_order, pieces;
  for (int i = 0; i < kRepetitions; ++i) {
    in_order.push_back(arena.ReadInOrder() / 1e9);
    pieces.push_back(arena.ReadPieces() / 1e9);
  }
  std::printf("one thread reads %.1f GB/s in order, %.1f GB/s in pieces of 2 KiB in random order\n", Median(in_order), Median(pieces));
  for (const std::string& name : names) {
    const auto impls = ExactAttentionImpls();
    const auto impl = std::find_if(impls.begin(), impls.end(), [&](const ExactAttentionImpl& i) { return i.name == name; });
    if (impl == impls.end() || !impl->supported()) {
      std::fprintf(stderr, "attention_bench: this machine has no implementation named %s\n", name.c_str());
      return 1;
    }
    for (const Case& c : kDecode) MeasureDecode(*impl, arena, c);
    for (const Case& c : kPrefill) MeasurePrefill(*impl, arena, c);
  }
  return 0;
}

}  // namespace
}  // namespace spherical::kernels

int main(int argc, char** argv) {
  std::vector<std::string> names(argv + 1, argv + argc);
  if (names.empty()) names.push_back(spherical::kernels::BestExactAttention().name);
  return spherical::kernels::Run(names);
}
