// Angle-domain attention in double precision, three loops, no tricks: the definition of correct. Codes are read one by one, as the picture
// in page_layout.h has them; keys meet the query's digits, values their true probabilities.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention/ada_decode_isa.h"
#include "kernels/base/float16.h"

namespace spherical::kernels::reference {
namespace {

int32_t PlaneBits(const uint8_t* plane, int32_t width, int32_t row, int32_t column) {
  switch (width) {
    case 8: return plane[64 * (column / 4) + 4 * row + column % 4];
    case 4: return plane[64 * (column / 8) + 4 * row + column % 4] >> (column / 4 % 2 * 4) & 15;
    case 2: return plane[4 * row + column % 4] >> (column / 4 * 2) & 3;
    default: return plane[8 * (column / 4) + row / 2] >> (row % 2 * 4 + column % 4) & 1;
  }
}

// Twice (code + 1/2), a whole number.
int32_t TwiceCode(const uint8_t* block, int32_t width, int32_t row, int32_t column) {
  const int32_t low = width == 6 || width == 5 ? 4 : width == 3 ? 2 : width;
  int32_t code = PlaneBits(block, low, row, column);
  if (low < width) code |= PlaneBits(block + 32 * low, width - low, row, column) << low;
  return 2 * code - (1 << width) + 1;
}

struct Token {
  const uint8_t* keys;    // of its tile
  const uint8_t* values;
  int32_t row;            // in the tile
  double key_radius, value_radius;
};

Token TokenAt(const AttentionShape& shape, const TierLayout& layout, const uint8_t* arena, const AdaItem& item, int32_t t) {
  const uint8_t* page = arena + item.pages[t / layout.tokens] * shape.page_bytes;
  const int32_t slot = t % layout.tokens;
  const auto radius = [&](int32_t at) { return static_cast<double>(F16ToF32(static_cast<uint16_t>(page[at] | page[at + 1] << 8))); };
  return {.keys = page + slot / kTokenTile * layout.key_tile,
          .values = page + layout.values + slot / kTokenTile * layout.value_tile,
          .row = slot % kTokenTile,
          .key_radius = radius(layout.key_radii + 2 * slot),
          .value_radius = radius(layout.value_radii + 2 * slot)};
}

double Logit(const AttentionShape& shape, const AdaItem& item, int32_t head, const Token& token) {
  const AdaQuery& query = *item.query;
  int64_t twice = 0;
  const uint8_t* block = token.keys;
  for (int32_t d = 0; d < shape.head_dim; ++d) {
    const int32_t width = item.widths[d / kGroup];
    if (width == 0) continue;
    const int64_t twice_code = TwiceCode(block, width, token.row, d % kGroup);
    twice += (256 * query.high[head][d] + query.low[head][d]) * twice_code * (1 << (8 - width));
    if (d % kGroup == kGroup - 1) block += 32 * width;
  }
  const double logit = static_cast<double>(shape.scale) * query.scale[head] * token.key_radius * static_cast<double>(twice) / 512;
  if (shape.softcap <= 0) return logit;
  return shape.softcap * std::tanh((logit + static_cast<double>(shape.scale) * query.centre[head]) / shape.softcap);
}

double Value(const AdaLayout& layout, const Token& token, int32_t d) {
  const int32_t width = layout.value_width;
  return token.value_radius * layout.value_step / 2 * TwiceCode(token.values + d / kGroup * 32 * width, width, d % kGroup, token.row);
}

}  // namespace

void MapAda(const QueryGeometry& geometry, const float* query, int32_t group, AdaMappedQuery& out) {
  const int32_t dims = geometry.head_dim;
  for (int32_t g = 0; g < group; ++g) {
    double centre = 0;
    for (int32_t i = 0; i < dims; ++i) {
      double dot = 0;
      for (int32_t d = 0; d < dims; ++d) dot += static_cast<double>(geometry.map[i * dims + d]) * query[g * dims + d];
      out.rows[g][i] = static_cast<float>(dot);
      if (geometry.centre != nullptr) centre += static_cast<double>(geometry.centre[i]) * query[g * dims + i];
    }
    out.centre[g] = static_cast<float>(centre);
  }
}

void SplitAda(const QueryGeometry& geometry, Tier tier, const AdaMappedQuery& mapped, int32_t group, AdaQuery& out) {
  const int32_t dims = geometry.head_dim;
  const uint8_t* widths = geometry.widths[static_cast<int32_t>(tier)];
  for (int32_t g = 0; g < group; ++g) {
    double steps[kHeadDimMax];
    double largest = 0, sum = 0;
    for (int32_t i = 0; i < dims; ++i) {
      const int32_t width = widths[i / kGroup];
      steps[i] = std::ldexp(static_cast<double>(mapped.rows[g][i]) * geometry.steps()[width], width - 8);
      largest = std::max(largest, std::fabs(steps[i]));
      sum += steps[i];
    }
    const bool finite = std::isfinite(sum);
    out.scale[g] = finite ? static_cast<float>(largest * 256 / kAdaDigitMax) : std::numeric_limits<float>::quiet_NaN();
    out.centre[g] = mapped.centre[g];
    out.offset[g] = 0;
    for (int32_t i = 0; i < dims; ++i) {
      const int32_t digits = finite && largest > 1e-30 ? static_cast<int32_t>(std::nearbyint(steps[i] / largest * kAdaDigitMax)) : 0;
      const int32_t high = (digits + 128) >> 8;
      out.high[g][i] = static_cast<int8_t>(high);
      out.low[g][i] = static_cast<int8_t>(digits - 256 * high);
      out.offset[g] += digits * (256 - (1 << (8 - widths[i / kGroup])));
    }
  }
}

void AttendAda(const AttentionShape& shape, const AdaLayout& layout, const uint8_t* arena, const AdaItem& item) {
  for (int32_t g = 0; g < shape.group; ++g) {
    float max = -std::numeric_limits<float>::infinity();
    for (int32_t t = item.skip; t < item.tokens; ++t) {
      const float logit = static_cast<float>(Logit(shape, item, g, TokenAt(shape, layout.page, arena, item, t)));
      if (logit > max) max = logit;
    }
    double sum = 0;
    double output[kHeadDimMax] = {};
    for (int32_t t = item.skip; t < item.tokens; ++t) {
      const Token token = TokenAt(shape, layout.page, arena, item, t);
      const double p = std::exp(Logit(shape, item, g, token) - max);
      sum += p;
      for (int32_t d = 0; d < shape.head_dim; ++d) output[d] += p * Value(layout, token, d);
    }
    item.state.max[g] = max;
    item.state.sum[g] = static_cast<float>(sum);
    for (int32_t d = 0; d < shape.head_dim; ++d) item.state.output[g * shape.head_dim + d] = static_cast<float>(output[d]);
  }
}

void ScoreAda(const AttentionShape& shape, const AdaLayout& layout, const uint8_t* arena, const AdaItem& item, float* logits,
              int64_t stride) {
  for (int32_t g = 0; g < shape.group; ++g) {
    for (int32_t t = 0; t < item.tokens; ++t) {
      logits[g * stride + t] = static_cast<float>(Logit(shape, item, g, TokenAt(shape, layout.page, arena, item, t)));
    }
  }
}

}  // namespace spherical::kernels::reference
