// A few steps of a small model on a CUDA device, each way that steps run: what tests/gpu/run.sh gives to the sanitizer, which makes kernels
// some hundred times slower. What comes out is compared with the CPU elsewhere (cuda_stepper_test).
#include <catch2/catch.hpp>
#include <memory>
#include <utility>
#include <vector>

#include "engine/step/cuda_stepper.h"
#include "kernels/cuda/device_probe.h"
#include "tests/engine/skewed_geometry.h"
#include "tests/engine/stepper_runner.h"
#include "tests/engine/tiny_model.h"
#include "tests/skip.h"

namespace spherical::engine {
namespace {

constexpr int32_t kContext = 256, kPages = 1024;

// A prompt of 40 tokens in two chunks, the second beside a decoding sequence, then decoding: together, and each alone.
void Walk(const testing::TinyModelOptions& options, bool coded, bool recorded) {
  CAPTURE(options.family, coded, recorded);
  const TinyModel model(options);
  ThreadPool pool(1);
  CudaStepperOptions asked = {.pages = PageCount(kPages), .sequences = 2, .context_max = kContext, .recorded = recorded};
  if (coded) {
    asked.geometry = SkewedGeometry(model.spec);
    asked.workspace_pages = PageCount(kPages);
  }
  auto made = MakeCudaStepper(model.spec, model.weights, pool, std::move(asked));
  INFO(made.status().ToString());
  REQUIRE(made.ok());
  StepperRunner runner(model.spec, **made, 1, kPages);
  StepperRunner::Sequence a = runner.Start(), b = runner.Start();
  const auto step = [&](const std::vector<StepperRunner::Part>& parts) {
    const auto output = runner.Step(parts);
    INFO(output.status().ToString());
    REQUIRE(output.ok());
    for (const StepItemOutput& item : output->items) CHECK(item.finite);
  };
  const std::vector<TokenId> prompt = SomeTokens(40, model.spec.vocabulary, 3);
  const std::vector<TokenId> first(prompt.begin(), prompt.begin() + 23), rest(prompt.begin() + 23, prompt.end());
  step({{&b, {TokenId{7}}}});
  step({{&a, first}});
  step({{&b, {TokenId{8}}}, {&a, rest}});
  if (coded) {
    std::vector<int32_t> even, odd;
    for (int32_t i = 0; i < a.pages.heads(); ++i) (i % 2 == 0 ? even : odd).push_back(i);
    REQUIRE(runner.Seal(a, kernels::Tier::kT4, even).ok());
    step({{&a, {TokenId{9}}}, {&b, {TokenId{9}}}});
    REQUIRE(runner.Seal(a, kernels::Tier::kT3, odd).ok());
  }
  for (int32_t i = 0; i < 3; ++i) {
    step({{&a, {TokenId{10}}}, {&b, {TokenId{11}}}});
    step({{&a, {TokenId{12}}}});
  }
  if (coded) REQUIRE(runner.DemoteWhereDue(a, kernels::Tier::kT2).ok());
}

TEST_CASE("small steps on a device, exact and coded, recorded and launched", "[sanitizer]") {
  if (const std::string why = kernels::ProbeCudaDevices().why_none; !why.empty()) SPH_SKIP(why.c_str());
  const testing::TinyModelOptions whole = {.layers = 2, .width = 96, .heads = 4, .kv_heads = 2, .context = kContext,
                                           .type = kernels::WeightType::kBF16};
  const testing::TinyModelOptions windows = {.layers = 6, .width = 96, .heads = 2, .kv_heads = 1, .context = kContext,
                                             .type = kernels::WeightType::kBF16, .family = "gemma3", .window = 16};
  for (const bool recorded : {false, true}) {
    Walk(whole, false, recorded);
    Walk(whole, true, recorded);
    Walk(windows, true, recorded);
  }
}

}  // namespace
}  // namespace spherical::engine
