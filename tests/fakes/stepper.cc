#include "tests/fakes/stepper.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

using kernels::Tier;

constexpr int32_t kSlots = kernels::kExactTokensPerPage;
constexpr int32_t kCodedSlots = 256;  // at least the tokens of a page of any tier

uint64_t HashOf(std::span<const TokenId> history, uint64_t seed) {
  uint64_t hash = 0xcbf29ce484222325u ^ seed;
  for (const TokenId id : history) hash = (hash ^ static_cast<uint64_t>(id)) * 0x100000001b3u;
  return hash ^ (hash >> 29);
}

SampledToken Sampled(TokenId id, float logprob, int32_t top) {
  SampledToken token{.id = id, .logprob = top < 0 ? 0 : logprob, .top = {}};
  for (int32_t i = 0; i < top; ++i) token.top.push_back({.id = id + i, .logprob = logprob - static_cast<float>(i)});
  return token;
}

void Expect(bool right, const char* what) {
  if (!right) throw std::logic_error(std::string("FakeStepper: ") + what);
}

}  // namespace

FakeStepper::FakeStepper(const KvShape& shape, PageCount pages, FakeClock* clock)
    : shape_(shape), clock_(clock), exact_(pages.value() * kSlots, -1), coded_(shape.mode.coded ? pages.value() * kCodedSlots : 0, -1) {}

TokenId FakeStepper::TokenAfter(std::span<const TokenId> history, const SamplingParams& sampling) {
  return 'a' + static_cast<TokenId>(HashOf(history, sampling.seed) % 26);
}

std::vector<TokenId> FakeStepper::TokensFor(const Submission& request) {
  std::vector<TokenId> history = request.prompt;
  for (int32_t i = 0; i < request.max_new_tokens; ++i) history.push_back(TokenAfter(history, request.sampling));
  return {history.begin() + static_cast<int64_t>(request.prompt.size()), history.end()};
}

float FakeStepper::ScoreOf(std::span<const TokenId> history, TokenId target) {
  return -static_cast<float>(HashOf(history, target) % 1000) / 100;
}

TokenId& FakeStepper::ExactSlot(const HeadPages& pages, int32_t position) {
  const int32_t slot = position - pages.exact_begin;
  const size_t at = static_cast<size_t>(pages.exact.at(static_cast<size_t>(slot / kSlots))) * kSlots + static_cast<size_t>(slot % kSlots);
  if (shape_.mode.coded && at >= exact_.size()) exact_.resize(at + 1, -1);  // the workspace's size is its own
  return exact_.at(at);
}

TokenId& FakeStepper::CodedSlot(const HeadPages& pages, Tier tier, int32_t slot) { return SlotIn(pages.of(tier).pages, tier, slot); }

TokenId& FakeStepper::SlotIn(std::span<const PageId> list, Tier tier, int32_t slot) {
  const int32_t page_tokens = kernels::TokensPerPage(tier, shape_.head_dim);
  Expect(slot >= 0 && slot / page_tokens < static_cast<int32_t>(list.size()), "a slot beyond its list");
  const PageId page = list[static_cast<size_t>(slot / page_tokens)];
  return coded_.at(static_cast<size_t>(page) * kCodedSlots + static_cast<size_t>(slot % page_tokens));
}

TokenId FakeStepper::Written(SequenceId sequence, int32_t position, TokenId token) const {
  return shape_.mode.priced ? static_cast<TokenId>(((sequence - first_sequence) % 2039) << 20) | position : token;
}

kernels::LadderSteps FakeStepper::StepsOf(TokenId mark) {
  const uint64_t hash = HashOf(std::span(&mark, 1), 7);
  const int32_t last = 1 + static_cast<int32_t>(hash % (kernels::kPriceSteps - 1));
  kernels::LadderSteps steps;
  for (int32_t r = 0; r < kernels::kLadderTiers; ++r) {
    steps.leaves[r] = static_cast<uint16_t>(std::max(1, last * (r + 1) / kernels::kLadderTiers));
  }
  return steps;
}

kernels::LadderSteps FakeStepper::CommonSteps(TokenId mark) {
  kernels::LadderSteps steps = StepsOf(mark);
  steps.leaves[kernels::kLadderTiers - 1] = kernels::kPriceSteps;
  return steps;
}

