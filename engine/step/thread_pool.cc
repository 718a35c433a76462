#include "engine/step/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "kernels/base/check.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace spherical::engine {
namespace {

// How often a waiting thread looks before it parks: some tens of microseconds, more than the gap between two products of one step and far
// less than a time slice, so that a core shared with another process is given up quickly.
constexpr int32_t kLooksBeforeParking = 4000;
constexpr int32_t kPartsMax = (1 << 20) - 1;

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// One word says all that a worker must know together: which call it is, how many parts that call has and which one is next. A worker that
// was asleep for several calls therefore never mixes one call's count with another's work.
struct Ticket {
  uint64_t word;
  uint32_t next() const { return word & kPartsMax; }
  uint32_t parts() const { return (word >> 20) & kPartsMax; }
  static Ticket Of(uint64_t call, uint32_t parts) { return {(call << 40) | (static_cast<uint64_t>(parts) << 20)}; }
};

}  // namespace

struct ThreadPool::State {
  explicit State(int32_t threads) : threads(threads) {}

  const int32_t threads;
  const absl::FunctionRef<void(Shard, int32_t)>* work = nullptr;  // of the current call; read only by who holds one of its parts
  alignas(64) std::atomic<uint64_t> ticket{0};
  alignas(64) std::atomic<int32_t> unfinished{0};
  alignas(64) std::atomic<uint32_t> call{0};  // what parked workers wait on
  std::atomic<bool> stopping{false};
  std::vector<std::thread> workers;

  // Takes parts until none is left.
  void TakeParts(int32_t worker) {
    while (true) {
      const Ticket mine{ticket.fetch_add(1, std::memory_order_acq_rel)};
      if (mine.next() >= mine.parts()) return;
      // Holding an unfinished part keeps the call, and so `work`, alive.
      (*work)(Shard{static_cast<int32_t>(mine.next()), static_cast<int32_t>(mine.parts())}, worker);
      if (unfinished.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished.notify_one();
    }
  }

  void WorkerLoop(int32_t worker) {
    uint32_t seen = 0;
    while (true) {
      for (int32_t i = 0; i < kLooksBeforeParking && call.load(std::memory_order_acquire) == seen; ++i) Pause();
      call.wait(seen, std::memory_order_acquire);
      seen = call.load(std::memory_order_acquire);
      if (stopping.load(std::memory_order_acquire)) return;
      TakeParts(worker);
    }
  }
};

ThreadPool::ThreadPool(int32_t threads) : state_(std::make_unique<State>(threads)) {
  SPH_CHECK(threads >= 1);
  for (int32_t worker = 1; worker < threads; ++worker) {
    state_->workers.emplace_back([state = state_.get(), worker] { state->WorkerLoop(worker); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stopping.store(true, std::memory_order_release);
  state_->call.fetch_add(1, std::memory_order_acq_rel);
  state_->call.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

int32_t ThreadPool::threads() const { return state_->threads; }

void ThreadPool::Run(int32_t parts, absl::FunctionRef<void(Shard)> work) {
  RunWithWorker(parts, [&](Shard shard, int32_t) { work(shard); });
}

void ThreadPool::RunWithWorker(int32_t parts, absl::FunctionRef<void(Shard, int32_t)> work) {
  SPH_CHECK(parts >= 0 && parts <= kPartsMax / 2);  // room for late workers' increments
  if (parts <= 1 || state_->threads == 1) {
    for (int32_t i = 0; i < parts; ++i) work(Shard{i, parts}, 0);
    return;
  }
  State& s = *state_;
  s.work = &work;
  s.unfinished.store(parts, std::memory_order_relaxed);
  const uint32_t call = s.call.load(std::memory_order_relaxed) + 1;
  s.ticket.store(Ticket::Of(call, parts).word, std::memory_order_release);
  s.call.store(call, std::memory_order_release);
  s.call.notify_all();
  s.TakeParts(0);
  for (int32_t i = 0; i < kLooksBeforeParking && s.unfinished.load(std::memory_order_acquire) > 0; ++i) Pause();
  for (int32_t left = s.unfinished.load(std::memory_order_acquire); left > 0; left = s.unfinished.load(std::memory_order_acquire)) {
    s.unfinished.wait(left, std::memory_order_acquire);
  }
}

namespace {

// Cores a cgroup allows, or infinity. v2: "max 100000" or "200000 100000" in one file; v1: two files.
double CgroupCores() {
  double quota = 0, period = 0;
  std::string first;
  if (std::ifstream v2("/sys/fs/cgroup/cpu.max"); v2 >> first >> period) {
    if (first == "max") return INFINITY;
    quota = std::atof(first.c_str());
  } else {
    std::ifstream q("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), p("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    if (!(q >> quota) || !(p >> period)) return INFINITY;
  }
  return quota > 0 && period > 0 ? quota / period : INFINITY;
}

}  // namespace

int32_t UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int32_t cores = static_cast<int32_t>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cores = CPU_COUNT(&set);
  const double allowed = CgroupCores();
  if (allowed < cores) cores = static_cast<int32_t>(std::ceil(allowed));
  return std::max(cores, 1);
}

}  // namespace spherical::engine
