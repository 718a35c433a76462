#include "engine/intake/intake_queue.h"

#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"

namespace spherical::engine {

std::optional<Refusal> IntakeQueue::Push(Submission submission) {
  MutexLock lock(mutex_);
  if (closed_) return Refusal{.why = Refusal::Why::kDraining, .detail = "the server is shutting down and takes no new requests"};
  if (submissions_ >= kIntakeQueueMax) {
    return Refusal{.why = Refusal::Why::kQueueFull,
                   .detail = absl::StrCat(submissions_, " requests wait at the engine's door already, the most it takes; retry later"),
                   .retry_after = absl::Seconds(1)};
  }
  ++submissions_;
  waiting_.emplace_back(std::move(submission));
  arrived_.NotifyAll();
  return std::nullopt;
}

void IntakeQueue::Push(Cancel cancel) {
  MutexLock lock(mutex_);
  waiting_.emplace_back(cancel);
  arrived_.NotifyAll();
}

void IntakeQueue::Push(SetQuotas quotas) {
  MutexLock lock(mutex_);
  waiting_.emplace_back(std::move(quotas));
  arrived_.NotifyAll();
}

void IntakeQueue::Close() {
  MutexLock lock(mutex_);
  closed_ = true;
}

std::vector<Intake> IntakeQueue::Drain() {
  std::vector<Intake> taken;
  MutexLock lock(mutex_);
  taken.swap(waiting_);
  submissions_ = 0;
  return taken;
}

void IntakeQueue::Wait(absl::Duration timeout) {
  MutexLock lock(mutex_);
  while (waiting_.empty() && !woken_) {
    if (!arrived_.Wait(mutex_, timeout)) break;  // a wake without reason starts the timeout again: harmless, the engine looks at its clock
  }
  woken_ = false;
}

void IntakeQueue::Wake() {
  MutexLock lock(mutex_);
  woken_ = true;
  arrived_.NotifyAll();
}

SequenceId NextSequenceId() {
  static std::atomic<SequenceId> next{1};
  return next.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace spherical::engine
