#ifndef SPHERICAL_ENGINE_STEP_THREAD_POOL_H_
#define SPHERICAL_ENGINE_STEP_THREAD_POOL_H_

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "kernels/base/units.h"

namespace spherical::engine {

// Workers for one caller at a time. The calling thread is worker 0 and counts in `threads`. Between calls a worker watches for new work for
// a few microseconds (steps follow each other closely), then parks: an idle pool uses no CPU, and a worker that lost its core to another
// process holds nobody up for longer than its own part, because parts are taken one by one.
//
//   pool.Run(64, [&](Shard shard) { ... });   // shard.count == 64; every index is run exactly once; returns when all are done
//
// Thread: Run by one thread at a time.
class ThreadPool {
 public:
  explicit ThreadPool(int32_t threads);
  ~ThreadPool();
  int32_t threads() const;
  void Run(int32_t parts, absl::FunctionRef<void(Shard)> work);
  // The same, with the worker's number in [0, threads): for per-worker scratch.
  void RunWithWorker(int32_t parts, absl::FunctionRef<void(Shard, int32_t worker)> work);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Cores this process may use: the smaller of the affinity mask and the cgroup's CPU quota (v1 and v2), at least 1.
int32_t UsableCores();

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_THREAD_POOL_H_
