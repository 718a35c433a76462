// The codec as codec.h defines it, one coordinate at a time. The order of float operations is part of the definition.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/base/float16.h"
#include "kernels/spherical/code_planes.h"
#include "kernels/spherical/codec_isa.h"

namespace spherical::kernels::reference {
namespace {

// Sixteen running sums, coordinate i of each group in lane i.
struct LaneSums {
  std::array<float, kGroup> lane = {};

  void AddProduct(int32_t coordinate, float a, float b) { lane[coordinate % kGroup] = std::fma(a, b, lane[coordinate % kGroup]); }
  float Fold() const {
    std::array<float, kGroup> fold = lane;
    for (int32_t half = kGroup / 2; half > 0; half /= 2) {
      for (int32_t i = 0; i < half; ++i) fold[i] += fold[i + half];
    }
    return fold[0];
  }
};

uint16_t RoundRadius(float radius) { return F32ToF16(radius > 0 ? std::min(radius, kLargestRadius) : 0.0f); }

float Quantise(float steps, int32_t width) {
  const float half_range = kScales.offset[width];
  return std::max(-half_range, std::min(half_range - 1, std::floor(steps)));
}
float CodePoint(float code, int32_t width) { return (code + 0.5f) * kScales.step[width]; }

// One vector's codes: keys are rows of their blocks, values columns.
struct Vector {
  int32_t dims;
  const uint8_t* widths;
  bool key;
  int32_t slot;

  int32_t width(int32_t i) const { return widths[i / kGroup]; }
  int32_t block(int32_t i) const {  // bytes before it in its tile
    int32_t bytes = 0;
    for (int32_t g = 0; g < i / kGroup; ++g) bytes += kGroup * kTokenTile / 8 * widths[g];
    return bytes;
  }
  int32_t row(int32_t i) const { return key ? slot % kTokenTile : i % kGroup; }
  int32_t column(int32_t i) const { return key ? i % kGroup : slot % kTokenTile; }

