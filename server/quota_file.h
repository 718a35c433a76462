// A quota file, read and checked:
//
//   {"version": 1, "tenants": {
//     "default": {"limit_bytes": "25%"},
//     "acme":    {"guarantee_bytes": "1GiB", "weight": 2, "rate_floor_bits": 3, "tokens_per_minute": 600000}}}
//
// Reading gives a sheet, which knows only what was said; checking sheets against a pool gives quotas, which know everything. The second
// sheet, of overrides made while running, has the same form, is kept beside the file, and goes over it field by field.
// deploy/quotas.schema.json says the form for editors; server/README.md what each field means.
#ifndef SPHERICAL_SERVER_QUOTA_FILE_H_
#define SPHERICAL_SERVER_QUOTA_FILE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/intake/quota.h"
#include "kernels/base/units.h"
#include "server/quota_fields.h"

namespace spherical::server {

inline constexpr char kDefaultTenantName[] = "default";
inline constexpr int32_t kTenantNameBytesMax = 63;
inline constexpr int32_t kDefaultMaxTokens = 512;
inline constexpr double kDefaultRateFloorBits = 2.0;
inline constexpr double kDefaultRateCeilingBits = 5.0;
// Where nothing is dropped, the last rung of the ladder is T2: 2.5 and 2 bits, radii and a utility byte are 2.5625 bits at head dim 64,
// the most of all head dims. Such a tenant's floor cannot be lower, and is this when it is left out.
inline constexpr double kNoDropRateFloorBits = 2.6;

// Letters, digits, dot, underscore and dash: 1 to 63 of them.
bool IsTenantName(absl::string_view name);

// What was said, and by which file: messages name it.
struct QuotaSheet {
  std::string file;
  std::map<std::string, QuotaFields> tenants;
};

// InvalidArgument names the file, the JSON pointer, what was expected and what came.
absl::StatusOr<QuotaSheet> ParseQuotas(absl::string_view text, absl::string_view file);
std::string ToText(const QuotaSheet& sheet);

// Where a quota file's overrides are kept: beside it.
inline std::string OverridesFileOf(const std::string& file) { return file + ".overrides.json"; }

struct PoolSize {
  ByteCount bytes;
  ByteCount page = ByteCount(1);  // 1: the model, and with it the size of a page, is not known yet
};
ByteCount WholePages(ByteCount bytes, const PoolSize& pool);  // rounded down
// "1000000 bytes (998784 in 211 whole pages)".
std::string SizeText(ByteCount bytes, const PoolSize& pool);

// All that is known of a tenant. `quota.tenant` is its name; sizes are as asked, the engine rounds them down to whole pages.
struct TenantQuota {
  engine::Quota quota;
  int32_t default_max_tokens = kDefaultMaxTokens;
};

// The sheets put together, in order of names. InvalidArgument as above, and also says the remedy: guarantees that add up to more than the
// pool, limits below guarantees or above the pool, limits of less than a page, floors above ceilings, floors that cannot be had.
// Overrides of a tenant that `sheet` does not name are left alone.
absl::StatusOr<std::vector<TenantQuota>> CheckQuotas(const QuotaSheet& sheet, const QuotaSheet& overrides, const PoolSize& pool);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_QUOTA_FILE_H_
