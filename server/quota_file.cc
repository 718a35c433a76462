#include "server/quota_file.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "server/json_text.h"

namespace spherical::server {
namespace {

using Json = nlohmann::json;

constexpr int32_t kVersion = 1;
constexpr int32_t kTenantsInMessagesMax = 5;

absl::Status Bad(absl::string_view place, absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat(place, ": ", what)); }

absl::Status CheckTop(const Json& root, absl::string_view file) {
  for (const auto& [key, value] : root.items()) {
    if (key != "version" && key != "tenants" && key != "$schema") {
      return Bad(absl::StrCat(file, ": /", EscapePointer(key)), "unknown key; known here: version, tenants, $schema");
    }
  }
  const auto version = root.find("version");
  if (version == root.end()) return Bad(absl::StrCat(file, ": /version"), absl::StrCat("left out; expected ", kVersion));
  if (!version->is_number_integer() || *version != kVersion) {
    return Bad(absl::StrCat(file, ": /version"), absl::StrCat("expected ", kVersion, ", the only one there is; got ", Shown(*version)));
  }
  const auto tenants = root.find("tenants");
  if (tenants == root.end()) return Bad(absl::StrCat(file, ": /tenants"), "left out; expected an object with a tenant a key");
  if (!tenants->is_object()) return Bad(absl::StrCat(file, ": /tenants"), absl::StrCat("expected an object; got ", Shown(*tenants)));
  if (tenants->size() > static_cast<size_t>(engine::kTenantsMax)) {
    return Bad(absl::StrCat(file, ": /tenants"), absl::StrCat(tenants->size(), " tenants; at most ", engine::kTenantsMax));
  }
  return absl::OkStatus();
}

ByteCount BytesOf(const std::optional<PoolAmount>& amount, ByteCount otherwise, const PoolSize& pool) {
  if (!amount) return otherwise;
  if (!amount->percent) return ByteCount(amount->bytes);
  return ByteCount(static_cast<int64_t>(std::floor(static_cast<double>(pool.bytes.value()) * *amount->percent / 100)));
}

// One tenant: what was said of it, and by which sheet.
struct Said {
  const std::string& name;
  const QuotaFields& fields;
  const QuotaFields* over;  // nullptr: nothing
  const QuotaSheet& sheet;
  const QuotaSheet& overrides;