  float Read(const uint8_t* tile, int32_t i) const {
    return static_cast<float>(ReadCode(tile + block(i), width(i), row(i), column(i))) - kScales.offset[width(i)];
  }
  void Write(uint8_t* tile, int32_t i, float code) const {
    WriteCode(tile + block(i), width(i), row(i), column(i), static_cast<uint32_t>(code + kScales.offset[width(i)]));
  }
};

// What a vector's coordinates weigh (codec.h). shaping [groups][16][16], column by column; null: they do not weigh on each other.
struct Metric {
  const float* importance;
  const float* shaping;
};

// A vector in units of its radius, quantised; both it and its code points as the metric sees them.
struct Quantised {
  std::array<float, kHeadDimMax> codes = {}, vector = {}, points = {};
  float along = 0, norm = 0;  // inner products in the metric: of vector and points, of the points
};

Quantised QuantiseVector(const std::array<float, kHeadDimMax>& u, const Vector& to, const Metric& metric) {
  Quantised q;
  std::array<float, kHeadDimMax> errors = {};
  for (int32_t i = to.dims - 1; i >= 0; --i) {  // within a group from the last coordinate to the first; groups are apart
    const int32_t width = to.width(i), first = i / kGroup * kGroup;
    const float target = u[i] + errors[i];
    if (width != 0) q.codes[i] = Quantise(target * kScales.inverse[width], width);
    const float point = width == 0 ? 0 : CodePoint(q.codes[i], width);
    if (metric.shaping == nullptr) {
      q.points[i] = point;
      q.vector[i] = u[i];
      continue;
    }
    const float* column = metric.shaping + i * kGroup;
    for (int32_t k = 0; k < kGroup; ++k) {
      errors[first + k] = std::fma(u[i] - point, column[k], errors[first + k]);
      q.points[first + k] = std::fma(point, column[k], q.points[first + k]);
    }
    q.vector[i] = target - point;  // and its point, once those before it have weighed on it
  }
  LaneSums along, norm;
  for (int32_t i = 0; i < to.dims; ++i) {
    if (metric.shaping != nullptr) q.vector[i] = q.points[i] + q.vector[i];
    const float weighted = q.points[i] * metric.importance[i / kGroup];
    along.AddProduct(i, weighted, q.vector[i]);
    norm.AddProduct(i, weighted, q.points[i]);
  }
  q.along = along.Fold();
  q.norm = norm.Fold();
  return q;
}

void WriteCodes(const Quantised& q, const Vector& to, uint8_t* tile) {
  for (int32_t i = 0; i < to.dims; ++i) {
    if (to.width(i) != 0) to.Write(tile, i, q.codes[i]);
  }
}

uint16_t EncodeVector(const float* x, const Vector& to, const Metric& metric, bool wide, uint8_t* tile, float* error) {
  LaneSums squares;
  float largest = 0;
  for (int32_t i = 0; i < to.dims; ++i) {
    squares.AddProduct(i, x[i], x[i]);
    largest = std::max(largest, std::fabs(x[i]));
  }
  const float energy = squares.Fold();
  const bool sound = energy > 0 && energy < std::numeric_limits<float>::infinity();
  const float radius = wide ? largest / kWideReach : std::sqrt(energy / static_cast<float>(to.dims));
  const float inverse = sound ? 1 / radius : 0;

  std::array<float, kHeadDimMax> u = {};
  for (int32_t i = 0; i < to.dims; ++i) u[i] = sound ? x[i] * inverse : 0;
  const Quantised q = QuantiseVector(u, to, metric);
  WriteCodes(q, to, tile);
  const uint16_t stored = sound ? RoundRadius(radius * (q.along / q.norm)) : 0;
  if (error == nullptr) return stored;
  LaneSums errors;
  for (int32_t i = 0; i < to.dims; ++i) {
    const float off = std::fma(-F16ToF32(stored), q.points[i], q.vector[i] * radius);
    errors.AddProduct(i, off * metric.importance[i / kGroup], off);
  }
  *error = sound ? errors.Fold() : 0;
  return stored;
}

struct Requantised {
  Quantised q;
  float gain, score;
};

Requantised Requantise(const std::array<float, kHeadDimMax>& points, const Vector& to, const Metric& metric, float shrink) {
  std::array<float, kHeadDimMax> u = {};
  for (int32_t i = 0; i < to.dims; ++i) u[i] = points[i] * shrink;
  Requantised out;
  out.q = QuantiseVector(u, to, metric);
  const float inner = out.q.along / shrink;
  out.gain = inner / out.q.norm;
  out.score = inner * out.gain;
  return out;
}

uint16_t DemoteVector(const Vector& from, const uint8_t* from_tile, bool wide, bool same_tier, uint16_t radius, const Vector& to,
                      const Metric& metric, uint8_t* tile) {
  if (same_tier) {
    for (int32_t i = 0; i < from.dims; ++i) {
      if (from.width(i) != 0) to.Write(tile, i, from.Read(from_tile, i));
    }
    return radius;
  }
  std::array<float, kHeadDimMax> points = {};
  LaneSums squares;
  bool keeps_wide = false;
  for (int32_t i = 0; i < from.dims; ++i) {
    if (from.width(i) == 0) continue;
    points[i] = CodePoint(from.Read(from_tile, i), from.width(i));
    squares.AddProduct(i, points[i], points[i]);
    keeps_wide |= to.width(i) == 8;
  }
  float shrink = 1;
  if (wide) {
    shrink = (keeps_wide ? 1.0f : kFirstShrink) / std::sqrt(squares.Fold() / static_cast<float>(from.dims));
  }
  Requantised best = Requantise(points, to, metric, shrink);
  if (!wide || keeps_wide) {
    const Requantised other = Requantise(points, to, metric, wide ? 1.0f : kMergeShrink);
    if (other.score > best.score) best = other;
  }
  WriteCodes(best.q, to, tile);
  return RoundRadius(F16ToF32(radius) * best.gain);
}

Vector KeyOf(const CodecTier& tier, int32_t slot) { return {tier.groups * kGroup, tier.key_widths, true, slot}; }
Vector ValueOf(const CodecTier& tier, int32_t slot) { return {tier.groups * kGroup, tier.value_widths, false, slot}; }
template <class Byte>
Byte* KeyTile(const CodecTier& tier, Byte* page, int32_t slot) { return page + slot / kTokenTile * tier.key_tile; }
template <class Byte>
Byte* ValueTile(const CodecTier& tier, Byte* page, int32_t slot) { return page + tier.values + slot / kTokenTile * tier.value_tile; }

void DemoteToken(const DemoteOperands& o, int32_t from_slot, int32_t to_slot) {
  uint16_t key, value;
  std::memcpy(&key, o.from_page + o.from.key_radii + 2 * from_slot, sizeof key);
  std::memcpy(&value, o.from_page + o.from.value_radii + 2 * from_slot, sizeof value);
  key = DemoteVector(KeyOf(o.from, from_slot), KeyTile(o.from, o.from_page, from_slot), o.from.wide, o.same_tier, key,
                     KeyOf(o.to, to_slot), {o.importance, o.shaping}, KeyTile(o.to, o.to_page, to_slot));
  value = DemoteVector(ValueOf(o.from, from_slot), ValueTile(o.from, o.from_page, from_slot), o.from.wide, o.same_tier, value,
                       ValueOf(o.to, to_slot), {o.ones, nullptr}, ValueTile(o.to, o.to_page, to_slot));
  std::memcpy(o.to_page + o.to.key_radii + 2 * to_slot, &key, sizeof key);
  std::memcpy(o.to_page + o.to.value_radii + 2 * to_slot, &value, sizeof value);
  o.to_page[o.to.utilities + to_slot] = o.from_page[o.from.utilities + from_slot];
}

// Walsh-Hadamard over the largest power of two, from neighbours outwards, then the reflection across what is left.
void Mix(int32_t head_dim, float* x) {
  const int32_t power = head_dim & -head_dim, odd = head_dim / power;
  for (int32_t run = 0; run < head_dim; run += power) {
    for (int32_t half = 1; half < power; half *= 2) {
      for (int32_t first = run; first < run + power; first += 2 * half) {
        for (int32_t i = first; i < first + half; ++i) {
          const float a = x[i], b = x[i + half];
          x[i] = a + b;
          x[i + half] = a - b;
        }
      }
    }
  }
  const float scale = 1 / std::sqrt(static_cast<float>(power));
  for (int32_t i = 0; i < head_dim; ++i) x[i] *= scale;
  if (odd == 1) return;
  for (int32_t i = 0; i < power; ++i) {
    float sum = 0;
    for (int32_t run = 0; run < odd; ++run) sum += x[run * power + i];
    const float shift = 2 * sum / static_cast<float>(odd);
    for (int32_t run = 0; run < odd; ++run) x[run * power + i] -= shift;
  }
}

}  // namespace

void MapKeys(const MapOperands& o) {
  for (int32_t r = 0; r < o.rows; ++r) {
    for (int32_t i = 0; i < o.head_dim; ++i) {
      LaneSums sum;
      for (int32_t d = 0; d < o.head_dim; ++d) {
        sum.AddProduct(d, o.map[int64_t{i} * o.head_dim + d], o.keys[r * o.key_stride + d] - o.centre[d]);
      }
      o.z[int64_t{r} * o.head_dim + i] = sum.Fold();
    }
  }
}

void Encode(const EncodeOperands& o) {
  for (int32_t r = 0; r < o.rows; ++r) {
    const int32_t slot = o.slot + r;
    const int64_t first = int64_t{r} * o.tier.groups * kGroup;
    float* errors = o.errors == nullptr ? nullptr : o.errors + 2 * r;
    const uint16_t key =
        EncodeVector(o.z + first, KeyOf(o.tier, slot), {o.importance, o.shaping}, o.tier.wide, KeyTile(o.tier, o.page, slot), errors);
    const uint16_t value = EncodeVector(o.v + first, ValueOf(o.tier, slot), {o.ones, nullptr}, o.tier.wide, ValueTile(o.tier, o.page, slot),
                                        errors == nullptr ? nullptr : errors + 1);
    std::memcpy(o.page + o.tier.key_radii + 2 * slot, &key, sizeof key);
    std::memcpy(o.page + o.tier.value_radii + 2 * slot, &value, sizeof value);
  }
}

void Demote(const DemoteOperands& o) {
  int32_t to_slot = o.to_slot;
  for (int32_t i = 0; i < kTokenTile; ++i) {
    if ((o.which >> i & 1) != 0) DemoteToken(o, o.from_tile * kTokenTile + i, to_slot++);
  }
}

// One token after the other, in the steps that ladder.cc takes for any token.
void Ladders(const LadderOperands& o) {
  for (int32_t t = 0; t < kTokenTile; ++t) {
    uint16_t half;
    std::memcpy(&half, o.radii + 2 * t, sizeof half);
    const float radius = F16ToF32(half);
    const float utility = std::bit_cast<float>(static_cast<uint32_t>(o.utilities[t] + o.first_utility) << 21);
    float loss[kLadderRungs + 1];
    for (int32_t r = 0; r < kLadderRungs; ++r) loss[r] = std::min(1.0f, radius * radius * o.key[r]) + o.value[r];
    loss[kLadderRungs] = 1;
    for (int32_t r = 0; r < kLadderRungs; ++r) {
      float price = 0;
      for (int32_t i = 0; i <= r; ++i) {
        const float* per_byte = o.per_byte + i * (kLadderRungs + 1);
        float least = (loss[kLadderRungs] - loss[i]) * per_byte[kLadderRungs];
        for (int32_t j = r + 1; j < kLadderRungs; ++j) least = std::min(least, (loss[j] - loss[i]) * per_byte[j]);
        price = std::max(price, least);
      }
      const int32_t step = static_cast<int32_t>(std::bit_cast<uint32_t>(price * utility) >> 20) - o.first_price;
      o.leaves[r * kTokenTile + t] = static_cast<uint16_t>(std::clamp(step, 1, o.last_price));
    }
  }
}

void Rotate(const RotateOperands& o) {
  for (int32_t r = 0; r < o.rows; ++r) {
    float* x = o.rotated + int64_t{r} * o.head_dim;
    for (int32_t i = 0; i < o.head_dim; ++i) x[i] = o.values[r * o.stride + i] * kValueSigns.sign[i];
    Mix(o.head_dim, x);
  }
}

void Unrotate(const RotateOperands& o) {
  for (int32_t r = 0; r < o.rows; ++r) {
    float* x = o.rotated + int64_t{r} * o.head_dim;
    for (int32_t i = 0; i < o.head_dim; ++i) x[i] = o.values[r * o.stride + i];
    Mix(o.head_dim, x);
    for (int32_t i = 0; i < o.head_dim; ++i) x[i] *= kValueSigns.sign[i];
  }
}

void ReadExact(const ReadOperands& o) {
  const auto half = [](const uint8_t* at) { return F16ToF32(static_cast<uint16_t>(at[0] | at[1] << 8)); };
  for (int32_t r = 0; r < o.rows; ++r) {
    for (int32_t d = 0; d < o.head_dim; ++d) {
      o.keys[r * o.head_dim + d] = half(o.page_keys + 2 * (d * kExactTokensPerPage + o.slot + r));
      o.values[r * o.head_dim + d] = half(o.page_values + 2 * ((o.slot + r) * o.head_dim + d));
    }
  }
}

}  // namespace spherical::kernels::reference
