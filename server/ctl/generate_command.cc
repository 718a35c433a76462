#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>

#include "server/ctl/commands.h"
#include "server/ctl/generation.h"

namespace spherical::ctl {
namespace {

struct Flags {
  GenerationFlags generation;
  std::string model;
  std::optional<std::string> prompt, prompt_file;
  std::vector<int32_t> token_ids;
  std::optional<int32_t> logprobs, prompt_logprobs;
  bool json = false;
};

int Run(const Flags& flags, Client& client) {
  v1::GenerateRequest request;
  request.set_model(flags.model);
  if (flags.prompt) {
    request.set_text(*flags.prompt);
  } else if (flags.prompt_file) {
    std::ifstream file(*flags.prompt_file, std::ios::binary);
    if (!file) return WrongUse("--prompt-file: cannot open " + *flags.prompt_file);
    request.set_text(std::string(std::istreambuf_iterator<char>(file), {}));
  } else {
    for (const int32_t id : flags.token_ids) request.mutable_token_ids()->add_ids(id);
  }
  if (!flags.generation.Fill(request)) return kWrongUse;
  if (flags.logprobs) request.set_logprobs(*flags.logprobs);
  if (flags.prompt_logprobs) request.set_prompt_logprobs(*flags.prompt_logprobs);

  const Generation generation = Generate(client, request, flags.generation.call, [&](const std::string& text) {
    if (flags.json) return;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  });
  if (!flags.json && !generation.text.empty()) std::fputc('\n', stdout);
  if (!generation.status.ok()) return Report(generation.status);
  if (flags.json) std::puts(ToJson(generation).dump().c_str());
  return kDone;
}

}  // namespace

Command AddGenerate(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  CLI::Option_group* const input = app.add_option_group("input", "what to continue; exactly one");
  input->add_option("--prompt", flags->prompt, "the text itself");
  input->add_option("--prompt-file", flags->prompt_file, "a file with the text");
  input->add_option("--token-ids", flags->token_ids, "the tokens: 1,2,3")->delimiter(',')->allow_extra_args(false);
  input->require_option(1);
  app.add_option("--model", flags->model, "the model's name; default: whatever the server has");
  flags->generation.AddTo(app);
  app.add_option("--logprobs", flags->logprobs, "report each token's log-probability and so many of the likeliest, 0 to 20");
  app.add_option("--prompt-logprobs", flags->prompt_logprobs, "the same for the prompt's tokens but the first");
  app.add_flag("--json", flags->json, "one JSON object at the end instead of the text as it comes");
  return [flags](Client& client) { return Run(*flags, client); };
}

}  // namespace spherical::ctl
