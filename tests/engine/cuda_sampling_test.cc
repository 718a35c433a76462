// Steps that draw tokens, on a device and on the CPU: each sequence with wishes of its own, some of them more than the device can take.
#include <catch2/catch.hpp>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

#include "engine/step/cpu_stepper.h"
#include "engine/step/cuda_stepper.h"
#include "kernels/cuda/device_probe.h"
#include "tests/engine/naive_sampler.h"
#include "tests/engine/stepper_runner.h"
#include "tests/engine/tiny_model.h"
#include "tests/skip.h"

namespace spherical::engine {
namespace {

constexpr int32_t kVocabulary = 20'000, kContext = 256;

TEST_CASE("what a step draws on a device is what it draws on the CPU, but where their logits' last digits decide") {
  if (const std::string why = kernels::ProbeCudaDevices().why_none; !why.empty()) SPH_SKIP(why.c_str());
  // A large vocabulary: hot enough, top-p keeps more tokens than the device looks at.
  const testing::TinyModelOptions options = {.context = kContext, .type = kernels::WeightType::kF32};
  testing::GgufBuilder builder = testing::TinyModel(options);
  builder.Tensor("token_embd.weight", 0, {options.width, kVocabulary},
                 testing::RandomWeights(kernels::WeightType::kF32, kVocabulary, options.width, 0.5, 5));
  const TinyModel model(builder);
  REQUIRE(model.spec.vocabulary == kVocabulary);

  std::mt19937_64 random(11);
  std::vector<SamplingParams> params(12);
  for (SamplingParams& of : params) of.seed = random();
  params[0].temperature = 0;
  params[1].top_p = 0.95f;
  params[1].temperature = 10;
  params[2].top_p = 0.05f;
  params[3].top_k = 50;
  params[4].top_k = 2000;
  params[4].top_p = 0.5f;
  params[5].min_p = 0.5f;
  params[6].temperature = 0.1f;
  params[7].temperature = 0;
  params[7].repetition_penalty = 1.3f;
  params[7].presence_penalty = 1;
  params[8].repetition_penalty = 1.1f;
  params[8].temperature = 0.05f;
  params[9].temperature = 0;
  params[9].logit_bias = {{123, 100.0f}, {124, -kInfinity}};
  params[10].logit_bias = {{5, 100.0f}, {6, 100.0f}, {7, 100.0f}};
  // The twelfth only has a temperature of 1.
  const int32_t sequences = static_cast<int32_t>(params.size());

  // Room for all edits, and for few.
  for (const int32_t edits_max : {4096, 20}) {
    CAPTURE(edits_max);
    ThreadPool pool(2);
    const auto cpu_stepper = *MakeCpuStepper(model.spec, model.LoadedAgain(), pool,
                                             {.activations = kernels::ActivationType::kF32, .pages = PageCount(StepperRunner::kPages)});
    auto made = MakeCudaStepper(model.spec, model.weights, pool,
                                {.pages = PageCount(StepperRunner::kPages), .sequences = sequences, .context_max = kContext,
                                 .edits_max = edits_max});
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    StepperRunner cpu(model.spec, *cpu_stepper), cuda(model.spec, **made);
    std::vector<StepperRunner::Sequence> on_cpu, on_cuda;
    std::vector<std::vector<TokenId>> next;
    for (int32_t i = 0; i < sequences; ++i) {
      on_cpu.push_back(cpu.Start());
      on_cuda.push_back(cuda.Start());
      next.push_back(SomeTokens(8 + i, kVocabulary, static_cast<uint32_t>(i)));
    }
    int32_t same = 0, drawn = 0;
    for (int32_t turn = 0; turn < 20; ++turn) {
      std::vector<StepperRunner::Part> cpu_parts, cuda_parts;
      for (size_t i = 0; i < params.size(); ++i) {
        cpu_parts.push_back({.sequence = &on_cpu[i], .tokens = next[i], .sampling = &params[i]});
        cuda_parts.push_back({.sequence = &on_cuda[i], .tokens = next[i], .sampling = &params[i]});
      }
      const auto want = cpu.Step(cpu_parts), got = cuda.Step(cuda_parts);
      REQUIRE(want.ok());
      REQUIRE(got.ok());
      for (size_t i = 0; i < params.size(); ++i) {
        REQUIRE(got->items[i].sampled.has_value());
        ++drawn;
        same += got->items[i].sampled->id == want->items[i].sampled->id ? 1 : 0;
        next[i] = {want->items[i].sampled->id};
      }
      CHECK(got->items[9].sampled->id == 123);
    }
    std::printf("drawn: %d of %d as on the CPU\n", same, drawn);
    CHECK(same >= drawn - drawn / 10);  // a twelfth of them is drawn from thousands of tokens, each of which a digit may move
  }
}

}  // namespace
}  // namespace spherical::engine
