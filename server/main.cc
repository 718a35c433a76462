// sphericald: reads what it is told, starts the daemon, turns signals into Stop. Exit codes: 0 stopped as asked, 1 anything else.
#include <signal.h>
#include <sys/random.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "server/command_line.h"
#include "server/daemon.h"
#include "server/listener.h"
#include "server/log.h"
#include "server/machine_memory.h"
#include "server/tenant_book.h"

namespace {

using spherical::ByteCount;
using spherical::server::CommandLine;
using spherical::server::Daemon;
using spherical::server::LogLevel;

int Complain(const absl::Status& status) {
  std::fprintf(stderr, "sphericald: %s\n", std::string(status.message()).c_str());
  return 1;
}

// Whether the machine has as much at all; how much of it is free now is asked at start.
int CheckConfig(const spherical::server::Config& config) {
  spherical::server::MachineMemory memory = spherical::server::ReadMachineMemory();
  memory.available = memory.total;
  const bool on_cpu = config.device == "cpu";  // else the pool may be a device's, which is not asked here
  const absl::Status fits = CheckFits(spherical::server::kPoolSetting, ByteCount(on_cpu ? PoolBytesOf(config) : 0), memory);
  if (!fits.ok()) return Complain(fits);
  const auto tenants = spherical::server::TenantBook::Open(config);
  if (!tenants.ok()) return Complain(tenants.status());
  std::puts("sphericald: the config is good");
  return 0;
}

uint64_t DrawSeed() {
  uint64_t seed = 0;
  if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed)) seed = static_cast<uint64_t>(getpid());
  return seed;
}

int Serve(const spherical::server::Config& config) {
  // Blocked before any thread exists, so that all inherit it and only sigwait below sees these signals.
  constexpr int kEnded = SIGUSR1;  // the daemon's own: it has ended
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, kEnded}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);  // a log reader that went away must not end us

  spherical::server::StartLog(config.log_format, config.log_level);
  spherical::server::SendGrpcLogToOurs();
  const auto daemon = Daemon::Start(config, {.seed = DrawSeed(), .on_end = [] { kill(getpid(), kEnded); }});
  if (!daemon.ok()) {
    Log(LogLevel::kError, std::string(daemon.status().message()));
    return 1;
  }
  while (!(*daemon)->ended()) {
    int signal = 0;
    sigwait(&signals, &signal);
    if (signal != kEnded) (*daemon)->Stop();
  }
  const absl::Status end = (*daemon)->Wait();
  if (!end.ok()) Log(LogLevel::kError, std::string(end.message()));
  return end.ok() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const auto line = spherical::server::ParseCommandLine(argc, argv);
  if (!line.ok()) return Complain(line.status());
  switch (line->task) {
    case CommandLine::Task::kPrint:
      std::fputs(line->text.c_str(), stdout);
      return 0;
    case CommandLine::Task::kCheckConfig:
      return CheckConfig(line->config);
    case CommandLine::Task::kServe:
      return Serve(line->config);
  }
  return 1;
}
