#include "server/hugging_face/json_fields.h"

#include <cmath>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/mapped_file.h"
#include "server/json_text.h"

namespace spherical::server {
namespace {

using Json = nlohmann::json;

const Json& EmptyObject() {
  static const Json empty = Json::object();
  return empty;
}

std::string IntegerIn(int64_t low, int64_t high) { return absl::StrCat("an integer in [", low, ", ", high, "]"); }

}  // namespace

absl::StatusOr<Json> ReadJsonFile(const std::string& path, int64_t bytes_max) {
  const auto file = engine::MappedFile::Open(path);
  if (!file.ok()) return file.status();
  if (static_cast<int64_t>(file->bytes().size()) > bytes_max) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", file->bytes().size(), " bytes, expected at most ", bytes_max));
  }
  return ParseJsonObject({reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()}, path);
}

bool JsonFields::Has(const std::string& key) const {
  const auto found = object_.find(key);
  return found != object_.end() && !found->is_null();
}

bool JsonFields::IsNull(const std::string& key) const {
  const auto found = object_.find(key);
  return found != object_.end() && found->is_null();
}

int64_t JsonFields::Int(const std::string& key, int64_t low, int64_t high) {
  const Json* const value = Find(key, IntegerIn(low, high));
  return value == nullptr ? 0 : ToInt(key, *value, low, high);
}

int64_t JsonFields::IntOr(const std::string& key, int64_t fallback, int64_t low, int64_t high) {
  return Has(key) ? Int(key, low, high) : fallback;
}

double JsonFields::Positive(const std::string& key) {
  constexpr char kExpected[] = "a number above 0";
  const Json* const value = Find(key, kExpected);
  if (value == nullptr) return 0;
  const double number = value->is_number() ? value->get<double>() : 0;
  if (number > 0 && std::isfinite(number)) return number;
  FailExpected(key, kExpected, *value);
  return 0;
}

double JsonFields::PositiveOr(const std::string& key, double fallback) { return Has(key) ? Positive(key) : fallback; }

bool JsonFields::BoolOr(const std::string& key, bool fallback) {
  if (!Has(key)) return fallback;
  const Json& value = object_.at(key);
  if (value.is_boolean()) return value.get<bool>();
  FailExpected(key, "a boolean", value);
  return fallback;
}

std::string JsonFields::Text(const std::string& key) {
  constexpr char kExpected[] = "a string";
  const Json* const value = Find(key, kExpected);
  if (value == nullptr) return "";
  if (value->is_string()) return value->get<std::string>();
  FailExpected(key, kExpected, *value);
  return "";
}

std::string JsonFields::TextOr(const std::string& key, const std::string& fallback) { return Has(key) ? Text(key) : fallback; }

std::vector<std::string> JsonFields::TextsOr(const std::string& key, const std::vector<std::string>& fallback) {
  if (!Has(key)) return fallback;
  const Json& value = object_.at(key);
  std::vector<std::string> texts;
  bool good = value.is_array();
  for (size_t i = 0; good && i < value.size(); ++i) {
    good = value[i].is_string();
    if (good) texts.push_back(value[i].get<std::string>());
  }
  if (good) return texts;
  FailExpected(key, "an array of strings", value);
  return {};
}

std::vector<int64_t> JsonFields::Ints(const std::string& key, int64_t low, int64_t high) {
  if (!Has(key)) return {};
  const Json& value = object_.at(key);
  if (!value.is_array()) return {ToInt(key, value, low, high)};
  std::vector<int64_t> numbers;
  for (size_t i = 0; i < value.size(); ++i) numbers.push_back(ToInt(absl::StrCat(key, "/", i), value[i], low, high));
  return numbers;
}

JsonFields JsonFields::Object(const std::string& key) {
  constexpr char kExpected[] = "an object";
  const std::string pointer = absl::StrCat(pointer_, "/", key);
  const Json* const value = Find(key, kExpected);
  if (value != nullptr && value->is_object()) return JsonFields(*value, file_, pointer, status_);
  if (value != nullptr) FailExpected(key, kExpected, *value);
  return JsonFields(EmptyObject(), file_, pointer, status_);
}

void JsonFields::Fail(const absl::Status& error) {
  if (status_.ok()) status_ = error;
}

std::string JsonFields::Place(const std::string& key) const { return absl::StrCat(file_, ": ", pointer_, "/", key); }

const Json* JsonFields::Find(const std::string& key, const std::string& expected) {
  if (Has(key)) return &object_.at(key);
  Fail(absl::InvalidArgumentError(absl::StrCat(Place(key), ": missing; expected ", expected)));
  return nullptr;
}

void JsonFields::FailExpected(const std::string& key, const std::string& expected, const Json& got) {
  Fail(absl::InvalidArgumentError(absl::StrCat(Place(key), ": expected ", expected, "; got ", Shown(got))));
}

int64_t JsonFields::ToInt(const std::string& key, const Json& value, int64_t low, int64_t high) {
  // An unsigned number above the largest int64 would wrap: no bound is that large.
  const bool fits = value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX));
  const int64_t number = fits ? value.get<int64_t>() : 0;
  if (fits && number >= low && number <= high) return number;
  FailExpected(key, IntegerIn(low, high), value);
  return 0;
}

}  // namespace spherical::server
