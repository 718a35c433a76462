// Half and bfloat16 conversions: against their definition, and against the instructions they are twins of.
#include "kernels/base/float16.h"

#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "kernels/base/cpu.h"
#include "tests/kernels/f16c.h"
#include "tests/skip.h"

namespace spherical::kernels {
namespace {

bool IsNanHalf(uint16_t half) { return (half & 0x7fff) > 0x7c00; }

// What a half means, from the standard's formula.
double HalfValue(uint16_t half) {
  const int exponent = half >> 10 & 0x1f;
  const int mantissa = half & 0x3ff;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return half & 0x8000 ? -magnitude : magnitude;
}

TEST_CASE("All 65,536 halves mean what the standard says and come back from float unchanged, NaN made quiet") {
  int wrong = 0;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const float value = F16ToF32(half);
    if (IsNanHalf(half)) {
      wrong += !std::isnan(value) || std::signbit(value) != (half >= 0x8000) || F32ToF16(value) != (half | 0x200);
    } else if ((half & 0x7fff) == 0x7c00) {
      wrong += value != (half & 0x8000 ? -INFINITY : INFINITY) || F32ToF16(value) != half;
    } else {
      wrong += value != HalfValue(half) || std::signbit(value) != (half >= 0x8000) || F32ToF16(value) != half;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("Between neighbouring halves a float goes to the nearer, at the middle to the even one") {
  int wrong = 0;
  for (uint16_t low = 0; low < 0x7c00; ++low) {
    const uint16_t high = low + 1;
    const double high_value = high == 0x7c00 ? 65536.0 : HalfValue(high);  // infinity takes the place of the next power of two
    const float middle = static_cast<float>((HalfValue(low) + high_value) / 2);  // exact: one bit more than a half
    for (const uint32_t sign : {0u, 0x8000u}) {
      const float s = sign == 0 ? 1.0f : -1.0f;
      wrong += F32ToF16(s * middle) != (sign | (low % 2 == 0 ? low : high));
      wrong += F32ToF16(s * std::nextafter(middle, 0.0f)) != (sign | low);
      wrong += F32ToF16(s * std::nextafter(middle, INFINITY)) != (sign | high);
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("Floats too large for a half become infinity, too small become zero, and keep their sign") {
  CHECK(F32ToF16(65504.0f) == 0x7bff);
  CHECK(F32ToF16(65519.996f) == 0x7bff);
  CHECK(F32ToF16(65520.0f) == 0x7c00);
  CHECK(F32ToF16(-std::numeric_limits<float>::max()) == 0xfc00);
  CHECK(F32ToF16(INFINITY) == 0x7c00);
  CHECK(F32ToF16(0x1p-25f) == 0);
  CHECK(F32ToF16(0x1.000002p-25f) == 1);
  CHECK(F32ToF16(-std::numeric_limits<float>::denorm_min()) == 0x8000);
  CHECK(F32ToF16(-0.0f) == 0x8000);
}

TEST_CASE("Conversions to and from half equal the F16C instructions bit for bit") {
  if (!CpuHasAvx2()) SPH_SKIP("no F16C on this processor");
  std::vector<float> floats;
  // Every exponent and sign, with mantissas at and around every tie, and four million random patterns.
  for (uint32_t top = 0; top < 0x200; ++top) {
    for (uint32_t mantissa = 0; mantissa < 0x800000; mantissa += 0x1000) {
      for (const uint32_t near : {0u, 1u, 0xfffu}) floats.push_back(std::bit_cast<float>(top << 23 | mantissa | near));
    }
  }
  std::mt19937 random(1);
  for (int i = 0; i < 4'000'000; ++i) floats.push_back(std::bit_cast<float>(static_cast<uint32_t>(random())));
  floats.resize(floats.size() / 8 * 8);
  std::vector<uint16_t> halves(floats.size());
  tests::F32ToF16Instruction(floats.data(), static_cast<int64_t>(floats.size()), halves.data());
  int64_t wrong = 0;
  for (size_t i = 0; i < floats.size(); ++i) wrong += F32ToF16(floats[i]) != halves[i];
  CHECK(wrong == 0);

  std::vector<uint16_t> all(0x10000);
  for (uint32_t bits = 0; bits < 0x10000; ++bits) all[bits] = static_cast<uint16_t>(bits);
  std::vector<float> values(all.size());
  tests::F16ToF32Instruction(all.data(), static_cast<int64_t>(all.size()), values.data());
  wrong = 0;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    wrong += std::bit_cast<uint32_t>(F16ToF32(all[bits])) != std::bit_cast<uint32_t>(values[bits]);
  }
  CHECK(wrong == 0);
}

TEST_CASE("All bfloat16 come back from float unchanged, NaN made quiet") {
  int wrong = 0;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const float value = BF16ToF32(half);
    wrong += F32ToBF16(value) != (std::isnan(value) ? half | 0x40 : half);
  }
  CHECK(wrong == 0);
}

TEST_CASE("A float goes to the nearest bfloat16, ties to even, overflow to infinity") {
  CHECK(F32ToBF16(std::bit_cast<float>(0x3f808000u)) == 0x3f80);  // tie: even below
  CHECK(F32ToBF16(std::bit_cast<float>(0x3f818000u)) == 0x3f82);  // tie: even above
  CHECK(F32ToBF16(std::bit_cast<float>(0x3f808001u)) == 0x3f81);
  CHECK(F32ToBF16(std::bit_cast<float>(0x3f807fffu)) == 0x3f80);
  CHECK(F32ToBF16(std::numeric_limits<float>::max()) == 0x7f80);
  CHECK(F32ToBF16(-INFINITY) == 0xff80);
  CHECK(F32ToBF16(std::bit_cast<float>(0x7f800001u)) == 0x7fc0);  // NaN whose payload would round away
  int wrong = 0;
  std::mt19937 random(2);
  for (int i = 0; i < 1'000'000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (!std::isfinite(value)) continue;
    const uint16_t down = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
    const double below = BF16ToF32(down);
    const double above = BF16ToF32(down + 1);
    if (std::isinf(above)) continue;
    const double to_below = std::fabs(value - below), to_above = std::fabs(above - value);
    const uint16_t want = to_below < to_above || (to_below == to_above && down % 2 == 0) ? down : down + 1;
    wrong += F32ToBF16(value) != want;
  }
  CHECK(wrong == 0);
}

}  // namespace
}  // namespace spherical::kernels
