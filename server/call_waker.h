#ifndef SPHERICAL_SERVER_CALL_WAKER_H_
#define SPHERICAL_SERVER_CALL_WAKER_H_

#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "engine/mutex.h"

namespace spherical::server {

// A thread that does what events cause: beginning a write to a socket takes some ten microseconds, and where 64 requests get a token in a
// step of two milliseconds the engine's thread has better uses for them.
//
//   waker.Wake(call);   // by the engine's thread: cheap; call->Advance() runs soon, on the waker's thread, in the order of waking
//
// Threads: Wake by any. At its end, when nobody wakes any more, it lets go of what has not run.
class CallWaker {
 public:
  class Call {
   public:
    virtual void Advance() = 0;

   protected:
    ~Call() = default;
  };

  CallWaker();
  ~CallWaker();
  void Wake(std::shared_ptr<Call> call) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);

  engine::Mutex mutex_;
  engine::Condition woken_;
  std::vector<std::shared_ptr<Call>> calls_ ABSL_GUARDED_BY(mutex_);
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;  // the thread sleeps, and must be told
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_CALL_WAKER_H_
