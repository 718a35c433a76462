// The CUDA stepper against the CPU's, in modes `exact` and `uniform`: tiny models of every family. Without a device the cases are skipped
// and say so.
#include "engine/step/cuda_stepper.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "engine/step/cpu_stepper.h"
#include "kernels/cuda/device_probe.h"
#include "kernels/spherical/page_layout.h"
#include "tests/engine/skewed_geometry.h"
#include "tests/engine/stepper_runner.h"
#include "tests/engine/tiny_model.h"
#include "tests/skip.h"

namespace spherical::engine {
namespace {

using kernels::WeightType;
using testing::TinyModelOptions;

constexpr int32_t kSequences = 3, kContext = 2048;

std::string WhyNoDevice() { return kernels::ProbeCudaDevices().why_none; }

// Both steppers over the same weights, each with pages of its own.
struct Pair {
  ThreadPool pool{2};
  std::unique_ptr<Stepper> cpu_stepper, cuda_stepper;
  StepperRunner cpu, cuda;

  explicit Pair(const TinyModel& model)
      : cpu_stepper(*MakeCpuStepper(model.spec, model.LoadedAgain(), pool,
                                    {.activations = kernels::ActivationType::kF32, .pages = PageCount(StepperRunner::kPages)})),
        cuda_stepper(MakeCuda(model, pool)),
        cpu(model.spec, *cpu_stepper),
        cuda(model.spec, *cuda_stepper) {}

  static std::unique_ptr<Stepper> MakeCuda(const TinyModel& model, ThreadPool& pool) {
    auto made = MakeCudaStepper(model.spec, model.weights, pool,
                                {.pages = PageCount(StepperRunner::kPages), .sequences = kSequences, .context_max = kContext});
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    return *std::move(made);
  }
};

// How far two lists of scored tokens are apart: root mean square of differences of log-probabilities, over their spread on the CPU.
class Distance {
 public:
  void Add(const std::vector<SampledToken>& got, const std::vector<SampledToken>& want) {
    REQUIRE(got.size() == want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      const double difference = got[i].logprob - want[i].logprob;
      error_ += difference * difference;
      sum_ += want[i].logprob;
      squares_ += static_cast<double>(want[i].logprob) * want[i].logprob;
      ++count_;
      REQUIRE(!want[i].top.empty());
      // The token that the device thinks likeliest is, for the CPU, a near tie with its own.
      Chose(got[i].top[0].id, want[i]);
    }
  }
  void Chose(TokenId id, const SampledToken& want) {
    double gap = 30;
    for (const TokenLogprob& top : want.top) {
      if (top.id == id) gap = want.top[0].logprob - top.logprob;
    }
    worst_gap_ = std::max(worst_gap_, gap);
    differ_ += id != want.top[0].id ? 1 : 0;
    ++chosen_;
  }
  // By what both think of the 20 likeliest.
  void AddTop(const SampledToken& got, const SampledToken& want) {
    for (const TokenLogprob& wanted : want.top) {
      for (const TokenLogprob& found : got.top) {
        if (found.id != wanted.id) continue;
        const double difference = found.logprob - wanted.logprob;
        error_ += difference * difference;
        ++count_;
      }
    }
    Chose(got.id, want);
  }
  double relative() const {
    const double n = static_cast<double>(count_), mean = sum_ / n;
    return std::sqrt(error_ / n) / std::sqrt(squares_ / n - mean * mean);
  }
  double rms() const { return std::sqrt(error_ / static_cast<double>(count_)); }
  double worst_gap() const { return worst_gap_; }
  int32_t differ() const { return differ_; }
  int32_t chosen() const { return chosen_; }