void FakeStepper::CheckMarks(const StepItem& item, const HeadPages& pages, std::span<const TokenId> read) const {
  const int32_t end = item.position + static_cast<int32_t>(item.tokens.size());
  if (pages.local()) {
    for (size_t i = 0; i < read.size(); ++i) {
      Expect(read[i] == Written(item.sequence, end - static_cast<int32_t>(read.size() - i), 0), "a local head's tokens are out of order");
    }
    return;
  }
  std::vector<bool> there(static_cast<size_t>(end));
  for (const TokenId mark : read) {
    const int32_t position = mark & ((1 << 20) - 1);
    Expect(mark == Written(item.sequence, position, 0) && position < end, "the pages hold another sequence's tokens");
    Expect(!there[static_cast<size_t>(position)], "a token is there twice");
    there[static_cast<size_t>(position)] = true;
  }
  Expect(static_cast<int32_t>(read.size()) + pages.dropped == end, "tokens are missing that nobody dropped");
  for (int32_t p = 0; p < end; ++p) {
    if (p < kSinkTokens || p >= end - kNewestTokens) Expect(there[static_cast<size_t>(p)], "a sink or one of the newest was dropped");
  }
}

// The order of a sequence's tokens in the coded modes: sinks, the mode's tier, the rest of T8, exact ones.
void FakeStepper::WriteAndReadHead(const StepItem& item, const HeadPages& pages, std::vector<TokenId>& read) {
  const int32_t rows = static_cast<int32_t>(item.tokens.size()), end = item.position + rows;
  const int32_t whole = pages.of(Tier::kT8).tokens + (pages.sealed ? rows : 0), sinks = pages.sinks();
  for (int32_t i = 0; i < rows; ++i) {
    (pages.sealed ? CodedSlot(pages, Tier::kT8, pages.of(Tier::kT8).tokens + i) : ExactSlot(pages, item.position + i)) =
        Written(item.sequence, item.position + i, item.tokens[static_cast<size_t>(i)]);
  }
  for (int32_t i = 0; i < std::min(whole, sinks); ++i) read.push_back(CodedSlot(pages, Tier::kT8, i));
  for (int32_t t = 1; t < kernels::kTierCount; ++t) {
    const Tier tier = static_cast<Tier>(t);
    for (int32_t i = 0; i < pages.of(tier).tokens; ++i) read.push_back(CodedSlot(pages, tier, i));
  }
  for (int32_t i = sinks; i < whole; ++i) read.push_back(CodedSlot(pages, Tier::kT8, i));
  for (int32_t p = pages.exact_begin; !pages.sealed && p < end; ++p) read.push_back(ExactSlot(pages, p));
  const int32_t held = static_cast<int32_t>(read.size());
  if (pages.local()) {
    Expect(pages.dropped == 0 && end - held <= pages.oldest_seen(item.position), "a local head lacks tokens of its window");
    const int32_t most = pages.window + rows + kWindowSlack + kernels::TokensPerPage(pages.older, shape_.head_dim);
    Expect(held <= most, "what has left its window is still there");
  } else {
    Expect(held + pages.dropped == end, "a head's tiers do not add up to its tokens");
  }
  if (!pages.sealed) {
    const int64_t wanted = CeilDiv(end - pages.exact_begin, kSlots);
    Expect(static_cast<int64_t>(pages.exact.size()) == wanted, "a head has too many or too few f16 pages");
  }
  for (int32_t t = 0; t < kernels::kTierCount; ++t) {
    const int32_t tokens = t == 0 ? whole : pages.tiers[static_cast<size_t>(t)].tokens;
    const int64_t wanted = CeilDiv(tokens, kernels::TokensPerPage(static_cast<Tier>(t), shape_.head_dim));
    Expect(static_cast<int64_t>(pages.tiers[static_cast<size_t>(t)].pages.size()) == wanted, "a tier has too many or too few pages");
  }
}

std::vector<TokenId> FakeStepper::WriteAndReadBack(const StepItem& item) {
  std::vector<TokenId> history(item.prompt.begin(), item.prompt.end());
  history.insert(history.end(), item.output.begin(), item.output.end());
  history.resize(static_cast<size_t>(item.position) + item.tokens.size());
  for (int32_t i = 0; i < item.pages->heads(); ++i) {
    std::vector<TokenId> read;
    WriteAndReadHead(item, item.pages->head(i), read);
    if (shape_.mode.priced) {
      CheckMarks(item, item.pages->head(i), read);
      continue;
    }
    Expect(read.size() <= history.size() && std::equal(read.rbegin(), read.rend(), history.rbegin()), "a head holds other tokens");
  }
  return history;
}

