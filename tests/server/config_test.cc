#include "server/config.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "server/command_line.h"

namespace spherical::server {
namespace {

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

std::string JsonError(const std::string& text) {
  Config config;
  return MessageOf(SetFromJson(text, "f.json", config));
}

absl::StatusOr<CommandLine> Parse(std::vector<const char*> flags) {
  flags.insert(flags.begin(), "sphericald");
  return ParseCommandLine(static_cast<int>(flags.size()), flags.data());
}

std::string WriteFile(const std::string& text) {
  const std::string path = std::string(std::getenv("TEST_TMPDIR")) + "/config.json";
  std::ofstream(path) << text;
  return path;
}

// A value that is allowed and not the default, as a flag says it.
std::string OtherValue(const Setting& setting) {
  struct Other {
    std::string operator()(const Setting::Text&) const { return "other:1"; }
    std::string operator()(const Setting::Choice& choice) const { return std::string(choice.values.back()); }
    std::string operator()(const Setting::Integer& integer) const { return std::to_string(integer.max); }
    std::string operator()(const Setting::Bytes& bytes) const { return std::to_string(bytes.max); }
  };
  return std::visit(Other(), setting.type);
}

// {"kv": {"pool_bytes": 5}} for kv.pool_bytes and "5".
std::string JsonFor(const Setting& setting, const std::string& value) {
  const bool number = std::holds_alternative<Setting::Integer>(setting.type) || std::holds_alternative<Setting::Bytes>(setting.type);
  nlohmann::json root = nlohmann::json::object();
  root[nlohmann::json::json_pointer(PointerOf(setting))] = number ? nlohmann::json(std::stoll(value)) : nlohmann::json(value);
  return root.dump();
}

TEST_CASE("A flag and the file say the same thing for every setting") {
  std::set<std::string> flags;
  for (const Setting& setting : Settings()) {
    const std::string name(setting.name);
    INFO(name);
    CHECK(flags.insert(FlagOf(setting)).second);
    const std::string value = OtherValue(setting);
    Config by_flag, by_file;
    REQUIRE(SetFromFlag(setting, value, by_flag).ok());
    REQUIRE(SetFromJson(JsonFor(setting, value), "f.json", by_file).ok());
    CHECK(ValueOf(setting, by_flag) == value);
    CHECK(ValueOf(setting, by_file) == value);
  }
}

TEST_CASE("The flag's first dash is the file's dot") {
  for (const Setting& setting : Settings()) {
    const std::string name(setting.name);
    const std::string flag = FlagOf(setting).substr(2);
    const size_t dot = name.find('.');
    CHECK(dot == flag.find('-'));
    CHECK(name.find('-') == std::string::npos);
    // One dot at most, so that the dash that is a dot is the first.
    CHECK((dot == std::string::npos || name.find('.', dot + 1) == std::string::npos));
  }
  CHECK(FlagOf(Settings()[0]) == "--model");
}

TEST_CASE("Every setting refuses what is out of its range, in a flag and in the file, naming the place and the bound") {
  for (const Setting& setting : Settings()) {
    const std::string name(setting.name);
    INFO(name);
    if (std::holds_alternative<Setting::Text>(setting.type)) continue;
    const bool number = !std::holds_alternative<Setting::Choice>(setting.type);
    const std::string value = number ? "-1" : "nonsense";
    Config config;
    const std::string by_flag = MessageOf(SetFromFlag(setting, value, config));
    CHECK(by_flag.find(FlagOf(setting) + ": expected " + ExpectedBy(setting) + "; got \"" + value + "\"") == 0);
    const std::string by_file = MessageOf(SetFromJson(JsonFor(setting, value), "f.json", config));
    CHECK(by_file.find("f.json: " + PointerOf(setting) + ": expected " + ExpectedBy(setting) + "; got ") == 0);
  }
}

TEST_CASE("The file's mistakes are named with their JSON pointer") {
  const std::string known = "geometry, mode, pool_bytes, prefill_workspace_bytes";
  CHECK(JsonError(R"({"kv": {"pool": 5}})") == "f.json: /kv/pool: unknown key; known here: " + known);
  CHECK(JsonError(R"({"kw": 5})").find("f.json: /kw: unknown key; known here: activations, context, device, drain, grpc, kv, ") == 0);
  CHECK(JsonError(R"({"kv.mode": "exact"})").find("f.json: /kv.mode: unknown key") == 0);
  CHECK(JsonError(R"({"a/b~c": 1})").find("f.json: /a~1b~0c: unknown key") == 0);
  CHECK(JsonError(R"({"threads": "two"})") == R"(f.json: /threads: expected an integer in [0, 1024]; got a string "two")");
  CHECK(JsonError(R"({"threads": 1.5})") == "f.json: /threads: expected an integer in [0, 1024]; got a number 1.5");
  CHECK(JsonError(R"({"threads": 18446744073709551615})").find("f.json: /threads: expected an integer in [0, 1024]; got an integer") == 0);
  CHECK(JsonError(R"({"threads": null})").find("got null") != std::string::npos);
  CHECK(JsonError(R"({"kv": {"pool_bytes": [1]}})").find("f.json: /kv/pool_bytes: expected bytes in [0, ") == 0);
  CHECK(JsonError(R"({"kv": {"pool_bytes": "2 potatoes"}})").find("got a string \"2 potatoes\"") != std::string::npos);
  CHECK(JsonError(R"({"kv": 3})") == "f.json: /kv: expected an object with " + known + "; got an integer 3");
  CHECK(JsonError(R"({"device": "cuda:-1"})") ==
        R"(f.json: /device: expected one of "cpu", "auto", or cuda:N with N from 0; got a string "cuda:-1")");
  CHECK(JsonError("[]") == "f.json: expected an object; got an array []");
}

TEST_CASE("A key given twice is refused, wherever it is") {
  CHECK(JsonError(R"({"threads": 1, "threads": 1})") == "f.json: /threads: given twice; expected once");
  CHECK(JsonError(R"({"kv": {"mode": "exact", "mode": "exact"}})") == "f.json: /kv/mode: given twice; expected once");
  CHECK(JsonError(R"({"kv": {}, "log": {}, "kv": {}})") == "f.json: /kv: given twice; expected once");
  CHECK(JsonError(R"({"kv": {"mode": "exact"}, "log": {"format": "json"}})").empty());
}

TEST_CASE("What is not JSON is refused with line and column") {
  const std::string message = JsonError("{\"threads\": 1,\n  oops}");
  CHECK(message.find("f.json: not JSON: parse error at line 2, column 3") == 0);
  CHECK_FALSE(JsonError("").empty());
  CHECK_FALSE(JsonError(std::string(100'000, '[')).empty());
  CHECK_FALSE(JsonError("{\"model\": \"\xff\"}").empty());
}

TEST_CASE("A pool that is not asked for by size is 1 GiB on the CPU, and a device's to say elsewhere") {
  Config config;
  CHECK(PoolBytesOf(config) == int64_t{1} << 30);
  config.device = "cuda:0";
  CHECK(PoolBytesOf(config) == 0);
  config.device = "auto";
  CHECK(PoolBytesOf(config) == 0);
  config.kv_pool_bytes = 5;
  CHECK(PoolBytesOf(config) == 5);
}

TEST_CASE("Bytes are read in thousands and in 1024s") {
  const auto bytes = [](const char* text) { return ParseBytes(text).value_or(-1); };
  CHECK(bytes("0") == 0);
  CHECK(bytes("4096") == 4096);
  CHECK(bytes("4096B") == 4096);
  CHECK(bytes("2KB") == 2000);
  CHECK(bytes("2KiB") == 2048);
  CHECK(bytes("500MB") == 500'000'000);
  CHECK(bytes("2GiB") == int64_t{2} << 30);
  CHECK(bytes("2GB") == 2'000'000'000);
  CHECK(bytes("1.5GiB") == int64_t{3} << 29);
  CHECK(bytes("1TiB") == int64_t{1} << 40);
  for (const char* bad : {"", "B", "GiB", "-1", "-1GiB", "nanGiB", "infGB", "99999999TiB", "9999999999999999999", "2 potatoes", "2gib",
                          "0x10", "2G"}) {
    INFO(bad);
    CHECK(bytes(bad) == -1);
  }
}

TEST_CASE("Addresses are a host and a port") {
  CHECK(ParseAddress("127.0.0.1:50051")->port == 50051);
  CHECK(ParseAddress("127.0.0.1:50051")->host == "127.0.0.1");
  CHECK(ParseAddress("[::1]:0")->host == "[::1]");
  CHECK(ParseAddress("localhost:65535").ok());
  for (const char* bad : {"", "localhost", "localhost:", ":50051", "localhost:65536", "localhost:-1", "localhost:+1", "localhost:1x",
                          "::1:5", "localhost:99999999999999"}) {
    INFO(bad);
    const auto address = ParseAddress(bad);
    REQUIRE_FALSE(address.ok());
    CHECK(MessageOf(address.status()).find("expected HOST:PORT with PORT in [0, 65535]; got \"") != std::string::npos);
  }
}

TEST_CASE("Flags override the file, which overrides the defaults") {
  const std::string path = WriteFile(R"({"model": "a.gguf", "threads": 3, "kv": {"pool_bytes": "500MB"}})");
  const auto line = Parse({"--threads", "4", "--config", path.c_str()});
  REQUIRE(line.ok());
  CHECK(line->task == CommandLine::Task::kServe);
  CHECK(line->config.model == "a.gguf");
  CHECK(line->config.threads == 4);
  CHECK(line->config.kv_pool_bytes == 500'000'000);
  CHECK(line->config.kv_mode == "rdr");
  CHECK(Parse({"--config", path.c_str(), "--check-config"})->task == CommandLine::Task::kCheckConfig);
}

TEST_CASE("The command line's mistakes are named") {
  const auto error = [](std::vector<const char*> flags) { return MessageOf(Parse(std::move(flags)).status()); };
  CHECK(error({}) == "no model: say --model PATH, or \"model\" in the config file");
  CHECK(error({"--model", "x", "--threads", "many"}) == "--threads: expected an integer in [0, 1024]; got \"many\"");
  CHECK(error({"--model", "x", "--kv-pool-bytes", "-1"}).find("--kv-pool-bytes: expected bytes in [0, ") == 0);
  CHECK(error({"--model", "x", "--device", "cuda"}) ==
        "--device: expected one of \"cpu\", \"auto\", or cuda:N with N from 0; got \"cuda\"");
  CHECK(error({"--model", "x", "--modle", "y"}).find("--modle") != std::string::npos);
  CHECK(error({"--model", "x", "--model", "y"}).find("--model") != std::string::npos);
  CHECK(error({"--model"}).find("--model") != std::string::npos);
  CHECK(error({"--model", "x", "stray"}).find("stray") != std::string::npos);
  CHECK(error({"--model", "x", "--grpc-listen", "here"}).find("expected HOST:PORT") != std::string::npos);
  CHECK(error({"--config", "/nonexistent/f.json"}).find("/nonexistent/f.json: No such file") != std::string::npos);
  CHECK(error({"--config", "/"}).find("--config") != std::string::npos);
  const std::string path = WriteFile(R"({"threads": "two"})");
  CHECK(error({"--config", path.c_str()}) == path + R"(: /threads: expected an integer in [0, 1024]; got a string "two")");
}

TEST_CASE("kv.geometry is auto, plain or any file, but not nothing") {
  Config config;
  config.model = "m.gguf";
  CHECK(Validate(config).ok());
  for (const char* good : {"plain", "auto", "/models/m.geometry"}) {
    config.kv_geometry = good;
    CHECK(Validate(config).ok());
  }
  config.kv_geometry = "";
  CHECK(std::string(Validate(config).message()).find("kv.geometry (--kv-geometry): expected auto, plain or a path") == 0);
}

TEST_CASE("The README's table has every setting") {
  std::ifstream file("server/README.md");
  REQUIRE(file);
  const std::string readme(std::istreambuf_iterator<char>(file), {});
  for (const Setting& setting : Settings()) {
    INFO(FlagOf(setting));
    const size_t row = readme.find("| `" + FlagOf(setting) + " ");
    REQUIRE(row != std::string::npos);
    CHECK(readme.substr(row, readme.find('\n', row) - row).find("` | `" + std::string(setting.name) + "` |") != std::string::npos);
  }
}

TEST_CASE("Help names every flag with its default, and version says the version") {
  const auto help = Parse({"--help"});
  REQUIRE(help.ok());
  CHECK(help->task == CommandLine::Task::kPrint);
  for (const Setting& setting : Settings()) {
    INFO(FlagOf(setting));
    CHECK(help->text.find(FlagOf(setting) + " ") != std::string::npos);
  }
  CHECK(help->text.find("default 127.0.0.1:50051") != std::string::npos);
  CHECK(Parse({"--version"})->text == "sphericald 0.1.0\n");
}

}  // namespace
}  // namespace spherical::server
