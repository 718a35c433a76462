// How large a pool fits a device; no CUDA in it.
#ifndef SPHERICAL_ENGINE_STEP_DEVICE_ROOM_H_
#define SPHERICAL_ENGINE_STEP_DEVICE_ROOM_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/base/units.h"

namespace spherical::engine {

// Bytes of a device's memory, when all but the pool has been taken.
struct DeviceRoom {
  int64_t all = 0;       // of the device
  int64_t free = 0;      // now
  int64_t weights = 0;   // taken by the model,
  int64_t prefill = 0;   // by the prefill workspace,
  int64_t steps = 0;     // and by page tables and what steps need
};

// What a pool that is not asked for by size leaves free: for recorded steps, what CUDA itself takes later, and neighbours. A fiftieth, at
// least 512 MiB.
int64_t DeviceHeadroom(int64_t all_bytes);

// "weights take 16060000000 bytes, the prefill workspace ..., page tables and steps ...; ... of the device's ... bytes are free".
std::string TextOf(const DeviceRoom& room);

// Pages of the pool: `asked`, or, where that is 0, as many as are free beside the headroom. ResourceExhausted, with the numbers and what to
// do, when what was asked is not free, or when less than `least` pages would be had.
absl::StatusOr<PageCount> PoolPagesIn(const DeviceRoom& room, int64_t page_bytes, PageCount asked, PageCount least);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_DEVICE_ROOM_H_
