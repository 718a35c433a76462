#include "engine/step/device_room.h"

#include <algorithm>

#include <fmt/format.h>

namespace spherical::engine {
namespace {

constexpr int64_t kHeadroomLeast = int64_t{512} << 20;

}  // namespace

int64_t DeviceHeadroom(int64_t all_bytes) { return std::max(kHeadroomLeast, all_bytes / 50); }

std::string TextOf(const DeviceRoom& room) {
  return fmt::format("weights take {} bytes, the prefill workspace {}, page tables and steps {}; {} of the device's {} bytes are free",
                     room.weights, room.prefill, room.steps, room.free, room.all);
}

absl::StatusOr<PageCount> PoolPagesIn(const DeviceRoom& room, int64_t page_bytes, PageCount asked, PageCount least) {
  if (asked.value() > 0) {
    const int64_t bytes = asked.value() * page_bytes;
    if (bytes <= room.free) return asked;
    return absl::ResourceExhaustedError(
        fmt::format("kv.pool_bytes (--kv-pool-bytes): {} bytes for the pool do not fit: {}; ask for less", bytes, TextOf(room)));
  }
  const int64_t headroom = DeviceHeadroom(room.all);
  const PageCount pages(std::min<int64_t>(INT32_MAX, std::max<int64_t>(0, room.free - headroom) / page_bytes));  // as ids are
  if (pages > PageCount(0) && pages >= least) return pages;
  return absl::ResourceExhaustedError(
      fmt::format("no room for keys and values on the device: {}, {} of them left alone; the shortest request needs {} bytes; lower "
                  "limits.running (--limits-running), context.max (--context-max) or kv.prefill_workspace_bytes "
                  "(--kv-prefill-workspace-bytes), or use a smaller model or a larger device",
                  TextOf(room), headroom, std::max<int64_t>(1, least.value()) * page_bytes));
}

}  // namespace spherical::engine
