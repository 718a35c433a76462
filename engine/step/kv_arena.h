#ifndef SPHERICAL_ENGINE_STEP_KV_ARENA_H_
#define SPHERICAL_ENGINE_STEP_KV_ARENA_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/step/thread_pool.h"
#include "kernels/base/units.h"

namespace spherical::engine {

// The bytes of the KV pool in host memory: one mapping, allocated and touched at start, so that no request can ever fail for lack of it
// later. Huge pages where the machine gives them: attention reads pages in any order.
// Move only. Zero-filled.
class KvArena {
 public:
  // ResourceExhausted, with the number of bytes, when the machine does not give them.
  static absl::StatusOr<KvArena> Allocate(ByteCount bytes, ThreadPool& pool);

  KvArena(KvArena&& other) noexcept;
  KvArena& operator=(KvArena&& other) noexcept;
  ~KvArena();

  uint8_t* data() { return data_; }
  const uint8_t* data() const { return data_; }
  ByteCount bytes() const { return bytes_; }

 private:
  KvArena(uint8_t* data, ByteCount bytes) : data_(data), bytes_(bytes) {}
  uint8_t* data_ = nullptr;
  ByteCount bytes_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_KV_ARENA_H_
