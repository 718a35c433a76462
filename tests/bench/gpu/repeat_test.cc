// Steps of a real model's shape, run again and again: the same bits each time, whatever was in the pages that they fill. What is read
// before it is written, or by whom it should not be, shows here as a number that changes, or that is none.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "engine/model/model_geometry.h"
#include "engine/step/cuda_pass.h"
#include "engine/step/thread_pool.h"
#include "kernels/cuda/dense_rows.h"
#include "kernels/cuda/device_probe.h"
#include "kernels/cuda/device_runtime.h"
#include "tests/bench/gpu/random_model.h"
#include "tests/engine/stepper_runner.h"
#include "tests/skip.h"

namespace spherical::engine {
namespace {

using kernels::cuda::Piece;

constexpr int32_t kSequences = 40, kContext = 2304;
constexpr PageId kPages = PageId{1} << 20;

// Runs each plan so many times. Before each time the pages that it begins are filled with NaN.
class Repeating final : public Stepper {
 public:
  Repeating(const TransformerSpec& spec, CudaPass& pass, kernels::cuda::Stream stream) : spec_(spec), pass_(pass), stream_(stream) {
    const int64_t page_bytes = pass.arenas().exact_page_bytes;
    Require(poison_.Allocate(page_bytes));
    Require(kernels::cuda::FillBytes(stream, poison_.data(), 0xff, page_bytes));
    Require(pieces_.Allocate(kPiecesMax * int64_t{sizeof(Piece)}));
    Require(logits_.Allocate(int64_t{kSequences} * spec.vocabulary * int64_t{sizeof(float)}));
  }

  int32_t times = 1;

  void CheckAll() const {
    std::printf("%d steps\n", steps_);
    CHECK(changed_ == 0);
    CHECK(not_finite_ == 0);
  }

  absl::StatusOr<StepOutput> Run(const StepPlan& plan) override {
    std::vector<int32_t> rows;
    int32_t row = 0;
    for (const StepItem& item : plan.items) rows.push_back((row += static_cast<int32_t>(item.tokens.size())) - 1);
    const size_t values = rows.size() * static_cast<size_t>(spec_.vocabulary);
    std::vector<float> first;
    for (int32_t time = 0; time < times; ++time) {
      Poison(plan);
      pass_.RunLayers(plan);
      pass_.Logits(rows);
      Require(kernels::cuda::CopyToHost(stream_, logits_.data(), pass_.logits(), static_cast<int64_t>(values * sizeof(float))));
      if (absl::Status done = pass_.Await(); !done.ok()) return done;
      ++steps_;
      const float* const logits = logits_.data<float>();
      if (time == 0) first.assign(logits, logits + values);
      for (size_t i = 0; i < rows.size(); ++i) {
        const bool finite = pass_.greatest()[i] >= 0;
        const size_t at = i * static_cast<size_t>(spec_.vocabulary);
        const bool same = std::memcmp(&first[at], logits + at, static_cast<size_t>(spec_.vocabulary) * sizeof(float)) == 0;
        not_finite_ += finite ? 0 : 1;
        changed_ += same ? 0 : 1;
        if (finite && same) continue;
        const StepItem& item = plan.items[i];
        std::printf("time %d of a step of %d rows: item %zu of %zu, %zu tokens at %d: %s\n", time, row, i, rows.size(), item.tokens.size(),
                    item.position, finite ? "other numbers" : "not finite");
      }
    }
    StepOutput output;
    output.items.resize(plan.items.size());
    return output;
  }
  absl::StatusOr<MeasureOutput> Measure(std::span<const MeasureItem>) override { std::abort(); }
  absl::StatusOr<absl::Duration> Retier(std::span<const RetierItem> items) override {
    if (absl::Status done = pass_.Retier(items); !done.ok()) return done;
    return absl::ZeroDuration();
  }

 private:
  static constexpr int32_t kPiecesMax = 16'384;

  void Poison(const StepPlan& plan) {
    int32_t count = 0;
    const KvArenas& arenas = pass_.arenas();
    for (const StepItem& item : plan.items) {
      for (int32_t h = 0; h < item.pages->heads(); ++h) {
        const HeadPages& head = item.pages->head(h);
        for (size_t p = 0; p < head.exact.size() && count < kPiecesMax; ++p) {
          if (head.exact_begin + static_cast<int32_t>(p) * kernels::kExactTokensPerPage < item.position) continue;
          pieces_.data<Piece>()[count++] = {.from = poison_.data(), .to = arenas.exact + head.exact[p] * arenas.exact_page_bytes,
                                            .bytes = arenas.exact_page_bytes};
        }
      }
    }
    Require(kernels::cuda::CopyPieces(stream_, pieces_.data<Piece>(), count));
  }

