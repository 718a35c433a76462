#include "engine/calibrate/calibration.h"

#include <algorithm>
#include <memory>
#include <string_view>
#include <utility>

#include "engine/calibrate/openings.h"
#include "engine/calibrate/sample_runner.h"

namespace spherical::engine {
namespace {

constexpr int32_t kSlotsMax = 64;                    // samples at a time: enough rows for the products to be bound by multipliers
constexpr int64_t kSlotsBytesMax = int64_t{1} << 29; // a large model's samples take turns

bool Stopped(const CalibrationRun& run) { return run.stop != nullptr && run.stop->load(); }
absl::Status StoppedError() { return absl::CancelledError("calibration was stopped"); }

// The beginnings of samples as tokens, with what the model's file puts in front of every text. A vocabulary may have nothing for some.
absl::StatusOr<std::vector<std::vector<TokenId>>> Beginnings(const Tokenizer& tokenizer) {
  std::vector<std::vector<TokenId>> beginnings;
  for (const std::string_view opening : Openings()) {
    auto tokens = tokenizer.Encode(opening, {});
    if (!tokens.ok()) return tokens.status();
    if (!tokens->empty()) beginnings.push_back(*std::move(tokens));
  }
  if (beginnings.empty()) return absl::InvalidArgumentError("the vocabulary has no token for any text");
  return beginnings;
}

// One sample on its way: tokens it is told first, then those it draws.
struct Sample {
  int64_t number = 0;
  std::span<const TokenId> beginning;
  TokenId next = 0;  // enters at the next step
};

// All samples, a token of each per step.
class SelfSampler {
 public:
  SelfSampler(const CalibratedModel& model, const SelfSampling& sampling, SampleRunner& runner,
              std::vector<std::vector<TokenId>> beginnings, int32_t slots)
      : model_(model),
        sampling_(sampling),
        runner_(runner),
        beginnings_(std::move(beginnings)),
        samples_(static_cast<size_t>(slots)) {
    for (int32_t slot = 0; slot < slots; ++slot) Begin(slot);
  }

  // False: a logit was not finite.
  bool Step() {
    std::vector<SampleRunner::Entry> entries;
    for (size_t slot = 0; slot < samples_.size(); ++slot) {
      entries.push_back({.slot = static_cast<int32_t>(slot), .tokens = {&samples_[slot].next, 1}});
    }
    runner_.Enter(entries);
    std::vector<SampleRunner::Wish> wishes;
    for (size_t slot = 0; slot < samples_.size(); ++slot) {
      const Sample& sample = samples_[slot];
      const int32_t position = runner_.position(static_cast<int32_t>(slot));
      if (position == sampling_.sample_max) {
        Begin(static_cast<int32_t>(slot));
      } else if (position < static_cast<int32_t>(sample.beginning.size())) {
        samples_[slot].next = sample.beginning[static_cast<size_t>(position)];
      } else {
        wishes.push_back({.row = static_cast<int32_t>(slot), .seed = SeedOf(sample.number), .index = position});
      }
    }
    std::vector<TokenId> drawn(wishes.size());
    if (!runner_.Draw(wishes, sampling_.temperature, drawn)) return false;
    for (size_t i = 0; i < wishes.size(); ++i) {
      if (model_.tokenizer.IsEndOfGeneration(drawn[i])) {
        Begin(wishes[i].row);
      } else {
        samples_[static_cast<size_t>(wishes[i].row)].next = drawn[i];
      }
    }
    return true;
  }

 private:
  // Draws of one sample have nothing to do with those of another.
  uint64_t SeedOf(int64_t number) const { return sampling_.seed + static_cast<uint64_t>(number + 1) * 0x9e3779b97f4a7c15u; }

  void Begin(int32_t slot) {
    Sample& sample = samples_[static_cast<size_t>(slot)];
    sample.number = begun_++;
    sample.beginning = beginnings_[static_cast<size_t>(sample.number) % beginnings_.size()];
    sample.next = sample.beginning[0];
    runner_.Begin(slot);
  }

  const CalibratedModel& model_;
  const SelfSampling sampling_;
  SampleRunner& runner_;
  const std::vector<std::vector<TokenId>> beginnings_;
  std::vector<Sample> samples_;  // [slots]
  int64_t begun_ = 0;
};

}  // namespace

absl::StatusOr<KeyStatistics> SampleItself(const CalibratedModel& model, const SelfSampling& wanted, const CalibrationRun& run) {
  SelfSampling sampling = wanted;
  sampling.sample_max = std::min(sampling.sample_max, model.spec.context_max);
  auto beginnings = Beginnings(model.tokenizer);
  if (!beginnings.ok()) return beginnings.status();
  const int64_t affordable = kSlotsBytesMax / SampleRunner::SlotBytes(model.spec, sampling.sample_max).value();
  const int32_t slots = static_cast<int32_t>(std::clamp<int64_t>(affordable, 1, kSlotsMax));
  auto runner = SampleRunner::Make(model.spec, model.weights, model.pool, {.slots = slots, .tokens_max = sampling.sample_max});
  if (!runner.ok()) return runner.status();
  SelfSampler sampler(model, sampling, **runner, *std::move(beginnings), slots);
  for (int64_t done = 0; done < sampling.tokens; done += slots) {
    if (Stopped(run)) return StoppedError();
    if (!sampler.Step()) return absl::InternalError("the model's logits are not finite: there is nothing to calibrate on");
    run.progress(std::min(done + slots, sampling.tokens), sampling.tokens);
  }
  return (*runner)->statistics();
}

absl::StatusOr<KeyStatistics> ReadTexts(const CalibratedModel& model, std::span<const std::vector<TokenId>> texts,
                                        const CalibrationRun& run) {
  int64_t total = 0, done = 0;
  size_t longest = 1;
  for (const std::vector<TokenId>& text : texts) {
    total += static_cast<int64_t>(text.size());
    longest = std::max(longest, text.size());
  }
  auto runner = SampleRunner::Make(model.spec, model.weights, model.pool, {.slots = 1, .tokens_max = static_cast<int32_t>(longest)});
  if (!runner.ok()) return runner.status();
  for (const std::span<const TokenId> text : texts) {
    (*runner)->Begin(0);
    for (size_t first = 0; first < text.size(); first += kStepRowsMax) {
      if (Stopped(run)) return StoppedError();
      const SampleRunner::Entry chunk{.slot = 0, .tokens = text.subspan(first, std::min<size_t>(kStepRowsMax, text.size() - first))};
      (*runner)->Enter({&chunk, 1});
      run.progress(done += static_cast<int64_t>(chunk.tokens.size()), total);
    }
  }
  return (*runner)->statistics();
}

ModelPositions PositionsOf(const TransformerSpec& spec, int32_t context) {
  const auto turning = [&](std::span<const double> frequency) {
    return ServedPositions({.head_dim = spec.head_dim,
                            .rotary_dim = spec.rotary_dim,
                            .pairing = spec.rotary_pairing,
                            .frequency = frequency},
                           context);
  };
  if (spec.local_rotary_frequency.empty()) return turning(spec.rotary_frequency);
  std::vector<bool> is_local;
  for (int32_t layer = 0; layer < spec.layers; ++layer) is_local.push_back(spec.window(layer) > 0);
  return {turning(spec.rotary_frequency), turning(spec.local_rotary_frequency), std::move(is_local)};
}

}  // namespace spherical::engine
