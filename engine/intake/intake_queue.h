#ifndef SPHERICAL_ENGINE_INTAKE_INTAKE_QUEUE_H_
#define SPHERICAL_ENGINE_INTAKE_INTAKE_QUEUE_H_

#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "engine/intake/submission.h"
#include "engine/mutex.h"

namespace spherical::engine {

// Submissions waiting for the engine to look at them. Beyond this: refused at the door, never buffered.
inline constexpr int32_t kIntakeQueueMax = 1024;

// Border one: any thread pushes, the engine thread drains. Bounded.
class IntakeQueue {
 public:
  // Hands a submission in, or says why not (queue full, draining). Never blocks for long.
  std::optional<Refusal> Push(Submission submission) ABSL_LOCKS_EXCLUDED(mutex_);

  // Always taken: cancelling must work when the queue is full. Bounded by the submissions that were let in.
  void Push(Cancel cancel) ABSL_LOCKS_EXCLUDED(mutex_);
  // Always taken.
  void Push(SetQuotas quotas) ABSL_LOCKS_EXCLUDED(mutex_);

  // From now on Push(Submission) refuses with kDraining.
  void Close() ABSL_LOCKS_EXCLUDED(mutex_);

  // Takes all that is there, in order of arrival. Engine thread only.
  std::vector<Intake> Drain() ABSL_LOCKS_EXCLUDED(mutex_);

  // Blocks the engine thread until something is there, Wake() is called, or the timeout passed.
  void Wait(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_);
  void Wake() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  Mutex mutex_;
  Condition arrived_;
  std::vector<Intake> waiting_ ABSL_GUARDED_BY(mutex_);
  int32_t submissions_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
};

// Unique for the life of the process. Thread-safe.
SequenceId NextSequenceId();

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_INTAKE_INTAKE_QUEUE_H_
