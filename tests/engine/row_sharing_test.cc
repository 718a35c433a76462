// Whose rows go into a step: one tenant alone is planner_test's; here several want more than there is.
#include "engine/batch/row_sharing.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/row_cost.h"
#include "tests/engine/weighted_tenants.h"

namespace spherical::engine {
namespace {

// Sequences that live from step to step, as in an engine.
struct Batch {
  explicit Batch(std::vector<double> weights) : ledger(LedgerWith(weights)), share(ledger) {}

  Sequence& Add(TenantId tenant, int32_t prompt, int32_t output) {
    sequences.push_back(std::make_unique<Sequence>(Sequence{
        .request = {}, .pages = PageTable(1, 1), .loan = {}, .output = {}, .prompt_scores = {}, .paused_since = {}, .admitted = {}}));
    Sequence& sequence = *sequences.back();
    sequence.request.id = sequences.size();
    sequence.request.tenant = tenant;
    sequence.request.prompt.resize(static_cast<size_t>(prompt));
    sequence.output.resize(static_cast<size_t>(output));
    sequence.entered = output > 0 ? prompt + output - 1 : 0;
    return sequence;
  }

  // One step, recorded. Rows by tenant.
  std::map<TenantId, int32_t> Step(absl::Duration target) {
    RowWishes wishes;
    std::set<TenantId> tenants;
    for (const std::unique_ptr<Sequence>& s : sequences) {
      tenants.insert(s->request.tenant);
      if (s->decoding()) {
        wishes.decoding.push_back(s.get());
      } else {
        wishes.prompts.push_back({.sequence = s.get(), .room = s->prompt_left()});
      }
    }
    wishes.one_tenant = tenants.size() <= 1;
    const SharedRows rows = ShareRows(std::move(wishes), cost, {.target = target, .share = &share});
    ++steps;
    std::map<TenantId, int32_t> given;
    work = {};
    const auto record = [&](const Sequence* view, int32_t n) {
      Sequence& s = *sequences.at(view->request.id - 1);
      work += WorkOf(s.entered, n);
      s.last_step = steps;
      s.entered += n;
      given[s.request.tenant] += n;
      share.Charge(s.request.tenant, n);
      rows_of[s.request.id] += n;
    };
    for (const Sequence* s : rows.decoding) record(s, 1);
    for (const Chunk& chunk : rows.chunks) {
      REQUIRE(chunk.rows > 0);
      REQUIRE(chunk.rows <= chunk.sequence->prompt_left());
      record(chunk.sequence, chunk.rows);
    }
    for (const std::unique_ptr<Sequence>& s : sequences) {
      if (!s->decoding() && s->prompt_left() == 0) s->output.resize(1);
      if (s->decoding()) s->output.resize(static_cast<size_t>(s->entered - s->prompt_size() + 1));
    }
    share.EndTurn(rows.unmet);
    unmet = {rows.unmet.begin(), rows.unmet.end()};
    CHECK(unmet.size() == rows.unmet.size());
    return given;
  }

