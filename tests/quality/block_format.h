// llama.cpp's block formats of keys and values: what 32 neighbouring elements become when they are stored and read again.
#ifndef SPHERICAL_TESTS_QUALITY_BLOCK_FORMAT_H_
#define SPHERICAL_TESTS_QUALITY_BLOCK_FORMAT_H_

#include <cstdint>
#include <span>

namespace spherical::quality {

inline constexpr int32_t kBlockElements = 32;

// A block is one f16 scale and 32 integers of 8 or 4 bits.
enum class BlockFormat : uint8_t { kQ8_0, kQ4_0 };
constexpr double BitsPerElement(BlockFormat format) { return format == BlockFormat::kQ8_0 ? 8.5 : 4.5; }

// What is read back. x: whole blocks, in place
void StoreAndRead(BlockFormat format, std::span<float> x);

}  // namespace spherical::quality

#endif  // SPHERICAL_TESTS_QUALITY_BLOCK_FORMAT_H_
