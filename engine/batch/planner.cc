#include "engine/batch/planner.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "engine/budget/reservation_size.h"
#include "kernels/base/check.h"

namespace spherical::engine {
namespace {

StepItem ItemOf(const Sequence& sequence) {
  StepItem item;
  item.sequence = sequence.request.id;
  item.position = sequence.entered;
  item.pages = &sequence.pages;
  item.sampling = &sequence.request.sampling;
  item.output_index = static_cast<int32_t>(sequence.output.size());
  item.prompt = sequence.request.prompt;
  item.output = sequence.output;
  item.logprobs = sequence.request.logprobs;
  return item;
}

StepItem DecodeItem(const Sequence& sequence) {
  StepItem item = ItemOf(sequence);
  item.tokens = std::span(sequence.output).last(1);
  if (sequence.sealed() && sequence.entered % kRefreshSteps == 0) item.refresh = sequence.residuals;
  item.sample = true;
  return item;
}

StepItem ChunkItem(const Chunk& chunk) {
  const Sequence& sequence = *chunk.sequence;
  const std::span<const TokenId> prompt = sequence.request.prompt;
  StepItem item = ItemOf(sequence);
  item.tokens = prompt.subspan(sequence.entered, chunk.rows);
  item.sample = chunk.rows == sequence.prompt_left();
  item.prompt_logprobs = sequence.request.prompt_logprobs;
  if (item.prompt_logprobs >= 0) {
    const int32_t after = sequence.entered + 1;
    item.targets = prompt.subspan(after, std::min(chunk.rows, sequence.prompt_size() - after));
  }
  return item;
}

// Positions that are sealed now: all that is exact, but for the newest, which become T8; or the oldest of a full window.
struct SealRange {
  int32_t end, newest;
  bool last;
};
SealRange RangeOf(const Sequence& sequence) {
  if (sequence.decoding()) return {.end = sequence.entered, .newest = sequence.entered - kNewestTokens, .last = true};
  const int32_t begin = sequence.entered - sequence.exact_tokens();  // of global heads: local ones are not sealed early
  const int32_t end = begin + PrefillWorkspace::EarlyTokens(sequence.loan.workspace.window);
  return {.end = end, .newest = end, .last = false};
}

// The next heads of a sequence, as many as are sealed between two of its steps.
void SealNextHeads(const Sequence& sequence, const PlanLimits& limits, std::vector<RetierItem>& retier) {
  const SealRange range = RangeOf(sequence);
  int32_t left = limits.workspace->SealHeadsPerStep(sequence.loan.workspace);
  for (int32_t head = sequence.NextToSeal(sequence.next_to_seal); head < sequence.pages.heads() && left > 0;
       head = sequence.NextToSeal(head + 1), --left) {
    RetierItem item = {.sequence = sequence.request.id, .pages = &sequence.pages.head(head), .head = head, .tier = limits.mode.tier,
                       .end = range.end, .newest = range.newest, .last = range.last};
    if (limits.mode.priced) {
      const RateCurve& curve = sequence.curves[static_cast<size_t>(head)];
      item.priced = true;
      item.keeps_all = sequence.keeps_all;
      item.noted = range.last ? sequence.measured_to + kNewestTokens : range.end;
      item.price = sequence.prices[static_cast<size_t>(head)];
      const int32_t measured = std::max({sequence.measured_to, item.pages->sinks(), item.pages->exact_begin});
      item.rungs = sequence.CountsAt(curve, item.price, std::max(0, range.newest - measured));
    }
    retier.push_back(std::move(item));
  }
}

// The next heads whose tokens are looked at before any is sealed.
void MeasureNextHeads(const Sequence& sequence, const PlanLimits& limits, std::vector<MeasureItem>& measure) {
  const SealRange range = RangeOf(sequence);
  const int32_t first = static_cast<int32_t>(sequence.curves.size());
  // All heads the same tokens, though some decode meanwhile.
  const int32_t newest = first == 0 ? range.newest : sequence.measured_to;
  const int32_t tokens = range.last ? newest + kNewestTokens : range.end;
  int32_t left = limits.workspace->MeasureHeadsPerStep(sequence.loan.workspace);
  const int32_t kv_heads = sequence.pages.kv_heads();
  for (int32_t head = sequence.NextToSeal(first); head < sequence.pages.heads() && left > 0; head = sequence.NextToSeal(head + 1), --left) {
    const HeadPages& pages = sequence.pages.head(head);
    const QuerySampling::Slots asked = sequence.pages.sampling().SlotsFrom(pages.local() ? pages.exact_begin : 0, sequence.entered);
    measure.push_back({.kind = MeasureItem::Kind::kExact, .sequence = sequence.request.id, .pages = &pages, .head = head, .end = tokens,
                       .newest = newest, .samples = asked.count, .first_sample = asked.first, .sample_position = asked.position,
                       .sample_stride = pages.local() ? sequence.pages.sampling().stride : 0,
                       .residual = sequence.residual(head / kv_heads)});
  }
}

// Heads with enough T8 tokens that newer ones have made old.
void DemoteOld(const Sequence& sequence, const PlanLimits& limits, StepPlan& plan) {
  if (!limits.mode.priced && limits.mode.tier == kernels::Tier::kT8) return;
  for (int32_t head = 0; head < sequence.pages.heads(); ++head) {
    const HeadPages& pages = sequence.pages.head(head);
    if (!pages.sealed || pages.of(kernels::Tier::kT8).tokens - pages.settled < kWholeTokensMax) continue;
    if (limits.mode.priced) {
      plan.measure.push_back({.kind = MeasureItem::Kind::kWhole, .sequence = sequence.request.id, .pages = &pages, .head = head,
                              .price = sequence.price, .settles = kDemoteTokens});
    } else {
      plan.retier.push_back({.kind = RetierItem::Kind::kDemote, .sequence = sequence.request.id, .pages = &pages, .head = head,
                             .tier = limits.mode.tier, .count = kDemoteTokens});
    }
  }
}

absl::Duration ExpectPrecision(const StepPlan& plan, const StepCost& cost) {
  return cost.ExpectRetier(TokensOf(plan.retier)) + cost.ExpectMeasure(TokensOf(plan.measure));
}

bool WindowIsFull(const Sequence& sequence) {
  return sequence.loan.workspace.granted() && sequence.exact_tokens() >= sequence.loan.workspace.window;
}

// One turn at the step for each sequence that seals: before its decoding row, or instead of its chunk.
// `decoding`: the work of rows that are not in the plan yet.
void PlanSealing(std::span<const Sequence* const> sealing, const StepWork& decoding, const StepCost& cost, const PlanLimits& limits,
                 StepPlan& plan) {
  for (const Sequence* sequence : sealing) {
    const size_t before = plan.retier.size(), measured = plan.measure.size();
    if (limits.mode.priced && sequence->prices.empty()) {
      MeasureNextHeads(*sequence, limits, plan.measure);
    } else {
      SealNextHeads(*sequence, limits, plan.retier);
    }
    const bool first = sequence == sealing.front();
    StepWork work = WorkOf(plan);
    work += decoding;
    if (!first && ExpectPrecision(plan, cost) + cost.Expect(work) > limits.target) {
      plan.retier.resize(before);
      plan.measure.resize(measured);
      plan.unmet.push_back(sequence->request.tenant);
      continue;
    }
    if (sequence->decoding()) plan.items.push_back(DecodeItem(*sequence));
  }
}

bool OneTenant(std::span<const Sequence* const> running) {
  return std::all_of(running.begin(), running.end(), [&](const Sequence* s) { return s->request.tenant == running[0]->request.tenant; });
}

void PutInTurn(const FairShare* share, std::vector<const Sequence*>& sequences) {
  if (share == nullptr) return;
  std::stable_sort(sequences.begin(), sequences.end(),
                   [&](const Sequence* a, const Sequence* b) { return share->Before(a->request.tenant, b->request.tenant); });
}

}  // namespace

StepPlan PlanStep(std::span<const Sequence* const> running, const StepCost& cost, const PlanLimits& limits) {
  SPH_CHECK(running.size() <= kStepSequencesMax);
  StepPlan plan;
  RowWishes wishes;
  wishes.one_tenant = OneTenant(running);
  StepWork decoding;
  std::vector<const Sequence*> sealing;
  for (const Sequence* sequence : running) {
    if (sequence->paused_since) continue;
    const bool coded = limits.mode.coded;
    if (sequence->decoding() && (!coded || sequence->sealed())) {
      if (coded) DemoteOld(*sequence, limits, plan);
      decoding += WorkOf(sequence->entered, 1);
      wishes.decoding.push_back(sequence);
    } else if (sequence->decoding() || (coded && WindowIsFull(*sequence))) {
      if (sequence->loan.room.secured()) sealing.push_back(sequence);  // others hold its pages still: it waits
    } else if (!coded) {
      wishes.prompts.push_back({.sequence = sequence, .room = sequence->prompt_left()});
    } else if (sequence->loan.workspace.granted()) {
      const int32_t room = sequence->loan.workspace.window - sequence->exact_tokens();
      wishes.prompts.push_back({.sequence = sequence, .room = std::min(room, sequence->prompt_left())});
    } else {
      plan.unmet.push_back(sequence->request.tenant);
    }
  }
  PutInTurn(limits.share, sealing);
  PlanSealing(sealing, decoding, cost, limits, plan);
  const absl::Duration retier = ExpectPrecision(plan, cost);
  wishes.work = WorkOf(plan);
  const SharedRows rows =
      ShareRows(std::move(wishes), cost, {.rows_max = limits.rows_max, .target = limits.target - retier, .share = limits.share});
  for (const Sequence* sequence : rows.decoding) plan.items.push_back(DecodeItem(*sequence));
  for (const Chunk& chunk : rows.chunks) plan.items.push_back(ChunkItem(chunk));
  plan.unmet.insert(plan.unmet.end(), rows.unmet.begin(), rows.unmet.end());
  const StepWork work = WorkOf(plan);
  plan.rows = static_cast<int32_t>(work.rows);
  plan.cost = cost.Expect(work) + retier;
  return plan;
}

}  // namespace spherical::engine
