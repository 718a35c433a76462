// sphericalctl: asks a running sphericald, fetches models and says what they are, makes their geometries, checks quotas.
// Exit codes: 0 done, 1 the server said no or it failed, 2 wrong use.
#include <string>
#include <utility>
#include <vector>

#include "server/ctl/commands.h"
#include "server/version.h"

int main(int argc, char** argv) {
  using namespace spherical::ctl;
  CLI::App app("sphericalctl: asks a running sphericald.", "sphericalctl");
  std::string server = "127.0.0.1:50051";
  app.add_option("--server", server, "HOST:PORT of the daemon")->capture_default_str();
  app.set_version_flag("--version", std::string("sphericalctl ") + spherical::server::kVersion, "print the version and exit");
  app.require_subcommand(1);
  app.fallthrough();  // --server may stand behind the command too

  std::vector<std::pair<CLI::App*, Command>> commands;
  const auto add = [&](const char* name, const char* help, Command (*adder)(CLI::App&)) {
    CLI::App* const command = app.add_subcommand(name, help);
    commands.emplace_back(command, adder(*command));
  };
  add("generate", "continue a prompt", AddGenerate);
  add("chat", "answer a message, or talk", AddChat);
  add("tokenize", "turn text into tokens", AddTokenize);
  add("stats", "what the server does and holds now", AddStats);
  add("tenants", "who may hold what, and does", AddTenants);
  add("quota", "check a quota file, or override it while the server runs", AddQuota);
  add("top", "who holds the pool, live; Ctrl-C ends", AddTop);
  add("health", "whether requests are taken; exit code 0 if so", AddHealth);
  add("bench", "load the server and measure it", AddBench);
  add("model", "fetch a model, or print its card; needs no server", AddModel);
  add("calibrate", "make a model's geometries; needs no server", AddCalibrate);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kDone : kWrongUse;
  }
  CatchCtrlC();
  Client client(server);
  for (const auto& [command, run] : commands) {
    if (command->parsed()) return run(client);
  }
  return kWrongUse;
}
