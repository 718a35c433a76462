// The exponential that softmax and gates share, in its portable lanes. rows_test and exact_attention_test show that the other
// instruction sets give the same bits.
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/base/float16.h"

namespace spherical::kernels {
namespace {

#include "kernels/base/lanes_portable.inc"
#include "kernels/base/exp.inc"

float ExpOf(float x) { return FirstLane(Exp(Broadcast(x))); }
float TanhOf(float x) { return FirstLane(Tanh(Broadcast(x))); }

// The worst of `error` over floats of both signs up to 100, every 97th pattern: 6 million.
template <class Error>
double WorstOver(Error error) {
  double worst = 0;
  for (const uint32_t sign : {0u, 0x80000000u}) {
    for (uint32_t bits = 0x30000000u; bits < std::bit_cast<uint32_t>(100.0f); bits += 16 * 97) {
      float x[16];
      for (uint32_t i = 0; i < 16; ++i) x[i] = std::bit_cast<float>((bits + i * 97) | sign);
      worst = std::fmax(worst, error(x));
    }
  }
  return worst;
}

TEST_CASE("e^x is within 1e-7 of the truth from -87 to 88, zero below and saturated above") {
  const double worst = WorstOver([](const float* x) {
    float y[16];
    Store(y, Exp(Load(x)));
    double largest = 0;
    for (int i = 0; i < 16; ++i) {
      if (x[i] < -87) {
        largest = std::fmax(largest, y[i] == 0 ? 0 : 1);
      } else if (x[i] > 88) {
        largest = std::fmax(largest, y[i] == ExpOf(88.0f) ? 0 : 1);
      } else {
        largest = std::fmax(largest, std::fabs(y[i] / std::exp(double{x[i]}) - 1));
      }
    }
    return largest;
  });
  CHECK(worst < 1e-7);
}

TEST_CASE("e^x of zero is one, of minus infinity zero, of infinity finite, of NaN NaN") {
  CHECK(ExpOf(0.0f) == 1);
  CHECK(ExpOf(-0.0f) == 1);
  CHECK(std::bit_cast<uint32_t>(ExpOf(-std::numeric_limits<float>::infinity())) == 0);
  CHECK(ExpOf(-std::numeric_limits<float>::max()) == 0);
  CHECK(std::isfinite(ExpOf(std::numeric_limits<float>::infinity())));
  CHECK(std::isnan(ExpOf(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("tanh is within 1.5e-7 of the truth everywhere") {
  const double worst = WorstOver([](const float* x) {
    float y[16];
    Store(y, Tanh(Load(x)));
    double largest = 0;
    for (int i = 0; i < 16; ++i) largest = std::fmax(largest, std::fabs(y[i] - std::tanh(double{x[i]})));
    return largest;
  });
  CHECK(worst < 1.5e-7);
  CHECK(TanhOf(std::numeric_limits<float>::infinity()) == 1);
  CHECK(TanhOf(-std::numeric_limits<float>::infinity()) == -1);
  CHECK(std::isnan(TanhOf(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("Lanes: halves load as F16ToF32, ranges keep their lanes, folds take every lane, Max and Min prefer b to NaN") {
  for (uint32_t first = 0; first < 0x10000; first += 16) {
    uint16_t halves[16];
    float want[16], got[16];
    for (uint32_t i = 0; i < 16; ++i) {
      halves[i] = static_cast<uint16_t>(first + i);
      want[i] = F16ToF32(halves[i]);
    }
    Store(got, LoadHalves(reinterpret_cast<const uint8_t*>(halves)));
    for (int i = 0; i < 16; ++i) {
      const bool same = std::isnan(want[i]) ? std::isnan(got[i]) : std::bit_cast<uint32_t>(want[i]) == std::bit_cast<uint32_t>(got[i]);
      if (!same) FAIL("half " << halves[i] << " loads as " << got[i]);
    }
  }
  float values[16], kept[16];
  for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(1 << i);
  CHECK(FoldSum(Load(values)) == 65535);
  CHECK(FoldMax(Load(values)) == 32768);
  CHECK(FoldDouble(AddToDouble(DoubleZero(), Load(values))) == 65535);
  for (int begin = -3; begin < 19; ++begin) {
    for (int end = begin; end < 19; ++end) {
      Store(kept, KeepRange(Load(values), begin, end, -1));
      for (int i = 0; i < 16; ++i) CHECK(kept[i] == (i >= begin && i < end ? values[i] : -1));
    }
  }
  const Lanes nan = Broadcast(std::numeric_limits<float>::quiet_NaN());
  CHECK(FirstLane(Max(nan, Broadcast(3))) == 3);
  CHECK(FirstLane(Min(nan, Broadcast(3))) == 3);
  CHECK(std::isnan(FirstLane(Max(Broadcast(3), nan))));
  CHECK(std::isnan(FirstLane(Min(Broadcast(3), nan))));
}

TEST_CASE("A multiply and an add of the portable lanes are rounded apart") {
  CHECK_FALSE(kFusedMulAdd);
  CHECK(kAccumulators > 0);
  const float a = 1 + 0x1p-12f;  // a * a = 1 + 2^-11 + 2^-24: the last bit is lost before the subtraction
  CHECK(FirstLane(MulAdd(Broadcast(a), Broadcast(a), Broadcast(-(1 + 0x1p-11f)))) == 0);
  CHECK(FirstLane(Sub(Broadcast(3), Broadcast(1))) == 2);
  CHECK(FirstLane(Div(Broadcast(3), Broadcast(2))) == 1.5f);
  uint16_t halves[16];
  float ones[16];
  Store(ones, Broadcast(1));
  StoreHalves(halves, ones);
  CHECK(halves[15] == 0x3c00);
  Prefetch(reinterpret_cast<const uint8_t*>(halves));
}

}  // namespace
}  // namespace spherical::kernels
