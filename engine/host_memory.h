#ifndef SPHERICAL_ENGINE_HOST_MEMORY_H_
#define SPHERICAL_ENGINE_HOST_MEMORY_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/base/units.h"

namespace spherical::engine {

// One large, zero-filled piece of this machine's memory, on huge pages where the machine gives them: weights and KV pages are read end to
// end every step, and under virtualisation a miss of the address cache costs as much as the data (17 against 30 GB/s on one core where this
// was measured). Aligned to a huge page. Move only.
class HostMemory {
 public:
  // ResourceExhausted when the machine does not give them: "<what>'s <n> bytes cannot be allocated: <why>; <remedy>".
  static absl::StatusOr<HostMemory> Allocate(ByteCount bytes, const char* what, const char* remedy);

  HostMemory() = default;
  HostMemory(HostMemory&& other) noexcept;
  HostMemory& operator=(HostMemory&& other) noexcept;
  ~HostMemory();

  uint8_t* data() { return data_; }
  const uint8_t* data() const { return data_; }
  ByteCount bytes() const { return bytes_; }

  // Makes the machine give the bytes of `part` now rather than at first use; parts may be touched by different threads at once.
  void Touch(Shard part);

 private:
  HostMemory(uint8_t* data, ByteCount bytes) : data_(data), bytes_(bytes) {}
  uint8_t* data_ = nullptr;
  ByteCount bytes_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_HOST_MEMORY_H_
