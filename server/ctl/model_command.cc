// What a model is and costs to serve, without a server; and where to get one.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/budget/reservation_size.h"
#include "engine/model/geometry_file.h"
#include "engine/model/transformer_spec.h"
#include "server/ctl/commands.h"
#include "server/ctl/fetch_model_script.h"
#include "server/geometry_loader.h"
#include "server/model_files.h"

namespace spherical::ctl {
namespace {

using nlohmann::ordered_json;

struct Flags {
  std::string model, name;
  int32_t context = 0;
  bool json = false;
};

// ---- show -----------------------------------------------------------------------------------------------------------------------------

// How long files of quality may be that tests/quality/run.sh --keep writes beside a model.
constexpr int64_t kCurveBytesMax = 1 << 20;

// Geometry as sphericald would find it at a start.
ordered_json GeometryCard(const Flags& flags, const engine::TransformerSpec& spec, const engine::Sha256& hash, int32_t context) {
  const engine::WantedGeometry wanted = {
      .shape = {.layers = spec.layers, .kv_heads = spec.kv_heads, .head_dim = spec.head_dim}, .model = hash, .context = context};
  std::string refused;
  for (const std::string& place : server::GeometryPlaces(flags.model, hash)) {
    const auto stored = engine::ReadGeometry(place, wanted);
    if (stored.ok()) {
      return {{"state", "calibrated"},
              {"file", place},
              {"context", stored->origin.context},
              {"tokens", stored->origin.tokens},
              {"text", stored->origin.text == engine::GeometryOrigin::Text::kOwn ? "its own" : "given"}};
    }
    if (!absl::IsNotFound(stored.status()) && refused.empty()) refused = std::string(stored.status().message());
  }
  if (!refused.empty()) return {{"state", "refused"}, {"why", refused}};
  return {{"state", "none yet"}};
}

// Rows of mode, rate and divergence that a measurement of this very model left beside it; null where there is none.
ordered_json MeasuredCard(const Flags& flags, const engine::Sha256& hash) {
  std::string path = flags.model;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  std::ifstream file(path + ".quality.json", std::ios::binary);
  if (!file) return nullptr;
  std::string text(kCurveBytesMax, '\0');
  file.read(text.data(), kCurveBytesMax);
  text.resize(static_cast<size_t>(file.gcount()));
  const ordered_json curve = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!curve.is_object() || curve.value("model_sha256", "") != engine::Hex(hash) || !curve.contains("rows") || !curve["rows"].is_array()) {
    return nullptr;
  }
  return curve;
}

ordered_json CardOf(const Flags& flags, const server::ModelFiles& files, const engine::Sha256& hash) {
  const engine::TransformerSpec& spec = files.spec;
  const int32_t context = flags.context > 0 ? flags.context : spec.context_max;
  ordered_json card = {{"name", server::ModelName(flags.model)},
                       {"path", flags.model},
                       {"sha256", engine::Hex(hash)},
                       {"title", spec.name},
                       {"architecture", spec.architecture},
                       {"layers", spec.layers},
                       {"width", spec.width},
                       {"ffn_width", spec.ffn_width},
                       {"heads", spec.heads},
                       {"kv_heads", spec.kv_heads},
                       {"head_dim", spec.head_dim},
                       {"vocabulary", spec.vocabulary},
                       {"context", spec.context_max},
                       {"chat", files.chat.ok() ? files.chat->name() : ""}};
  int32_t local = 0, window = 0;
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    local += spec.window(layer) > 0;
    window = std::max(window, spec.window(layer));
  }
  card["local_layers"] = local;
  card["window"] = window;
  const engine::KvShape shape = engine::MakeKvShape(spec.layers, spec.kv_heads, spec.head_dim, {}, 1, spec.windows);
  card["tiers"] = ordered_json::array();
  for (const engine::TierBytes& tier : engine::BytesByTier(shape)) {
    card["tiers"].push_back({{"tier", tier.name}, {"bits", tier.bits}, {"bytes_per_token", tier.per_token}, {"local_bytes", tier.local}});
  }
  card["geometry"] = GeometryCard(flags, spec, hash, context);
  card["measured"] = MeasuredCard(flags, hash);
  return card;
}

std::string Layers(const ordered_json& card) {
  const int32_t layers = card["layers"], local = card["local_layers"], window = card["window"];
  if (local == 0) return absl::StrCat(layers, ", all global");
  if (local == layers) return absl::StrCat(layers, ", all local: a window of ", window, " positions");
  return absl::StrCat(layers, ": ", layers - local, " global, ", local, " local with a window of ", window, " positions");
}

std::string Text(const ordered_json& value) { return value.get<std::string>(); }

std::string Geometry(const ordered_json& geometry) {
  const std::string state = Text(geometry["state"]);
  if (state == "none yet") return "none yet: made at the first start, or by sphericalctl calibrate";
  if (state == "refused") return absl::StrCat(Text(geometry["why"]), "; it will be made anew");
  return absl::StrFormat("calibrated for %d positions on %d tokens of %s text (%s)", geometry["context"].get<int32_t>(),
                         geometry["tokens"].get<int64_t>(), Text(geometry["text"]), Text(geometry["file"]));
}