  TenantLedger ledger;
  FairShare share;
  StepCost cost = RowsOnly();
  std::vector<std::unique_ptr<Sequence>> sequences;
  std::map<SequenceId, int32_t> rows_of;
  std::set<TenantId> unmet;
  StepWork work;
  int64_t steps = 0;
};

TEST_CASE("one tenant's decoding rows all go, whatever the target; two tenants' take turns by weight within it") {
  Batch batch({1, 3});
  for (int32_t i = 0; i < 60; ++i) batch.Add(0, 5, 1);
  CHECK(batch.Step(absl::Milliseconds(20))[0] == 60);
  for (int32_t i = 0; i < 60; ++i) batch.Add(1, 5, 1);
  std::map<TenantId, int32_t> given;
  batch.rows_of.clear();
  for (int32_t i = 0; i < 200; ++i) {
    for (const auto& [tenant, rows] : batch.Step(absl::Milliseconds(20))) given[tenant] += rows;
    CHECK(batch.cost.Expect(batch.work) <= absl::Milliseconds(20));
    CHECK(batch.unmet == std::set<TenantId>{0, 1});
  }
  CHECK(given[0] + given[1] > 200 * 15);
  CHECK(given[1] == Approx(3 * given[0]).epsilon(0.03));
  for (const auto& [id, rows] : batch.rows_of) {  // each sequence of a tenant at the same rate
    CHECK(std::abs(rows - given[id > 60 ? 1 : 0] / 60) <= 1);
  }
}

TEST_CASE("who decodes within its share is not held up by another's prompts, whatever the weights") {
  Batch batch({1, 1000});
  batch.Add(0, 5, 1);
  batch.Add(1, 100'000, 0);
  for (int32_t i = 0; i < 50; ++i) CHECK(batch.Step(absl::Milliseconds(50))[0] == 1);
  CHECK(batch.work.rows > 40);
}

TEST_CASE("a prompt that comes goes before those that wait, and the flood does not fill up its last step") {
  Batch batch({1, 1});
  for (int32_t i = 0; i < 10; ++i) batch.Add(0, 5000, 0);
  for (int32_t i = 0; i < 5; ++i) CHECK(batch.Step(absl::Milliseconds(100))[0] > 90);
  batch.Add(1, 60, 0);
  std::map<TenantId, int32_t> given = batch.Step(absl::Milliseconds(100));
  CHECK(given[1] == 60);
  CHECK(given[0] == 0);
  given = batch.Step(absl::Milliseconds(100));
  CHECK(given[1] == 1);
  CHECK(given[0] > 90);
}

TEST_CASE("within a tenant: the oldest its share, then by priority, then the shortest") {
  Batch batch({1, 1});
  batch.Add(0, 1000, 0);                           // the oldest
  batch.Add(0, 30, 0);                             // the shortest
  batch.Add(0, 40, 0).request.priority = 1;        // the most urgent
  batch.Add(1, 5, 1);
  batch.Step(absl::Milliseconds(80));
  CHECK(batch.rows_of[1] == kChunkRowsMin);
  CHECK(batch.rows_of[3] == 40);
  CHECK(batch.rows_of[2] > 10);
  CHECK(batch.rows_of[2] < 30);
}

TEST_CASE("random batches: the target is kept, everyone gets on, and floods get by weight") {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    INFO("seed " << seed);
    std::mt19937_64 random(seed);
    const auto below = [&](uint64_t n) { return static_cast<int32_t>(random() % n); };
    std::vector<double> weights;
    for (int32_t t = 2 + below(4); t > 0; --t) weights.push_back(0.25 * (1 + below(12)));
    Batch batch(weights);
    const absl::Duration target = absl::Milliseconds(30 + below(100));
    for (int32_t t = 0; t < static_cast<int32_t>(weights.size()); ++t) {
      for (int32_t n = 1 + below(40); n > 0; --n) batch.Add(t, 1 + below(300), below(2) == 0 ? 0 : 1 + below(50));
      batch.Add(t, 1'000'000, 0);  // a flood: it never has enough
    }
    std::map<TenantId, double> given;
    double all = 0;
    for (int32_t i = 0; i < 3000; ++i) {
      for (const auto& [tenant, rows] : batch.Step(target)) {
        if (i >= 500) given[tenant] += rows, all += rows;
      }
      // What goes whatever the target says: a decoding row, and a prompt's minimum.
      CHECK(batch.cost.Expect(batch.work) <= std::max(target, batch.cost.Expect({.rows = kChunkRowsMin + 1})) + absl::Milliseconds(1));
    }
    double total = 0;
    for (const double weight : weights) total += weight;
    for (size_t t = 0; t < weights.size(); ++t) {
      CHECK(given[static_cast<TenantId>(t)] / all == Approx(weights[t] / total).epsilon(0.05));
    }
    std::set<TenantId> seen;  // whose oldest prompt was looked at
    for (const std::unique_ptr<Sequence>& s : batch.sequences) {
      const bool oldest = !s->decoding() && seen.insert(s->request.tenant).second;
      if (s->decoding() || oldest) CHECK(batch.rows_of[s->request.id] > 0);
    }
  }
}

TEST_CASE("with no time at all a step still enters a prompt's minimum and one decoding row, in turn") {
  Batch batch({1, 1});
  for (int32_t i = 0; i < 3; ++i) {
    batch.Add(0, 5, 1);
    batch.Add(1, 5, 1);
    batch.Add(i % 2, 10'000, 0);
  }
  for (int32_t i = 0; i < 60; ++i) {
    const std::map<TenantId, int32_t> given = batch.Step(absl::ZeroDuration());
    int32_t rows = 0;
    for (const auto& one : given) rows += one.second;
    CHECK(rows == kChunkRowsMin + 1);
  }
  for (const std::unique_ptr<Sequence>& s : batch.sequences) {
    if (s->decoding()) CHECK(batch.rows_of[s->request.id] >= 9);
  }
}

}  // namespace
}  // namespace spherical::engine
