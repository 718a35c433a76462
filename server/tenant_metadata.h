#ifndef SPHERICAL_SERVER_TENANT_METADATA_H_
#define SPHERICAL_SERVER_TENANT_METADATA_H_

#include <grpcpp/support/string_ref.h>

#include <atomic>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "server/tenant_book.h"

namespace spherical::server {

// What says whose a call is: ours first, then those that gateways set (the Kubernetes inference extension, llm-d).
inline constexpr const char* kTenantKeys[] = {"x-spherical-tenant", "x-gateway-inference-fairness-id", "x-llm-d-inference-fairness-id"};

using CallMetadata = std::multimap<grpc::string_ref, grpc::string_ref>;

// The tenant that a call names; empty: none. InvalidArgument when it names two.
absl::StatusOr<std::string> TenantNamed(const CallMetadata& metadata);

// Whose a call is. Anybody can write metadata, so it counts only where the operator says that a gateway sets it; elsewhere it is passed
// over, with one line in the log. Thread: any.
class TenantMetadata {
 public:
  // `book` outlives it.
  TenantMetadata(const TenantBook& book, bool trusted) : book_(book), trusted_(trusted) {}

  // PermissionDenied, InvalidArgument: for the client.
  absl::StatusOr<TenantBook::Served> TenantOf(const CallMetadata& metadata);

 private:
  const TenantBook& book_;
  const bool trusted_;
  std::atomic<bool> warned_{false};
};

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_TENANT_METADATA_H_