void Print(const ordered_json& card) {
  const auto line = [](const char* what, const std::string& value) { absl::PrintF("%-14s%s\n", what, value); };
  line("model", absl::StrCat(Text(card["name"]), " (", Text(card["title"]), ")"));
  line("architecture", absl::StrFormat("%s, width %d, feed-forward %d, vocabulary %d", Text(card["architecture"]), card["width"].get<int>(),
                                       card["ffn_width"].get<int>(), card["vocabulary"].get<int>()));
  line("layers", Layers(card));
  line("attention", absl::StrFormat("%d query heads and %d kv heads of %d", card["heads"].get<int>(), card["kv_heads"].get<int>(),
                                    card["head_dim"].get<int>()));
  line("context", absl::StrCat(card["context"].get<int>(), " positions"));
  line("chat", Text(card["chat"]).empty() ? "no template that we know" : Text(card["chat"]));
  line("geometry", Geometry(card["geometry"]));
  const bool local = card["local_layers"].get<int>() > 0;
  absl::PrintF("\n%-14s%10s%18s%s\n", "tier", "bits", "bytes per token", local ? "   and in all windows together" : "");
  for (const ordered_json& tier : card["tiers"]) {
    absl::PrintF("%-14s%10.2f%18d", Text(tier["tier"]), tier["bits"].get<double>(), tier["bytes_per_token"].get<int64_t>());
    if (local) absl::PrintF("%31d", tier["local_bytes"].get<int64_t>());
    absl::PrintF("\n");
  }
  const ordered_json& measured = card["measured"];
  if (measured.is_null()) {
    absl::PrintF("\nrate and distortion: not measured yet (tests/quality/run.sh --keep)\n");
    return;
  }
  absl::PrintF("\n%-14s%10s%18s%12s   measured %s\n", "mode", "bits", "mean KL, nats", "same top-1", measured.value("date", ""));
  for (const ordered_json& row : measured["rows"]) {
    absl::PrintF("%-14s%10.2f%18.5f%10.1f %%\n", row.value("mode", ""), row.value("rate_bits", 0.0), row.value("mean_kl", 0.0),
                 100 * row.value("top1", 0.0));
  }
}

int Show(const Flags& flags) {
  StopOnCtrlC stop;
  const auto files = server::OpenModel(flags.model);
  if (!files.ok()) return WrongUse(std::string(files.status().message()));
  if (flags.context > files->spec.context_max) {
    return WrongUse(absl::StrCat("--context: ", flags.context, " is more than the ", files->spec.context_max, " positions that ",
                                 flags.model, " was trained for"));
  }
  const auto hash = server::HashModel(flags.model, stop.flag());
  if (absl::IsCancelled(hash.status())) return kEndedByCtrlC;
  if (!hash.ok()) return WrongUse(std::string(hash.status().message()));
  const ordered_json card = CardOf(flags, *files, *hash);
  if (flags.json) {
    absl::PrintF("%s\n", card.dump(2, ' ', false, ordered_json::error_handler_t::replace));
  } else {
    Print(card);
  }
  return kDone;
}

// ---- get ------------------------------------------------------------------------------------------------------------------------------

// Runs deploy/fetch_model.sh, which this program carries: its progress and its errors are the user's to see. Ctrl-C reaches it too.
int Get(const Flags& flags) {
  const pid_t child = fork();
  if (child == 0) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    std::signal(SIGINT, SIG_DFL);
    const std::array<const char*, 6> arguments = {"bash", "-c", kFetchModelScript, "sphericalctl model get", flags.name.c_str(), nullptr};
    execvp(arguments[0], const_cast<char* const*>(arguments.data()));
    std::fprintf(stderr, "sphericalctl: cannot start bash: %s\n", std::strerror(errno));
    _exit(127);
  }
  if (child < 0) {
    std::fprintf(stderr, "sphericalctl: cannot start bash: %s\n", std::strerror(errno));
    return kServerSaidNo;
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) return kEndedByCtrlC;
  return WEXITSTATUS(status) == 0 ? kDone : kServerSaidNo;
}

}  // namespace

Command AddModel(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  app.require_subcommand(1);
  CLI::App* const show = app.add_subcommand("show", "print a model's card: what it is, and what a token of it takes");
  show->add_option("model", flags->model, "a GGUF file, or a folder with config.json")->type_name("PATH")->required();
  show->add_option("--context", flags->context, "positions that will be served; 0: what the model was trained for")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 24));
  show->add_flag("--json", flags->json, "for programs");
  CLI::App* const get = app.add_subcommand("get", "fetch a model, check it, and print its path: smollm2 or gemma3");
  get->add_option("name", flags->name, "smollm2: SmolLM2-135M-Instruct, 98 MB; gemma3: Gemma 3 270M, 253 MB (Google's Gemma terms)")
      ->type_name("NAME")
      ->required()
      ->check(CLI::IsMember({"smollm2", "gemma3"}));
  return [flags, show](Client&) { return show->parsed() ? Show(*flags) : Get(*flags); };
}

}  // namespace spherical::ctl
