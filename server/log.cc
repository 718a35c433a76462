#include "server/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <nlohmann/json.hpp>

namespace spherical::server {
namespace {

bool json_lines = false;

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarning: return spdlog::level::warn;
    case LogLevel::kError: return spdlog::level::err;
  }
  return spdlog::level::err;
}

std::unique_ptr<spdlog::logger> MakeLogger() {
  auto logger = std::make_unique<spdlog::logger>("sphericald", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->flush_on(spdlog::level::trace);
  return logger;
}

// Never destroyed: threads of gRPC may outlive main.
spdlog::logger& Logger() {
  static spdlog::logger* const logger = [] {
    auto made = MakeLogger();
    made->set_pattern("%Y-%m-%d %H:%M:%S.%e %l %v");
    return made.release();
  }();
  return *logger;
}

}  // namespace

void StartLog(std::string_view format, std::string_view level) {
  json_lines = format == "json";
  // The time goes in front of the fields that Log writes; both are one object.
  if (json_lines) Logger().set_pattern(R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l",%v})", spdlog::pattern_time_type::utc);
  Logger().set_level(spdlog::level::from_str(std::string(level)));
}

void Log(LogLevel level, std::string_view message, std::initializer_list<std::pair<std::string_view, LogValue>> fields) {
  if (!Logger().should_log(ToSpdlog(level))) return;
  if (!json_lines) {
    Logger().log(ToSpdlog(level), spdlog::string_view_t(message.data(), message.size()));
    return;
  }
  nlohmann::ordered_json line;
  line["message"] = message;
  for (const auto& [name, value] : fields) {
    std::visit([&, key = std::string(name)](const auto& v) { line[key] = v; }, value);
  }
  const std::string text = line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  Logger().log(ToSpdlog(level), spdlog::string_view_t(text.data() + 1, text.size() - 2));
}

}  // namespace spherical::server
