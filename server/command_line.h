#ifndef SPHERICAL_SERVER_COMMAND_LINE_H_
#define SPHERICAL_SERVER_COMMAND_LINE_H_

#include <string>

#include "absl/status/statusor.h"
#include "server/config.h"

namespace spherical::server {

// What the person who typed `sphericald ...` wants.
struct CommandLine {
  enum class Task { kServe, kCheckConfig, kPrint };
  Task task = Task::kServe;
  std::string text;  // kPrint: help or version
  Config config;     // defaults, then the file named by --config, then the other flags
};

// InvalidArgument: an unknown or repeated flag, a bad value, a bad file; NotFound: the file cannot be read.
absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv);

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_COMMAND_LINE_H_
