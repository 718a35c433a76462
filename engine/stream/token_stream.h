#ifndef SPHERICAL_ENGINE_STREAM_TOKEN_STREAM_H_
#define SPHERICAL_ENGINE_STREAM_TOKEN_STREAM_H_

#include <deque>
#include <functional>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "engine/intake/submission.h"
#include "engine/mutex.h"

namespace spherical::engine {

// Border two: the engine puts events in, the door takes them out. One per request. Bounded: when `capacity` events wait for a slow
// reader, the engine pauses that sequence (others go on) until the reader takes one.
//
//   auto stream = std::make_shared<TokenStream>(64, wake_reader, wake_engine);
//   engine: if (stream->HasRoom()) stream->Put(event);      door: while (auto event = stream->Take()) ...
//
// Threads: Put and HasRoom by the engine thread; Take and Abandon by the reader; all may run at once.
// Both callbacks run without the lock held, on the thread that caused them; they must not block. An event may be taken before its
// on_event runs, so what the callbacks touch must live as long as the stream: let them own it.
class TokenStream {
 public:
  // capacity >= 2: the tick of the first token may put two events.
  // on_event: something can be taken. on_room: a full stream has room again, or was abandoned.
  TokenStream(int32_t capacity, std::function<void()> on_event, std::function<void()> on_room);

  // Engine side. The last event of a stream (Finished, Refusal, Failed) is always taken, even when full.
  void Put(TokenEvent event) ABSL_LOCKS_EXCLUDED(mutex_);
  bool HasRoom() const ABSL_LOCKS_EXCLUDED(mutex_);
  bool abandoned() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Reader side. Nullopt: nothing now.
  std::optional<TokenEvent> Take() ABSL_LOCKS_EXCLUDED(mutex_);
  // The reader will take no more: later events are thrown away.
  void Abandon() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const int32_t capacity_;
  const std::function<void()> on_event_;
  const std::function<void()> on_room_;
  mutable Mutex mutex_;
  std::deque<TokenEvent> events_ ABSL_GUARDED_BY(mutex_);
  bool abandoned_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STREAM_TOKEN_STREAM_H_
