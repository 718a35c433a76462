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
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>
#include <span>
#include <string_view>
#include <tuple>
#include <vector>

#include "engine/step/cuda_pass.h"
#include "engine/step/thread_pool.h"
#include "kernels/base/check.h"
#include "kernels/base/float16.h"
#include "tests/bench/gpu/device_work.h"
#include "tests/engine/stepper_runner.h"

namespace spherical::engine {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kBytesPerSecond = 4.28e12;

double MsSince(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

void AddFrequencies(double base, int32_t dim, std::vector<double>& frequency) {
  for (int32_t i = 0; i < dim / 2; ++i) frequency.push_back(std::pow(base, -2.0 * i / dim));
}

TransformerSpec Llama8B() {
  TransformerSpec spec;
  spec.architecture = "llama";
  spec.layers = 32;
  spec.width = 4096;
  spec.heads = 32;
  spec.kv_heads = 8;
  spec.head_dim = 128;
  spec.ffn_width = 14336;
  spec.vocabulary = 128256;
  spec.context_max = 131072;
  spec.norm_epsilon = 1e-5f;
  spec.attention_scale = 0.08838835f;
  spec.rotary_dim = 128;
  spec.rotary_pairing = kernels::RotaryPairing::kHalves;
  AddFrequencies(500'000, 128, spec.rotary_frequency);
  return spec;
}

TransformerSpec SmolLM2() {
  TransformerSpec spec;
  spec.architecture = "llama";
  spec.layers = 30;
  spec.width = 576;
  spec.heads = 9;
  spec.kv_heads = 3;
  spec.head_dim = 64;
  spec.ffn_width = 1536;
  spec.vocabulary = 49152;
  spec.context_max = 8192;
  spec.norm_epsilon = 1e-5f;
  spec.attention_scale = 0.125f;
  spec.rotary_dim = 64;
  spec.rotary_pairing = kernels::RotaryPairing::kHalves;
  spec.tied_output = true;
  AddFrequencies(100'000, 64, spec.rotary_frequency);
  return spec;
}

TransformerSpec Gemma3() {
  TransformerSpec spec;
  spec.architecture = "gemma3";
  spec.layers = 18;
  spec.width = 640;
  spec.heads = 4;
  spec.kv_heads = 1;
  spec.head_dim = 256;
  spec.ffn_width = 2048;
  spec.vocabulary = 262144;
  spec.context_max = 32768;
  spec.norm_epsilon = 1e-6f;
  spec.attention_scale = 0.0625f;
  spec.query_key_norm = spec.post_norms = spec.tied_output = true;
  spec.gate = GateActivation::kGeluTanh;
  spec.embedding_scale = std::sqrt(640.0f);
  spec.windows = WindowsOf(18, 512, 6, 32768);
  spec.rotary_dim = 256;
  spec.rotary_pairing = kernels::RotaryPairing::kHalves;
  AddFrequencies(1'000'000, 256, spec.rotary_frequency);
  AddFrequencies(10'000, 256, spec.local_rotary_frequency);
  return spec;
}

void Require(kernels::cuda::CudaStatus status) {
  if (status == kernels::cuda::CudaStatus::kOk) return;
  std::printf("CUDA: %s\n", kernels::cuda::TextOf(status));
  std::exit(1);
}

// bf16 numbers of deviation 0.02 everywhere; read as f32, two of them are one of the same size.
CudaWeights RandomWeights(const TransformerSpec& spec, kernels::cuda::Stream stream) {
  CudaWeights weights;
  const int64_t bytes = CudaWeightBytes(spec), piece = int64_t{64} << 20;
  Require(weights.memory.Allocate(bytes));
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<uint16_t> some(static_cast<size_t>(piece / 2));
  for (uint16_t& x : some) x = kernels::F32ToBF16(normal(random));
  for (int64_t at = 0; at < bytes; at += piece) {
    Require(kernels::cuda::CopyToDevice(stream, weights.memory.data() + at, some.data(), std::min(piece, bytes - at)));
  }
  Require(kernels::cuda::Synchronize(stream));
  PlaceWeights(spec, weights.memory.data(), weights);
  return weights;
}

// The pass as a stepper whose greedy tokens are fetched for the rows that are sampled.
class PassStepper final : public Stepper {
 public:
  PassStepper(CudaPass& pass, kernels::cuda::Stream stream) : pass_(pass), stream_(stream) {
    Require(ids_.Allocate(CudaPass::kLogitsRowsMax * int64_t{sizeof(int32_t)}));
  }
  absl::StatusOr<StepOutput> Run(const StepPlan& plan) override {
    const Clock::time_point start = Clock::now();
    pass_.RunLayers(plan);
    std::vector<int32_t> rows;
    int32_t row = 0;
    for (const StepItem& item : plan.items) {
      row += static_cast<int32_t>(item.tokens.size());
      rows.push_back(row - 1);
    }
    StepOutput output;
    output.items.resize(plan.items.size());
    for (size_t first = 0; first < rows.size(); first += CudaPass::kLogitsRowsMax) {
      const size_t count = std::min<size_t>(CudaPass::kLogitsRowsMax, rows.size() - first);
      pass_.Logits(std::span<const int32_t>(rows).subspan(first, count));
      Require(kernels::cuda::CopyToHost(stream_, ids_.data(), pass_.greatest(), static_cast<int64_t>(count * sizeof(int32_t))));
      host_ms = MsSince(start);
      if (absl::Status done = pass_.Await(); !done.ok()) return done;
      step_ms = MsSince(start);
      for (size_t i = 0; i < count; ++i) output.items[first + i].sampled = SampledToken{.id = ids_.data<int32_t>()[i], .top = {}};
    }
    return output;
  }
  absl::StatusOr<MeasureOutput> Measure(std::span<const MeasureItem>) override { SPH_CHECK(false); }
  absl::StatusOr<absl::Duration> Retier(std::span<const RetierItem> items) override {
    if (absl::Status done = pass_.Retier(items); !done.ok()) return done;
    return absl::ZeroDuration();
  }
  double host_ms = 0, step_ms = 0;  // of the last step

 private:
  CudaPass& pass_;
  const kernels::cuda::Stream stream_;
  kernels::cuda::PinnedMemory ids_;
};

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
  PassStepper stepper(pass, stream);
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

int Main(int argc, char** argv) {
  Require(kernels::cuda::UseDevice(0));
  kernels::cuda::OwnStream stream;
  Require(stream.Create());
  if (argc > 1 && std::string_view(argv[1]) == "--launched") {
    recorded = false;
    --argc, ++argv;
  }
  const std::string_view model = argc > 1 ? argv[1] : "all";
  std::vector<Case> only;
  if (argc > 4) {
    const std::string_view mode = argv[4];
    only.push_back({std::atoi(argv[2]), std::atoi(argv[3]), mode == "T4"   ? std::optional(Tier::kT4)
                                                            : mode == "T2" ? std::optional(Tier::kT2)
                                                                           : std::nullopt});
  }
  const Case small[] = {{1, 128, {}}, {1, 1024, {}}, {1, 1024, Tier::kT4}, {1, 8000, {}}, {16, 1024, {}}, {16, 1024, Tier::kT4}};
  const Case large[] = {{1, 1024, {}}, {1, 16384, {}}, {1, 16384, Tier::kT4}, {4, 4096, Tier::kT4}, {32, 1024, {}}, {32, 4096, {}},
                        {32, 4096, Tier::kT4}, {32, 4096, Tier::kT2}, {128, 1024, {}}, {128, 1024, Tier::kT4}};
  for (const auto& [name, spec, cases] : {std::tuple("smollm2", SmolLM2(), std::span<const Case>(small)),
                                          std::tuple("gemma3", Gemma3(), std::span<const Case>(small)),
                                          std::tuple("llama8b", Llama8B(), std::span<const Case>(large))}) {
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
