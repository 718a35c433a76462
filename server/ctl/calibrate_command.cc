// Makes a model's geometries, without a server: what sphericald does at its first start, or the same from given texts.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "engine/calibrate/calibration.h"
#include "engine/calibrate/geometry_solver.h"
#include "engine/model/geometry_file.h"
#include "server/ctl/commands.h"
#include "server/geometry_loader.h"
#include "server/model_files.h"

namespace spherical::ctl {
namespace {

constexpr int32_t kBarWidth = 40;
// Text is read no further than this many bytes per token wanted: no common text has longer ones on average.
constexpr int64_t kBytesPerToken = 64;

struct Flags {
  std::string model, out;
  std::vector<std::string> texts;
  int32_t tokens = 6144, context = 0, threads = 0;
  bool if_needed = false;
};

// A bar that is redrawn on a terminal, a line for each tenth elsewhere. On stderr.
class ProgressBar {
 public:
  void Show(int64_t done, int64_t total) {
    const absl::Time now = absl::Now();
    const double seconds_left = absl::ToDoubleSeconds(now - start_) * static_cast<double>(total - done) / static_cast<double>(done);
    const int64_t percent = 100 * done / total;
    if (!terminal_) {
      if (percent / 10 == tenth_) return;
      tenth_ = percent / 10;
      absl::FPrintF(stderr, "calibrating: %d %%, %.0f s left\n", percent, seconds_left);
      return;
    }
    if (now - drawn_ < absl::Milliseconds(100) && done < total) return;
    drawn_ = now;
    const size_t full = static_cast<size_t>(kBarWidth * done / total);
    absl::FPrintF(stderr, "\r[%s%s] %3d %%  %.0f s left  ", std::string(full, '#'), std::string(kBarWidth - full, '.'), percent,
                  seconds_left);
    std::fflush(stderr);
  }
  ~ProgressBar() {
    if (terminal_ && drawn_ != absl::InfinitePast()) std::fputc('\n', stderr);
  }

 private:
  const bool terminal_ = isatty(STDERR_FILENO) == 1;
  const absl::Time start_ = absl::Now();
  absl::Time drawn_ = absl::InfinitePast();
  int64_t tenth_ = 0;
};

// The front of a file, of whole characters.
absl::StatusOr<std::string> ReadFront(const std::string& path, int64_t bytes_max) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  std::string text(static_cast<size_t>(bytes_max), '\0');
  file.read(text.data(), bytes_max);
  if (file.bad()) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  text.resize(static_cast<size_t>(file.gcount()));
  if (static_cast<int64_t>(text.size()) < bytes_max) return text;
  while (!text.empty() && (static_cast<uint8_t>(text.back()) & 0xc0) == 0x80) text.pop_back();
  if (!text.empty()) text.pop_back();  // the first byte of the character that the cut may have split
  return text;
}

absl::StatusOr<std::vector<engine::TokenId>> ReadTokens(const std::string& path, const engine::Tokenizer& tokenizer, int32_t tokens_max) {
  const auto text = ReadFront(path, std::max<int64_t>(1 << 20, kBytesPerToken * tokens_max));
  if (!text.ok()) return text.status();
  auto tokens = tokenizer.Encode(*text, {});
  if (!tokens.ok()) return absl::InvalidArgumentError(absl::StrCat(path, ": ", std::string(tokens.status().message())));
  const int32_t least = std::min(engine::kTextTokensMin, tokens_max);
  if (static_cast<int32_t>(tokens->size()) < least) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", tokens->size(), " tokens; calibration needs at least ", least));
  }
  tokens->resize(std::min(tokens->size(), static_cast<size_t>(tokens_max)));
  return tokens;
}

absl::StatusOr<engine::KeyStatistics> Gather(const Flags& flags, const engine::CalibratedModel& model, const std::atomic<bool>& stop,
                                             engine::GeometryOrigin& origin) {
  ProgressBar bar;
  const engine::CalibrationRun run = {.progress = [&](int64_t done, int64_t total) { bar.Show(done, total); }, .stop = &stop};
  if (flags.texts.empty()) {
    const engine::SelfSampling sampling;
    origin.tokens = sampling.tokens;
    return engine::SampleItself(model, sampling, run);
  }
  std::vector<std::vector<engine::TokenId>> texts;
  for (const std::string& path : flags.texts) {
    auto tokens = ReadTokens(path, model.tokenizer, std::min(flags.tokens, model.spec.context_max));
    if (!tokens.ok()) return tokens.status();
    origin.tokens += static_cast<int64_t>(tokens->size());
    texts.push_back(*std::move(tokens));
  }
  origin.text = engine::GeometryOrigin::Text::kGiven;
  return engine::ReadTexts(model, texts, run);
}

