#ifndef SPHERICAL_SERVER_LISTENER_H_
#define SPHERICAL_SERVER_LISTENER_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/config.h"

namespace spherical::server {

// Bounds of the door. A connection over them gets an error of its own; the others go on.
inline constexpr int kRequestBytesMax = 4 << 20;       // one message in; a prompt longer than any context we know
inline constexpr int kMetadataBytesMax = 16 << 10;     // headers of one call
inline constexpr int kCallsPerConnectionMax = 1024;    // beyond: the client's HTTP/2 waits
inline constexpr size_t kBufferBytesMax = 256u << 20;  // all that gRPC may hold for all connections

struct Listener {
  Address address;  // with the port that was got
  std::unique_ptr<grpc::Server> server;
};

// Serves `services` and reflection at the address. Unavailable when it cannot be had: another process has the port, or the host is not
// ours.
absl::StatusOr<Listener> Listen(const Address& address, const std::vector<grpc::Service*>& services);

// gRPC's own lines go to our log, in our format.
void SendGrpcLogToOurs();

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_LISTENER_H_
