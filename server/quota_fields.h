// What can be said of one tenant: one table drives the quota file, the overrides beside it, the messages of both, and Admin.SetQuota.
#ifndef SPHERICAL_SERVER_QUOTA_FIELDS_H_
#define SPHERICAL_SERVER_QUOTA_FIELDS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spherical::server {

// So many bytes, or so much of the pool.
struct PoolAmount {
  int64_t bytes = 0;
  std::optional<double> percent = {};  // 0 to 100; then `bytes` means nothing
  bool operator==(const PoolAmount&) const = default;
};

// Left out: nothing is said of it. QuotaFile says what holds then.
struct QuotaFields {
  std::optional<PoolAmount> guarantee_bytes, limit_bytes;
  std::optional<double> weight, rate_floor_bits, rate_ceiling_bits;
  std::optional<bool> allow_drop;
  std::optional<int64_t> max_running, max_queued, tokens_per_minute, default_max_tokens, priority;
  bool operator==(const QuotaFields&) const = default;
};

inline constexpr int32_t kPriorityMax = 100;      // and -100: of a request, or of a tenant's requests that bring none
inline constexpr double kRateFloorBitsMin = 0.5;  // below it nearly every token is dropped, and what is left makes no sense

struct QuotaField {
  struct Amount { std::optional<PoolAmount> QuotaFields::*field; };
  struct Number { std::optional<double> QuotaFields::*field; double min, max; };
  struct Integer { std::optional<int64_t> QuotaFields::*field; int64_t min, max; };
  struct Flag { std::optional<bool> QuotaFields::*field; };

  absl::string_view name;  // as in the file, and as on the wire
  std::variant<Amount, Number, Integer, Flag> type;
};

std::span<const QuotaField> QuotaFieldTable();
std::string ExpectedBy(const QuotaField& field);  // "an integer in [0, 256]"
bool IsGiven(const QuotaField& field, const QuotaFields& fields);
bool NothingGiven(const QuotaFields& fields);

// From a JSON object. InvalidArgument says where (`place` and the field's name), what was expected and what came, for unknown names, wrong
// types and values out of their field's range. What two fields or two tenants have to do with each other is QuotaFile's.
absl::StatusOr<QuotaFields> FieldsFromJson(const nlohmann::json& object, absl::string_view place);
nlohmann::json ToJson(const QuotaFields& fields);

// The ranges again, for fields that came another way.
absl::Status CheckRanges(const QuotaFields& fields, absl::string_view place);

// What `over` says goes over what `fields` says.
void Overlay(const QuotaFields& over, QuotaFields& fields);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_QUOTA_FIELDS_H_
