#ifndef SPHERICAL_ENGINE_MUTEX_H_
#define SPHERICAL_ENGINE_MUTEX_H_

#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"

namespace spherical::engine {

// std::mutex with the marks that clang -Wthread-safety checks. Not absl::Mutex, because ThreadSanitizer sees through pthread locks but
// not into a system library's own: with absl::Mutex every guarded field looks like a race.
class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

 private:
  friend class Condition;
  std::mutex mutex_;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) { mutex_.Lock(); }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// What a thread waits on while it holds a Mutex. Wakes without reason happen: wait in a loop.
class Condition {
 public:
  void NotifyAll() { condition_.notify_all(); }

  // False: the timeout passed. An infinite timeout never does.
  bool Wait(Mutex& mutex, absl::Duration timeout) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::unique_lock<std::mutex> held(mutex.mutex_, std::adopt_lock);
    bool notified = true;
    if (timeout > kLongest) {
      condition_.wait(held);
    } else {
      notified = condition_.wait_for(held, absl::ToChronoNanoseconds(timeout)) == std::cv_status::no_timeout;
    }
    held.release();  // the caller's MutexLock still owns it
    return notified;
  }

 private:
  static constexpr absl::Duration kLongest = absl::Hours(24 * 365);  // beyond it, adding to the clock could overflow
  std::condition_variable condition_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MUTEX_H_
