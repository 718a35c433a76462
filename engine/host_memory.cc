#include "engine/host_memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace spherical::engine {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kSmallPage = 4096;

}  // namespace

absl::StatusOr<HostMemory> HostMemory::Allocate(ByteCount bytes, const char* what, const char* remedy) {
  // Mapped with room to begin at a huge page; the edges are given back, so that exactly `bytes` (in whole pages) stay mapped.
  const int64_t mapped = RoundUp(bytes.value(), kSmallPage) + kHugePage;
  void* memory = mmap(nullptr, static_cast<size_t>(mapped), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        fmt::format("{}'s {} bytes cannot be allocated: {}; {}", what, bytes.value(), std::strerror(errno), remedy));
  }
  uint8_t* const begin = static_cast<uint8_t*>(memory);
  const int64_t skip = RoundUp(reinterpret_cast<int64_t>(begin), kHugePage) - reinterpret_cast<int64_t>(begin);
  if (skip > 0) munmap(begin, static_cast<size_t>(skip));
  const int64_t kept = RoundUp(bytes.value(), kSmallPage);
  if (mapped - skip - kept > 0) munmap(begin + skip + kept, static_cast<size_t>(mapped - skip - kept));
  madvise(begin + skip, static_cast<size_t>(kept), MADV_HUGEPAGE);  // a hint: without it everything works, slower
  return HostMemory(begin + skip, bytes);
}

void HostMemory::Touch(Shard part) {
  const Range range = RangeOf(part, bytes_.value(), kHugePage);
  for (int64_t at = range.begin; at < range.end; at += kSmallPage) static_cast<volatile uint8_t*>(data_)[at] = 0;
}

HostMemory::HostMemory(HostMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, ByteCount())) {}

HostMemory& HostMemory::operator=(HostMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

HostMemory::~HostMemory() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(RoundUp(bytes_.value(), kSmallPage)));
}

}  // namespace spherical::engine
