#include "engine/step/kv_arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>

namespace spherical::engine {
namespace {

constexpr int64_t kTouchBytes = int64_t{16} << 20;  // one part of the parallel first touch
constexpr int64_t kSmallestHostPage = 4096;

}  // namespace

absl::StatusOr<KvArena> KvArena::Allocate(ByteCount bytes, ThreadPool& pool) {
  void* memory = mmap(nullptr, static_cast<size_t>(bytes.value()), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(fmt::format("the KV pool's {} bytes cannot be allocated: {}; lower --kv-pool-bytes", bytes.value(), std::strerror(errno)));
  }
  madvise(memory, static_cast<size_t>(bytes.value()), MADV_HUGEPAGE);  // a hint: without it everything works, a little slower
  KvArena arena(static_cast<uint8_t*>(memory), bytes);
  pool.Run(static_cast<int32_t>(CeilDiv(bytes.value(), kTouchBytes)), [&](Shard shard) {
    const Range range = RangeOf(shard, bytes.value(), kSmallestHostPage);
    for (int64_t at = range.begin; at < range.end; at += kSmallestHostPage) static_cast<volatile uint8_t*>(arena.data_)[at] = 0;
  });
  return arena;
}

KvArena::KvArena(KvArena&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, ByteCount())) {}

KvArena& KvArena::operator=(KvArena&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

KvArena::~KvArena() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_.value()));
}

}  // namespace spherical::engine
