// Every implementation of the codec against the reference, bit for bit; the reference against what the design promises of its errors.
#include "kernels/spherical/codec.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/base/float16.h"
#include "tests/kernels/codec_heads.h"

namespace spherical::kernels {
namespace {

TEST_CASE("Every implementation codes to the bits of the reference, in every tier, head dim and slot, under any widths") {
  Rng random(1);
  for (const int32_t head_dim : kHeadDims) {
    for (int32_t trial = 0; trial < 12; ++trial) {
      Head head(head_dim);
      if (trial > 0) head.DrawWidths(random);
      if (trial % 2 == 1) DrawShaping(head, random, trial == 11 ? 30 : 1);  // 30: corrections beyond any code
      for (const Tier tier : kTiers) {
        const int32_t n = TokensPerPage(tier, head_dim);
        const int32_t slot = trial < 2 ? 0 : static_cast<int32_t>(random() % n);
        const int32_t rows = trial < 2 ? n : 1 + static_cast<int32_t>(random() % (n - slot));
        const std::vector<float> z = Vectors(rows, head_dim, random), v = Vectors(rows, head_dim, random);
        const std::vector<uint8_t> before = RandomPage(head_dim, random);
        std::vector<uint8_t> want = before;
        std::vector<CodingError> want_errors(rows);
        Reference().encode(head.geometry, tier, z.data(), v.data(), rows, slot, want.data(), want_errors.data());
        for (const CodecImpl& impl : Others()) {
          std::vector<uint8_t> page = before;
          std::vector<CodingError> errors(rows);
          impl.encode(head.geometry, tier, z.data(), v.data(), rows, slot, page.data(), errors.data());
          INFO(impl.name << " D " << head_dim << " tier " << static_cast<int32_t>(tier) << " slot " << slot << " rows " << rows);
          CHECK(page == want);
          CHECK(std::memcmp(errors.data(), want_errors.data(), rows * sizeof(CodingError)) == 0);
          page = before;
          impl.encode(head.geometry, tier, z.data(), v.data(), rows, slot, page.data(), nullptr);
          CHECK(page == want);
        }
      }
    }
  }
}

TEST_CASE("Coding and demoting into a slot leaves every other slot, the utilities and the bytes behind them alone") {
  Rng random(2);
  for (const int32_t head_dim : kHeadDims) {
    for (const Tier tier : kTiers) {
      Head head(head_dim);
      if (head_dim != 64) head.DrawWidths(random);
      const int32_t n = TokensPerPage(tier, head_dim);
      for (const int32_t slot : {0, 1, 15, 16, n - 2, n - 1}) {
        const std::vector<uint8_t> before = RandomPage(head_dim, random), source = RandomPage(head_dim, random);
        const std::vector<float> z = Normal(head_dim, random), v = Normal(head_dim, random);
        for (const bool demoted : {false, true}) {
          std::vector<uint8_t> page = before;
          if (demoted) {
            Reference().demote(head.geometry, Tier::kT8, source.data(), 3, 1, tier, page.data(), slot);
          } else {
            Reference().encode(head.geometry, tier, z.data(), v.data(), 1, slot, page.data(), nullptr);
          }
          bool same = true;
          for (int32_t other = 0; other < n; ++other) {
            if (other != slot) same &= TokenAt(head, tier, page, other) == TokenAt(head, tier, before, other);
          }
          INFO("D " << head_dim << " tier " << static_cast<int32_t>(tier) << " slot " << slot << (demoted ? " demoted" : " coded"));
          CHECK(same);
          const TierLayout layout = LayoutOf(tier, head_dim);
          CHECK(std::equal(page.begin() + layout.utilities + n, page.end(), before.begin() + layout.utilities + n));
          const uint8_t utility = page[layout.utilities + slot];
          CHECK(utility == (demoted ? source[LayoutOf(Tier::kT8, head_dim).utilities + 3] : before[layout.utilities + slot]));
        }
      }
    }
  }
}

// On a sphere of D dimensions tails are shorter than a normal variable's: a little less than expected. T8's range ends at the largest of D
// coordinates, 2.4 to 2.9 deviations instead of 3.94: less by the square of that.
bool IsExpected(double error, int32_t width) {
  const double share = error / ExpectedError(width);
  return width == 8 ? share > 0.3 && share < 0.65 : share > 0.8 && share < 1.03;
}

TEST_CASE("Gaussian vectors lose what each width is expected to lose, and the reported errors are the decoded ones") {
  Rng random(3);
  for (const int32_t head_dim : kHeadDims) {
    for (const int32_t width : {0, 1, 2, 3, 4, 5, 6, 8}) {
      Head head(head_dim, 1.0);
      const Tier tier = width == 8 ? Tier::kT8 : Tier::kT4;  // whose radius is not that of the largest coordinate
      for (int32_t g = 0; g < head_dim / kGroup; ++g) head.geometry.widths[static_cast<size_t>(tier)][g] = static_cast<uint8_t>(width);
      double error = 0, energy = 0;
      for (int32_t trial = 0; trial < 200; ++trial) {
        const std::vector<float> z = Normal(head_dim, random), v = Normal(head_dim, random);
        std::vector<uint8_t> page(2 * PageBytes(head_dim));  // six bits everywhere are more than T4 has room for
        CodingError reported;
        Reference().encode(head.geometry, tier, z.data(), v.data(), 1, trial % 32, page.data(), &reported);
        const Errors measured = MeasuredErrors(head, tier, page, z.data(), v.data(), trial % 32);
        REQUIRE(reported.key == Approx(measured.key).epsilon(1e-3));
        REQUIRE(reported.value == Approx(measured.value).epsilon(1e-3));
        error += measured.key / 10;
        energy += Energy(z.data(), head_dim);
      }
      INFO("D " << head_dim << " width " << width << " error " << error / energy);
      CHECK(IsExpected(error / energy, width));
    }
  }
}

TEST_CASE("Shaped errors are those reported, and as small as if the group's errors did not weigh on each other") {
  Rng random(11);
  for (const int32_t head_dim : {64, 96, 256}) {
    const double decay = head_dim == 256 ? 0.8 : 0.5;  // no group without codes at T3
    Head head(head_dim, decay), unshaped(head_dim, decay);
    DrawShaping(head, random, 0.8);
    for (const Tier tier : kTiers) {
      double shaped = 0, plain = 0, ideal = 0;
      for (int32_t trial = 0; trial < 300; ++trial) {
        const std::vector<float> z = Normal(head_dim, random);
        std::vector<uint8_t> page(PageBytes(head_dim)), other(PageBytes(head_dim));
        CodingError reported, unweighed;
        BestCodec().encode(head.geometry, tier, z.data(), z.data(), 1, 3, page.data(), &reported);
        BestCodec().encode(unshaped.geometry, tier, z.data(), z.data(), 1, 3, other.data(), &unweighed);
        const double measured = MeasuredErrors(head, tier, page, z.data(), z.data(), 3).key;
        REQUIRE(reported.key == Approx(measured).epsilon(1e-3));
        shaped += measured;
        plain += ShapedError(head, z.data(), TokenAt(unshaped, tier, other, 3).z.data());
        ideal += unweighed.key;
      }
      INFO("D " << head_dim << " tier " << static_cast<int32_t>(tier) << " shaped " << shaped << " plain " << plain << " ideal " << ideal);
      // Few bits: corrections reach the ends of the codes' range, and groups without codes are not corrected at all.
      CHECK(shaped < (tier <= Tier::kT4 ? 1.1 : tier <= Tier::kT3 ? 1.4 : 3.0) * ideal);
      CHECK(shaped < (tier <= Tier::kT3 ? 0.6 : 0.9) * plain);
    }
  }
}

TEST_CASE("Values of every tier lose what their width is expected to lose") {
  Rng random(4);
  for (const int32_t head_dim : kHeadDims) {
    const Head head(head_dim);
    for (const Tier tier : kTiers) {
      double error = 0, energy = 0;
      for (int32_t trial = 0; trial < 200; ++trial) {
        const std::vector<float> z = Normal(head_dim, random), v = Normal(head_dim, random, std::pow(10.0, trial % 7 - 3));
        std::vector<uint8_t> page(PageBytes(head_dim));
        const int32_t slot = trial % TokensPerPage(tier, head_dim);
        Reference().encode(head.geometry, tier, z.data(), v.data(), 1, slot, page.data(), nullptr);
        const double size = Energy(v.data(), head_dim);
        error += MeasuredErrors(head, tier, page, z.data(), v.data(), slot).value / size;
        energy += 1;
      }
      INFO("D " << head_dim << " tier " << static_cast<int32_t>(tier));
      CHECK(IsExpected(error / energy, ValueWidth(tier)));
    }
  }
}

TEST_CASE("Heavy-tailed vectors lose at most 0.001 of their energy at T8") {
  Rng random(5);
  std::student_t_distribution<double> student(3);
  for (const int32_t head_dim : kHeadDims) {
    const Head head(head_dim, 1.0);
    for (const bool concentrated : {false, true}) {
      double key_worst = 0, value_worst = 0, sum = 0;
      for (int32_t trial = 0; trial < 300; ++trial) {
        std::vector<float> x(head_dim);
        for (float& a : x) a = static_cast<float>(student(random));
        if (concentrated) {  // 80 % of the energy in 16 coordinates
          std::shuffle(x.begin(), x.end(), random);
          const double inside = Energy(x.data(), 16), outside = Energy(x.data() + 16, head_dim - 16);
          for (int32_t i = 0; i < 16; ++i) x[i] *= static_cast<float>(std::sqrt(4 * outside / inside));
          std::shuffle(x.begin(), x.end(), random);
        }
        std::vector<uint8_t> page(PageBytes(head_dim));
        CodingError error;
        Reference().encode(head.geometry, Tier::kT8, x.data(), x.data(), 1, 0, page.data(), &error);
        const double energy = Energy(x.data(), head_dim);
        key_worst = std::max(key_worst, error.key / 10 / energy);
        value_worst = std::max(value_worst, error.value / energy);
        sum += error.value / energy;
      }
      INFO("D " << head_dim << (concentrated ? " concentrated" : " Student's t"));
      CHECK(sum / 300 <= 0.001);
      // 8 bits over [-m, m] lose D (m / 128)^2 / 12: more than 0.001 only where one of 256 coordinates is nearly all of the vector.
      const double bound = concentrated || head_dim < 256 ? 0.001 : 256.0 / (12 * 128 * 128);
      CHECK(key_worst <= bound);
      CHECK(value_worst <= bound);
    }
  }
}

TEST_CASE("Vectors that are zero or not finite are stored with radius 0 and cost nothing; the rest of the page does not suffer") {
  const int32_t head_dim = 64;
  const Head head(head_dim);
  for (const float bad : {0.0f, kNaN, kInfinity, -kInfinity, 3e38f}) {
    for (const Tier tier : kTiers) {
      std::vector<float> x(head_dim, bad == 0 ? 0.0f : 1.0f);
      x[17] = bad;
      std::vector<uint8_t> page(PageBytes(head_dim), 0xff);
      CodingError error = {-1, -1};
      Reference().encode(head.geometry, tier, x.data(), x.data(), 1, 2, page.data(), &error);
      const Token token = TokenAt(head, tier, page, 2);
      CHECK(std::all_of(token.z.begin(), token.z.end(), [](float a) { return a == 0; }));
      CHECK(std::all_of(token.v.begin(), token.v.end(), [](float a) { return a == 0; }));
      CHECK(error.key == 0);
      CHECK(error.value == 0);
      std::vector<uint8_t> lower(PageBytes(head_dim));
      Reference().demote(head.geometry, tier, page.data(), 2, 1, Tier::kT1, lower.data(), 0);
      const Token demoted = TokenAt(head, Tier::kT1, lower, 0);
      CHECK(std::all_of(demoted.v.begin(), demoted.v.end(), [](float a) { return a == 0; }));
    }
  }
}

TEST_CASE("A radius beyond f16 is stored as its largest value") {
  const Head head(64);
  const std::vector<float> x(64, 1e6f);
  std::vector<uint8_t> page(PageBytes(64));
  Reference().encode(head.geometry, Tier::kT4, x.data(), x.data(), 1, 0, page.data(), nullptr);
  uint16_t radius;
  std::memcpy(&radius, &page[LayoutOf(Tier::kT4, 64).value_radii], 2);
  CHECK(F16ToF32(radius) == 65504.0f);
}

TEST_CASE("Mapped keys are F (k - mu), the same bits in every implementation, for any number of rows") {
  Rng random(15);
  for (const int32_t head_dim : kHeadDims) {
    Head head(head_dim);
    const std::vector<float> map = Normal(head_dim * head_dim, random), centre = Normal(head_dim, random, 1e3);
    std::copy(map.begin(), map.end(), head.map.begin());
    std::copy(centre.begin(), centre.end(), head.centre.begin());
    for (const int32_t rows : {1, 2, 3, 4, 5, 11}) {
      const int64_t stride = head_dim + 3;
      std::vector<float> keys = Normal(rows * stride, random);
      for (int32_t r = 0; r < rows; ++r) {
        for (int32_t d = 0; d < head_dim; ++d) keys[r * stride + d] += centre[d];  // biases as large as Qwen2's
      }
      std::vector<float> want(rows * head_dim);
      Reference().map_keys(head.geometry, keys.data(), stride, rows, want.data());
      for (int32_t r = 0; r < rows; ++r) {
        for (int32_t i = 0; i < head_dim; ++i) {
          double z = 0, mass = 0;
          for (int32_t d = 0; d < head_dim; ++d) {
            const double term = double{map[i * head_dim + d]} * (keys[r * stride + d] - centre[d]);
            z += term;
            mass += std::fabs(term);
          }
          REQUIRE(std::fabs(want[r * head_dim + i] - z) <= (head_dim / 16 + 5) * 0x1p-24 * mass);
        }
      }
      for (const CodecImpl& impl : Others()) {
        std::vector<float> z(rows * head_dim);
        impl.map_keys(head.geometry, keys.data(), stride, rows, z.data());
        INFO(impl.name << " D " << head_dim << " rows " << rows);
        CHECK(std::memcmp(z.data(), want.data(), z.size() * sizeof(float)) == 0);
      }
    }
  }
}

TEST_CASE("Values are rotated and turned back to the same bits by every implementation, in place or not") {
  Rng random(18);
  for (const int32_t head_dim : kHeadDims) {
    const int32_t rows = 5;
    const int64_t stride = head_dim + 3;
    const std::vector<float> values = Normal(rows * stride, random);
    std::vector<float> want(rows * head_dim), back(rows * head_dim);
    for (int32_t r = 0; r < rows; ++r) std::copy_n(&values[r * stride], head_dim, &want[r * head_dim]);
    back = want;
    for (int32_t r = 0; r < rows; ++r) {
      RotateValue(head_dim, &want[r * head_dim]);
      UnrotateValue(head_dim, &back[r * head_dim]);
    }
    for (const CodecImpl& impl : CodecImpls()) {
      if (!impl.supported()) continue;
      INFO(impl.name << " D " << head_dim);
      std::vector<float> got(rows * head_dim), turned(rows * head_dim);
      impl.rotate_values(head_dim, values.data(), stride, rows, got.data());
      impl.unrotate_values(head_dim, values.data(), stride, rows, turned.data());
      CHECK(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)) == 0);
      CHECK(std::memcmp(turned.data(), back.data(), got.size() * sizeof(float)) == 0);
      impl.unrotate_values(head_dim, got.data(), head_dim, rows, got.data());
      for (int32_t r = 0; r < rows; ++r) {
        CHECK(SquaredDistance(&got[r * head_dim], &values[r * stride], head_dim) <= 1e-12 * Energy(&values[r * stride], head_dim));
      }
    }
  }
}

