#ifndef SPHERICAL_SERVER_INFERENCE_SERVICE_H_
#define SPHERICAL_SERVER_INFERENCE_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include <atomic>

#include "engine/clock.h"
#include "engine/intake/intake_queue.h"
#include "proto/spherical.grpc.pb.h"
#include "server/call_waker.h"
#include "server/served_model.h"
#include "server/tenant_metadata.h"

namespace spherical::server {

// spherical.v1.Inference over the callback API: no thread waits for a token.
//
// Requests come as raw bytes and are parsed here, because gRPC answers a message that cannot be parsed (a text that is not UTF-8, say) with
// an empty UNIMPLEMENTED; ours is INVALID_ARGUMENT and says why.
//
// Thread: methods run on gRPC's threads, several at once. Before Serve every method but health's answers UNAVAILABLE.
class InferenceService final
    : public v1::Inference::WithRawCallbackMethod_Generate<v1::Inference::WithRawCallbackMethod_Tokenize<
          v1::Inference::WithRawCallbackMethod_Detokenize<v1::Inference::WithRawCallbackMethod_GetModelInfo<v1::Inference::Service>>>> {
 public:
  struct Options {
    int32_t stream_buffer = 64;  // events that wait for a slow reader
    uint64_t seed = 0;           // where the seeds of requests that bring none come from
    bool trusted_metadata = false;  // a call's metadata says whose it is
  };
  // All outlive the service and every call.
  InferenceService(engine::IntakeQueue& intake, const engine::Clock& clock, const TenantBook& tenants, Options options);

  // The model is there: requests are taken from now on. `model` outlives every call.
  void Serve(const ServedModel& model) { model_.store(&model); }

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response) override;

 private:
  engine::IntakeQueue& intake_;
  const engine::Clock& clock_;
  const Options options_;
  TenantMetadata tenants_;
  CallWaker waker_;
  std::atomic<const ServedModel*> model_{nullptr};
};

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_INFERENCE_SERVICE_H_
