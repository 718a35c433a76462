#include "engine/step/thread_pool.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <ctime>
#include <thread>
#include <vector>

namespace spherical::engine {
namespace {

double ProcessCpuSeconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

TEST_CASE("every part runs exactly once, for any number of threads and parts") {
  for (const int32_t threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (const int32_t parts : {0, 1, 2, 3, 7, 64, 1000}) {
      std::vector<std::atomic<int32_t>> times(static_cast<size_t>(parts));
      pool.RunWithWorker(parts, [&](Shard shard, int32_t worker) {
        if (shard.count != parts || worker < 0 || worker >= threads) std::abort();
        times[static_cast<size_t>(shard.index)].fetch_add(1);
      });
      for (const std::atomic<int32_t>& t : times) REQUIRE(t.load() == 1);
    }
  }
}

TEST_CASE("many short calls in a row never mix one call's parts with another's") {
  ThreadPool pool(4);
  for (int64_t call = 0; call < 20000; ++call) {
    const int32_t parts = static_cast<int32_t>(call % 9) + 1;
    std::atomic<int64_t> sum = 0;
    pool.Run(parts, [&](Shard shard) { sum += shard.index + call; });
    REQUIRE(sum.load() == parts * (parts - 1) / 2 + parts * call);
  }
}

TEST_CASE("what a part wrote is seen by the caller afterwards, without atomics") {
  ThreadPool pool(3);
  std::vector<int32_t> out(257);
  for (int32_t round = 1; round <= 2000; ++round) {
    pool.Run(257, [&](Shard shard) { out[static_cast<size_t>(shard.index)] = round; });
    for (const int32_t value : out) REQUIRE(value == round);
  }
}

TEST_CASE("an idle pool uses no CPU: workers park") {
  ThreadPool pool(4);
  pool.Run(64, [](Shard) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the last looks before parking
  const double before = ProcessCpuSeconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  CHECK(ProcessCpuSeconds() - before < 0.02);  // three spinning workers would use 0.4 s on two cores
}

TEST_CASE("usable cores: at least one, never more than the machine has") {
  CHECK(UsableCores() >= 1);
  CHECK(UsableCores() <= static_cast<int32_t>(std::thread::hardware_concurrency()));
}

}  // namespace
}  // namespace spherical::engine
