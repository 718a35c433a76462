// What mode `rdr` takes of a core: measuring, sealing, looking at codes and moving them, on a real model's keys and queries.
//
//   bazel run --config=opt //tests/bench:precision_bench -- --model FILE --text FILE
//
// Each figure is the median of several runs, per token of one (layer, kv head); and for repricing the bytes that the tokens had before,
// over the time.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "engine/clock.h"
#include "kernels/base/check.h"
#include "tests/bench/median.h"
#include "tests/quality/mode.h"
#include "tests/quality/scoring_model.h"

namespace spherical::quality {
namespace {

struct Flags {
  std::string model, text;
  int32_t tokens = 6144, start = 10'000, threads = 1, runs = 5;
};

double MedianSeconds(int32_t runs, absl::FunctionRef<void()> work) {
  std::vector<double> times;
  for (int32_t i = 0; i < runs; ++i) {
    const absl::Time begin = engine::SystemClock().Now();
    work();
    times.push_back(absl::ToDoubleSeconds(engine::SystemClock().Now() - begin));
  }
  return Median(times);
}

int Run(const Flags& flags) {
  auto loaded = ScoringModel::Load(flags.model, {.threads = flags.threads, .tokens_max = TokenCount(flags.tokens + 512)});
  SPH_CHECK(loaded.ok());
  ScoringModel& model = **loaded;
  std::ifstream file(flags.text, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto tokens = model.tokenizer().Encode(text, {});
  SPH_CHECK(tokens.ok() && static_cast<int32_t>(tokens->size()) >= flags.start + flags.tokens);
  const KvStore::Handle prompt = model.Begin(flags.tokens);
  const double prefill = MedianSeconds(
      1, [&] { model.Enter(*prompt, std::span(*tokens).subspan(static_cast<size_t>(flags.start), static_cast<size_t>(flags.tokens))); });
  const double all = static_cast<double>(flags.tokens) * prompt->pages.heads();
  const auto print = [&](const char* what, double seconds) {
    std::printf("%-34s %7.3f us per token and head, %5.1f %% of prefill\n", what, 1e6 * seconds / all, 100 * seconds / prefill);
  };
  print("prefill, f32 activations", prefill);
  const engine::MeasureContext context = model.MeasureWith(model.plain_geometry(), engine::BestUtilityEstimator());
  KvStore::Handle kept;
  print("measured and sealed, rdr:4", MedianSeconds(flags.runs, [&] { kept = model.kv().SealPriced(*prompt, context, 4); }));
  print("sealed, uniform:T4", MedianSeconds(flags.runs, [&] {
          const KvStore::Handle sealed = model.kv().Seal(*prompt, model.plain_geometry(), kernels::Tier::kT4);
        }));
  int64_t bytes = 0;
  for (int32_t i = 0; i < kept->pages.heads(); ++i) {
    for (int32_t t = 0; t < kernels::kTierCount; ++t) {
      const kernels::Tier tier = static_cast<kernels::Tier>(t);
      bytes += int64_t{kept->pages.head(i).of(tier).tokens} * kernels::TokenBytes(tier, model.spec().head_dim);
    }
  }
  print("codes looked at", MedianSeconds(flags.runs, [&] { model.kv().Look(*kept, context); }));
  std::vector<double> times;
  for (int32_t i = 0; i < flags.runs; ++i) {
    if (i > 0) kept = model.kv().SealPriced(*prompt, context, 4);
    times.push_back(MedianSeconds(1, [&] { model.kv().Reprice(*kept, context, 2); }));
  }
  const double moved = Median(times);
  print("looked at and moved, 4 to 2 bits", moved);
  std::printf("%-34s %7.3f GB/s of the codes that were there\n", "", static_cast<double>(bytes) / moved / 1e9);
  return 0;
}

}  // namespace
}  // namespace spherical::quality

int main(int argc, char** argv) {
  spherical::quality::Flags flags;
  CLI::App app("What mode rdr takes of a core.");
  app.add_option("--model", flags.model, "a GGUF file")->required();
  app.add_option("--text", flags.text, "a text of at least --start + --tokens tokens")->required();
  app.add_option("--tokens", flags.tokens, "of the prompt")->capture_default_str();
  app.add_option("--start", flags.start, "the prompt's first token")->capture_default_str();
  app.add_option("--threads", flags.threads)->capture_default_str();
  app.add_option("--runs", flags.runs, "of each measurement")->check(CLI::PositiveNumber)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return spherical::quality::Run(flags);
}
