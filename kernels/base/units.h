#ifndef SPHERICAL_KERNELS_BASE_UNITS_H_
#define SPHERICAL_KERNELS_BASE_UNITS_H_

#include <compare>
#include <cstdint>
#include <functional>

namespace spherical {

// A number with its unit in the type: PageCount + TokenCount does not compile, and neither does passing one for the other.
// Signed, so that a difference that should not be negative shows itself instead of wrapping.
template <class Unit>
class Count {
 public:
  constexpr Count() = default;
  constexpr explicit Count(int64_t value) : value_(value) {}

  constexpr int64_t value() const { return value_; }
  constexpr auto operator<=>(const Count&) const = default;

  constexpr Count& operator+=(Count other) { value_ += other.value_; return *this; }
  constexpr Count& operator-=(Count other) { value_ -= other.value_; return *this; }
  friend constexpr Count operator+(Count a, Count b) { return Count(a.value_ + b.value_); }
  friend constexpr Count operator-(Count a, Count b) { return Count(a.value_ - b.value_); }
  friend constexpr Count operator*(Count a, int64_t times) { return Count(a.value_ * times); }

 private:
  int64_t value_ = 0;
};

using PageCount = Count<struct PageUnit>;    // pages of the KV pool
using TokenCount = Count<struct TokenUnit>;  // tokens of a sequence
using ByteCount = Count<struct ByteUnit>;    // bytes, never KiB

// Index of one page in the pool: its bytes start at id * page_bytes of the arena.
using PageId = int32_t;
inline constexpr PageId kNoPage = -1;

// Rounds up; both positive.
constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t a, int64_t multiple) { return CeilDiv(a, multiple) * multiple; }

// One worker's part of a parallel call: worker `index` of `count`. Kernels take it as an argument, so that they own no threads.
// No result depends on it: the same numbers come out for any count.
struct Shard {
  int32_t index = 0;
  int32_t count = 1;
};

// The half-open range of [0, n) that belongs to a shard, in multiples of `grain`.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};
constexpr Range RangeOf(Shard shard, int64_t n, int64_t grain = 1) {
  const int64_t grains = CeilDiv(n, grain);
  const auto edge = [&](int64_t i) {
    const int64_t at = grains * i / shard.count * grain;
    return at < n ? at : n;
  };
  return {edge(shard.index), edge(shard.index + 1)};
}

}  // namespace spherical

template <class Unit>
struct std::hash<spherical::Count<Unit>> {
  size_t operator()(spherical::Count<Unit> c) const { return std::hash<int64_t>()(c.value()); }
};

#endif  // SPHERICAL_KERNELS_BASE_UNITS_H_