 private:
  double error_ = 0, sum_ = 0, squares_ = 0, worst_gap_ = 0;
  int32_t count_ = 0, differ_ = 0, chosen_ = 0;
};

const TinyModelOptions kModels[] = {
    {.type = WeightType::kBF16},
    {.layers = 3, .width = 192, .heads = 6, .kv_heads = 2, .type = WeightType::kBF16, .tied = false, .seed = 7},
    {.width = 96, .heads = 2, .kv_heads = 2, .head_dim = 80, .type = WeightType::kBF16},
    {.width = 96, .heads = 4, .kv_heads = 1, .head_dim = 96, .type = WeightType::kBF16},
    {.width = 128, .heads = 16, .kv_heads = 1, .head_dim = 128, .type = WeightType::kBF16},
    {.width = 256, .heads = 4, .kv_heads = 2, .ffn_width = 512, .type = WeightType::kQ4_1},
    {.width = 192, .heads = 6, .kv_heads = 2, .type = WeightType::kBF16, .rope_scaling = "yarn"},
    {.type = WeightType::kBF16, .rope_scaling = "llama3"},
    {.layers = 3, .width = 160, .heads = 4, .kv_heads = 2, .type = WeightType::kBF16, .tied = false, .family = "mistral", .window = 16},
    {.width = 192, .heads = 3, .type = WeightType::kBF16, .family = "qwen2"},
    {.width = 160, .heads = 4, .kv_heads = 2, .head_dim = 128, .type = WeightType::kBF16, .tied = false, .family = "qwen3"},
    {.layers = 7, .width = 96, .heads = 4, .kv_heads = 1, .head_dim = 256, .type = WeightType::kBF16, .family = "gemma3", .window = 16},
    {.layers = 7, .width = 96, .heads = 2, .kv_heads = 1, .type = WeightType::kBF16, .family = "gemma3", .window = 700, .logit_softcap = 2},
};

TEST_CASE("the CUDA stepper's log-probabilities are the CPU's, for every family, with prompts in chunks, neighbours, decoding") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  for (TinyModelOptions options : kModels) {
    options.context = kContext;
    CAPTURE(options.family, options.head_dim, options.heads, options.kv_heads, options.rope_scaling, options.window);
    const TinyModel model(options);
    Pair pair(model);
    const std::vector<TokenId> prompt = SomeTokens(1'200, model.spec.vocabulary, 5), other = SomeTokens(70, model.spec.vocabulary, 6);
    StepperRunner::Sequence cpu = pair.cpu.Start(), cuda = pair.cuda.Start(), cpu_other = pair.cpu.Start(), cuda_other = pair.cuda.Start();
    Distance prompts, answers;
    const auto step = [&](std::vector<TokenId> tokens, std::vector<TokenId> others, Distance& distance) {
      std::vector<StepperRunner::Part> on_cpu = {{&cpu, tokens, true}}, on_cuda = {{&cuda, tokens, true}};
      if (!others.empty()) {
        on_cpu.insert(on_cpu.begin(), {&cpu_other, others, true});
        on_cuda.insert(on_cuda.begin(), {&cuda_other, others, true});
      }
      const auto want = pair.cpu.Step(on_cpu), got = pair.cuda.Step(on_cuda);
      INFO(got.status().ToString());
      REQUIRE(got.ok());
      for (size_t i = 0; i < on_cpu.size(); ++i) {
        REQUIRE(got->items[i].finite);
        distance.Add(got->items[i].prompt_scores, want->items[i].prompt_scores);
        distance.Chose(got->items[i].sampled->id, *want->items[i].sampled);
      }
      return want->items.back().sampled->id;
    };
    size_t at = 0;
    TokenId next = 0;
    for (const size_t chunk : {1u, 3u, 60u, 300u, 512u, 324u}) {
      const std::vector<TokenId> others = at == 0 ? other : std::vector<TokenId>{TokenId{9}};
      if (chunk + others.size() > 512) {
        next = step({prompt.begin() + static_cast<long>(at), prompt.begin() + static_cast<long>(at + chunk)}, {}, prompts);
      } else {
        next = step({prompt.begin() + static_cast<long>(at), prompt.begin() + static_cast<long>(at + chunk)}, others, prompts);
      }
      at += chunk;
    }
    for (int32_t i = 0; i < 24; ++i) next = step({next}, {TokenId{i}}, answers);
    std::printf("%s D %d H %d KV %d window %d %s: rms %.4f nats, relative %.4f, tokens that differ: prompt %d of %d (gap %.3f), "
                "answer %d of %d (gap %.3f)\n", options.family.c_str(), options.head_dim, options.heads, options.kv_heads, options.window,
                options.rope_scaling.c_str(), prompts.rms(), prompts.relative(), prompts.differ(), prompts.chosen(), prompts.worst_gap(),
                answers.differ(), answers.chosen(), answers.worst_gap());
    CHECK(prompts.relative() < 0.03);
    CHECK(prompts.worst_gap() < 0.2);
    CHECK(answers.worst_gap() < 0.2);
  }
}

TEST_CASE("a greedy continuation on the device is the CPU's up to near ties, though more sequences than slots take turns") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const TinyModel model({.layers = 2, .width = 192, .heads = 6, .kv_heads = 2, .context = kContext, .type = WeightType::kBF16, .seed = 3});
  Pair pair(model);
  constexpr int32_t kAll = 5;
  std::vector<StepperRunner::Sequence> cpu, cuda;
  std::vector<TokenId> next(kAll);
  Distance distance;
  for (int32_t i = 0; i < kAll; ++i) {
    cpu.push_back(pair.cpu.Start());
    cuda.push_back(pair.cuda.Start());
  }
  for (int32_t turn = 0; turn < 60; ++turn) {
    std::vector<StepperRunner::Part> on_cpu, on_cuda;
    std::vector<int32_t> who;
    for (int32_t i = 0; i < kSequences; ++i) {
      const int32_t s = (turn * 2 + i) % kAll;
      const bool fresh = cpu[static_cast<size_t>(s)].entered.empty();
      const std::vector<TokenId> tokens = fresh ? SomeTokens(30 + 5 * s, model.spec.vocabulary, static_cast<uint32_t>(s + 1))
                                                : std::vector<TokenId>{next[static_cast<size_t>(s)]};
      who.push_back(s);
      on_cpu.push_back({&cpu[static_cast<size_t>(s)], tokens, true});
      on_cuda.push_back({&cuda[static_cast<size_t>(s)], tokens, false});
    }
    const auto want = pair.cpu.Step(on_cpu), got = pair.cuda.Step(on_cuda);
    REQUIRE(got.ok());
    for (size_t i = 0; i < who.size(); ++i) {
      next[static_cast<size_t>(who[i])] = want->items[i].sampled->id;
      distance.Chose(got->items[i].sampled->id, *want->items[i].sampled);
    }
  }
  std::printf("greedy: %d of %d tokens differ, widest gap %.3f nats\n", distance.differ(), distance.chosen(), distance.worst_gap());
  CHECK(distance.worst_gap() < 0.2);
  CHECK(distance.differ() * 20 < distance.chosen());
}

// A stepper of mode `uniform:T`, or the CPU's exact one, and its sequence.
struct Coded {
  std::unique_ptr<Stepper> stepper;
  StepperRunner runner;
  StepperRunner::Sequence sequence;
  Coded(const TinyModel& model, std::unique_ptr<Stepper> made)
      : stepper(std::move(made)), runner(model.spec, *stepper), sequence(runner.Start()) {}
};

TEST_CASE("mode uniform on the device loses what it loses on the CPU: sealed head by head, decoded, demoted, windows too") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const TinyModelOptions models[] = {
      {.layers = 2, .width = 192, .heads = 6, .kv_heads = 2, .context = kContext, .type = WeightType::kBF16, .seed = 7},
      {.width = 128, .heads = 4, .kv_heads = 2, .head_dim = 128, .context = kContext, .type = WeightType::kBF16, .family = "qwen3"},
      {.width = 96, .heads = 2, .kv_heads = 2, .head_dim = 80, .context = kContext, .type = WeightType::kBF16},
      {.layers = 7, .width = 96, .heads = 4, .kv_heads = 1, .head_dim = 256, .context = kContext, .type = WeightType::kBF16,
       .family = "gemma3", .window = 150},
  };
  for (const TinyModelOptions& options : models) {
    const TinyModel model(options);
    ThreadPool pool(2);
    for (const kernels::Tier tier : {kernels::Tier::kT8, kernels::Tier::kT4, kernels::Tier::kT3, kernels::Tier::kT2, kernels::Tier::kT1}) {
      CAPTURE(options.family, options.head_dim, static_cast<int32_t>(tier));
      const PageCount pages(StepperRunner::kPages);
      auto made = MakeCudaStepper(model.spec, model.weights, pool,
                                  {.pages = pages, .geometry = SkewedGeometry(model.spec), .workspace_pages = pages,
                                   .sequences = kSequences, .context_max = kContext});
      INFO(made.status().ToString());
      REQUIRE(made.ok());
      Coded cuda(model, *std::move(made));
      Coded cpu(model, *MakeCpuStepper(model.spec, model.LoadedAgain(), pool,
                                       {.activations = kernels::ActivationType::kF32, .pages = pages,
                                        .geometry = SkewedGeometry(model.spec), .workspace_pages = pages}));
      Coded exact(model, *MakeCpuStepper(model.spec, model.LoadedAgain(), pool,
                                         {.activations = kernels::ActivationType::kF32, .pages = pages}));
      const std::vector<TokenId> tokens = SomeTokens(460, model.spec.vocabulary, 5);
      Distance apart, lost, lost_on_cpu;
      const auto step = [&](size_t from, size_t to) {
        const std::vector<TokenId> part(tokens.begin() + static_cast<long>(from), tokens.begin() + static_cast<long>(to));
        const auto on_cuda = cuda.runner.Step({{&cuda.sequence, part, true}}), on_cpu = cpu.runner.Step({{&cpu.sequence, part, true}}),
                   exactly = exact.runner.Step({{&exact.sequence, part, true}});
        INFO(on_cuda.status().ToString());
        REQUIRE(on_cuda.ok());
        REQUIRE(on_cuda->items[0].finite);
        apart.AddTop(*on_cuda->items[0].sampled, *on_cpu->items[0].sampled);
        lost.AddTop(*on_cuda->items[0].sampled, *exactly->items[0].sampled);
        lost_on_cpu.AddTop(*on_cpu->items[0].sampled, *exactly->items[0].sampled);
      };
      const auto seal = [&](int32_t parity) {
        std::vector<int32_t> heads;
        for (int32_t i = parity; i < cuda.sequence.pages.heads(); i += 2) heads.push_back(i);
        REQUIRE(cuda.runner.Seal(cuda.sequence, tier, heads).ok());
        REQUIRE(cpu.runner.Seal(cpu.sequence, tier, heads).ok());
      };
      step(0, 200);
      step(200, 333);
      seal(0);
      for (size_t i = 333; i < 337; ++i) step(i, i + 1);
      seal(1);
      for (size_t i = 337; i < tokens.size(); ++i) {
        if (tier != kernels::Tier::kT8) {
          REQUIRE(cuda.runner.DemoteWhereDue(cuda.sequence, tier).ok());
          REQUIRE(cpu.runner.DemoteWhereDue(cpu.sequence, tier).ok());
        }
        step(i, i + 1);
      }
      std::printf("%s D %d T%d: lost on the device %.4f nats, on the CPU %.4f; apart %.4f (rms of the 20 likeliest)\n",
                  options.family.c_str(), options.head_dim, static_cast<int32_t>(tier), lost.rms(), lost_on_cpu.rms(), apart.rms());
      CHECK(lost.rms() < 1.2 * lost_on_cpu.rms() + 0.015);
      CHECK(apart.rms() < 1.2 * lost_on_cpu.rms() + 0.015);
    }
  }
}

