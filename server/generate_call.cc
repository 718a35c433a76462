#include "server/generate_call.h"

#include <utility>

#include "server/wire.h"

namespace spherical::server {
namespace {

grpc::ByteBuffer Packed(const v1::GenerateResponse& response) {
  const grpc::Slice slice(response.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

class EndedCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  explicit EndedCall(grpc::Status status) { Finish(std::move(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

GenerateCall* GenerateCall::Start(engine::Submission submission, engine::IntakeQueue& intake, CallWaker& waker, int32_t stream_buffer) {
  auto call = std::make_shared<GenerateCall>(submission.id, submission.logprobs >= 0, intake, waker, stream_buffer);
  call->self_ = std::shared_ptr<engine::TokenStream>(call, &call->stream_);
  submission.stream = call->self_;
  if (const auto refusal = intake.Push(std::move(submission))) {
    engine::MutexLock lock(call->mutex_);
    call->EndLocked(Explain(*refusal));
  }
  return call.get();
}

GenerateCall::GenerateCall(engine::SequenceId id, bool with_logprobs, engine::IntakeQueue& intake, CallWaker& waker, int32_t stream_buffer)
    : id_(id),
      with_logprobs_(with_logprobs),
      intake_(intake),
      // Whoever puts an event shares the call.
      stream_(stream_buffer, [this, &waker] { waker.Wake(shared_from_this()); }, [this] { intake_.Wake(); }) {}

void GenerateCall::Advance() {
  engine::MutexLock lock(mutex_);
  AdvanceLocked();
}

void GenerateCall::AdvanceLocked() {
  if (writing_ || ended_) return;
  if (gone_) return EndLocked(grpc::Status(grpc::StatusCode::CANCELLED, "the client is gone"));
  while (messages_.empty() && !end_) {
    if (!TakeEvent()) return;
  }
  if (messages_.empty()) return EndLocked(*std::move(end_));
  // The front stays where it is until OnWriteDone (or OnDone): gRPC reads it meanwhile.
  if (end_ && messages_.size() == 1) {
    ended_ = true;
    StartWriteAndFinish(&messages_.front(), grpc::WriteOptions(), *std::move(end_));
    return;
  }
  writing_ = true;
  StartWrite(&messages_.front());
}

bool GenerateCall::TakeEvent() {
  const auto event = stream_.Take();
  if (!event) return false;
  WireEvent wire = ToWire(*event, with_logprobs_);
  for (const v1::GenerateResponse& response : wire.responses) messages_.push_back(Packed(response));
  end_ = std::move(wire.end);
  return true;
}

void GenerateCall::EndLocked(grpc::Status status) {
  ended_ = true;
  Finish(std::move(status));
}

void GenerateCall::OnWriteDone(bool ok) {
  {
    engine::MutexLock lock(mutex_);
    writing_ = false;
    messages_.pop_front();
    if (ok) return AdvanceLocked();
  }
  Leave();
}

void GenerateCall::OnCancel() { Leave(); }

void GenerateCall::Leave() {
  {
    engine::MutexLock lock(mutex_);
    if (ended_) return;
    const bool told = std::exchange(gone_, true);
    if (told) return AdvanceLocked();
  }
  stream_.Abandon();
  intake_.Push(engine::Cancel{.id = id_});
  Advance();
}

void GenerateCall::OnDone() {
  // From here on the engine may hold the stream, but what it puts goes nowhere. Dropping `self_` may end this object.
  stream_.Abandon();
  const std::shared_ptr<engine::TokenStream> last = std::move(self_);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* EndAtOnce(grpc::Status status) { return new EndedCall(std::move(status)); }

}  // namespace spherical::server
