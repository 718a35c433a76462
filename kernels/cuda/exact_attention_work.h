// What exact attention on the device is asked to do, as plain data. Contract: exact_attention.h.
#ifndef SPHERICAL_KERNELS_CUDA_EXACT_ATTENTION_WORK_H_
#define SPHERICAL_KERNELS_CUDA_EXACT_ATTENTION_WORK_H_

#include <cstdint>

namespace spherical::kernels::cuda {

inline constexpr int32_t kRunFlats = 16;    // at most, of an item that is cut along its keys
inline constexpr int32_t kTileFlats = 128;  // of a tile of a prompt's chunk
inline constexpr int32_t kRunKeys = 512;    // of one run, at most
inline constexpr int32_t kRunStep = 64;     // what runs are best multiples of: so many keys are read together

struct ExactWork {
  int32_t slot = 0;       // whose pages: a row of the lists
  int32_t row = 0;        // the item's first row, among all rows of the step
  int32_t position = 0;   // of that row; the row after it is at the next position
  int32_t flat = 0;       // the first of this work
  int32_t flats = 0;
  int32_t first = 0;      // keys at positions [first, end); `first` is a multiple of 16
  int32_t end = 0;
  int32_t state = -1;     // runs: where this one's state goes; -1: there is no other run, the result goes to `out`
};

// Runs whose states make one result.
struct ExactJoin {
  int32_t row = 0;
  int32_t flats = 0;      // from 0
  int32_t state = 0;      // the first of `runs` states
  int32_t runs = 0;
};

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_EXACT_ATTENTION_WORK_H_
