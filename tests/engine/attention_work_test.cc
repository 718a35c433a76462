#include "engine/step/attention_work.h"

#include <catch2/catch.hpp>
#include <map>
#include <set>
#include <tuple>

#include "kernels/attention/exact_attention.h"

namespace spherical::engine {
namespace {

struct Sequence {
  std::vector<TokenId> prompt, tokens;
  int32_t position;
  PageTable pages = PageTable(1, 3);
};

StepPlan PlanOf(const std::vector<Sequence>& sequences) {
  StepPlan plan;
  for (const Sequence& s : sequences) {
    StepItem item;
    item.tokens = s.tokens;
    item.prompt = s.prompt;
    item.position = s.position;
    item.pages = &s.pages;
    plan.items.push_back(item);
    plan.rows += static_cast<int32_t>(s.tokens.size());
  }
  return plan;
}

std::vector<TokenId> Tokens(int32_t n) { return std::vector<TokenId>(static_cast<size_t>(n)); }

TEST_CASE("every row of every kv head sees each of its keys exactly once") {
  // A long decode, a short one, a whole prompt, the last token of a prompt, a chunk in the middle of one.
  const std::vector<Sequence> sequences = {{Tokens(10), Tokens(1), 5000}, {Tokens(10), Tokens(1), 10}, {Tokens(50), Tokens(50), 0},
                                           {Tokens(2000), Tokens(1), 1999}, {Tokens(3000), Tokens(37), 1500}};
  const StepPlan plan = PlanOf(sequences);
  AttentionWork work;
  for (int repeat = 0; repeat < 2; ++repeat) CutAttention(plan, 0, 3, 64, work);  // the second call reuses the first one's memory

  std::map<std::tuple<int32_t, int32_t>, std::vector<std::pair<int32_t, int32_t>>> keys;  // (row, head) -> key ranges
  std::set<int32_t> states;
  for (const AttentionPart& part : work.parts) {
    for (int32_t r = 0; r < part.rows; ++r) {
      keys[{part.row + r, part.kv_head}].push_back({part.first, part.first + part.tokens});
      CHECK(states.insert(part.state_row + r).second);
    }
    CHECK(part.first % 16 == 0);
    CHECK_FALSE(part.coded);
  }
  CHECK(static_cast<int32_t>(states.size()) == work.state_rows);
  int32_t row = 0;
  for (const Sequence& s : sequences) {
    for (int32_t t = 0; t < static_cast<int32_t>(s.tokens.size()); ++t, ++row) {
      for (int32_t head = 0; head < 3; ++head) {
        auto ranges = keys[{row, head}];
        std::sort(ranges.begin(), ranges.end());
        int32_t end = 0;
        for (const auto& [first, last] : ranges) {
          CHECK(first == end);
          end = last;
        }
        CHECK(end > s.position + t);  // its own key included; the kernel masks what comes after
      }
    }
  }
}

TEST_CASE("cuts depend on the sequence alone: decode rows along keys, prompt rows never") {
  AttentionWork work;
  const std::vector<Sequence> decoding = {{Tokens(10), Tokens(1), 3 * kernels::kRunTokens}};
  CutAttention(PlanOf(decoding), 0, 1, 64, work);
  CHECK(work.parts.size() == 4);
  CHECK(work.joins.size() == 1);
  const std::vector<Sequence> prompt = {{Tokens(9000), Tokens(1), 3 * kernels::kRunTokens}};
  CutAttention(PlanOf(prompt), 0, 1, 64, work);
  CHECK(work.parts.size() == 1);
}

}  // namespace
}  // namespace spherical::engine
