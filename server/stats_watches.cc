#include "server/stats_watches.h"

#include <grpc/support/time.h>
#include <grpcpp/alarm.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace spherical::server {

// One call. Everything in it is guarded by the owner's mutex, except what gRPC itself reads while a write is under way.
class StatsWatches::Watcher final : public Reactor {
 public:
  Watcher(StatsWatches& owner, absl::Duration interval) : owner_(owner), interval_(interval) {}

  // With the owner's mutex held. Nothing is touched after Finish: OnDone may come before it returns.
  void Write(v1::Stats stats) {
    response_ = std::move(stats);
    busy_ = true;
    StartWrite(&response_);
  }
  void End(grpc::Status status) {
    if (!end_) end_ = std::move(status);
    if (waiting_) alarm_.Cancel();
    Advance();
  }

  void OnWriteDone(bool ok) override {
    engine::MutexLock lock(owner_.mutex_);
    busy_ = false;
    if (!ok && !end_) end_ = grpc::Status::CANCELLED;
    if (end_) return Advance();
    busy_ = waiting_ = true;
    // By a clock that nobody sets.
    const gpr_timespec wait = gpr_time_from_nanos(absl::ToInt64Nanoseconds(interval_), GPR_TIMESPAN);
    alarm_.Set(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), wait), [this](bool) { OnAlarm(); });
  }
  void OnCancel() override {
    engine::MutexLock lock(owner_.mutex_);
    End(grpc::Status::CANCELLED);
  }
  void OnDone() override {
    {
      engine::MutexLock lock(owner_.mutex_);
      owner_.watchers_.erase(this);
    }
    delete this;
  }

 private:
  void OnAlarm() {
    v1::Stats stats = owner_.stats_();  // takes locks of its own
    StatsWatches& owner = owner_;
    engine::MutexLock lock(owner.mutex_);
    busy_ = waiting_ = false;
    if (end_) return Advance();
    Write(std::move(stats));
  }
  void Advance() {
    if (busy_ || ended_ || !end_) return;
    ended_ = true;
    Finish(*std::move(end_));
  }

  StatsWatches& owner_;
  const absl::Duration interval_;
  grpc::Alarm alarm_;
  v1::Stats response_;
  std::optional<grpc::Status> end_;
  bool busy_ = false;     // a write or an alarm will call back: the call cannot end before
  bool waiting_ = false;  // it is the alarm
  bool ended_ = false;
};

StatsWatches::Reactor* StatsWatches::Start(absl::Duration interval) {
  v1::Stats stats = stats_();
  auto* const watcher = new Watcher(*this, interval);
  engine::MutexLock lock(mutex_);
  const bool full = static_cast<int32_t>(watchers_.size()) >= kStatsWatchersMax;
  watchers_.insert(watcher);
  if (ending_) {
    watcher->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is shutting down"));
  } else if (full) {
    watcher->End(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                              absl::StrCat(kStatsWatchersMax, " watches are open already, the most there may be")));
  } else {
    watcher->Write(std::move(stats));
  }
  return watcher;
}

void StatsWatches::EndAll() {
  engine::MutexLock lock(mutex_);
  ending_ = true;
  for (Watcher* watcher : watchers_) watcher->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is shutting down"));
}

}  // namespace spherical::server
