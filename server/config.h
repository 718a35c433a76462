// Config: everything an operator can say to sphericald. A flag and a JSON file say the same things in the same words: the flag's first dash
// is the file's dot (--kv-pool-bytes is kv.pool_bytes, {"kv": {"pool_bytes": "2GiB"}}). One table, Settings(), drives both, the help text
// and every message; the rest of the server sees this struct only.
#ifndef SPHERICAL_SERVER_CONFIG_H_
#define SPHERICAL_SERVER_CONFIG_H_

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"  // not std: Debian's StrCat takes this one only

namespace spherical::server {

struct Config {
  std::string model;
  std::string grpc_listen = "127.0.0.1:50051";
  std::string device = "cpu";
  int64_t threads = 0;
  std::string activations = "int8";
  std::string kv_mode = "rdr";
  std::string kv_geometry = "auto";
  int64_t kv_pool_bytes = 0;
  int64_t kv_prefill_workspace_bytes = 0;
  int64_t context_max = 0;
  int64_t target_step_ms = 100;
  int64_t limits_running = 64;
  int64_t limits_waiting = 256;
  std::string quotas;
  std::string tenant_trusted_metadata = "off";
  int64_t stream_buffer = 64;
  int64_t stream_stall_timeout_ms = 30'000;
  int64_t drain_grace_ms = 30'000;
  std::string log_format = "human";
  std::string log_level = "info";
};

// One thing that can be set.
struct Setting {
  struct Text { std::string Config::*field; const char* what; };  // `what` it stands for in messages: "a path to a GGUF file"
  struct Choice {
    std::string Config::*field;
    std::vector<absl::string_view> values;
    bool (*takes)(absl::string_view value) = nullptr;  // others that are right too, and how they are called in messages
    const char* others = "";
  };
  struct Integer { int64_t Config::*field; int64_t min, max; };
  struct Bytes { int64_t Config::*field; int64_t min, max; };

  absl::string_view name;  // as in the file, sections joined by dots: "kv.pool_bytes"
  absl::string_view help;  // one line
  std::variant<Text, Choice, Integer, Bytes> type;
};

// The pool where none is asked for: of a CPU this, of a device what is free there when the model has been loaded.
inline constexpr int64_t kPoolBytesOnCpu = int64_t{1} << 30;
inline constexpr int64_t kPoolBytesMax = int64_t{64} << 40;

std::span<const Setting> Settings();
std::string FlagOf(const Setting& setting);             // "--kv-pool-bytes"
std::string PointerOf(const Setting& setting);          // "/kv/pool_bytes"
std::string ExpectedBy(const Setting& setting);         // "an integer in [0, 1024]"
std::string ValueOf(const Setting& setting, const Config& config);  // as a flag would say it

// Sets one thing from a flag's text. InvalidArgument names the flag, what was expected and what came.
absl::Status SetFromFlag(const Setting& setting, absl::string_view text, Config& config);

// Sets what a JSON text says, over `config`. InvalidArgument names the file, the JSON pointer, what was expected and what came: for an
// unknown key, a wrong type, a value out of range, a key given twice, or a syntax error.
absl::Status SetFromJson(absl::string_view text, absl::string_view file, Config& config);

// What no single setting can say: a model is named, the address has a port.
absl::Status Validate(const Config& config);

// The pool's bytes as far as the config tells; 0: a device's free memory will.
int64_t PoolBytesOf(const Config& config);

// "1.5GiB", "500MB", "4096" -> bytes. KB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB of 1024.
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);

// HOST:PORT, HOST maybe in brackets ("[::1]:50051"); port 0 asks the system for one.
struct Address {
  std::string host;
  int32_t port = 0;
};
absl::StatusOr<Address> ParseAddress(absl::string_view text);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_CONFIG_H_
