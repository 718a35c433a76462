#include "server/listener.h"

#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/resource_quota.h>

#include "absl/strings/str_cat.h"
#include "server/log.h"

namespace spherical::server {

absl::StatusOr<Listener> Listen(const Address& address, const std::vector<grpc::Service*>& services) {
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  const std::string target = absl::StrCat(address.host, ":", address.port);
  builder.AddListeningPort(target, grpc::InsecureServerCredentials(), &port);
  // Otherwise a second daemon on the same port starts happily and takes half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMetadataBytesMax);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kCallsPerConnectionMax);
  // A client that vanished without a word is noticed after a minute or so, even while it only reads. Its pings are welcome, floods not.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.SetMaxReceiveMessageSize(kRequestBytesMax);
  grpc::ResourceQuota quota("sphericald");
  quota.Resize(kBufferBytesMax);
  builder.SetResourceQuota(quota);
  for (grpc::Service* service : services) builder.RegisterService(service);

  Listener listener{.address = address, .server = builder.BuildAndStart()};
  if (listener.server == nullptr) {
    return absl::UnavailableError(absl::StrCat("grpc.listen (--grpc-listen): cannot listen on ", target,
                                               ": the port is in use by another process, or ", address.host,
                                               " is not an address of this machine; port 0 picks a free one"));
  }
  listener.address.port = port;
  return listener;
}

void SendGrpcLogToOurs() {
  gpr_set_log_function([](gpr_log_func_args* args) {
    const LogLevel level = args->severity == GPR_LOG_SEVERITY_DEBUG  ? LogLevel::kDebug
                           : args->severity == GPR_LOG_SEVERITY_INFO ? LogLevel::kInfo
                                                                     : LogLevel::kWarning;
    Log(level, absl::StrCat("grpc: ", args->message));
  });
}

}  // namespace spherical::server
