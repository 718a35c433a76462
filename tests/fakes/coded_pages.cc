#include "tests/fakes/coded_pages.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "kernels/base/float16.h"
#include "kernels/spherical/query_geometry.h"

namespace spherical::kernels {
namespace {

// One plane of a block: `bits` of row r and column c, which are `width` wide.
void WritePlane(uint8_t* plane, int32_t width, int32_t r, int32_t c, int32_t bits) {
  int32_t bit = 0;  // first bit of the entry in the plane
  switch (width) {
    case 8: bit = 8 * (64 * (c / 4) + 4 * r + c % 4); break;
    case 4: bit = 8 * (64 * (c / 8) + 4 * r + c % 4) + (c % 8 >= 4 ? 4 : 0); break;
    case 2: bit = 8 * (4 * r + c % 4) + 2 * (c / 4); break;
    default: bit = 64 * (c / 4) + 4 * r + c % 4; break;
  }
  for (int32_t i = 0; i < width; ++i, ++bit) {
    const uint8_t mask = static_cast<uint8_t>(1 << bit % 8);
    plane[bit / 8] = static_cast<uint8_t>(bits >> i & 1 ? plane[bit / 8] | mask : plane[bit / 8] & ~mask);
  }
}

void WriteCode(uint8_t* block, int32_t width, int32_t row, int32_t column, int32_t code) {
  if (width == 0) return;
  int32_t bits = code + (1 << (width - 1));
  for (const int32_t plane : {8, 4, 2, 1}) {  // widest first, low bits first
    if (width < plane) continue;
    WritePlane(block, plane, row, column, bits & ((1 << plane) - 1));
    bits >>= plane;
    width -= plane;
    block += 32 * plane;
  }
}

double AsRead(int32_t code, int32_t width) { return width == 0 ? 0 : (code + 0.5) * static_cast<double>(kReadStep[width]); }

}  // namespace

CodedPages::CodedPages(int32_t head_dim, Tier tier, std::vector<uint8_t> widths, int32_t tokens, uint64_t seed)
    : head_dim(head_dim), tier(tier), widths(std::move(widths)), tokens(tokens) {
  std::mt19937_64 random(seed);
  const auto code = [&](int32_t width) { return width == 0 ? 0 : static_cast<int32_t>(random() % (1u << width)) - (1 << (width - 1)); };
  std::uniform_real_distribution<float> radius(0.25f, 2.0f);
  for (int32_t t = 0; t < tokens; ++t) {
    for (int32_t d = 0; d < head_dim; ++d) {
      key_codes.push_back(code(this->widths[d / kGroup]));
      value_codes.push_back(code(ValueWidth(tier)));
    }
    key_radii.push_back(radius(random));
    value_radii.push_back(radius(random));
  }
  const int32_t count = static_cast<int32_t>(CeilDiv(tokens, TokensPerPage(tier, head_dim)));
  pages.resize(2 * count + 1);
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), random);
  pages.resize(count);
  arena.assign(static_cast<size_t>(2 * count + 1) * PageBytes(head_dim), 0xff);
  Write();
}

void CodedPages::Write() {
  const TierLayout layout = LayoutOf(tier, head_dim);
  const auto write_radius = [](uint8_t* at, float& radius) {
    const uint16_t half = F32ToF16(radius);
    radius = F16ToF32(half);
    at[0] = static_cast<uint8_t>(half & 255);
    at[1] = static_cast<uint8_t>(half >> 8);
  };
  for (int32_t t = 0; t < tokens; ++t) {
    uint8_t* page = &arena[static_cast<size_t>(pages[t / layout.tokens]) * PageBytes(head_dim)];
    const int32_t slot = t % layout.tokens;
    uint8_t* keys = page + slot / 16 * layout.key_tile;
    uint8_t* values = page + layout.values + slot / 16 * layout.value_tile;
    const int32_t value_width = ValueWidth(tier);
    for (int32_t d = 0; d < head_dim; ++d) {
      const int32_t width = widths[d / kGroup];
      WriteCode(keys, width, slot % 16, d % kGroup, key_codes[t * head_dim + d]);
      if (d % kGroup == kGroup - 1) keys += 32 * width;
      WriteCode(values + d / kGroup * 32 * value_width, value_width, d % kGroup, slot % 16, value_codes[t * head_dim + d]);
    }
    write_radius(page + layout.key_radii + 2 * slot, key_radii[t]);
    write_radius(page + layout.value_radii + 2 * slot, value_radii[t]);
  }
}

double CodedPages::Key(int32_t t, int32_t d) const { return AsRead(key_codes[t * head_dim + d], widths[d / kGroup]); }
double CodedPages::Value(int32_t t, int32_t d) const { return AsRead(value_codes[t * head_dim + d], ValueWidth(tier)); }

std::vector<uint8_t> RandomWidths(int32_t head_dim, Tier tier, uint64_t seed) {
  const int32_t groups = head_dim / kGroup;
  if (tier == Tier::kT8) return std::vector<uint8_t>(groups, 8);
  std::mt19937_64 random(seed);
  std::vector<uint8_t> widths(groups, 0);
  for (int32_t left = KeyWidths(tier, head_dim), tries = 0; left > 0 && tries < 1000; ++tries) {
    uint8_t& width = widths[random() % groups];
    const uint8_t step = width == 6 ? 2 : 1;
    if (width == 8 || step > left) continue;
    width = static_cast<uint8_t>(width + step);
    left -= step;
  }
  return widths;
}

}  // namespace spherical::kernels