  // "quotas.json: /tenants/acme/weight", of the sheet whose word holds.
  template <class Field>
  std::string Place(Field field, absl::string_view name_of_field) const {
    const bool overridden = over != nullptr && (over->*field).has_value();
    const std::string tenant = absl::StrCat((overridden ? overrides : sheet).file, ": /tenants/", name);
    return overridden || (fields.*field).has_value() ? absl::StrCat(tenant, "/", name_of_field) : tenant;
  }
};

// Where `high` must not be below `low`: names the one that was said last, for that is the one to change.
template <class Field>
std::string PlaceOfPair(const Said& said, Field low, absl::string_view low_name, Field high, absl::string_view high_name) {
  const bool low_overridden = said.over != nullptr && (said.over->*low).has_value();
  const bool high_overridden = said.over != nullptr && (said.over->*high).has_value();
  const bool low_is_it = (low_overridden && !high_overridden) || !((said.fields.*high).has_value() || high_overridden);
  return low_is_it ? said.Place(low, low_name) : said.Place(high, high_name);
}

absl::Status CheckSizes(const Said& said, const engine::Quota& quota, const PoolSize& pool) {
  const std::string limit_place = said.Place(&QuotaFields::limit_bytes, "limit_bytes");
  if (quota.limit > pool.bytes) {
    return Bad(limit_place, absl::StrCat(SizeText(quota.limit, pool), " is more than the pool, ", SizeText(pool.bytes, pool),
                                         "; lower it, or raise kv.pool_bytes (--kv-pool-bytes)"));
  }
  if (quota.guarantee > quota.limit) {
    return Bad(PlaceOfPair(said, &QuotaFields::guarantee_bytes, "guarantee_bytes", &QuotaFields::limit_bytes, "limit_bytes"),
               absl::StrCat("the guarantee, ", SizeText(quota.guarantee, pool), ", is more than the limit, ", SizeText(quota.limit, pool),
                            "; raise limit_bytes or lower guarantee_bytes"));
  }
  if (WholePages(quota.limit, pool) == ByteCount(0)) {
    return Bad(limit_place, absl::StrCat(quota.limit.value(), " bytes hold no page",
                                         pool.page > ByteCount(1) ? absl::StrCat(" of ", pool.page.value(), " bytes") : "",
                                         "; raise it, or leave the tenant out of the file to serve it nothing"));
  }
  return absl::OkStatus();
}

absl::Status CheckRates(const Said& said, const engine::Quota& quota) {
  if (quota.rate_floor_bits > quota.rate_ceiling_bits) {
    return Bad(PlaceOfPair(said, &QuotaFields::rate_floor_bits, "rate_floor_bits", &QuotaFields::rate_ceiling_bits, "rate_ceiling_bits"),
               absl::StrCat("the floor, ", quota.rate_floor_bits, " bits, is above the ceiling, ", quota.rate_ceiling_bits,
                            " bits; raise rate_ceiling_bits or lower rate_floor_bits"));
  }
  if (!quota.allow_drop && quota.rate_floor_bits < kNoDropRateFloorBits) {
    return Bad(said.Place(&QuotaFields::rate_floor_bits, "rate_floor_bits"),
               absl::StrCat(quota.rate_floor_bits, " bits cannot be had where allow_drop is false: tier T2, the lowest, takes ",
                            kNoDropRateFloorBits, "; raise it, or allow dropping"));
  }
  return absl::OkStatus();
}

absl::StatusOr<TenantQuota> QuotaOf(const Said& said, const PoolSize& pool) {
  QuotaFields fields = said.fields;
  if (said.over != nullptr) Overlay(*said.over, fields);
  TenantQuota made;
  engine::Quota& quota = made.quota;
  quota.tenant = said.name;
  quota.guarantee = BytesOf(fields.guarantee_bytes, ByteCount(0), pool);
  quota.limit = BytesOf(fields.limit_bytes, pool.bytes, pool);
  quota.weight = fields.weight.value_or(1);
  quota.allow_drop = fields.allow_drop.value_or(true);
  quota.rate_floor_bits = fields.rate_floor_bits.value_or(quota.allow_drop ? kDefaultRateFloorBits : kNoDropRateFloorBits);
  quota.rate_ceiling_bits = fields.rate_ceiling_bits.value_or(kDefaultRateCeilingBits);
  quota.max_running = static_cast<int32_t>(fields.max_running.value_or(0));
  quota.max_queued = static_cast<int32_t>(fields.max_queued.value_or(0));
  quota.tokens_per_minute = fields.tokens_per_minute.value_or(0);
  quota.priority = static_cast<int32_t>(fields.priority.value_or(0));
  made.default_max_tokens = static_cast<int32_t>(fields.default_max_tokens.value_or(kDefaultMaxTokens));
  if (absl::Status status = CheckSizes(said, quota, pool); !status.ok()) return status;
  if (absl::Status status = CheckRates(said, quota); !status.ok()) return status;
  return made;
}

// Each is at most the pool and there are at most 1,024, so the sum is no more than 2^56.
absl::Status CheckSum(std::vector<TenantQuota> quotas, const QuotaSheet& sheet, const QuotaSheet& overrides, const PoolSize& pool) {
  ByteCount sum;
  for (const TenantQuota& tenant : quotas) sum += tenant.quota.guarantee;
  if (sum <= pool.bytes) return absl::OkStatus();
  std::sort(quotas.begin(), quotas.end(),
            [](const TenantQuota& a, const TenantQuota& b) { return a.quota.guarantee > b.quota.guarantee; });
  std::string largest;
  bool overridden = false;
  for (size_t i = 0; i < quotas.size() && i < static_cast<size_t>(kTenantsInMessagesMax); ++i) {
    absl::StrAppend(&largest, i > 0 ? ", " : "", quotas[i].quota.tenant, " ", quotas[i].quota.guarantee.value());
  }
  for (const auto& [name, fields] : overrides.tenants) overridden |= fields.guarantee_bytes.has_value() && sheet.tenants.contains(name);
  return Bad(absl::StrCat(sheet.file, ": /tenants"),
             absl::StrCat("the guarantees add up to ", SizeText(sum, pool), " (", largest,
                          quotas.size() > static_cast<size_t>(kTenantsInMessagesMax) ? ", ..." : "", ")",
                          overridden ? absl::StrCat(", those of ", overrides.file, " included") : "", ", more than the pool, ",
                          SizeText(pool.bytes, pool), "; lower some guarantee_bytes, or raise kv.pool_bytes (--kv-pool-bytes)"));
}

}  // namespace