  const TransformerSpec& spec_;
  CudaPass& pass_;
  const kernels::cuda::Stream stream_;
  kernels::cuda::DeviceMemory poison_;
  kernels::cuda::PinnedMemory pieces_, logits_;
  int32_t steps_ = 0, changed_ = 0, not_finite_ = 0;  // over all runs
};

struct Model {
  const TransformerSpec spec = SmolLM2();
  kernels::cuda::OwnStream stream;
  CudaWeights weights;
  Model() {
    Require(kernels::cuda::UseDevice(0));
    Require(stream.Create());
    weights = RandomWeights(spec, stream.get());
  }
};

// Many of them look for what is rare.
int32_t TimesAsked() {
  const char* const asked = std::getenv("SPHERICAL_REPEAT_TIMES");
  return asked == nullptr ? 10 : std::max(1, std::atoi(asked));
}

TEST_CASE("a step gives the same bits each time, prompts and decoding mixed, whatever was in its pages") {
  if (const std::string why = kernels::ProbeCudaDevices().why_none; !why.empty()) SPH_SKIP(why.c_str());
  const Model model;
  ThreadPool threads(1);
  CudaPass pass(model.spec, model.weights, threads, model.stream.get());
  Require(pass.Create({.pages = kPages, .sequences = kSequences, .context_max = kContext}), "a pass");
  Repeating stepper(model.spec, pass, model.stream.get());
  StepperRunner runner(model.spec, stepper, 1, kPages);
  std::mt19937 random(1);
  const auto up_to = [&](int32_t n) { return 1 + static_cast<int32_t>(random() % static_cast<uint32_t>(n)); };
  const auto tokens = [&](int32_t n) { return SomeTokens(n, model.spec.vocabulary, random()); };
  std::vector<StepperRunner::Sequence> sequences;
  for (int32_t s = 0; s < kSequences; ++s) sequences.push_back(runner.Start());
  // Half of them have had their prompts when the others' come in chunks beside them.
  for (int32_t s = 0; s < kSequences / 2; ++s) REQUIRE(runner.Step({{&sequences[static_cast<size_t>(s)], tokens(up_to(500))}}).ok());
  stepper.times = TimesAsked();
  // One prompt has the rows that decoding leaves.
  for (int32_t s = kSequences / 2; s < kSequences * 3 / 4; ++s) {
    StepperRunner::Sequence& prompt = sequences[static_cast<size_t>(s)];
    while (prompt.entered.size() < 700) {
      std::vector<StepperRunner::Part> parts;
      for (int32_t d = 0; d < s; ++d) {
        if (random() % 4 != 0) parts.push_back({&sequences[static_cast<size_t>(d)], tokens(1)});
      }
      const int32_t left = kStepRowsMax - static_cast<int32_t>(parts.size());
      parts.push_back({&prompt, tokens(random() % 3 == 0 ? up_to(left) : left)});
      REQUIRE(runner.Step(parts).ok());
    }
  }
  // Many prompts at once, in pieces of a few tokens and of many.
  for (int32_t turn = 0; turn < 40; ++turn) {
    std::vector<StepperRunner::Part> parts;
    int32_t rows = 0;
    for (StepperRunner::Sequence& sequence : sequences) {
      const bool decodes = sequence.entered.size() >= 700;
      const int32_t most = decodes ? 1 : static_cast<int32_t>(std::vector<uint32_t>{1, 6, 20, 100, 400}[random() % 5]);
      const int32_t count = std::min(up_to(most), kStepRowsMax - rows);
      if (count == 0 || random() % 4 == 0) continue;
      parts.push_back({&sequence, tokens(count)});
      rows += count;
    }
    REQUIRE(runner.Step(parts).ok());
  }
  for (int32_t turn = 0; turn < 20; ++turn) {
    std::vector<StepperRunner::Part> parts;
    for (int32_t s = up_to(kSequences) - 1; s < kSequences; ++s) parts.push_back({&sequences[static_cast<size_t>(s)], tokens(1)});
    REQUIRE(runner.Step(parts).ok());
  }
  stepper.CheckAll();
}

// The same token enters its page again each time, as the same codes.
TEST_CASE("a step over codes gives the same bits each time, tiers mixed, contexts short and long") {
  if (const std::string why = kernels::ProbeCudaDevices().why_none; !why.empty()) SPH_SKIP(why.c_str());
  const Model model;
  const ModelGeometry geometry = ModelGeometry::Plain({model.spec.layers, model.spec.kv_heads, model.spec.head_dim});
  ThreadPool threads(4);
  CudaPass pass(model.spec, model.weights, threads, model.stream.get());
  Require(pass.Create({.pages = kPages, .sequences = kSequences, .context_max = kContext, .geometry = &geometry,
                       .workspace_pages = kPages}),
          "a pass");
  Repeating stepper(model.spec, pass, model.stream.get());
  StepperRunner runner(model.spec, stepper, 1, kPages);
  std::mt19937 random(2);
  const auto up_to = [&](int32_t n) { return 1 + static_cast<int32_t>(random() % static_cast<uint32_t>(n)); };
  std::vector<int32_t> all_heads;
  for (int32_t h = 0; h < model.spec.layers * model.spec.kv_heads; ++h) all_heads.push_back(h);
  constexpr kernels::Tier kTiers[] = {kernels::Tier::kT4, kernels::Tier::kT3, kernels::Tier::kT2};
  std::vector<StepperRunner::Sequence> sequences;
  for (size_t s = 0; s < kSequences; ++s) {
    sequences.push_back(runner.Start());
    for (int32_t chunk = s % 8 == 0 ? 4 : 1; chunk > 0; --chunk) {
      REQUIRE(runner.Step({{&sequences[s], SomeTokens(80 + up_to(400), model.spec.vocabulary, random())}}).ok());
    }
    REQUIRE(runner.Seal(sequences[s], kTiers[s % 3], all_heads).ok());
  }
  stepper.times = TimesAsked();
  for (int32_t turn = 0; turn < 60; ++turn) {
    std::vector<StepperRunner::Part> parts;
    const size_t first = random() % kSequences;
    const size_t count = turn % 4 == 0 ? 1 : random() % kSequences + 1;
    for (size_t i = 0; i < count; ++i) {
      parts.push_back({&sequences[(first + i) % kSequences], SomeTokens(1, model.spec.vocabulary, random())});
    }
    REQUIRE(runner.Step(parts).ok());
    for (size_t s = 0; s < kSequences; ++s) REQUIRE(runner.DemoteWhereDue(sequences[s], kTiers[s % 3]).ok());
  }
  stepper.CheckAll();
}

}  // namespace
}  // namespace spherical::engine