absl::StatusOr<MeasureOutput> FakeStepper::Measure(std::span<const MeasureItem> items) {
  if (!next.ok()) return std::exchange(next, absl::OkStatus());
  MeasureOutput output;
  for (const MeasureItem& item : items) {
    RateCurve curve;
    const HeadPages& pages = *item.pages;
    if (item.kind == MeasureItem::Kind::kExact) {
      Expect(static_cast<int32_t>(pages.notes.size()) > 0 && item.samples <= kSampledPositions, "nowhere to write notes");
      if (pages.local()) {
        const int32_t old = std::clamp(item.newest - pages.exact_begin, 0, item.end - pages.exact_begin);
        curve.AddTogether(old, CommonSteps(ExactSlot(pages, pages.exact_begin)), 0);
        curve.newest.assign(static_cast<size_t>(item.end - pages.exact_begin - old), CommonSteps(ExactSlot(pages, pages.exact_begin)));
      }
      for (int32_t p = pages.exact_begin; p < item.end && !pages.local(); ++p) {
        const kernels::LadderSteps steps = StepsOf(ExactSlot(pages, p));
        if (p >= kSinkTokens && p < item.newest) curve.Add(steps);
        if (p >= kSinkTokens && p >= item.newest) curve.newest.push_back(steps);
      }
    } else {
      for (int32_t t = 0; t < (item.kind == MeasureItem::Kind::kWhole ? 1 : kernels::kLadderTiers); ++t) {
        const Tier tier = static_cast<Tier>(t);
        const int32_t begin = t == 0 ? pages.sinks() : 0, tokens = t == 0 ? pages.settled : pages.of(tier).tokens;
        if (pages.local() && tokens > 0) {
          curve.AddTogether(tokens, CommonSteps(CodedSlot(pages, Tier::kT8, 0)), static_cast<int32_t>(pages.older));
          continue;
        }
        for (int32_t i = begin; i < begin + tokens; ++i) {
          kernels::LadderSteps steps = StepsOf(CodedSlot(pages, tier, i));
          for (int32_t r = 0; r < t; ++r) steps.leaves[r] = 0;
          curve.Add(steps);
        }
      }
    }
    curve.Finish();
    output.curves.push_back(std::move(curve));
  }
  return output;
}

// By taking everything out and putting it back: the order of lists but T8's is free.
void FakeStepper::Reprice(const RetierItem& item) {
  const HeadPages& pages = *item.pages;
  std::array<std::vector<TokenId>, kernels::kTierCount> lists;
  const int32_t whole = pages.of(Tier::kT8).tokens;
  for (int32_t t = kernels::kTierCount - 1; t >= 0; --t) {  // local heads: oldest first
    const Tier tier = static_cast<Tier>(t);
    for (int32_t i = 0; i < pages.of(tier).tokens; ++i) {
      const TokenId mark = CodedSlot(pages, tier, i);
      const int32_t sinks = pages.sinks();
      const bool moves = t == 0 ? i >= sinks && i < sinks + pages.settled : !item.whole_only && t < kernels::kLadderTiers;
      const int32_t wanted = pages.local() ? CommonRung(item.rungs) : RungOf(item, StepsOf(mark));
      const int32_t rung = moves ? std::max(t, wanted) : t;
      if (rung < kernels::kLadderTiers || !moves) lists[static_cast<size_t>(rung)].push_back(mark);
    }
  }
  for (size_t t = 0; t < lists.size(); ++t) {
    Expect(static_cast<int32_t>(lists[t].size()) == CountsAfter(item)[t], "a head was repriced otherwise than it was measured");
    for (size_t i = 0; i < lists[t].size(); ++i) {
      SlotIn(item.lists[t], static_cast<Tier>(t), static_cast<int32_t>(i)) = lists[t][i];
    }
  }
  Expect(whole >= pages.sinks(), "a sealed head without sinks was repriced");
}

