// How long steps take on a CUDA device: shapes of models with random weights, prompts really entered, then decoded.
//
//   step_bench [--launched] [MODEL [BATCH CONTEXT MODE [LAYERS]]]      MODEL llama8b | smollm2 | gemma3 | all; MODE exact | T4 | T2
//
// --launched: kernel by kernel, without recorded steps. Where a step's time goes, the last one of each case:
//   ncu --profile-from-start off --clock-control none --metrics gpu__time_duration.sum step_bench --launched llama8b 32 4096 T4 4
// One line per batch and mode: tokens per second of prompts (chunks of 512 rows), the median of a decoding step (from the plan to greedy
// tokens on the host), what the host did of it before it waited, and the time that reading weights and keys and values once takes at
// 4.28 TB/s.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <span>
#include <string_view>
#include <tuple>
#include <vector>

#include "engine/step/cuda_pass.h"
#include "engine/step/thread_pool.h"
#include "kernels/base/check.h"
#include "tests/bench/gpu/device_work.h"
#include "tests/bench/gpu/random_model.h"
#include "tests/engine/stepper_runner.h"

namespace spherical::engine {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kBytesPerSecond = 4.28e12;

double MsSince(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

bool recorded = true;

void Measure(const TransformerSpec& spec, const CudaWeights& weights, kernels::cuda::Stream stream, int32_t batch, int32_t context,
             std::optional<kernels::Tier> tier) {
  const int32_t heads = spec.layers * spec.kv_heads;
  PageId pages = 1;  // a power of two
  while (pages < int64_t{batch} * heads * (CeilDiv(context + 64, 16) + 1)) pages *= 2;
  const ModelGeometry geometry = ModelGeometry::Plain({spec.layers, spec.kv_heads, spec.head_dim});
  ThreadPool threads(1);
  CudaPass pass(spec, weights, threads, stream);
  const absl::Status created = pass.Create({.pages = pages, .sequences = batch, .context_max = context + 128,
                                            .geometry = tier ? &geometry : nullptr, .workspace_pages = tier ? pages : 0,
                                            .recorded = recorded});
  if (!created.ok()) {
    std::printf("%d x %d: %s\n", batch, context, std::string(created.message()).c_str());
    return;
  }
  PassStepper stepper(pass);
  StepperRunner runner(spec, stepper, 1, pages);
  std::vector<StepperRunner::Sequence> sequences;
  double prompt_ms = 0, warm_ms = 0;
  int64_t prompt_tokens = 0;
  for (int32_t s = 0; s < batch; ++s) {
    sequences.push_back(runner.Start());
    for (int32_t at = 0; at < context; at += 512) {
      const std::vector<TokenId> chunk = SomeTokens(std::min(512, context - at), spec.vocabulary, static_cast<uint32_t>(s * 1000 + at));
      const Clock::time_point start = Clock::now();
      const auto output = runner.Step({{&sequences.back(), chunk}});
      if (!output.ok()) {
        std::printf("%s\n", output.status().ToString().c_str());
        std::exit(1);
      }
      (prompt_tokens == 0 ? warm_ms : prompt_ms) += MsSince(start);
      prompt_tokens += static_cast<int64_t>(chunk.size());
    }
  }
  prompt_tokens -= std::min(512, context);
  double seal_ms = 0;
  if (tier) {
    std::vector<int32_t> all;
    for (int32_t i = 0; i < heads; ++i) all.push_back(i);
    const Clock::time_point start = Clock::now();
    for (StepperRunner::Sequence& sequence : sequences) SPH_CHECK(runner.Seal(sequence, *tier, all).ok());
    seal_ms = MsSince(start);
  }
  std::vector<double> steps, host;
  for (int32_t i = 0; i < 40; ++i) {
    std::vector<StepperRunner::Part> parts;
    for (StepperRunner::Sequence& sequence : sequences) parts.push_back({&sequence, {static_cast<TokenId>(100 + i)}});
    const bool last = i == 39;
    if (last) kernels::cuda::BeginProfile();
    SPH_CHECK(runner.Step(parts).ok());
    if (last) kernels::cuda::EndProfile();
    if (i >= 5) {
      steps.push_back(stepper.step_ms);
      host.push_back(stepper.host_ms);
    }
  }
  std::ranges::sort(steps);
  std::ranges::sort(host);
  const int64_t token_bytes = !tier ? kernels::ExactBytesUsed(spec.head_dim) / 16 : kernels::TokenBytes(*tier, spec.head_dim);
  const int64_t bytes = CudaWeightBytes(spec) + int64_t{batch} * context * heads * token_bytes;
  std::printf("%-7s %4d x %6d: prompts %8.0f tokens/s, seal %7.1f ms, step %7.3f ms (host %6.3f), floor %6.3f ms, %7.0f tokens/s; "
              "graphs %5.1f MB\n",
              tier ? (*tier == kernels::Tier::kT4 ? "T4" : "T2") : "exact", batch, context,
              static_cast<double>(prompt_tokens) / std::max(prompt_ms, 1e-9) * 1e3, seal_ms, steps[steps.size() / 2],
              host[host.size() / 2], static_cast<double>(bytes) / kBytesPerSecond * 1e3,
              batch / steps[steps.size() / 2] * 1e3, static_cast<double>(pass.graph_bytes()) * 1e-6);
  std::fflush(stdout);
}

using kernels::Tier;
struct Case {
  int32_t batch, context;
  std::optional<Tier> tier;
};

void MeasureModel(const char* name, const TransformerSpec& spec, std::span<const Case> cases, kernels::cuda::Stream stream) {
  const CudaWeights weights = RandomWeights(spec, stream);
  std::printf("%s, %d layers\n", name, spec.layers);
  for (const Case& c : cases) Measure(spec, weights, stream, c.batch, c.context, c.tier);
}

int WrongUse(const char* word) {
  std::fprintf(stderr,
               "step_bench: %s is not understood; step_bench [--launched] [MODEL [BATCH CONTEXT MODE [LAYERS]]], MODEL llama8b, smollm2, "
               "gemma3 or all, MODE exact, T4 or T2, numbers from 1\n",
               word);
  return 2;
}

int Main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "--launched") {
    recorded = false;
    --argc, ++argv;
  }
  const std::string_view model = argc > 1 ? argv[1] : "all";
  const Case small[] = {{1, 128, {}}, {1, 1024, {}}, {1, 1024, Tier::kT4}, {1, 8000, {}}, {16, 1024, {}}, {16, 1024, Tier::kT4}};
  const Case large[] = {{1, 1024, {}}, {1, 16384, {}}, {1, 16384, Tier::kT4}, {4, 4096, Tier::kT4}, {32, 1024, {}}, {32, 4096, {}},
                        {32, 4096, Tier::kT4}, {32, 4096, Tier::kT2}, {128, 1024, {}}, {128, 1024, Tier::kT4}};
  const std::tuple<const char*, TransformerSpec, std::span<const Case>> models[] = {
      {"smollm2", SmolLM2(), small}, {"gemma3", Gemma3(), small}, {"llama8b", Llama8B(), large}};
  if (model != "all" && std::ranges::none_of(models, [&](const auto& known) { return model == std::get<0>(known); })) {
    return WrongUse(argv[1]);
  }
  if (argc == 3 || argc == 4 || argc > 6) return WrongUse(argv[argc - 1]);
  std::vector<Case> only;
  if (argc > 4) {
    const std::string_view mode = argv[4];
    if (mode != "exact" && mode != "T4" && mode != "T2") return WrongUse(argv[4]);
    for (const int i : {2, 3, 5}) {
      if (i < argc && std::atoi(argv[i]) < 1) return WrongUse(argv[i]);
    }
    only.push_back({std::atoi(argv[2]), std::atoi(argv[3]), mode == "T4"   ? std::optional(Tier::kT4)
                                                            : mode == "T2" ? std::optional(Tier::kT2)
                                                                           : std::nullopt});
  }
  Require(kernels::cuda::UseDevice(0));
  kernels::cuda::OwnStream stream;
  Require(stream.Create());
  for (const auto& [name, spec, cases] : models) {
    if (model != "all" && model != name) continue;
    TransformerSpec cut = spec;
    if (argc > 5) cut.layers = std::atoi(argv[5]);
    if (argc > 5 && !cut.windows.empty()) cut.windows.resize(static_cast<size_t>(cut.layers));
    MeasureModel(name, cut, only.empty() ? cases : std::span<const Case>(only), stream.get());
  }
  return 0;
}

}  // namespace
}  // namespace spherical::engine

int main(int argc, char** argv) { return spherical::engine::Main(argc, argv); }
