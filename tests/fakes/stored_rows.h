#ifndef SPHERICAL_TESTS_FAKES_STORED_ROWS_H_
#define SPHERICAL_TESTS_FAKES_STORED_ROWS_H_

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "kernels/dense/packed_matrix.h"
#include "kernels/dense/weight_format.h"

namespace spherical {

// What the quants of a made-up matrix are. Scales and mins are always sane: random, of both signs, between 0.001 and 0.01.
enum class StoredQuants { kRandom, kAllZeroBits, kAllOneBits };

// N rows of K weights in a stored format, as a GGUF file would hold them. Floats are between -0.05 and 0.05.
std::vector<uint8_t> StoredRows(kernels::WeightType type, int64_t n, int64_t k, StoredQuants quants, std::mt19937& random);

// A packed matrix with memory of its own.
struct OwnedMatrix {
  struct Free {
    void operator()(uint8_t* p) const;
  };
  std::unique_ptr<uint8_t[], Free> memory;
  kernels::PackedMatrix matrix;
};
OwnedMatrix PackOwned(kernels::WeightType type, const std::vector<uint8_t>& rows, int64_t n, int64_t k);

}  // namespace spherical

#endif  // SPHERICAL_TESTS_FAKES_STORED_ROWS_H_
