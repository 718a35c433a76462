#include "server/command_line.h"

#include <CLI/CLI.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/text_file.h"
#include "server/version.h"

namespace spherical::server {
namespace {

// The word that stands for the value in the help.
const char* ValueWord(const Setting& setting) {
  if (setting.name == "model") return "PATH";
  if (setting.name == "grpc.listen") return "HOST:PORT";
  if (setting.name == "quotas") return "FILE";
  if (setting.name == "kv.geometry") return "auto|plain|FILE";
  if (std::holds_alternative<Setting::Bytes>(setting.type)) return "BYTES";
  if (std::holds_alternative<Setting::Integer>(setting.type)) return "N";
  return "WORD";
}

std::string HelpFor(const Setting& setting) {
  const std::string value = ValueOf(setting, Config());
  std::string text(setting.help);
  if (const auto* choice = std::get_if<Setting::Choice>(&setting.type); choice != nullptr) {
    absl::StrAppend(&text, " (");
    for (size_t i = 0; i < choice->values.size(); ++i) absl::StrAppend(&text, i > 0 ? ", " : "", choice->values[i]);
    absl::StrAppend(&text, choice->takes != nullptr ? ", or " : "", choice->others, ")");
  }
  if (!value.empty()) absl::StrAppend(&text, "; default ", value);
  return text;
}

constexpr char kFooter[] =
    "The same words stand in the JSON file: --kv-pool-bytes 2GiB is {\"kv\": {\"pool_bytes\": \"2GiB\"}}. Flags override the file.\n"
    "Bytes are integers or like 500MB (1000s) and 2GiB (1024s).\n"
    "Example: sphericald --model SmolLM2-135M-Instruct.Q4_1.gguf --grpc-listen 127.0.0.1:50051 --kv-pool-bytes 2GiB";

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv) {
  CommandLine line;
  CLI::App app("sphericald: serves one language model over gRPC.", "sphericald");
  app.footer(kFooter);
  app.set_help_flag("-h,--help", "print this and exit");
  app.set_version_flag("--version", std::string("sphericald ") + kVersion, "print the version and exit");
  std::string config_file;
  CLI::Option* config_option = app.add_option("--config", config_file, "JSON file with the settings below")->type_name("FILE");
  bool check = false;
  app.add_flag("--check-config", check, "say what is wrong with flags and file, and exit: 0 nothing, 1 something");
  std::vector<std::string> texts(Settings().size());
  std::vector<CLI::Option*> options;
  for (size_t i = 0; i < texts.size(); ++i) {
    const Setting& setting = Settings()[i];
    options.push_back(app.add_option(FlagOf(setting), texts[i], HelpFor(setting))->type_name(ValueWord(setting)));
  }

  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    line.task = CommandLine::Task::kPrint;
    line.text = app.help();
    return line;
  } catch (const CLI::CallForVersion&) {
    line.task = CommandLine::Task::kPrint;
    line.text = absl::StrCat("sphericald ", kVersion, "\n");
    return line;
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(absl::StrCat(error.what(), "; see sphericald --help"));
  }

  if (config_option->count() > 0) {
    const auto text = ReadTextFile("--config", config_file);
    if (!text.ok()) return text.status();
    if (absl::Status status = SetFromJson(*text, config_file, line.config); !status.ok()) return status;
  }
  for (size_t i = 0; i < texts.size(); ++i) {
    if (options[i]->count() == 0) continue;
    if (absl::Status status = SetFromFlag(Settings()[i], texts[i], line.config); !status.ok()) return status;
  }
  if (absl::Status status = Validate(line.config); !status.ok()) return status;
  if (check) line.task = CommandLine::Task::kCheckConfig;
  return line;
}

}  // namespace spherical::server
