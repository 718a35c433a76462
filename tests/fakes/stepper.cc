#include "tests/fakes/stepper.h"

#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

constexpr int32_t kSlots = kernels::kExactTokensPerPage;

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
    : shape_(shape), clock_(clock), arena_(pages.value() * kSlots, -1) {}

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

std::vector<TokenId> FakeStepper::WriteAndReadBack(const StepItem& item) {
  const int32_t end = item.position + static_cast<int32_t>(item.tokens.size());
  std::vector<TokenId> history;
  for (int32_t i = 0; i < item.pages->heads(); ++i) {
    const std::vector<PageId>& list = item.pages->head(i).exact;
    Expect(static_cast<int64_t>(list.size()) == CeilDiv(end, kSlots), "a list has too many or too few pages");
    const auto slot = [&](int32_t position) -> TokenId& {
      return arena_.at(int64_t{list[position / kSlots]} * kSlots + position % kSlots);
    };
    for (int32_t p = item.position; p < end; ++p) slot(p) = item.tokens[p - item.position];
    std::vector<TokenId> read;
    for (int32_t p = 0; p < end; ++p) read.push_back(slot(p));
    Expect(i == 0 || read == history, "two lists of one sequence disagree");
    history = std::move(read);
  }
  return history;
}

absl::StatusOr<StepOutput> FakeStepper::Run(const StepPlan& plan) {
  if (!next.ok()) return std::exchange(next, absl::OkStatus());
  StepOutput output;
  Seen what{.work = WorkOf(plan), .cost = plan.cost, .order = {}};
  for (const StepItem& item : plan.items) {
    (item.output_index > 0 ? what.decoding : what.chunks) += 1;
    what.order.push_back(item.sequence);
    const std::vector<TokenId> history = WriteAndReadBack(item);
    std::vector<TokenId> expected(item.prompt.begin(), item.prompt.end());
    expected.insert(expected.end(), item.output.begin(), item.output.end());
    expected.resize(history.size());
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