absl::StatusOr<std::string> Calibrate(const Flags& flags, const std::atomic<bool>& stop) {
  auto files = server::OpenModel(flags.model);
  if (!files.ok()) return files.status();
  const engine::TransformerSpec& spec = files->spec;
  const int32_t context = flags.context > 0 ? flags.context : spec.context_max;
  if (context > spec.context_max) {
    return absl::InvalidArgumentError(absl::StrCat("--context: ", context, " is more than the ", spec.context_max, " positions that ",
                                                   flags.model, " was trained for"));
  }
  const auto tokenizer = engine::MakeTokenizer(std::move(files->tokenizer));
  if (!tokenizer.ok()) return tokenizer.status();
  const auto hash = server::HashModel(flags.model, stop);
  if (!hash.ok()) return hash.status();
  const auto places = flags.out.empty() ? server::GeometryPlaces(flags.model, *hash) : std::vector<std::string>{flags.out};
  if (flags.if_needed) {
    const engine::WantedGeometry wanted = {.shape = {.layers = spec.layers, .kv_heads = spec.kv_heads, .head_dim = spec.head_dim},
                                           .model = *hash,
                                           .context = context};
    for (const std::string& place : places) {
      if (engine::ReadGeometry(place, wanted).ok()) return absl::StrCat(place, ": there already");
    }
  }
  engine::ThreadPool pool(flags.threads > 0 ? flags.threads : engine::UsableCores());
  const auto parallel = [&](int64_t n, const std::function<void(int64_t)>& work) {
    pool.Run(static_cast<int32_t>(n), [&](Shard shard) {
      if (!stop.load()) work(shard.index);
    });
  };
  const auto weights = engine::LoadWeights(*files->tensors, spec, parallel, [](int64_t, int64_t) {});
  if (stop.load()) return absl::CancelledError("stopped while loading");
  if (!weights.ok()) return weights.status();

  engine::GeometryOrigin origin = {.model = *hash, .context = context};
  const auto statistics = Gather(flags, {.spec = spec, .weights = *weights, .tokenizer = **tokenizer, .pool = pool}, stop, origin);
  if (!statistics.ok()) return statistics.status();
  const auto geometry = engine::SolveGeometry(*statistics, engine::PositionsOf(spec, context), pool);
  if (!geometry.ok()) return geometry.status();
  const auto kept = server::KeepGeometry(places, *geometry, origin);
  if (!kept.ok()) return kept.status();
  return absl::StrFormat("%s: %d layers of %d kv heads, for %d positions, from %d tokens", *kept, spec.layers, spec.kv_heads, context,
                         origin.tokens);
}

int Run(const Flags& flags) {
  const absl::Time start = absl::Now();
  StopOnCtrlC stop;
  const auto done = Calibrate(flags, stop.flag());
  if (absl::IsCancelled(done.status())) return kEndedByCtrlC;
  if (!done.ok()) {
    const int code = WrongUse(std::string(done.status().message()));
    return absl::IsInvalidArgument(done.status()) || absl::IsNotFound(done.status()) ? code : kServerSaidNo;
  }
  absl::PrintF("%s, in %.1f s\n", *done, absl::ToDoubleSeconds(absl::Now() - start));
  return kDone;
}

}  // namespace

Command AddCalibrate(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  app.add_option("--model", flags->model, "the model: a GGUF file, or a folder with config.json")->type_name("PATH")->required();
  app.add_option("--text", flags->texts, "calibrate on the front of these texts; left out: on text that the model makes up")
      ->type_name("FILE ...");
  app.add_option("--tokens", flags->tokens, "of each text; at most the model's context")
      ->capture_default_str()
      ->check(CLI::Range(engine::kTextTokensMin, 1 << 24));
  app.add_option("--context", flags->context, "positions that will be served; 0: what the model was trained for")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 24));
  app.add_option("--out", flags->out, "where to; left out: where sphericald looks for it, beside the model or in the cache folder")
      ->type_name("FILE");
  app.add_flag("--if-needed", flags->if_needed, "do nothing if sphericald would find a good one");
  app.add_option("--threads", flags->threads, "threads that compute; 0: as many as this process may use")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  return [flags](Client&) { return Run(*flags); };
}

}  // namespace spherical::ctl
