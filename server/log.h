#ifndef SPHERICAL_SERVER_LOG_H_
#define SPHERICAL_SERVER_LOG_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace spherical::server {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// A line for a person, with the same facts as fields for a machine:
//
//   Log(LogLevel::kInfo, "listening on 127.0.0.1:50051", {{"address", "127.0.0.1"}, {"port", 50051}});
//
//   human   2026-01-31 12:00:00.123 info listening on 127.0.0.1:50051
//   json    {"time":"2026-01-31T12:00:00.123Z","level":"info","message":"listening on 127.0.0.1:50051","address":"127.0.0.1","port":50051}
//
// Human lines leave the fields out: the message says them. Lines go to stderr, whole. Any thread.
using LogValue = std::variant<int64_t, double, std::string_view>;
void Log(LogLevel level, std::string_view message, std::initializer_list<std::pair<std::string_view, LogValue>> fields = {});

// Before the first line, and never again. Until then: human, info.
void StartLog(std::string_view format, std::string_view level);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_LOG_H_
