#include "server/tenant_metadata.h"

#include "absl/strings/str_cat.h"
#include "server/log.h"

namespace spherical::server {

absl::StatusOr<std::string> TenantNamed(const CallMetadata& metadata) {
  std::string named, by;
  for (const char* key : kTenantKeys) {
    const auto [first, last] = metadata.equal_range(key);
    for (auto at = first; at != last; ++at) {
      const std::string value(at->second.data(), at->second.size());
      if (value.empty() || value == named) continue;
      if (!named.empty()) {
        return absl::InvalidArgumentError(absl::StrCat("metadata ", key, ": \"", value.substr(0, kTenantNameBytesMax), "\", but ", by,
                                                       " says \"", named.substr(0, kTenantNameBytesMax), "\"; a call has one tenant"));
      }
      named = value;
      by = key;
    }
  }
  return named;
}

absl::StatusOr<TenantBook::Served> TenantMetadata::TenantOf(const CallMetadata& metadata) {
  if (trusted_) {
    const auto named = TenantNamed(metadata);
    if (!named.ok()) return named.status();
    return book_.Find(*named);
  }
  if (!warned_.load(std::memory_order_relaxed)) {
    const auto named = TenantNamed(metadata);
    if ((!named.ok() || !named->empty()) && !warned_.exchange(true)) {
      Log(LogLevel::kWarning, "calls name tenants in their metadata, which tenant.trusted_metadata (--tenant-trusted-metadata) does not "
                              "trust: they are served as default");
    }
  }
  return book_.Find("");
}

}  // namespace spherical::server
