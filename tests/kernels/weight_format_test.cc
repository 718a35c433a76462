#include "kernels/dense/weight_format.h"

#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/base/float16.h"

namespace spherical::kernels {
namespace {

// 256 weights decoded from the bytes of FixtureBytes, by two programs that share nothing with this one: GGML's own to_float and the
// numpy decoders of tests/golden. They agree bit for bit.
struct Fixture {
  WeightType type;
  uint64_t hash;    // FNV-1a over the 256 f32 bit patterns
  float values[4];  // of weights 0, 17, 100, 255: where to look first when the hash differs
};
constexpr Fixture kFixtures[] = {
    {WeightType::kQ4_0, 0x4577febcbfd12b83u, {-0x1.5d2p-5f, 0x1.2b4p-6f, 0x1.7e6p-11f, 0x1.23cp-14f}},
    {WeightType::kQ4_1, 0x8f3f4c66b5d0307fu, {-0x1.aaep-3f, -0x1.0114p-2f, 0x1.1e718p-1f, -0x1.225p-10f}},
    {WeightType::kQ5_0, 0xe5b00d2f13998983u, {0x1.2b4p-5f, -0x1.8fp-5f, 0x1.185p-10f, -0x1.40e4p+0f}},
    {WeightType::kQ5_1, 0x783d766681a909f3u, {-0x1.075p-2f, -0x1.f8ap-4f, -0x1.eb68p+1f, 0x1.5dbcp-1f}},
    {WeightType::kQ8_0, 0x38acdc2df2a17783u, {-0x1.8be2p-1f, -0x1.761p-1f, 0x1.36p-3f, 0x1.a3f4p-9f}},
    {WeightType::kQ4_K, 0x18deaaf11ebd9553u, {0x1.0058p+1f, 0x1.edfcp+0f, 0x1.b541cp+3f, 0x1.62a3ap+3f}},
    {WeightType::kQ5_K, 0xcb07b95608a027abu, {0x1.a32cp+0f, 0x1.a8acp+1f, 0x1.9cb58p+3f, 0x1.41212p+3f}},
    {WeightType::kQ6_K, 0x97152eac38f2683bu, {-0x1.060e4p+11f, 0x1.cbbd2p+11f, 0x1.2b9b38p+12f, -0x0p+0f}},
    {WeightType::kF16, 0xbd0bb1793d476f83u, {0x1.8fp-8f, -0x1.18cp-12f, 0x1.de8p-8f, -0x1.694p-5f}},
    {WeightType::kBF16, 0xd5e992c0440b0f83u, {0x1.78p-67f, -0x1.c6p-103f, 0x1.f4p-65f, -0x1.4ap-44f}},
};

// Where the f16 numbers of a block are.
std::vector<size_t> HalvesOf(WeightType type) {
  switch (type) {
    case WeightType::kQ4_1:
    case WeightType::kQ5_1:
    case WeightType::kQ4_K:
    case WeightType::kQ5_K: return {0, 2};
    case WeightType::kQ6_K: return {208};
    default: return {0};
  }
}

// The high bytes of a linear congruential generator; one exponent bit of every f16 cleared, so that none is infinite or NaN.
std::vector<uint8_t> FixtureBytes(WeightType type) {
  std::vector<uint8_t> bytes(static_cast<size_t>(RowBytes(type, 256)));
  uint32_t state = 1;
  for (uint8_t& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<uint8_t>(state >> 24);
  }
  for (size_t block = 0; block < bytes.size(); block += static_cast<size_t>(FormatOf(type).block_bytes)) {
    for (const size_t half : HalvesOf(type)) bytes[block + half + 1] &= 0xbf;
  }
  return bytes;
}

uint64_t Hash(const std::vector<float>& values) {
  uint64_t hash = 1469598103934665603u;
  for (const float value : values) hash = (hash ^ std::bit_cast<uint32_t>(value)) * 1099511628211u;
  return hash;
}

std::vector<float> Decode(WeightType type, const std::vector<uint8_t>& bytes, int64_t elements) {
  std::vector<float> values(static_cast<size_t>(elements));
  DequantizeRow(type, bytes.data(), elements, values.data());
  return values;
}

TEST_CASE("every format decodes to the bits that two other programs decode") {
  for (const Fixture& fixture : kFixtures) {
    INFO(FormatOf(fixture.type).name);
    const std::vector<float> values = Decode(fixture.type, FixtureBytes(fixture.type), 256);
    CHECK(values[0] == fixture.values[0]);
    CHECK(values[17] == fixture.values[1]);
    CHECK(values[100] == fixture.values[2]);
    CHECK(values[255] == fixture.values[3]);
    CHECK(Hash(values) == fixture.hash);
  }
}

TEST_CASE("rows of f32 are copied as they are") {
  const std::vector<float> weights = {1.5f, -0.0f, 0x1p-149f, 3e38f};
  std::vector<uint8_t> bytes(16);
  std::memcpy(bytes.data(), weights.data(), 16);
  const std::vector<float> values = Decode(WeightType::kF32, bytes, 4);
  for (size_t i = 0; i < 4; ++i) CHECK(std::bit_cast<uint32_t>(values[i]) == std::bit_cast<uint32_t>(weights[i]));
}

TEST_CASE("a Q4_0 block by hand: scale 0.5, low nibbles first, eight is zero") {
  std::vector<uint8_t> bytes(18, 0x88);
  bytes[0] = 0x00;
  bytes[1] = 0x38;  // f16 0.5
  bytes[2] = 0xf0;  // weight 0 is 0, weight 16 is 15
  const std::vector<float> values = Decode(WeightType::kQ4_0, bytes, 32);
  CHECK(values[0] == -4.0f);
  CHECK(values[16] == 3.5f);
  CHECK(values[1] == 0.0f);
}

TEST_CASE("a row may start at any byte") {
  for (const Fixture& fixture : kFixtures) {
    std::vector<uint8_t> bytes = FixtureBytes(fixture.type);
    bytes.insert(bytes.begin(), 0);
    std::vector<float> values(256);
    DequantizeRow(fixture.type, bytes.data() + 1, 256, values.data());
    CHECK(Hash(values) == fixture.hash);
  }
}

TEST_CASE("formats know their names and sizes") {
  CHECK(FormatOf(WeightType::kQ4_K).name == std::string("Q4_K"));
  CHECK(RowBytes(WeightType::kF32, 7) == 28);
  CHECK(RowBytes(WeightType::kBF16, 7) == 14);
  CHECK(RowBytes(WeightType::kQ4_1, 576) == 18 * 20);
  CHECK(RowBytes(WeightType::kQ6_K, 512) == 420);
  for (int i = 0; i < kWeightTypeCount; ++i) CHECK(static_cast<int>(FormatOf(static_cast<WeightType>(i)).type) == i);
}

TEST_CASE("every f16 becomes f32 and back") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = F16ToF32(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      CHECK(std::isnan(F16ToF32(F32ToF16(value))));
    } else if (F32ToF16(value) != bits) {
      FAIL("f16 bits " << bits);
    }
  }
}

}  // namespace
}  // namespace spherical::kernels
