#include "server/quota_fields.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/config.h"
#include "server/json_text.h"

namespace spherical::server {
namespace {

using Json = nlohmann::json;
using Amount = QuotaField::Amount;
using Number = QuotaField::Number;
using Integer = QuotaField::Integer;
using Flag = QuotaField::Flag;

constexpr int64_t kBytesMax = int64_t{64} << 40;  // as kv.pool_bytes

const std::vector<QuotaField>& Table() {
  static const std::vector<QuotaField>* const table = new std::vector<QuotaField>{
      {"guarantee_bytes", Amount{&QuotaFields::guarantee_bytes}},
      {"limit_bytes", Amount{&QuotaFields::limit_bytes}},
      {"weight", Number{&QuotaFields::weight, 0.001, 1000}},
      {"rate_floor_bits", Number{&QuotaFields::rate_floor_bits, kRateFloorBitsMin, 16}},
      {"rate_ceiling_bits", Number{&QuotaFields::rate_ceiling_bits, kRateFloorBitsMin, 16}},
      {"allow_drop", Flag{&QuotaFields::allow_drop}},
      {"max_running", Integer{&QuotaFields::max_running, 0, 256}},
      {"max_queued", Integer{&QuotaFields::max_queued, 0, 1 << 20}},
      {"tokens_per_minute", Integer{&QuotaFields::tokens_per_minute, 0, 1'000'000'000'000}},
      {"default_max_tokens", Integer{&QuotaFields::default_max_tokens, 1, 1 << 24}},
      {"priority", Integer{&QuotaFields::priority, -kPriorityMax, kPriorityMax}},
  };
  return *table;
}

// A value that has been read, checked against its range. NaN compares false with everything, so the condition is what must hold.
bool InRange(const Amount&, const PoolAmount& amount) {
  if (amount.percent) return *amount.percent >= 0 && *amount.percent <= 100;
  return amount.bytes >= 0 && amount.bytes <= kBytesMax;
}
bool InRange(const Number& number, double value) { return value >= number.min && value <= number.max; }
bool InRange(const Integer& integer, int64_t value) { return value >= integer.min && value <= integer.max; }
bool InRange(const Flag&, bool) { return true; }

std::string Text(const PoolAmount& amount) {
  return amount.percent ? absl::StrCat(*amount.percent, "%") : absl::StrCat(amount.bytes);
}
std::string Text(double value) { return absl::StrCat(value); }
std::string Text(int64_t value) { return absl::StrCat(value); }
std::string Text(bool value) { return value ? "true" : "false"; }

Json JsonOf(const PoolAmount& amount) { return amount.percent ? Json(Text(amount)) : Json(amount.bytes); }
template <class Value>
Json JsonOf(const Value& value) {
  return value;
}

// A JSON value taken as a field's type; nullopt: it is no such thing.
std::optional<int64_t> Take(const Integer&, const Json& json) {
  if (json.is_number_unsigned() && json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  return json.is_number_integer() ? std::optional(json.get<int64_t>()) : std::nullopt;
}
std::optional<double> Take(const Number&, const Json& json) {
  return json.is_number() ? std::optional(json.get<double>()) : std::nullopt;
}
std::optional<bool> Take(const Flag&, const Json& json) { return json.is_boolean() ? std::optional(json.get<bool>()) : std::nullopt; }
std::optional<PoolAmount> Take(const Amount&, const Json& json) {
  if (!json.is_string()) {
    const std::optional<int64_t> bytes = Take(Integer{}, json);
    return bytes ? std::optional(PoolAmount{.bytes = *bytes}) : std::nullopt;
  }
  absl::string_view text = json.get_ref<const std::string&>();
  if (absl::EndsWith(text, "%")) {
    text.remove_suffix(1);
    double percent = 0;
    return absl::SimpleAtod(text, &percent) ? std::optional(PoolAmount{.percent = percent}) : std::nullopt;
  }
  const auto bytes = ParseBytes(text);
  return bytes.ok() ? std::optional(PoolAmount{.bytes = *bytes}) : std::nullopt;
}

absl::Status Unexpected(absl::string_view place, const QuotaField& field, absl::string_view got) {
  return absl::InvalidArgumentError(absl::StrCat(place, "/", field.name, ": expected ", ExpectedBy(field), "; got ", got));
}

}  // namespace

std::span<const QuotaField> QuotaFieldTable() { return Table(); }

std::string ExpectedBy(const QuotaField& field) {
  struct Words {
    std::string operator()(const Amount&) const {
      return absl::StrCat("bytes in [0, ", kBytesMax, "], as an integer or like \"2GiB\" or \"500MB\", or \"0%\" to \"100%\" of the pool");
    }
    std::string operator()(const Number& number) const { return absl::StrCat("a number in [", number.min, ", ", number.max, "]"); }
    std::string operator()(const Integer& integer) const {
      return absl::StrCat("an integer in [", integer.min, ", ", integer.max, "]");
    }
    std::string operator()(const Flag&) const { return "true or false"; }
  };
  return std::visit(Words(), field.type);
}

bool IsGiven(const QuotaField& field, const QuotaFields& fields) {
  return std::visit([&](const auto& type) { return (fields.*type.field).has_value(); }, field.type);
}

bool NothingGiven(const QuotaFields& fields) { return fields == QuotaFields(); }

absl::StatusOr<QuotaFields> FieldsFromJson(const Json& object, absl::string_view place) {
  QuotaFields fields;
  for (const auto& [key, value] : object.items()) {
    const auto field = std::find_if(Table().begin(), Table().end(), [&](const QuotaField& f) { return f.name == key; });
    if (field == Table().end()) {
      const auto name = [](std::string* out, const QuotaField& f) { absl::StrAppend(out, f.name); };
      return absl::InvalidArgumentError(
          absl::StrCat(place, "/", EscapePointer(key), ": unknown key; known here: ", absl::StrJoin(Table(), ", ", name)));
    }
    const bool taken = std::visit(
        [&, &json = value](const auto& type) {
          const auto got = Take(type, json);
          if (!got || !InRange(type, *got)) return false;
          fields.*type.field = *got;
          return true;
        },
        field->type);
    if (!taken) return Unexpected(place, *field, Shown(value));
  }
  return fields;
}

Json ToJson(const QuotaFields& fields) {
  Json object = Json::object();
  for (const QuotaField& field : Table()) {
    std::visit(
        [&](const auto& type) {
          if (const auto& value = fields.*type.field) object[std::string(field.name)] = JsonOf(*value);
        },
        field.type);
  }
  return object;
}

absl::Status CheckRanges(const QuotaFields& fields, absl::string_view place) {
  for (const QuotaField& field : Table()) {
    const std::string bad = std::visit(
        [&](const auto& type) {
          const auto& value = fields.*type.field;
          return value && !InRange(type, *value) ? Text(*value) : std::string();
        },
        field.type);
    if (!bad.empty()) return Unexpected(place, field, bad);
  }
  return absl::OkStatus();
}

void Overlay(const QuotaFields& over, QuotaFields& fields) {
  for (const QuotaField& field : Table()) {
    std::visit(
        [&](const auto& type) {
          if (const auto& value = over.*type.field) fields.*type.field = value;
        },
        field.type);
  }
}

}  // namespace spherical::server
