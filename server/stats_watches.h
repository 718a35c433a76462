#ifndef SPHERICAL_SERVER_STATS_WATCHES_H_
#define SPHERICAL_SERVER_STATS_WATCHES_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "engine/mutex.h"
#include "proto/spherical.pb.h"

namespace spherical::server {

inline constexpr int32_t kStatsWatchersMax = 64;

// The WatchStats calls that are open: each gets the statistics at once, and then again and again.
//
//   write -> OnWriteDone -> alarm after the interval -> write -> ...      one of them is under way, until the call ends
//   client leaves or EndAll -> the alarm is cut short -> Finish -> OnDone
//
// A client that reads slowly gets fewer of them, never old ones: the next is made when the last is written. No thread waits.
// Thread: any. Outlives its calls: the server is shut down first.
class StatsWatches {
 public:
  using Reactor = grpc::ServerWriteReactor<v1::Stats>;

  explicit StatsWatches(std::function<v1::Stats()> stats) : stats_(std::move(stats)) {}

  Reactor* Start(absl::Duration interval) ABSL_LOCKS_EXCLUDED(mutex_);
  // So that the server's own shutdown does not wait for them. New ones end at once.
  void EndAll() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  class Watcher;

  const std::function<v1::Stats()> stats_;
  engine::Mutex mutex_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<Watcher*> watchers_ ABSL_GUARDED_BY(mutex_);  // each leaves in its OnDone
};

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_STATS_WATCHES_H_
