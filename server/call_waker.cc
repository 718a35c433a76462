#include "server/call_waker.h"

#include <utility>

namespace spherical::server {

CallWaker::CallWaker() : thread_([this] { Run(); }) {}

CallWaker::~CallWaker() {
  {
    engine::MutexLock lock(mutex_);
    ending_ = true;
    woken_.NotifyAll();
  }
  thread_.join();
}

void CallWaker::Wake(std::shared_ptr<Call> call) {
  engine::MutexLock lock(mutex_);
  calls_.push_back(std::move(call));
  if (std::exchange(waiting_, false)) woken_.NotifyAll();
}

void CallWaker::Run() {
  std::vector<std::shared_ptr<Call>> calls;
  for (;;) {
    {
      engine::MutexLock lock(mutex_);
      while (calls_.empty() && !ending_) {
        waiting_ = true;
        woken_.Wait(mutex_, absl::InfiniteDuration());
      }
      if (ending_) return;
      calls.swap(calls_);
    }
    for (const std::shared_ptr<Call>& call : calls) call->Advance();
    calls.clear();  // the last hold on a call that is over may be this one
  }
}

}  // namespace spherical::server
