#include "server/health_service.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace spherical::server {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// One Watch call. Everything in it is guarded by the service's mutex, except what gRPC itself reads while a write is under way.
class HealthService::Watcher final : public grpc::ServerWriteReactor<HealthCheckResponse> {
 public:
  Watcher(HealthService& owner, std::string service) : owner_(owner), service_(std::move(service)) {}

  const std::string& service() const { return service_; }

  // With the service's mutex held.
  void Tell(Status status) {
    wanted_ = status;
    Advance();
  }
  void End(grpc::Status status) {
    if (!end_) end_ = std::move(status);
    Advance();
  }

  void OnWriteDone(bool ok) override {
    engine::MutexLock lock(owner_.mutex_);
    writing_ = false;
    if (!ok && !end_) end_ = grpc::Status::CANCELLED;
    Advance();
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
  void Advance() {
    if (writing_ || ended_) return;
    if (end_) {
      ended_ = true;
      Finish(*end_);
    } else if (sent_ != wanted_) {
      sent_ = wanted_;
      response_.set_status(*wanted_);
      writing_ = true;
      StartWrite(&response_);
    }
  }

  HealthService& owner_;
  const std::string service_;
  HealthCheckResponse response_;
  std::optional<Status> wanted_, sent_;
  std::optional<grpc::Status> end_;
  bool writing_ = false;
  bool ended_ = false;
};

HealthService::Status HealthService::StatusOf(const std::string& service) const {
  if (service.empty()) return HealthCheckResponse::SERVING;
  if (service == kInferenceHealth) return ready_ ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
  return HealthCheckResponse::SERVICE_UNKNOWN;
}

void HealthService::SetReady(bool ready) {
  engine::MutexLock lock(mutex_);
  ready_ = ready;
  for (Watcher* watcher : watchers_) watcher->Tell(StatusOf(watcher->service()));
}

void HealthService::EndWatches() {
  engine::MutexLock lock(mutex_);
  ending_ = true;
  for (Watcher* watcher : watchers_) watcher->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is shutting down"));
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context, const HealthCheckRequest* request,
                                               HealthCheckResponse* response) {
  const Status status = [&] {
    engine::MutexLock lock(mutex_);
    return StatusOf(request->service());
  }();
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  if (status == HealthCheckResponse::SERVICE_UNKNOWN) {
    reactor->Finish(grpc::Status(
        grpc::StatusCode::NOT_FOUND,
        absl::StrCat("service: \"", request->service(), "\" is unknown; this server has \"\" and \"", kInferenceHealth, "\"")));
  } else {
    response->set_status(status);
    reactor->Finish(grpc::Status::OK);
  }
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* HealthService::Watch(grpc::CallbackServerContext*, const HealthCheckRequest* request) {
  auto* const watcher = new Watcher(*this, request->service());
  engine::MutexLock lock(mutex_);
  if (ending_) {
    watcher->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is shutting down"));
  } else if (static_cast<int32_t>(watchers_.size()) >= kHealthWatchersMax) {
    watcher->End(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                              absl::StrCat(kHealthWatchersMax, " watches are open already, the most there may be")));
  } else {
    watcher->Tell(StatusOf(watcher->service()));
  }
  watchers_.insert(watcher);
  return watcher;
}

}  // namespace spherical::server