bool IsTenantName(absl::string_view name) {
  return !name.empty() && name.size() <= static_cast<size_t>(kTenantNameBytesMax) &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) { return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-'; });
}

absl::StatusOr<QuotaSheet> ParseQuotas(absl::string_view text, absl::string_view file) {
  const auto root = ParseJsonObject(text, file);
  if (!root.ok()) return root.status();
  if (absl::Status status = CheckTop(*root, file); !status.ok()) return status;
  QuotaSheet sheet{.file = std::string(file), .tenants = {}};
  for (const auto& [name, value] : root->at("tenants").items()) {
    const std::string place = absl::StrCat(file, ": /tenants/", EscapePointer(name));
    if (!IsTenantName(name)) {
      return Bad(place, absl::StrCat("expected a name of 1 to ", kTenantNameBytesMax, " letters, digits, '.', '_' or '-'"));
    }
    if (!value.is_object()) return Bad(place, absl::StrCat("expected an object; got ", Shown(value)));
    auto fields = FieldsFromJson(value, place);
    if (!fields.ok()) return fields.status();
    sheet.tenants.emplace(name, *std::move(fields));
  }
  return sheet;
}

std::string ToText(const QuotaSheet& sheet) {
  Json tenants = Json::object();
  for (const auto& [name, fields] : sheet.tenants) tenants[name] = ToJson(fields);
  return absl::StrCat(Json{{"version", kVersion}, {"tenants", std::move(tenants)}}.dump(2), "\n");
}

ByteCount WholePages(ByteCount bytes, const PoolSize& pool) { return ByteCount(bytes.value() - bytes.value() % pool.page.value()); }

std::string SizeText(ByteCount bytes, const PoolSize& pool) {
  const ByteCount whole = WholePages(bytes, pool);
  std::string text = absl::StrCat(bytes.value(), " bytes");
  if (whole != bytes) absl::StrAppend(&text, " (", whole.value(), " in ", whole.value() / pool.page.value(), " whole pages)");
  return text;
}

absl::StatusOr<std::vector<TenantQuota>> CheckQuotas(const QuotaSheet& sheet, const QuotaSheet& overrides, const PoolSize& pool) {
  if (sheet.tenants.empty()) {
    return Bad(absl::StrCat(sheet.file, ": /tenants"), "names no tenant, so nobody could be served; name \"default\" or another");
  }
  std::vector<TenantQuota> quotas;
  for (const auto& [name, fields] : sheet.tenants) {
    const auto over = overrides.tenants.find(name);
    auto quota = QuotaOf(Said{.name = name,
                              .fields = fields,
                              .over = over == overrides.tenants.end() ? nullptr : &over->second,
                              .sheet = sheet,
                              .overrides = overrides},
                         pool);
    if (!quota.ok()) return quota.status();
    quotas.push_back(*std::move(quota));
  }
  if (absl::Status status = CheckSum(quotas, sheet, overrides, pool); !status.ok()) return status;
  return quotas;
}

}  // namespace spherical::server
