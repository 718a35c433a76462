#include "engine/step/device_room.h"

#include <catch2/catch.hpp>
#include <string>

namespace spherical::engine {
namespace {

constexpr int64_t kGb = 1'000'000'000;

std::string ErrorOf(const DeviceRoom& room, int64_t asked, int64_t least) {
  const auto pages = PoolPagesIn(room, 9088, PageCount(asked), PageCount(least));
  REQUIRE_FALSE(pages.ok());
  CHECK(pages.status().code() == absl::StatusCode::kResourceExhausted);
  return std::string(pages.status().message());
}

TEST_CASE("headroom is a fiftieth of a large device, and at least half a GiB of a small one") {
  CHECK(DeviceHeadroom(150 * kGb) == 3 * kGb);
  CHECK(DeviceHeadroom(8 * kGb) == int64_t{512} << 20);
}

TEST_CASE("a pool that is not asked for by size is all that is free, but for the headroom, in whole pages") {
  const DeviceRoom room = {.all = 150 * kGb, .free = 120 * kGb, .weights = 16 * kGb, .prefill = 2 * kGb, .steps = kGb};
  const auto pages = PoolPagesIn(room, 9088, PageCount(0), PageCount(100));
  REQUIRE(pages.ok());
  CHECK(*pages == PageCount(117 * kGb / 9088));
  // Just enough for the shortest request, and one page too little.
  const int64_t headroom = DeviceHeadroom(8 * kGb);
  CHECK(PoolPagesIn({.all = 8 * kGb, .free = headroom + 100 * 9088}, 9088, PageCount(0), PageCount(100)).value() == PageCount(100));
  CHECK_FALSE(PoolPagesIn({.all = 8 * kGb, .free = headroom + 100 * 9088 - 1}, 9088, PageCount(0), PageCount(100)).ok());
}

TEST_CASE("a pool that is asked for is had whole or not at all; the headroom does not count") {
  const DeviceRoom room = {.all = 8 * kGb, .free = 1000 * 9088};
  CHECK(PoolPagesIn(room, 9088, PageCount(1000), PageCount(2000)).value() == PageCount(1000));  // too few is for the caller to say
  CHECK_FALSE(PoolPagesIn(room, 9088, PageCount(1001), PageCount(0)).ok());
}

TEST_CASE("too little memory is refused with all numbers and what to do") {
  const DeviceRoom room = {.all = 8 * kGb, .free = 600'000'000, .weights = 6 * kGb, .prefill = kGb, .steps = 400'000'000};
  CHECK(ErrorOf(room, 100'000, 1) ==
        "kv.pool_bytes (--kv-pool-bytes): 908800000 bytes for the pool do not fit: weights take 6000000000 bytes, the prefill workspace "
        "1000000000, page tables and steps 400000000; 600000000 of the device's 8000000000 bytes are free; ask for less");
  const std::string none = ErrorOf(room, 0, 10'000);
  CHECK(none.find("no room for keys and values on the device: weights take 6000000000 bytes, ") == 0);
  CHECK(none.find("600000000 of the device's 8000000000 bytes are free, 536870912 of them left alone; the shortest request needs 90880000 "
                  "bytes; lower limits.running (--limits-running)") != std::string::npos);
  // Less free than the headroom.
  CHECK(ErrorOf({.all = 8 * kGb, .free = 1}, 0, 0).find("the shortest request needs 9088 bytes") != std::string::npos);
}

}  // namespace
}  // namespace spherical::engine
