#include "engine/batch/planner.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "tests/engine/row_cost.h"

namespace spherical::engine {
namespace {

Sequence MakeSequence(SequenceId id, int32_t prompt, int32_t entered, int32_t output) {
  Sequence sequence{
      .request = {}, .pages = PageTable(1, 1), .loan = {}, .output = {}, .prompt_scores = {}, .paused_since = {}, .admitted = {}};
  sequence.request.id = id;
  for (int32_t i = 0; i < prompt; ++i) sequence.request.prompt.push_back(i);
  sequence.entered = entered;
  for (int32_t i = 0; i < output; ++i) sequence.output.push_back(1000 + i);
  return sequence;
}
Sequence Decoding(SequenceId id, int32_t prompt, int32_t output) { return MakeSequence(id, prompt, prompt + output - 1, output); }
Sequence Entering(SequenceId id, int32_t prompt, int32_t entered = 0) { return MakeSequence(id, prompt, entered, 0); }

StepPlan Plan(const std::vector<Sequence>& sequences, const StepCost& cost, const PlanLimits& limits) {
  std::vector<const Sequence*> views;
  for (const Sequence& sequence : sequences) views.push_back(&sequence);
  return PlanStep(views, cost, limits);
}

TEST_CASE("nothing to do makes an empty plan") {
  CHECK(Plan({}, StepCost(), {}).items.empty());
  std::vector<Sequence> paused;
  paused.push_back(Decoding(1, 3, 1));
  paused[0].paused_since = absl::UnixEpoch();
  CHECK(Plan(paused, StepCost(), {}).items.empty());
}

TEST_CASE("decoding sequences come first, one row each, whatever the target") {
  std::vector<Sequence> sequences;
  sequences.push_back(Entering(1, 100));
  sequences.push_back(Decoding(2, 5, 3));
  sequences.push_back(Decoding(3, 9, 1));
  const StepPlan plan = Plan(sequences, RowsOnly(), {.target = absl::ZeroDuration()});
  REQUIRE(plan.items.size() == 3);
  CHECK(plan.items[0].sequence == 2);
  CHECK(plan.items[0].position == 7);
  CHECK(plan.items[0].tokens[0] == 1002);
  CHECK(plan.items[0].output_index == 3);
  CHECK(plan.items[0].sample);
  CHECK(plan.items[1].sequence == 3);
  CHECK(plan.items[2].sequence == 1);
  CHECK(plan.items[2].tokens.size() == kChunkRowsMin);  // prompts always go on
  CHECK_FALSE(plan.items[2].sample);
  CHECK(plan.rows == 2 + kChunkRowsMin);
}

TEST_CASE("a prompt's last chunk samples, and its targets end with the prompt") {
  std::vector<Sequence> sequences;
  sequences.push_back(Entering(1, 40, 30));
  sequences[0].request.prompt_logprobs = 0;
  const StepPlan last = Plan(sequences, StepCost(), {.target = absl::Seconds(100)});
  CHECK(last.items[0].sample);
  CHECK(last.items[0].tokens.size() == 10);
  CHECK(last.items[0].targets.size() == 9);
  CHECK(last.items[0].targets.back() == 39);
  sequences[0].entered = 0;
  const StepPlan first = Plan(sequences, StepCost(), {.target = absl::ZeroDuration()});
  CHECK(first.items[0].tokens.size() == 16);
  CHECK(first.items[0].targets.size() == 16);
  CHECK(first.items[0].targets.front() == 1);
}

TEST_CASE("the shortest prompt takes the room, the oldest keeps its share") {
  std::vector<Sequence> sequences;
  sequences.push_back(Entering(1, 1000));
  sequences.push_back(Entering(2, 500));
  sequences.push_back(Entering(3, 20));
  const StepPlan plan = Plan(sequences, RowsOnly(), {.target = absl::Milliseconds(60)});
  std::map<SequenceId, size_t> rows;
  for (const StepItem& item : plan.items) rows[item.sequence] = item.tokens.size();
  CHECK(rows[1] == kChunkRowsMin);
  CHECK(rows[3] == 20);
  CHECK(rows[2] > 15);
  CHECK(plan.cost <= absl::Milliseconds(60));
  CHECK(plan.cost >= absl::Milliseconds(50));
}

TEST_CASE("random batches keep every promise of the planner") {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    INFO("seed " << seed);
    std::mt19937_64 random(seed);
    std::vector<Sequence> sequences;
    const int32_t count = static_cast<int32_t>(random() % (kStepSequencesMax + 1));
    int32_t decoding = 0;
    const Sequence* oldest = nullptr;
    sequences.reserve(count);
    for (int32_t i = 0; i < count; ++i) {
      const int32_t prompt = 1 + random() % 3000;
      const int32_t kind = random() % 8;
      sequences.push_back(kind == 0 ? Entering(i, prompt, random() % prompt) : Decoding(i, prompt, 1 + random() % 50));
      if (kind == 1) sequences.back().paused_since = absl::UnixEpoch();
      decoding += kind > 1;
      if (kind == 0 && oldest == nullptr) oldest = &sequences.back();
    }
    StepCost cost;
    cost.Observe(WorkOf(100, 100), absl::Milliseconds(1 + random() % 200));
    const PlanLimits limits{.target = absl::Milliseconds(random() % 300)};
    const StepPlan plan = Plan(sequences, cost, limits);

    CHECK(plan.rows <= limits.rows_max);
    CHECK(plan.items.size() <= static_cast<size_t>(kStepSequencesMax));
    CHECK(plan.rows == WorkOf(plan).rows);
    StepWork floor;  // what goes whatever it costs
    size_t decoded = 0, chunk_rows_of_oldest = 0;
    for (size_t i = 0; i < plan.items.size(); ++i) {
      const StepItem& item = plan.items[i];
      const Sequence& sequence = sequences[item.sequence];
      REQUIRE(!sequence.paused_since);
      REQUIRE(!item.tokens.empty());
      REQUIRE(item.position == sequence.entered);
      REQUIRE(item.pages == &sequence.pages);
      REQUIRE(item.output_index == static_cast<int32_t>(sequence.output.size()));
      if (sequence.decoding()) {
        REQUIRE(decoded == i);  // all of them before the first chunk
        ++decoded;
        floor += WorkOf(item.position, 1);
        REQUIRE((item.tokens.size() == 1 && item.tokens[0] == sequence.output.back() && item.sample));
      } else {
        const int32_t end = item.position + static_cast<int32_t>(item.tokens.size());
        REQUIRE(end <= sequence.prompt_size());
        REQUIRE(item.tokens[0] == sequence.request.prompt[item.position]);
        REQUIRE(item.sample == (end == sequence.prompt_size()));
        if (&sequence == oldest) chunk_rows_of_oldest = item.tokens.size();
      }
    }
    CHECK(decoded == static_cast<size_t>(decoding));
    if (oldest != nullptr) {
      const int32_t share = std::min(kChunkRowsMin, oldest->prompt_left());
      CHECK(static_cast<int32_t>(chunk_rows_of_oldest) >= share);
      floor += WorkOf(oldest->entered, share);
    }
    const absl::Duration bound = std::max(limits.target, cost.Expect(floor));
    CHECK(plan.cost <= bound + absl::Microseconds(1));
  }
}

}  // namespace
}  // namespace spherical::engine
