#ifndef SPHERICAL_SERVER_CTL_COMMANDS_H_
#define SPHERICAL_SERVER_CTL_COMMANDS_H_

#include <CLI/CLI.hpp>
#include <functional>

#include "server/ctl/client.h"

namespace spherical::ctl {

// A subcommand: its flags are added to the app; what it does runs after parsing and returns the exit code. The returned function owns the
// flags' values, so it must stay alive while the app parses.
using Command = std::function<int(Client&)>;

Command AddGenerate(CLI::App& app);
Command AddChat(CLI::App& app);
Command AddTokenize(CLI::App& app);
Command AddStats(CLI::App& app);
Command AddTenants(CLI::App& app);
Command AddQuota(CLI::App& app);
Command AddTop(CLI::App& app);
Command AddHealth(CLI::App& app);
Command AddBench(CLI::App& app);
Command AddCalibrate(CLI::App& app);
Command AddModel(CLI::App& app);

}  // namespace spherical::ctl

#endif  // SPHERICAL_SERVER_CTL_COMMANDS_H_
