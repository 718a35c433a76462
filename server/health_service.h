#ifndef SPHERICAL_SERVER_HEALTH_SERVICE_H_
#define SPHERICAL_SERVER_HEALTH_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include <map>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "engine/mutex.h"
#include "proto/health.grpc.pb.h"

namespace spherical::server {

inline constexpr char kInferenceHealth[] = "spherical.v1.Inference";
inline constexpr int32_t kHealthWatchersMax = 1024;

// grpc.health.v1.Health with two questions: "" (is the process alive: SERVING as long as it answers) and "spherical.v1.Inference" (would a
// request be taken: SERVING once the model is loaded, until draining begins). gRPC's own service would say SERVING from the start.
//
// Thread: any. Outlives its calls: the server is shut down first.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  using Status = grpc::health::v1::HealthCheckResponse::ServingStatus;

  void SetReady(bool ready) ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends every watch, so that the server's own shutdown does not wait for them. New ones end at once.
  void EndWatches() ABSL_LOCKS_EXCLUDED(mutex_);

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context, const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(grpc::CallbackServerContext* context,
                                                                        const grpc::health::v1::HealthCheckRequest* request) override;

 private:
  class Watcher;
  Status StatusOf(const std::string& service) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  engine::Mutex mutex_;
  bool ready_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<Watcher*> watchers_ ABSL_GUARDED_BY(mutex_);  // each leaves in its OnDone
};

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_HEALTH_SERVICE_H_
