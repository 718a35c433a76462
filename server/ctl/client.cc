#include "server/ctl/client.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <iterator>
#include <set>
#include <thread>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "engine/mutex.h"
#include "proto/rpc_status.pb.h"

namespace spherical::ctl {
namespace {

static_assert(kEndedByCtrlC == 128 + SIGINT);

// Calls and work under way. Never destroyed: the signal thread outlives main's statics.
struct Calls {
  engine::Mutex mutex;
  std::set<grpc::ClientContext*> open ABSL_GUARDED_BY(mutex);
  std::atomic<bool>* work ABSL_GUARDED_BY(mutex) = nullptr;
  bool interrupted ABSL_GUARDED_BY(mutex) = false;
};
Calls& CallsUnderWay() {
  static Calls* const calls = new Calls;
  return *calls;
}

void OnCtrlC() {
  Calls& calls = CallsUnderWay();
  engine::MutexLock lock(calls.mutex);
  if ((calls.open.empty() && calls.work == nullptr) || calls.interrupted) _exit(kEndedByCtrlC);
  calls.interrupted = true;
  if (calls.work != nullptr) calls.work->store(true);
  for (grpc::ClientContext* context : calls.open) context->TryCancel();
}

}  // namespace

Client::Client(const std::string& server) {
  const auto channel = grpc::CreateChannel(server, grpc::InsecureChannelCredentials());
  inference_ = v1::Inference::NewStub(channel);
  admin_ = v1::Admin::NewStub(channel);
  health_ = grpc::health::v1::Health::NewStub(channel);
}

Call::Call(std::optional<double> timeout_s) {
  if (timeout_s) context_.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(*timeout_s)));
  Calls& calls = CallsUnderWay();
  engine::MutexLock lock(calls.mutex);
  calls.open.insert(&context_);
  if (calls.interrupted) context_.TryCancel();
}

Call::~Call() {
  Calls& calls = CallsUnderWay();
  engine::MutexLock lock(calls.mutex);
  calls.open.erase(&context_);
  if (calls.open.empty()) calls.interrupted = false;
}

StopOnCtrlC::StopOnCtrlC() {
  Calls& calls = CallsUnderWay();
  engine::MutexLock lock(calls.mutex);
  calls.work = &flag_;
}

StopOnCtrlC::~StopOnCtrlC() {
  Calls& calls = CallsUnderWay();
  engine::MutexLock lock(calls.mutex);
  calls.work = nullptr;
  calls.interrupted = false;
}

void CatchCtrlC() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals] {
    while (true) {
      int signal = 0;
      if (sigwait(&signals, &signal) == 0) OnCtrlC();
    }
  }).detach();
}

int Report(const grpc::Status& status) {
  if (status.ok()) return kDone;
  std::string hint;
  google::rpc::Status details;
  google::rpc::RetryInfo retry;
  if (details.ParseFromString(status.error_details()) && details.details_size() > 0 && details.details(0).UnpackTo(&retry)) {
    hint = absl::StrFormat(" (retry after %.1f s)", Seconds(retry.retry_delay()));
  }
  absl::FPrintF(stderr, "sphericalctl: %s: %s%s\n", CodeName(status.error_code()), status.error_message(), hint);
  return kServerSaidNo;
}

int WrongUse(const std::string& message) {
  absl::FPrintF(stderr, "sphericalctl: %s\n", message);
  return kWrongUse;
}

const char* CodeName(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {
      "OK",           "CANCELLED",     "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED", "NOT_FOUND",
      "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",        "OUT_OF_RANGE",
      "UNIMPLEMENTED", "INTERNAL",      "UNAVAILABLE",       "DATA_LOSS",          "UNAUTHENTICATED"};
  return code >= 0 && code < static_cast<int>(std::size(kNames)) ? kNames[code] : "UNKNOWN";
}

double Seconds(const google::protobuf::Duration& duration) { return static_cast<double>(duration.seconds()) + duration.nanos() * 1e-9; }

}  // namespace spherical::ctl
