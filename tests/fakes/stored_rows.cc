#include "tests/fakes/stored_rows.h"

#include <cstring>
#include <new>

#include "kernels/base/float16.h"

namespace spherical {
namespace {

using kernels::WeightType;

float Between(float low, float high, std::mt19937& random) { return std::uniform_real_distribution<float>(low, high)(random); }

void WriteHalf(float value, uint8_t* at) {
  const uint16_t half = kernels::F32ToF16(value);
  std::memcpy(at, &half, sizeof(half));
}

void WriteScale(std::mt19937& random, uint8_t* at) {
  const float scale = Between(0.001f, 0.01f, random);
  WriteHalf(random() % 2 == 0 ? scale : -scale, at);
}

void WriteFloat(WeightType type, float value, uint8_t* at) {
  if (type == WeightType::kF32) std::memcpy(at, &value, sizeof(value));
  if (type == WeightType::kF16) WriteHalf(value, at);
  if (type == WeightType::kBF16) {
    const uint16_t bits = kernels::F32ToBF16(value);
    std::memcpy(at, &bits, sizeof(bits));
  }
}

void WriteScales(WeightType type, std::mt19937& random, uint8_t* block) {
  WriteScale(random, block + (type == WeightType::kQ6_K ? 208 : 0));
  const bool has_min =
      type == WeightType::kQ4_1 || type == WeightType::kQ5_1 || type == WeightType::kQ4_K || type == WeightType::kQ5_K;
  if (has_min) WriteScale(random, block + 2);
}

}  // namespace

std::vector<uint8_t> StoredRows(WeightType type, int64_t n, int64_t k, StoredQuants quants, std::mt19937& random) {
  const kernels::WeightFormat& format = kernels::FormatOf(type);
  std::vector<uint8_t> rows(static_cast<size_t>(n * kernels::RowBytes(type, k)), quants == StoredQuants::kAllOneBits ? 0xff : 0);
  if (quants == StoredQuants::kRandom) {
    for (uint8_t& byte : rows) byte = static_cast<uint8_t>(random());
  }
  for (size_t at = 0; at < rows.size(); at += static_cast<size_t>(format.block_bytes)) {
    if (format.block_elements == 1) {
      WriteFloat(type, Between(-0.05f, 0.05f, random), &rows[at]);
    } else {
      WriteScales(type, random, &rows[at]);
    }
  }
  return rows;
}

void OwnedMatrix::Free::operator()(uint8_t* p) const { operator delete[](p, std::align_val_t{64}); }

OwnedMatrix PackOwned(WeightType type, const std::vector<uint8_t>& rows, int64_t n, int64_t k) {
  const auto bytes = static_cast<size_t>(kernels::PackedBytes(type, n, k));
  OwnedMatrix owned;
  owned.memory.reset(static_cast<uint8_t*>(operator new[](bytes, std::align_val_t{64})));
  owned.matrix = kernels::PackMatrix(type, rows.data(), n, k, owned.memory.get());
  return owned;
}

}  // namespace spherical