// Tokens that stand elsewhere than on the other curve, of all of them, at a price.
double StandApart(const std::vector<RateCurve>& a, const std::vector<RateCurve>& b, int32_t price) {
  int64_t apart = 0, tokens = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    REQUIRE(a[i].tokens == b[i].tokens);
    const RungCounts here = a[i].CountsAt(price), there = b[i].CountsAt(price);
    for (size_t r = 0; r < here.size(); ++r) apart += std::abs(here[r] - there[r]);
    tokens += a[i].tokens;
  }
  return static_cast<double>(apart) / static_cast<double>(std::max<int64_t>(tokens, 1));
}

TEST_CASE("mode rdr on the device measures, seals by price, refreshes and loses as on the CPU, windows too") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const TinyModelOptions models[] = {
      {.layers = 2, .width = 192, .heads = 6, .kv_heads = 2, .context = kContext, .type = WeightType::kBF16, .seed = 7},
      {.width = 256, .heads = 8, .kv_heads = 2, .head_dim = 128, .context = kContext, .type = WeightType::kBF16, .family = "qwen3"},
      {.layers = 7, .width = 96, .heads = 4, .kv_heads = 1, .head_dim = 256, .context = kContext, .type = WeightType::kBF16,
       .family = "gemma3", .window = 150},
  };
  for (const TinyModelOptions& options : models) {
    CAPTURE(options.family, options.head_dim);
    const TinyModel model(options);
    ThreadPool pool(2);
    const PageCount pages(StepperRunner::kPages);
    auto made = MakeCudaStepper(model.spec, model.weights, pool,
                                {.pages = pages, .geometry = SkewedGeometry(model.spec), .workspace_pages = pages, .priced = true,
                                 .sequences = kSequences, .context_max = kContext});
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    constexpr int32_t kPrompt = 500, kEnd = 600;
    Coded cuda(model, *std::move(made));
    Coded cpu(model, *MakeCpuStepper(model.spec, model.LoadedAgain(), pool,
                                     {.activations = kernels::ActivationType::kF32, .pages = pages,
                                      .geometry = SkewedGeometry(model.spec), .workspace_pages = pages}));
    Coded exact(model, *MakeCpuStepper(model.spec, model.LoadedAgain(), pool,
                                       {.activations = kernels::ActivationType::kF32, .pages = pages}));
    for (Coded* each : {&cuda, &cpu}) each->sequence = each->runner.Start(QuerySampling::For(kPrompt));
    const std::vector<TokenId> tokens = SomeTokens(kEnd, model.spec.vocabulary, 5);
    const std::vector<float> refresh(static_cast<size_t>(model.spec.layers), 1.5f);
    Distance apart, lost, lost_on_cpu;
    const auto step = [&](int32_t from, int32_t to, std::span<const float> refreshed) {
      const std::vector<TokenId> part(tokens.begin() + from, tokens.begin() + to);
      const auto on_cuda = cuda.runner.Step({{&cuda.sequence, part, true, refreshed}}),
                 on_cpu = cpu.runner.Step({{&cpu.sequence, part, true, refreshed}}),
                 exactly = exact.runner.Step({{&exact.sequence, part, true}});
      INFO(on_cuda.status().ToString());
      REQUIRE(on_cuda.ok());
      REQUIRE(on_cuda->items[0].finite);
      apart.AddTop(*on_cuda->items[0].sampled, *on_cpu->items[0].sampled);
      lost.AddTop(*on_cuda->items[0].sampled, *exactly->items[0].sampled);
      lost_on_cpu.AddTop(*on_cpu->items[0].sampled, *exactly->items[0].sampled);
      CHECK(on_cuda->items[0].energy_rows == on_cpu->items[0].energy_rows);
      REQUIRE(on_cuda->items[0].energy.size() == on_cpu->items[0].energy.size());
      for (size_t layer = 0; layer < on_cpu->items[0].energy.size(); ++layer) {
        CHECK(on_cuda->items[0].energy[layer] == Approx(on_cpu->items[0].energy[layer]).epsilon(0.05));
      }
    };
    step(0, 2, {});
    for (int32_t i = 2; i < 60; ++i) step(i, i + 1, {});  // steps of one row, some of whose queries are kept
    step(60, 300, {});
    step(300, kPrompt, {});
    const auto measured = cuda.runner.Measure(cuda.sequence, MeasureItem::Kind::kExact, 1.5f),
               on_cpu = cpu.runner.Measure(cpu.sequence, MeasureItem::Kind::kExact, 1.5f);
    REQUIRE(measured.ok());
    const RateCurve& last = on_cpu->curves.back();  // of a global head
    int32_t price = 0;                              // at which every second token of it has left T8
    while (price + 1 < kernels::kPriceSteps && last.below[0][static_cast<size_t>(price)] * 2 < last.tokens) ++price;
    double worst = 0;
    for (const int32_t more : {-20, 0, 20}) worst = std::max(worst, StandApart(measured->curves, on_cpu->curves, price + more));
    CHECK(worst < 0.05);
    REQUIRE(cuda.runner.SealAt(cuda.sequence, price, measured->curves).ok());
    REQUIRE(cpu.runner.SealAt(cpu.sequence, price, on_cpu->curves).ok());
    for (int32_t i = kPrompt; i < kEnd; ++i) step(i, i + 1, i % kRefreshSteps == 0 ? std::span(refresh) : std::span<const float>());
    for (Coded* each : {&cuda, &cpu}) {
      for (int32_t i = 0; i < each->sequence.pages.heads(); ++i) {
        HeadPages& head = each->sequence.pages.head(i);
        head.settled = std::max(0, head.of(kernels::Tier::kT8).tokens - head.sinks());
      }
    }
    const auto later = cuda.runner.Measure(cuda.sequence, MeasureItem::Kind::kCoded, 1.5f),
               later_on_cpu = cpu.runner.Measure(cpu.sequence, MeasureItem::Kind::kCoded, 1.5f);
    REQUIRE(later.ok());
    int64_t held = 0, held_on_cpu = 0;
    double drift = 0;
    for (size_t i = 0; i < later->curves.size(); ++i) {
      held += later->curves[i].tokens;
      held_on_cpu += later_on_cpu->curves[i].tokens;
      for (const int32_t at : {price - 20, price, price + 20}) {
        const size_t step = static_cast<size_t>(at);
        const double here = later->curves[i].below[0][step], there = later_on_cpu->curves[i].below[0][step];
        drift = std::max(drift, std::abs(here - there) / std::max(1.0, static_cast<double>(later_on_cpu->curves[i].tokens)));
      }
    }
    std::printf("%s D %d rdr at %d: lost on the device %.4f nats, on the CPU %.4f; apart %.4f; stand apart %.4f, then %.4f; "
                "held %lld %lld\n",
                options.family.c_str(), options.head_dim, price, lost.rms(), lost_on_cpu.rms(), apart.rms(), worst, drift,
                static_cast<long long>(held), static_cast<long long>(held_on_cpu));
    CHECK(drift < 0.1);
    CHECK(lost.rms() < 1.2 * lost_on_cpu.rms() + 0.015);
    CHECK(apart.rms() < 1.2 * lost_on_cpu.rms() + 0.015);
  }
}

