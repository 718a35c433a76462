// Who reads which share of a plan, with threads in place of thread blocks. Needs no device.
#include "kernels/cuda/ada_seats.h"

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <random>
#include <thread>
#include <vector>

namespace spherical::kernels::cuda {
namespace {

TEST_CASE("Every multiprocessor has a seat, and neighbours among the seats are no neighbours on the device") {
  for (const int32_t processors : {1, 2, 16, 108, 132, 160}) {
    const AdaSeats seats = AdaSeatsOf(processors);
    std::vector<int32_t> processor_of(processors, -1);
    for (int32_t p = 0; p < processors; ++p) {
      REQUIRE(seats.of[p] < processors);
      CHECK(processor_of[seats.of[p]] == -1);
      processor_of[seats.of[p]] = p;
    }
    if (processors != 132) continue;
    for (int32_t seat = 0; seat + 2 < processors; ++seat) CHECK(processor_of[seat] / 2 % 8 != processor_of[seat + 2] / 2 % 8);
  }
}

TEST_CASE("As many blocks as there are seats get one each, whichever they want; where all were taken, none") {
  std::mt19937_64 random(1);
  for (int32_t round = 0; round < 300; ++round) {
    const int32_t seats = 1 + static_cast<int32_t>(random() % 160);
    std::vector<std::atomic<uint32_t>> words(AdaSeatWords(seats));
    const auto take = [&](int32_t word, uint32_t bits) { return words[word].fetch_or(bits); };
    const auto look = [&](int32_t word) { return words[word].load(); };
    std::vector<int32_t> wanted(seats), got(seats, -1);
    // Each its own; or, as where blocks without work make room for others on the same multiprocessor, many the same.
    const int32_t different = round % 3 == 1 ? seats : std::min(seats, 3);
    for (int32_t b = 0; b < seats; ++b) wanted[b] = round % 3 == 0 ? b : static_cast<int32_t>(random() % different);
    std::vector<std::thread> threads;
    for (int32_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (int32_t b = t; b < seats; b += 4) got[b] = TakeAdaSeat(wanted[b], seats, take, look);
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (round % 3 == 0) CHECK(got == wanted);
    std::sort(got.begin(), got.end());
    for (int32_t b = 0; b < seats; ++b) CHECK(got[b] == b);
    CHECK(TakeAdaSeat(wanted[0], seats, take, look) == -1);
  }
}

}  // namespace
}  // namespace spherical::kernels::cuda
