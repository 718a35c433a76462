#ifndef SPHERICAL_SERVER_CTL_CLIENT_H_
#define SPHERICAL_SERVER_CTL_CLIENT_H_

#include <google/protobuf/duration.pb.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "proto/health.grpc.pb.h"
#include "proto/spherical.grpc.pb.h"

namespace spherical::ctl {

// Exit codes of sphericalctl.
inline constexpr int kDone = 0;
inline constexpr int kServerSaidNo = 1;  // any status but OK, not ready included; work here that failed
inline constexpr int kWrongUse = 2;      // flags, files: nothing was asked of the server
inline constexpr int kEndedByCtrlC = 130;

// A connection to one server.
class Client {
 public:
  explicit Client(const std::string& server);
  v1::Inference::Stub& inference() { return *inference_; }
  v1::Admin::Stub& admin() { return *admin_; }
  grpc::health::v1::Health::Stub& health() { return *health_; }

 private:
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Admin::Stub> admin_;
  std::unique_ptr<grpc::health::v1::Health::Stub> health_;
};

// A call's context that Ctrl-C cancels: the server gives everything back, and the command ends as after any other refusal. Ctrl-C while no
// call is under way, or a second one, ends the process at once.
class Call {
 public:
  explicit Call(std::optional<double> timeout_s = std::nullopt);
  ~Call();
  grpc::ClientContext* context() { return &context_; }

 private:
  grpc::ClientContext context_;
};

// Work of this process that Ctrl-C stops: while it lives, the first one sets the flag, a second one ends the process. One at a time.
class StopOnCtrlC {
 public:
  StopOnCtrlC();
  ~StopOnCtrlC();
  const std::atomic<bool>& flag() const { return flag_; }

 private:
  std::atomic<bool> flag_{false};
};

// Before the first thread exists.
void CatchCtrlC();

// Prints "sphericalctl: INVALID_ARGUMENT: ..." to stderr, with the hint when to retry if there is one. Returns the exit code.
int Report(const grpc::Status& status);
int WrongUse(const std::string& message);

const char* CodeName(grpc::StatusCode code);

double Seconds(const google::protobuf::Duration& duration);
inline double Mib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

}  // namespace spherical::ctl

#endif  // SPHERICAL_SERVER_CTL_CLIENT_H_
