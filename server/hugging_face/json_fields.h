// The JSON files of a model's folder, and fields of their objects.
#ifndef SPHERICAL_SERVER_HUGGING_FACE_JSON_FIELDS_H_
#define SPHERICAL_SERVER_HUGGING_FACE_JSON_FIELDS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace spherical::server {

// The object in a file of at most `bytes_max` bytes. NotFound: there is no file. Else the errors of ParseJsonObject.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path, int64_t bytes_max);

// Reads fields of one object with their bounds; null counts as left out. The first error sticks in the status that all objects of a file
// share, and says file, JSON pointer, what came and what was expected; later reads return 0, "" or an empty object.
class JsonFields {
 public:
  // `object`, `file` and `status` outlive this.
  JsonFields(const nlohmann::json& object, const std::string& file, std::string pointer, absl::Status& status)
      : object_(object), file_(file), pointer_(std::move(pointer)), status_(status) {}

  bool Has(const std::string& key) const;
  bool IsNull(const std::string& key) const;

  // In [low, high]; "missing" where it is left out.
  int64_t Int(const std::string& key, int64_t low, int64_t high);
  int64_t IntOr(const std::string& key, int64_t fallback, int64_t low, int64_t high);
  // Above 0 and finite.
  double Positive(const std::string& key);
  double PositiveOr(const std::string& key, double fallback);
  bool BoolOr(const std::string& key, bool fallback);
  std::string Text(const std::string& key);
  std::string TextOr(const std::string& key, const std::string& fallback);
  std::vector<std::string> TextsOr(const std::string& key, const std::vector<std::string>& fallback);
  // One integer, or an array of them; none where it is left out.
  std::vector<int64_t> Ints(const std::string& key, int64_t low, int64_t high);
  JsonFields Object(const std::string& key);

  void Fail(const absl::Status& error);
  std::string Place(const std::string& key) const;  // "file: /pointer/key"

 private:
  const nlohmann::json* Find(const std::string& key, const std::string& expected);
  void FailExpected(const std::string& key, const std::string& expected, const nlohmann::json& got);
  int64_t ToInt(const std::string& key, const nlohmann::json& value, int64_t low, int64_t high);

  const nlohmann::json& object_;
  const std::string& file_;
  const std::string pointer_;  // of the object: "", "/text_config"
  absl::Status& status_;
};

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_HUGGING_FACE_JSON_FIELDS_H_