// A tiny model's file with one of its f32 weights changed.
testing::GgufBuilder Changed(const TinyModelOptions& options, const std::string& tensor_name, int64_t at, float value) {
  testing::GgufBuilder builder = testing::TinyModel(options);
  for (testing::TinyTensor& tensor : testing::TinyTensors(options)) {
    if (tensor.name != tensor_name) continue;
    std::memcpy(&tensor.bytes[static_cast<size_t>(at) * sizeof(float)], &value, sizeof(value));
    builder.Tensor(tensor.name, 0, {tensor.columns, tensor.rows}, tensor.bytes);
  }
  return builder;
}

TEST_CASE("a weight beyond f16 is an error that says so, infinity is not") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  const TinyModelOptions options = {.context = kContext, .type = WeightType::kF32, .tied = false};
  ThreadPool pool(2);
  const auto status_with = [&](float value) {
    const TinyModel model(Changed(options, "blk.0.ffn_down.weight", 5, value));
    return MakeCudaStepper(model.spec, model.weights, pool,
                           {.pages = PageCount(StepperRunner::kPages), .sequences = kSequences, .context_max = kContext})
        .status();
  };
  CHECK(status_with(65504).ok());
  CHECK(status_with(-std::numeric_limits<float>::infinity()).ok());
  const absl::Status beyond = status_with(-123456);
  CHECK(beyond.code() == absl::StatusCode::kFailedPrecondition);
  CHECK(beyond.message() == "a weight of the model is 123456; on a CUDA device weights are f16, at most 65504: "
                            "serve the model with --device=cpu");
}

