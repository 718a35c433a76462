// Steps that are recorded as CUDA graphs and replayed, against the same ones launched kernel by kernel. Without a device the case is
// skipped and says so.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
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

// Greedy tokens and their log-probabilities are asked of both; rows come and go, so that graphs of several sizes take turns. Codes are
// planned on four threads here, on one there.
TEST_CASE("recorded steps are those launched kernel by kernel: exact and coded, sealed half and whole, any number of rows") {
  if (const std::string why = kernels::ProbeCudaDevices().why_none; !why.empty()) SPH_SKIP(why.c_str());
  constexpr int32_t kAll = 19, kContext = 2048;
  const testing::TinyModelOptions models[] = {
      {.layers = 5, .width = 192, .heads = 6, .kv_heads = 2, .context = kContext, .type = kernels::WeightType::kBF16, .seed = 7},
      {.layers = 7, .width = 96, .heads = 4, .kv_heads = 1, .head_dim = 256, .context = kContext, .type = kernels::WeightType::kBF16,
       .family = "gemma3", .window = 150},
  };
  for (const testing::TinyModelOptions& options : models) {
    for (const bool coded : {false, true}) {
      CAPTURE(options.family, coded);
      const TinyModel model(options);
      ThreadPool one(1), four(4);
      const auto make = [&](bool recorded, ThreadPool& pool) {
        const PageCount pages(StepperRunner::kPages);
        CudaStepperOptions asked = {.pages = pages, .sequences = kAll, .context_max = kContext, .recorded = recorded};
        if (coded) asked.geometry = SkewedGeometry(model.spec);
        if (coded) asked.workspace_pages = pages;
        auto made = MakeCudaStepper(model.spec, model.weights, pool, std::move(asked));
        INFO(made.status().ToString());
        REQUIRE(made.ok());
        return *std::move(made);
      };
      const std::unique_ptr<Stepper> steppers[] = {make(true, four), make(false, one)};
      StepperRunner runners[] = {StepperRunner(model.spec, *steppers[0]), StepperRunner(model.spec, *steppers[1])};
      std::vector<StepperRunner::Sequence> sequences[2];
      const auto step = [&](size_t which, const std::vector<std::pair<size_t, std::vector<TokenId>>>& entering) {
        std::vector<StepperRunner::Part> parts;
        for (const auto& [s, tokens] : entering) parts.push_back({&sequences[which][s], tokens, true});
        auto output = runners[which].Step(parts);
        INFO(output.status().ToString());
        REQUIRE(output.ok());
        return *std::move(output);
      };
      for (size_t which : {0u, 1u}) {
        for (size_t s = 0; s < kAll; ++s) {
          sequences[which].push_back(runners[which].Start());
          const int32_t tokens = s == 4 ? 700 : 80 + 13 * static_cast<int32_t>(s);
          const std::vector<TokenId> prompt = SomeTokens(tokens, model.spec.vocabulary, static_cast<uint32_t>(s + 1));
          for (size_t at = 0; at < prompt.size(); at += 350) {
            step(which, {{s, {prompt.begin() + static_cast<long>(at),
                              prompt.begin() + static_cast<long>(std::min(prompt.size(), at + 350))}}});
          }
        }
      }
      const auto seal = [&](size_t s, int32_t parity) {
        for (size_t which : {0u, 1u}) {
          std::vector<int32_t> heads;
          for (int32_t i = parity; i < sequences[which][s].pages.heads(); i += 2) heads.push_back(i);
          REQUIRE(runners[which].Seal(sequences[which][s], kernels::Tier::kT4, heads).ok());
        }
      };
      double worst = 0;
      for (int32_t turn = 0; turn < 24; ++turn) {
        // Sealed one after another from turn 4 on, half and then whole; all of them at the end.
        for (size_t s = 0; coded && s < kAll; ++s) {
          if (turn == 4 + static_cast<int32_t>(s) / 3) seal(s, 0);
          if (turn == 6 + static_cast<int32_t>(s) / 2) seal(s, 1);
        }
        const size_t rows = std::vector<size_t>{1, 3, 19, 8, 2, 16, 4, 11}[static_cast<size_t>(turn) % 8];
        std::vector<std::pair<size_t, std::vector<TokenId>>> entering;
        for (size_t i = 0; i < rows; ++i) entering.push_back({(static_cast<size_t>(turn) * 5 + i) % kAll, {TokenId{3 + turn}}});
        const StepOutput replayed = step(0, entering), launched = step(1, entering);
        for (size_t i = 0; i < rows; ++i) {
          CAPTURE(turn, rows, i);
          REQUIRE(replayed.items[i].finite);
          for (const TokenLogprob& want : launched.items[i].sampled->top) {
            for (const TokenLogprob& got : replayed.items[i].sampled->top) {
              if (got.id == want.id) worst = std::max(worst, static_cast<double>(std::abs(got.logprob - want.logprob)));
            }
          }
          REQUIRE(worst < 0.05);
        }
      }
      std::printf("recorded against launched, %s, %s: at most %.6f nats apart\n", options.family.c_str(), coded ? "coded" : "exact", worst);
    }
  }
}

}  // namespace
}  // namespace spherical::engine