TEST_CASE("Tokens of exact pages are read as the floats they stand for, whichever of them are wanted") {
  Rng random(19);
  for (const int32_t head_dim : kHeadDims) {
    const std::vector<uint8_t> page = RandomPage(head_dim, random);  // subnormals, infinities and NaN among them
    const auto half = [&](int32_t index) {
      uint16_t bits;
      std::memcpy(&bits, &page[2 * index], sizeof bits);
      return F16ToF32(bits);
    };
    for (int32_t slot = 0; slot < 16; ++slot) {
      for (int32_t rows = 0; rows <= 16 - slot; ++rows) {
        std::vector<float> want_keys(rows * head_dim + 1, -7.0f), want_values(want_keys);
        for (int32_t r = 0; r < rows; ++r) {
          for (int32_t d = 0; d < head_dim; ++d) {
            want_keys[r * head_dim + d] = half(d * 16 + slot + r);
            want_values[r * head_dim + d] = half(16 * head_dim + (slot + r) * head_dim + d);
          }
        }
        for (const CodecImpl& impl : CodecImpls()) {
          if (!impl.supported()) continue;
          std::vector<float> keys(want_keys.size(), -7.0f), values(keys);
          impl.read_exact(head_dim, page.data(), slot, rows, keys.data(), values.data());
          INFO(impl.name << " D " << head_dim << " slot " << slot << " rows " << rows);
          CHECK(std::memcmp(keys.data(), want_keys.data(), keys.size() * sizeof(float)) == 0);
          CHECK(std::memcmp(values.data(), want_values.data(), values.size() * sizeof(float)) == 0);
        }
      }
    }
  }
}

TEST_CASE("Constant keys, equal to their centre, code to nothing; with a bias of 1e3 what varies is still coded") {
  Rng random(16);
  Head head(64, 1.0);
  std::fill(head.centre.begin(), head.centre.end(), 1000.0f);
  const std::vector<float> constant(64, 1000.0f);
  std::vector<float> key(64), z(64);
  const std::vector<float> noise = Normal(64, random);
  for (int32_t d = 0; d < 64; ++d) key[d] = 1000.0f + noise[d];
  std::vector<uint8_t> page(PageBytes(64));
  Reference().map_keys(head.geometry, constant.data(), 64, 1, z.data());
  CHECK(Energy(z.data(), 64) == 0);
  Reference().map_keys(head.geometry, key.data(), 64, 1, z.data());
  Reference().encode(head.geometry, Tier::kT8, z.data(), z.data(), 1, 0, page.data(), nullptr);
  const Token token = TokenAt(head, Tier::kT8, page, 0);
  CHECK(SquaredDistance(token.z.data(), noise.data(), 64) <= 0.001 * Energy(noise.data(), 64));
}

}  // namespace
}  // namespace spherical::kernels