TEST_CASE("NaN in a token's weights fails the sequence that has the token, not its neighbours nor who gets its pages") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  constexpr TokenId kBad = 77;
  const TinyModelOptions options = {.context = kContext, .type = WeightType::kF32, .tied = false};
  const TinyModel model(Changed(options, "token_embd.weight", kBad * options.width, std::numeric_limits<float>::quiet_NaN()));
  const TransformerSpec& spec = model.spec;
  ThreadPool pool(2);
  auto stepper = MakeCudaStepper(spec, model.weights, pool,
                                 {.pages = PageCount(StepperRunner::kPages), .sequences = kSequences, .context_max = kContext});
  REQUIRE(stepper.ok());
  std::vector<TokenId> good = SomeTokens(40, spec.vocabulary, 1), bad = SomeTokens(33, spec.vocabulary, 2);
  std::ranges::replace(good, kBad, 78);
  std::ranges::replace(bad, kBad, 78);
  bad[5] = kBad;
  for (const size_t rows : {40u, 3u}) {
    good.resize(rows);
    StepperRunner runner(spec, **stepper, 1'000 * rows), again(spec, **stepper, 1'000 * rows + 100);
    StepperRunner::Sequence a = runner.Start(), b = runner.Start();
    const auto both = runner.Step({{&a, good, true}, {&b, bad, false}});
    REQUIRE(both.ok());
    CHECK(both->items[0].finite);
    CHECK(both->items[0].sampled.has_value());
    CHECK_FALSE(both->items[1].finite);
    CHECK_FALSE(both->items[1].sampled.has_value());
    // The same pages as the first runner's, in the same order: those of `b` among them, full of NaN.
    StepperRunner::Sequence c = again.Start(), d = again.Start();
    const auto first = again.Step({{&d, {TokenId{3}}, false}}), second = again.Step({{&c, good, true}});
    REQUIRE(second.ok());
    CHECK(first->items[0].finite);
    CHECK(second->items[0].finite);
    CHECK(second->items[0].sampled->id == both->items[0].sampled->id);
  }
}

