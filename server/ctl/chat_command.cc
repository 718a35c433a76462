#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>

#include "absl/strings/str_format.h"
#include "server/ctl/commands.h"
#include "server/ctl/generation.h"

namespace spherical::ctl {
namespace {

struct Flags {
  GenerationFlags generation;
  std::string message, system;
};

// One turn: asks with the conversation so far, streams the answer and adds it. A turn that fails leaves the conversation as it was.
int Turn(const Flags& flags, const std::string& message, v1::GenerateRequest& request, Client& client) {
  v1::ChatMessage* const user = request.mutable_chat()->add_messages();
  user->set_role("user");
  user->set_content(message);
  const Generation generation = Generate(client, request, flags.generation.call, [](const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  });
  if (!generation.text.empty()) std::fputc('\n', stdout);
  if (!generation.status.ok()) {
    request.mutable_chat()->mutable_messages()->RemoveLast();
    return Report(generation.status);
  }
  absl::PrintF("[%s]\n", Summary(generation));
  std::fflush(stdout);
  v1::ChatMessage* const answer = request.mutable_chat()->add_messages();
  answer->set_role("assistant");
  answer->set_content(generation.text);
  return kDone;
}

// Turn after turn, until the end of the input.
int Talk(const Flags& flags, v1::GenerateRequest& request, Client& client) {
  std::puts("Type a message; Ctrl-C stops an answer, Ctrl-D ends.");
  while (true) {
    std::fputs("> ", stdout);
    std::fflush(stdout);
    std::string line;
    if (!std::getline(std::cin, line)) break;
    if (!line.empty()) Turn(flags, line, request, client);
  }
  std::fputc('\n', stdout);
  return kDone;
}

int Run(const Flags& flags, Client& client) {
  v1::GenerateRequest request;
  if (!flags.generation.Fill(request)) return kWrongUse;
  if (!flags.system.empty()) {
    v1::ChatMessage* const system = request.mutable_chat()->add_messages();
    system->set_role("system");
    system->set_content(flags.system);
  }
  std::string message = flags.message;
  if (message.empty()) {
    if (isatty(STDIN_FILENO)) return Talk(flags, request, client);
    message.assign(std::istreambuf_iterator<char>(std::cin), {});
  }
  return Turn(flags, message, request, client);
}

}  // namespace

Command AddChat(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  app.add_option("message,--message", flags->message, "what to ask; left out: read from the input, or talk if that is a terminal");
  app.add_option("--system", flags->system, "how the model should behave; default: the model's own words");
  flags->generation.AddTo(app);
  return [flags](Client& client) { return Run(*flags, client); };
}

}  // namespace spherical::ctl
