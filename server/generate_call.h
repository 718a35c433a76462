#ifndef SPHERICAL_SERVER_GENERATE_CALL_H_
#define SPHERICAL_SERVER_GENERATE_CALL_H_

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "engine/intake/intake_queue.h"
#include "engine/mutex.h"
#include "engine/stream/token_stream.h"
#include "server/call_waker.h"

namespace spherical::server {

// One Generate call: carries the events of one stream to one client, a message at a time.
//
//   engine puts an event -> waker: Advance -> StartWrite -> OnWriteDone -> Advance -> ...     at most one write is under way
//   client cancels, leaves, or its deadline passes -> OnCancel -> the stream is abandoned, the engine told; OnDone follows
//
// The stream is a part of the call and shared with the engine, so whoever still holds the stream keeps the call alive: neither side can
// wake the other after its end. The call holds itself until OnDone.
//
// Threads: the waker's (Advance) and gRPC's (the On... reactions).
class GenerateCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                           public CallWaker::Call,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  // Hands the submission to the engine. The reactor to return to gRPC lives until OnDone. `intake` and `waker` outlive it.
  static GenerateCall* Start(engine::Submission submission, engine::IntakeQueue& intake, CallWaker& waker, int32_t stream_buffer);

  GenerateCall(engine::SequenceId id, bool with_logprobs, engine::IntakeQueue& intake, CallWaker& waker, int32_t stream_buffer);

  void Advance() override ABSL_LOCKS_EXCLUDED(mutex_);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void Leave() ABSL_LOCKS_EXCLUDED(mutex_);  // the client takes no more
  void AdvanceLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool TakeEvent() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // false: nothing there now
  void EndLocked(grpc::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const engine::SequenceId id_;
  const bool with_logprobs_;
  engine::IntakeQueue& intake_;
  engine::TokenStream stream_;
  std::shared_ptr<engine::TokenStream> self_;  // shares ownership of the whole call, not of stream_ alone

  engine::Mutex mutex_;
  std::deque<grpc::ByteBuffer> messages_ ABSL_GUARDED_BY(mutex_);  // the front is being written
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mutex_);        // follows the last message
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;  // Finish was called: nothing may be started any more
};

// A call that ends before it began.
grpc::ServerWriteReactor<grpc::ByteBuffer>* EndAtOnce(grpc::Status status);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_GENERATE_CALL_H_