TEST_CASE("a build without CUDA says so") {
  const std::string why = WhyNoDevice();
  if (why.find("built without CUDA") == std::string::npos) SPH_SKIP("built with CUDA");
  const TinyModel model(TinyModelOptions{});
  ThreadPool pool(1);
  const auto made = MakeCudaStepper(model.spec, model.weights, pool, {});
  CHECK(made.status().code() == absl::StatusCode::kUnimplemented);
}

// Last: nothing runs on the device in this process afterwards.
TEST_CASE("a kernel that breaks the device ends the step with an error, and every step after it") {
  if (const std::string why = WhyNoDevice(); !why.empty()) SPH_SKIP(why.c_str());
  constexpr PageId kPages = 1'000;
  const TinyModel model({.context = kContext});
  ThreadPool pool(1);
  auto stepper = MakeCudaStepper(model.spec, model.weights, pool,
                                 {.pages = PageCount(kPages), .sequences = 2, .context_max = kContext, .break_at_step = 1});
  REQUIRE(stepper.ok());
  StepperRunner runner(model.spec, **stepper, 1, kPages);
  StepperRunner::Sequence sequence = runner.Start();
  const auto whole = runner.Step({{&sequence, {TokenId{5}}}});
  INFO(whole.status().ToString());
  CHECK(whole.ok());
  for (int32_t i = 0; i < 2; ++i) {
    const auto broken = runner.Step({{&sequence, {TokenId{5}}}});
    REQUIRE_FALSE(broken.ok());
    INFO(broken.status().ToString());
    CHECK(broken.status().code() == absl::StatusCode::kInternal);
    CHECK(std::string(broken.status().message()).find("CUDA device") != std::string::npos);
  }
}

}  // namespace
}  // namespace spherical::engine
