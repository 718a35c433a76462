#include "server/config.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "engine/kv/kv_mode.h"
#include "engine/step/device_choice.h"
#include "server/json_text.h"

namespace spherical::server {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kTiB = int64_t{1} << 40;
constexpr int64_t kHourMs = 3'600'000;

std::vector<absl::string_view> KvModeNames() {
  std::vector<absl::string_view> names;
  for (const engine::NamedKvMode& mode : engine::KvModes()) names.push_back({mode.name.data(), mode.name.size()});
  return names;
}

bool IsKvMode(absl::string_view name) { return engine::FindKvMode({name.data(), name.size()}).has_value(); }

bool IsDevice(absl::string_view name) { return engine::IsDeviceName({name.data(), name.size()}); }

const std::vector<Setting>& Table() {
  static const std::vector<Setting>* const table = new std::vector<Setting>{
      {"model", "the model to serve; its name is the file's, without .gguf, or the folder's",
       Setting::Text{&Config::model, "a path to a GGUF file, or to a folder with config.json, safetensors and tokenizer.json"}},
      {"grpc.listen", "where to listen; port 0 picks a free one and logs it",
       Setting::Text{&Config::grpc_listen, "HOST:PORT with PORT in [0, 65535]"}},
      {"device", "what runs the model; auto: the first CUDA device that can, else the CPU",
       Setting::Choice{&Config::device, {"cpu", "auto"}, IsDevice, "cuda:N with N from 0"}},
      {"threads", "threads that compute; 0: as many as this process may use", Setting::Integer{&Config::threads, 0, 1024}},
      {"activations", "int8: products of int8; f32: weights are dequantised, slower, for measuring quality",
       Setting::Choice{&Config::activations, {"int8", "f32"}}},
      {"kv.mode", "how keys and values are kept; exact: as f16; uniform:T: as codes of tier T; rdr: as precisely as budgets allow",
       Setting::Choice{&Config::kv_mode, KvModeNames(), IsKvMode, "rdr:RATE with RATE from 0.5 to 8 bits"}},
      {"kv.geometry", "how keys are coded; auto: calibrated at the first start, then kept; plain: rotation only; or a file",
       Setting::Text{&Config::kv_geometry, "auto, plain or a path to a file of geometries"}},
      {"kv.pool_bytes", "memory for keys and values, taken at start; 0: 1 GiB, or on CUDA what is free there when all else is taken",
       Setting::Bytes{&Config::kv_pool_bytes, 0, kPoolBytesMax}},
      {"kv.prefill_workspace_bytes", "memory for exact keys and values of prompts, beside the pool; 0: enough for one whole context",
       Setting::Bytes{&Config::kv_prefill_workspace_bytes, 0, 64 * kTiB}},
      {"context.max", "longest prompt and answer together, in tokens; 0: what the model was trained for",
       Setting::Integer{&Config::context_max, 0, 1 << 24}},
      {"target.step_ms", "bound on the planned time of one step, so that a long prompt does not stretch others' time between tokens",
       Setting::Integer{&Config::target_step_ms, 1, 60'000}},
      {"limits.running", "most requests in the batch", Setting::Integer{&Config::limits_running, 1, 256}},
      {"limits.waiting", "most requests that wait for memory; beyond, they are refused",
       Setting::Integer{&Config::limits_waiting, 0, 1 << 20}},
      {"quotas", "what each tenant may hold: a JSON file that is read again whenever it changes; left out: one tenant, with the whole pool",
       Setting::Text{&Config::quotas, "a path to a file of quotas"}},
      {"tenant.trusted_metadata", "on: a call's tenant is what its metadata says, which a gateway must have set; off: always default",
       Setting::Choice{&Config::tenant_trusted_metadata, {"off", "on"}}},
      {"stream.buffer", "events that wait for a slow reader before its request pauses",
       Setting::Integer{&Config::stream_buffer, 2, 65'536}},
      {"stream.stall_timeout_ms", "a reader that takes nothing for so long is cancelled",
       Setting::Integer{&Config::stream_stall_timeout_ms, 1, 24 * kHourMs}},
      {"drain.grace_ms", "time that running requests have to finish after SIGTERM",
       Setting::Integer{&Config::drain_grace_ms, 0, 24 * kHourMs}},
      {"log.format", "lines for people or for machines", Setting::Choice{&Config::log_format, {"human", "json"}}},
      {"log.level", "the least that is logged", Setting::Choice{&Config::log_level, {"debug", "info", "warning", "error"}}},
  };
  return *table;
}

absl::Status Unexpected(absl::string_view where, const Setting& setting, absl::string_view got) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": expected ", ExpectedBy(setting), "; got ", got));
}

// The four ways to take a value that has been read; false: it is not one the setting knows.
bool SetText(const Setting& setting, absl::string_view value, Config& config) {
  if (const auto* text = std::get_if<Setting::Text>(&setting.type)) {
    config.*text->field = std::string(value);
    return true;
  }
  if (const auto* choice = std::get_if<Setting::Choice>(&setting.type)) {
    const bool listed = std::find(choice->values.begin(), choice->values.end(), value) != choice->values.end();
    if (!listed && (choice->takes == nullptr || !choice->takes(value))) return false;
    config.*choice->field = std::string(value);
    return true;
  }
  return false;
}

bool SetNumber(const Setting& setting, int64_t value, Config& config) {
  const auto in = [&](const auto& range) {
    if (value < range.min || value > range.max) return false;
    config.*range.field = value;
    return true;
  };
  if (const auto* integer = std::get_if<Setting::Integer>(&setting.type)) return in(*integer);
  if (const auto* bytes = std::get_if<Setting::Bytes>(&setting.type)) return in(*bytes);
  return false;
}

bool SetFromValue(const Setting& setting, const Json& value, Config& config) {
  // An unsigned number above the largest int64 would wrap: no setting is that large.
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return false;
  if (value.is_number_integer()) return SetNumber(setting, value.get<int64_t>(), config);
  if (!value.is_string()) return false;
  const std::string& text = value.get_ref<const std::string&>();
  if (!std::holds_alternative<Setting::Bytes>(setting.type)) return SetText(setting, text, config);
  const auto bytes = ParseBytes(text);
  return bytes.ok() && SetNumber(setting, *bytes, config);
}

// Names that may stand in a section ("" is the top), for the message about one that may not.
std::string KnownIn(absl::string_view section) {
  std::set<absl::string_view> known;
  for (const Setting& setting : Settings()) {
    absl::string_view rest = setting.name;
    if (!section.empty()) {
      if (!absl::StartsWith(rest, absl::StrCat(section, "."))) continue;
      rest.remove_prefix(section.size() + 1);
    }
    known.insert(rest.substr(0, rest.find('.')));
  }
  return absl::StrJoin(known, ", ");
}

absl::Status SetSection(const Json& object, absl::string_view file, absl::string_view section, absl::string_view pointer, Config& config) {
  for (const auto& [key, value] : object.items()) {
    const std::string name = section.empty() ? key : absl::StrCat(section, ".", key);
    const std::string where = absl::StrCat(pointer, "/", EscapePointer(key));
    const std::string place = absl::StrCat(file, ": ", where);
    const bool dotted = key.find('.') != std::string::npos;  // {"kv.mode": ...}: one way to say it is enough
    const auto setting = std::find_if(Settings().begin(), Settings().end(), [&](const Setting& s) { return !dotted && s.name == name; });
    if (setting != Settings().end()) {
      if (!SetFromValue(*setting, value, config)) return Unexpected(place, *setting, Shown(value));
      continue;
    }
    if (dotted || KnownIn(name).empty()) {
      return absl::InvalidArgumentError(absl::StrCat(place, ": unknown key; known here: ", KnownIn(section)));
    }
    if (!value.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(place, ": expected an object with ", KnownIn(name), "; got ", Shown(value)));
    }
    if (absl::Status status = SetSection(value, file, name, where, config); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

std::span<const Setting> Settings() { return Table(); }

std::string FlagOf(const Setting& setting) { return absl::StrCat("--", absl::StrReplaceAll(setting.name, {{".", "-"}, {"_", "-"}})); }

std::string PointerOf(const Setting& setting) { return absl::StrCat("/", absl::StrReplaceAll(setting.name, {{".", "/"}})); }

std::string ExpectedBy(const Setting& setting) {
  struct Words {
    std::string operator()(const Setting::Text& text) const { return text.what; }
    std::string operator()(const Setting::Choice& choice) const {
      return absl::StrCat("one of \"", absl::StrJoin(choice.values, "\", \""), "\"", choice.takes != nullptr ? ", or " : "", choice.others);
    }
    std::string operator()(const Setting::Integer& integer) const {
      return absl::StrCat("an integer in [", integer.min, ", ", integer.max, "]");
    }
    std::string operator()(const Setting::Bytes& bytes) const {
      return absl::StrCat("bytes in [", bytes.min, ", ", bytes.max, "], as an integer or like \"2GiB\" or \"500MB\"");
    }
  };
  return std::visit(Words(), setting.type);
}

std::string ValueOf(const Setting& setting, const Config& config) {
  return std::visit([&](const auto& type) { return absl::StrCat(config.*type.field); }, setting.type);
}

absl::Status SetFromFlag(const Setting& setting, absl::string_view text, Config& config) {
  int64_t number = 0;
  bool set = false;
  if (std::holds_alternative<Setting::Integer>(setting.type)) {
    set = absl::SimpleAtoi(text, &number) && SetNumber(setting, number, config);
  } else if (std::holds_alternative<Setting::Bytes>(setting.type)) {
    const auto bytes = ParseBytes(text);
    set = bytes.ok() && SetNumber(setting, *bytes, config);
  } else {
    set = SetText(setting, text, config);
  }
  return set ? absl::OkStatus() : Unexpected(FlagOf(setting), setting, absl::StrCat("\"", text, "\""));
}

absl::Status SetFromJson(absl::string_view text, absl::string_view file, Config& config) {
  const auto root = ParseJsonObject(text, file);
  if (!root.ok()) return root.status();
  return SetSection(*root, file, "", "", config);
}

absl::Status Validate(const Config& config) {
  if (config.model.empty()) return absl::InvalidArgumentError("no model: say --model PATH, or \"model\" in the config file");
  if (config.kv_geometry.empty()) {
    return absl::InvalidArgumentError("kv.geometry (--kv-geometry): expected auto, plain or a path to a file of geometries; got \"\"");
  }
  return ParseAddress(config.grpc_listen).status();
}

int64_t PoolBytesOf(const Config& config) {
  return config.kv_pool_bytes == 0 && config.device == "cpu" ? kPoolBytesOnCpu : config.kv_pool_bytes;
}

absl::StatusOr<int64_t> ParseBytes(absl::string_view text) {
  constexpr std::pair<absl::string_view, int64_t> kUnits[] = {
      {"KiB", int64_t{1} << 10}, {"MiB", kMiB}, {"GiB", int64_t{1} << 30}, {"TiB", kTiB},
      {"KB", 1'000},             {"MB", 1'000'000}, {"GB", 1'000'000'000}, {"TB", 1'000'000'000'000}, {"B", 1}};
  int64_t whole = 0;
  if (absl::SimpleAtoi(text, &whole) && whole >= 0) return whole;
  for (const auto& [name, unit] : kUnits) {
    if (!absl::EndsWith(text, name)) continue;
    double number = 0;
    if (!absl::SimpleAtod(text.substr(0, text.size() - name.size()), &number)) break;
    const double bytes = number * static_cast<double>(unit);
    if (!(bytes >= 0 && bytes < 9e18)) break;
    return static_cast<int64_t>(std::llround(bytes));
  }
  return absl::InvalidArgumentError(absl::StrCat("expected bytes, as an integer or like \"2GiB\" or \"500MB\"; got \"", text, "\""));
}

absl::StatusOr<Address> ParseAddress(absl::string_view text) {
  const auto bad = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("grpc.listen (--grpc-listen): expected HOST:PORT with PORT in [0, 65535]; got \"", text, "\""));
  };
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos || colon == 0) return bad();
  Address address{.host = std::string(text.substr(0, colon))};
  const bool bracketed = address.host.front() == '[' && address.host.back() == ']';
  if (!bracketed && address.host.find(':') != std::string::npos) return bad();
  const absl::string_view port = text.substr(colon + 1);
  if (port.empty() || port.find_first_not_of("0123456789") != absl::string_view::npos) return bad();
  if (!absl::SimpleAtoi(port, &address.port) || address.port > 65'535) return bad();
  return address;
}

}  // namespace spherical::server
