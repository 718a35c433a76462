// What the engine itself takes of a tick: planning, deciding about precision, lending pages, answering. The device does nothing here, at
// once; of measuring it says that all tokens are worth about the same.
//
//   bazel run --config=opt //tests/bench:tick_bench -- --layers 30 --kv-heads 3 --head-dim 64 --batch 64 --mode rdr
//
// Ticks of a batch whose prompts are in; the median tick, and the mean, which has in it what comes once in 32 ticks.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/clock.h"
#include "engine/engine.h"
#include "engine/intake/intake_queue.h"
#include "engine/kv/kv_mode.h"
#include "engine/kv/prefill_workspace.h"
#include "kernels/base/check.h"
#include "tests/bench/median.h"
#include "tests/engine/engine_room.h"
#include "tests/fakes/byte_tokenizer.h"
#include "tests/fakes/stepper.h"

namespace spherical::engine {
namespace {

class EvenStepper final : public NullStepper {
 public:
  absl::StatusOr<MeasureOutput> Measure(std::span<const MeasureItem> items) override {
    MeasureOutput output;
    for (const MeasureItem& item : items) {
      int32_t tokens = item.pages->settled;
      if (item.kind == MeasureItem::Kind::kCoded) {
        for (int32_t t = 1; t < kernels::kLadderTiers; ++t) tokens += item.pages->of(static_cast<kernels::Tier>(t)).tokens;
      }
      if (item.kind == MeasureItem::Kind::kExact) tokens = std::max(0, item.newest - std::max(item.pages->exact_begin, kSinkTokens));
      RateCurve curve;
      for (int32_t i = 0; i < tokens; ++i) curve.Add(LadderOf(i));
      const int32_t newest = item.kind == MeasureItem::Kind::kExact ? item.end - std::max(item.newest, kSinkTokens) : 0;
      for (int32_t i = 0; i < newest; ++i) curve.newest.push_back(LadderOf(i));
      curve.Finish();
      output.curves.push_back(std::move(curve));
    }
    return output;
  }

 private:
  static kernels::LadderSteps LadderOf(int32_t i) {
    kernels::LadderSteps steps;
    for (int32_t r = 0; r < kernels::kLadderTiers; ++r) steps.leaves[r] = static_cast<uint16_t>(20 * (r + 1) + i % 20);
    return steps;
  }
};

struct Flags {
  int32_t layers = 30, kv_heads = 3, head_dim = 64, batch = 64, prompt = 256, ticks = 512;
  std::string mode = "rdr";
};

int Run(const Flags& flags) {
  EngineOptions options;
  const std::optional<KvMode> mode = FindKvMode(flags.mode);
  if (!mode) {
    std::fprintf(stderr, "tick_bench: --mode %s is no way to keep keys and values; exact, uniform:T4, rdr, rdr:3.0 are\n",
                 flags.mode.c_str());
    return 2;
  }
  options.kv = MakeKvShape(flags.layers, flags.kv_heads, flags.head_dim, *mode);
  const int32_t answer = 8192 + flags.ticks;  // nobody is done while others' prompts come in
  options.context_max = flags.prompt + answer;
  options.running_max = flags.batch;
  if (mode->coded) options.workspace_tokens = PrefillWorkspace::ForContext(WorkspaceShape(options.kv), options.context_max);
  options.pool_pages = PageCount(int64_t{flags.batch} * options.kv.heads() * (options.context_max / 16 + 8));
  constexpr int64_t kPagesMax = int64_t{1} << 28;  // a word each
  if (options.pool_pages.value() > kPagesMax) {
    std::fprintf(stderr,
                 "tick_bench: %d sequences of %d heads and %d tokens take %lld pages, at most %lld do here: lower --batch, --layers, "
                 "--kv-heads or --prompt\n",
                 flags.batch, options.kv.heads(), options.context_max, static_cast<long long>(options.pool_pages.value()),
                 static_cast<long long>(kPagesMax));
    return 2;
  }
  EvenStepper stepper;
  ByteTokenizer tokenizer;
  IntakeQueue intake;
  const Clock& clock = SystemClock();
  Engine engine(options, tokenizer, stepper, intake, clock);
  std::vector<std::unique_ptr<Client>> clients;
  for (int32_t i = 0; i < flags.batch; ++i) {
    Submission request = Ask(std::string(static_cast<size_t>(flags.prompt), 'a'), answer);
    request.arrived = clock.Now();
    clients.push_back(std::make_unique<Client>(std::move(request), intake, 1000));
  }
  const auto read = [&] {
    int32_t answering = 0;
    for (const auto& client : clients) {
      client->Read();
      SPH_CHECK(!client->ended());
      answering += client->tokens.empty() ? 0 : 1;
    }
    return answering;
  };
  while (read() < flags.batch) SPH_CHECK(engine.Tick().value());
  std::vector<double> times;
  double all = 0;
  for (int32_t i = 0; i < flags.ticks; ++i) {
    const absl::Time begin = clock.Now();
    SPH_CHECK(engine.Tick().value());
    times.push_back(1e6 * absl::ToDoubleSeconds(clock.Now() - begin));
    all += times.back();
    read();
  }
  std::printf("%s, %d layers x %d kv heads, %d sequences: a tick takes %.0f us, on average %.0f; %.2f us a token\n", flags.mode.c_str(),
              flags.layers, flags.kv_heads, flags.batch, Median(times), all / flags.ticks, all / flags.ticks / flags.batch);
  return 0;
}

}  // namespace
}  // namespace spherical::engine

int main(int argc, char** argv) {
  CLI::App app("What the engine itself takes of a tick.");
  spherical::engine::Flags flags;
  app.add_option("--layers", flags.layers)->capture_default_str()->check(CLI::Range(1, 256));
  app.add_option("--kv-heads", flags.kv_heads)->capture_default_str()->check(CLI::Range(1, 64));
  app.add_option("--head-dim", flags.head_dim)->capture_default_str()->check(CLI::IsMember({64, 80, 96, 128, 256}));
  app.add_option("--batch", flags.batch, "sequences")->capture_default_str()->check(CLI::Range(1, 256));
  app.add_option("--prompt", flags.prompt, "tokens of each prompt")->capture_default_str()->check(CLI::Range(1, 65536));
  app.add_option("--ticks", flags.ticks)->capture_default_str()->check(CLI::Range(1, 65536));
  app.add_option("--mode", flags.mode, "as --kv-mode")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return spherical::engine::Run(flags);
}