absl::StatusOr<absl::Duration> FakeStepper::Retier(std::span<const RetierItem> items) {
  if (!next.ok()) return std::exchange(next, absl::OkStatus());
  int64_t tokens = 0;
  for (const RetierItem& item : items) {
    const HeadPages& pages = *item.pages;
    TierCounts filled;
    for (size_t tier = 0; tier < filled.size(); ++tier) filled[tier] = pages.tiers[tier].tokens;
    const auto append = [&](Tier tier, TokenId token) { CodedSlot(pages, tier, filled[static_cast<size_t>(tier)]++) = token; };
    if (item.kind == RetierItem::Kind::kSeal) {
      Expect(item.last || item.end % kSlots == 0, "an early seal ends inside a page");
      for (int32_t p = pages.exact_begin; p < item.end; ++p) {
        if (item.priced && p >= pages.sinks() && p < item.newest) {
          const int32_t rung = pages.local() ? CommonRung(item.rungs) : RungOf(item, StepsOf(ExactSlot(pages, p)));
          if (rung < kernels::kLadderTiers) append(static_cast<Tier>(rung), ExactSlot(pages, p));
          continue;
        }
        append(p < pages.sinks() || p >= item.newest ? Tier::kT8 : item.tier, ExactSlot(pages, p));
      }
    } else if (item.kind == RetierItem::Kind::kReprice) {
      Reprice(item);
      filled = CountsAfter(item);
    } else {
      for (int32_t i = 0; i < item.count; ++i) append(item.tier, CodedSlot(pages, Tier::kT8, pages.sinks() + i));
      for (int32_t i = pages.sinks() + item.count; i < pages.of(Tier::kT8).tokens; ++i) {
        CodedSlot(pages, Tier::kT8, i - item.count) = CodedSlot(pages, Tier::kT8, i);
      }
      filled[0] -= item.count;
    }
    Expect(filled == CountsAfter(item), "CountsAfter is wrong");
    tokens += TokensOf(item);
  }
  retiered.push_back(tokens);
  const absl::Duration elapsed = per_retier * tokens;
  if (clock_ != nullptr) clock_->Advance(elapsed);
  return elapsed;
}

absl::StatusOr<StepOutput> FakeStepper::Run(const StepPlan& plan) {
  if (!next.ok()) return std::exchange(next, absl::OkStatus());
  StepOutput output;
  Seen what{.work = WorkOf(plan), .cost = plan.cost, .order = {}};
  for (const StepItem& item : plan.items) {
    (item.output_index > 0 ? what.decoding : what.chunks) += 1;
    what.order.push_back(item.sequence);
    std::vector<TokenId> history = WriteAndReadBack(item);
    std::vector<TokenId> expected(item.prompt.begin(), item.prompt.end());
    expected.insert(expected.end(), item.output.begin(), item.output.end());
    expected.resize(static_cast<size_t>(item.position) + item.tokens.size());
    if (shape_.mode.priced) history = expected;  // its marks were looked at
    Expect(history == expected, "the pages hold another sequence's tokens");

    StepItemOutput out;
    out.finite = !poisoned.contains(item.sequence);
    for (size_t i = 0; i < item.targets.size() && item.prompt_logprobs >= 0; ++i) {
      const float score = ScoreOf(std::span(history).first(item.position + i + 1), item.targets[i]);
      out.prompt_scores.push_back(Sampled(item.targets[i], score, item.prompt_logprobs));
    }
    if (item.sample && out.finite) {
      TokenId token = TokenAfter(history, *item.sampling);
      if (const auto it = script.find(item.sequence); it != script.end() && item.output_index < static_cast<int32_t>(it->second.size())) {
        token = it->second[item.output_index];
      }
      out.sampled = Sampled(token, ScoreOf(history, token), item.logprobs);
    }
    output.items.push_back(std::move(out));
  }
  Expect(what.work.rows == plan.rows && plan.rows <= kStepRowsMax, "the plan counts its rows wrong");
  output.elapsed = fixed + per_row * what.work.rows + per_pair * what.work.pairs;
  if (clock_ != nullptr) clock_->Advance(output.elapsed);
  seen.push_back(std::move(what));
  return output;
}

absl::StatusOr<StepOutput> NullStepper::Run(const StepPlan& plan) {
  StepOutput output;
  output.items.resize(plan.items.size());
  for (size_t i = 0; i < plan.items.size(); ++i) {
    if (plan.items[i].sample) output.items[i].sampled = Sampled('x', 0, -1);
  }
  return output;
}

absl::StatusOr<StepOutput> HeldStepper::Run(const StepPlan& plan) {
  {
    MutexLock lock(mutex_);
    held_ = true;
    changed_.NotifyAll();
    while (!released_ && !open_) changed_.Wait(mutex_, absl::InfiniteDuration());
    held_ = released_ = false;
    if (!status_.ok()) return status_;
  }
  return inner_.Run(plan);
}

void HeldStepper::WaitUntilHeld() {
  MutexLock lock(mutex_);
  while (!held_) changed_.Wait(mutex_, absl::InfiniteDuration());
}

void HeldStepper::Release() {
  MutexLock lock(mutex_);
  released_ = true;
  held_ = false;
  changed_.NotifyAll();
}

void HeldStepper::Fail(absl::Status status) {
  MutexLock lock(mutex_);
  status_ = std::move(status);
  released_ = true;
  held_ = false;
  changed_.NotifyAll();
}

void HeldStepper::ReleaseAll() {
  MutexLock lock(mutex_);
  open_ = true;
  changed_.NotifyAll();
}

}  // namespace spherical::engine
