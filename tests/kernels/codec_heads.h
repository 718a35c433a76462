// What the codec's tests share: heads with geometries of their own, vectors of every kind, and what a page's slots hold and lost.
#ifndef SPHERICAL_TESTS_KERNELS_CODEC_HEADS_H_
#define SPHERICAL_TESTS_KERNELS_CODEC_HEADS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/spherical/codec.h"
#include "kernels/spherical/decode.h"

namespace spherical::kernels {

inline constexpr int32_t kHeadDims[] = {64, 80, 96, 128, 256};
inline constexpr Tier kTiers[] = {Tier::kT8, Tier::kT4, Tier::kT3, Tier::kT2, Tier::kT1};
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

using Rng = std::mt19937_64;

// A head's geometry with the arrays that it points to. The map is the identity unless a test sets it.
struct Head {
  KeyGeometry geometry;
  std::vector<float> centre, map, importance, shaping;  // shaping: none unless a test draws it

  explicit Head(int32_t head_dim, double decay = 0.7) : centre(head_dim), map(head_dim * head_dim), importance(head_dim / kGroup) {
    for (int32_t i = 0; i < head_dim; ++i) map[i * head_dim + i] = 1;
    for (size_t g = 0; g < importance.size(); ++g) importance[g] = static_cast<float>(10 * std::pow(decay, g));
    geometry = {.head_dim = head_dim, .centre = centre.data(), .map = map.data(), .importance = importance.data()};
    for (const Tier tier : kTiers) {
      AllotWidths(importance.data(), head_dim / kGroup, KeyWidths(tier, head_dim), geometry.widths[static_cast<int32_t>(tier)]);
    }
  }
  Head(const Head&) = delete;
  Head& operator=(const Head&) = delete;

  const uint8_t* widths(Tier tier) const { return geometry.widths[static_cast<int32_t>(tier)]; }

  // Any widths that fit the tiers' bytes, in any order.
  void DrawWidths(Rng& random) {
    constexpr uint8_t kAny[] = {0, 1, 2, 3, 4, 5, 6, 8};
    for (const Tier tier : kTiers) {
      int32_t left = KeyWidths(tier, geometry.head_dim);
      for (size_t g = 0; g < importance.size(); ++g) {
        uint8_t width = kAny[random() % 8];
        while (width > left) width = kAny[random() % 8];
        geometry.widths[static_cast<int32_t>(tier)][g] = width;
        left -= width;
      }
    }
  }
};

// Any unit upper triangular shaping: errors of a group weigh up to `most` on each other.
inline void DrawShaping(Head& head, Rng& random, double most) {
  std::uniform_real_distribution<double> weight(-most, most);
  head.shaping.assign(static_cast<size_t>(head.geometry.head_dim) * kGroup, 0);
  for (int32_t i = 0; i < head.geometry.head_dim; ++i) {
    float* column = &head.shaping[static_cast<size_t>(i) * kGroup];
    for (int32_t k = 0; k < i % kGroup; ++k) column[k] = static_cast<float>(weight(random));
    column[i % kGroup] = 1;
  }
  head.geometry.shaping = head.shaping.data();
}

inline std::vector<float> Normal(int64_t count, Rng& random, double size = 1) {
  std::normal_distribution<double> normal(0, size);
  std::vector<float> x(count);
  for (float& a : x) a = static_cast<float>(normal(random));
  return x;
}

inline std::vector<uint8_t> RandomPage(int32_t head_dim, Rng& random) {
  std::vector<uint8_t> page(PageBytes(head_dim));
  for (uint8_t& byte : page) byte = static_cast<uint8_t>(random());
  return page;
}

inline std::vector<CodecImpl> Others() {
  std::vector<CodecImpl> impls;
  for (const CodecImpl& impl : CodecImpls().subspan(1)) {
    if (impl.supported()) impls.push_back(impl);
  }
  return impls;
}
inline const CodecImpl& Reference() { return CodecImpls()[0]; }

// Vectors of every kind that a server can meet, in turn.
inline std::vector<float> Vectors(int32_t rows, int32_t head_dim, Rng& random) {
  std::vector<float> x;
  for (int32_t r = 0; r < rows; ++r) {
    std::vector<float> row = Normal(head_dim, random, std::pow(10.0, static_cast<int32_t>(random() % 7) - 3));
    switch (random() % 12) {
      case 0: std::fill(row.begin(), row.end(), 0.0f); break;
      case 1: row[random() % head_dim] = random() % 2 ? kNaN : -kInfinity; break;
      case 2: row[random() % head_dim] *= 1e3f; break;
      case 3: std::fill(row.begin(), row.end(), -1.5f); break;
      case 4: for (float& a : row) a *= 1e-22f; break;  // its squares vanish
      case 5: for (float& a : row) a *= 1e22f; break;   // its squares overflow
      default: break;
    }
    x.insert(x.end(), row.begin(), row.end());
  }
  return x;
}

// All that a slot holds, decoded.
struct Token {
  std::vector<float> z, v;
  uint8_t utility;
  bool operator==(const Token& other) const {
    const auto same = [](const auto& a, const auto& b) { return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0; };
    return same(z, other.z) && same(v, other.v) && utility == other.utility;
  }
};
inline Token TokenAt(const Head& head, Tier tier, const std::vector<uint8_t>& page, int32_t slot) {
  const int32_t head_dim = head.geometry.head_dim;
  Token token = {std::vector<float>(head_dim), std::vector<float>(head_dim), page[LayoutOf(tier, head_dim).utilities + slot]};
  DecodeToken(tier, head_dim, head.widths(tier), page.data(), slot, token.z.data(), token.v.data());
  return token;
}

inline double SquaredDistance(const float* a, const float* b, int32_t count) {
  double sum = 0;
  for (int32_t i = 0; i < count; ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return sum;
}
inline double Energy(const float* a, int32_t count) {
  double sum = 0;
  for (int32_t i = 0; i < count; ++i) sum += double{a[i]} * a[i];
  return sum;
}

// Squared error of a coded key in the metric of `shaping`: sum over groups of importance |U (z - z^)|^2.
inline double ShapedError(const Head& head, const float* z, const float* coded) {
  double error = 0;
  for (int32_t first = 0; first < head.geometry.head_dim; first += kGroup) {
    for (int32_t i = 0; i < kGroup; ++i) {
      double weighed = 0;
      for (int32_t k = i; k < kGroup; ++k) {
        weighed += double{head.shaping[static_cast<size_t>((first + k) * kGroup + i)]} * (z[first + k] - coded[first + k]);
      }
      error += head.importance[static_cast<size_t>(first / kGroup)] * weighed * weighed;
    }
  }
  return error;
}

// Squared error of decoded vectors, of keys in the metric, as a share of the energy.
struct Errors {
  double key = 0, value = 0;
};
inline Errors MeasuredErrors(const Head& head, Tier tier, const std::vector<uint8_t>& page, const float* z, const float* v, int32_t slot) {
  const int32_t head_dim = head.geometry.head_dim;
  const Token token = TokenAt(head, tier, page, slot);
  Errors errors;
  if (!head.shaping.empty()) errors.key = ShapedError(head, z, token.z.data());
  for (int32_t g = 0; g < head_dim / kGroup && head.shaping.empty(); ++g) {
    errors.key += head.importance[g] * SquaredDistance(z + g * kGroup, &token.z[g * kGroup], kGroup);
  }
  errors.value = SquaredDistance(v, token.v.data(), head_dim);
  return errors;
}

}  // namespace spherical::kernels

#endif  // SPHERICAL_TESTS_KERNELS_CODEC_HEADS_H_
