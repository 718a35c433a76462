// What calibration takes, and how well its geometries suit texts that they were not made from.
//
//   bazel run --config=opt //tests/bench:calibration_bench -- --model FILE --calibrate-text FILE ... --held-out FILE ...
//
// For each way to make a geometry and each tier: the mean over heads of the expected squared error of a logit, scaled as softmax sees it,
// on the held-out texts; and how many times that of a geometry made from the held-out text itself, geometric mean over heads.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "engine/calibrate/calibration.h"
#include "engine/calibrate/geometry_solver.h"
#include "engine/clock.h"
#include "engine/model/gguf.h"
#include "kernels/base/check.h"
#include "tests/engine/geometry_error.h"

namespace spherical::engine {
namespace {

constexpr kernels::Tier kTiers[] = {kernels::Tier::kT8, kernels::Tier::kT4, kernels::Tier::kT3, kernels::Tier::kT2, kernels::Tier::kT1};

struct Flags {
  std::string model;
  std::vector<std::string> calibrate_text, held_out;
  int32_t tokens = 6144, start = 10'000, threads = 2;
  SelfSampling sampling;
};

std::vector<TokenId> TokensOf(const Tokenizer& tokenizer, const std::string& path, size_t begin, size_t count) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto tokens = tokenizer.Encode(text, {});
  SPH_CHECK(tokens.ok() && tokens->size() >= begin + count);
  return {tokens->begin() + static_cast<ptrdiff_t>(begin), tokens->begin() + static_cast<ptrdiff_t>(begin + count)};
}

class Bench {
 public:
  Bench(const Flags& flags, const CalibratedModel& model)
      : flags_(flags), model_(model), positions_(PositionsOf(model.spec, model.spec.context_max)) {}

  KeyStatistics Read(const std::vector<std::string>& paths, int32_t start) {
    std::vector<std::vector<TokenId>> texts;
    for (const std::string& path : paths) {
      texts.push_back(TokensOf(model_.tokenizer, path, static_cast<size_t>(start), static_cast<size_t>(flags_.tokens)));
    }
    return *ReadTexts(model_, texts, {});
  }

  void MakePlain() {
    const TransformerSpec& spec = model_.spec;
    made_.emplace("plain", ModelGeometry::Plain({.layers = spec.layers, .kv_heads = spec.kv_heads, .head_dim = spec.head_dim}));
  }

  void Make(const std::string& name, const std::function<KeyStatistics()>& gather) {
    const absl::Time start = SystemClock().Now();
    const KeyStatistics statistics = gather();
    const absl::Time gathered = SystemClock().Now();
    made_.emplace(name, *SolveGeometry(statistics, positions_, model_.pool));
    std::printf("%-14s statistics %.1f s, geometry %.2f s\n", name.c_str(), absl::ToDoubleSeconds(gathered - start),
                absl::ToDoubleSeconds(SystemClock().Now() - gathered));
    std::fflush(stdout);
  }

  void Compare(const std::string& path) {
    const KeyStatistics statistics = Read({path}, flags_.start);
    ModelGeometry own = *SolveGeometry(statistics, positions_, model_.pool);
    std::vector<ServedMoments> moments;
    for (int32_t head = 0; head < own.heads(); ++head) {
      moments.push_back(Average(statistics.head(head), positions_.at(head / own.shape().kv_heads)));
    }
    std::printf("%s, %d tokens from %d\n", path.c_str(), flags_.tokens, flags_.start);
    for (const kernels::Tier tier : kTiers) {
      const std::vector<double> least = Errors(own, tier, moments);
      std::printf("  T%d", tier == kernels::Tier::kT8 ? 8 : 5 - static_cast<int>(tier));
      Print("own", least, least);
      for (auto& [name, geometry] : made_) Print(name, Errors(geometry, tier, moments), least);
      std::printf("\n");
    }
  }

 private:
  std::vector<double> Errors(ModelGeometry& geometry, kernels::Tier tier, const std::vector<ServedMoments>& moments) {
    std::vector<double> errors(moments.size());
    const double scale = model_.spec.attention_scale;
    model_.pool.Run(geometry.heads(), [&](Shard shard) {
      const size_t head = static_cast<size_t>(shard.index);
      errors[head] = scale * scale * testing::ExpectedLogitError(geometry, shard.index, tier, moments[head]);
    });
    return errors;
  }

  static void Print(const std::string& name, const std::vector<double>& errors, const std::vector<double>& least) {
    double sum = 0, logs = 0;
    for (size_t i = 0; i < errors.size(); ++i) {
      sum += errors[i];
      logs += std::log(errors[i] / least[i]);
    }
    const double heads = static_cast<double>(errors.size());
    std::printf("   %s %.5f x%.2f", name.c_str(), sum / heads, std::exp(logs / heads));
  }

  const Flags& flags_;
  const CalibratedModel& model_;
  const ModelPositions positions_;
  std::map<std::string, ModelGeometry> made_;
};

int Run(const Flags& flags) {
  const auto file = GgufFile::Open(flags.model);
  SPH_CHECK(file.ok());
  const auto spec = ReadTransformerSpec(*file);
  const auto tokenizer = LoadTokenizer(*file);
  SPH_CHECK(spec.ok() && tokenizer.ok());
  ThreadPool pool(flags.threads);
  const auto parallel = [&](int64_t n, const std::function<void(int64_t)>& work) {
    pool.Run(static_cast<int32_t>(n), [&](Shard shard) { work(shard.index); });
  };
  const auto weights = LoadWeights(*file, *spec, parallel, [](int64_t, int64_t) {});
  SPH_CHECK(weights.ok());
  const CalibratedModel model{.spec = *spec, .weights = *weights, .tokenizer = **tokenizer, .pool = pool};
  Bench bench(flags, model);
  bench.MakePlain();
  bench.Make("self", [&] { return *SampleItself(model, flags.sampling, {}); });
  if (!flags.calibrate_text.empty()) bench.Make("text", [&] { return bench.Read(flags.calibrate_text, 0); });
  for (const std::string& path : flags.held_out) bench.Compare(path);
  return 0;
}

}  // namespace
}  // namespace spherical::engine

int main(int argc, char** argv) {
  spherical::engine::Flags flags;
  CLI::App app("What calibration takes, and how well its geometries suit other texts.", "calibration_bench");
  app.add_option("--model", flags.model, "GGUF file")->required();
  app.add_option("--calibrate-text", flags.calibrate_text, "texts to make a geometry from");
  app.add_option("--held-out", flags.held_out, "texts to try them on");
  app.add_option("--start", flags.start, "first token of a held-out text")->capture_default_str();
  app.add_option("--tokens", flags.tokens, "of each text")->capture_default_str();
  app.add_option("--threads", flags.threads, "threads that compute")->capture_default_str();
  app.add_option("--self-tokens", flags.sampling.tokens, "that the model makes up")->capture_default_str();
  app.add_option("--self-sample", flags.sampling.sample_max, "longest of its samples")->capture_default_str();
  app.add_option("--seed", flags.sampling.seed, "of its samples")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return spherical::engine::Run(flags);
}
