#include "engine/model/byte_pairs.h"

#include <catch2/catch.hpp>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/random.h"

namespace spherical::engine {
namespace {

using testing::Random;

// A random vocabulary over the letters a, b, c, d: the same rules for BytePairs and for the slow twin.
struct Rules {
  std::array<TokenId, 256> bytes;
  std::vector<std::pair<std::pair<TokenId, TokenId>, TokenId>> merges;  // in order of rank
};

Rules RandomRules(Random& random) {
  Rules rules;
  rules.bytes.fill(BytePairs::kNoToken);
  for (int32_t i = 0; i < 4; ++i) rules.bytes['a' + i] = i;
  TokenId next = 4;
  for (uint64_t n = 2 + random.Below(40); n > 0; --n) {
    const auto any = [&] { return static_cast<TokenId>(random.Below(static_cast<uint64_t>(next))); };
    rules.merges.push_back({{any(), any()}, random.Below(8) == 0 ? any() : next++});
  }
  return rules;
}

// The definition: again and again, the adjacent pair of lowest rank, the leftmost of them.
std::vector<TokenId> SlowEncode(const Rules& rules, std::string_view word) {
  std::map<std::pair<TokenId, TokenId>, std::pair<size_t, TokenId>> ranks;
  for (size_t i = 0; i < rules.merges.size(); ++i) ranks.emplace(rules.merges[i].first, std::pair(i, rules.merges[i].second));
  std::vector<TokenId> tokens;
  for (const char c : word) {
    const TokenId id = rules.bytes[static_cast<uint8_t>(c)];
    if (id != BytePairs::kNoToken) tokens.push_back(id);
  }
  while (true) {
    size_t best = tokens.size(), best_rank = rules.merges.size();
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const auto found = ranks.find({tokens[i], tokens[i + 1]});
      if (found != ranks.end() && found->second.first < best_rank) best = i, best_rank = found->second.first;
    }
    if (best == tokens.size()) return tokens;
    tokens[best] = rules.merges[best_rank].second;
    tokens.erase(tokens.begin() + static_cast<int64_t>(best) + 1);
  }
}

BytePairs Make(const Rules& rules) {
  BytePairs pairs(rules.bytes);
  for (size_t i = 0; i < rules.merges.size(); ++i) {
    const auto& [pair, merged] = rules.merges[i];
    pairs.Add(pair.first, pair.second, merged, static_cast<int32_t>(i));
  }
  return pairs;
}

std::vector<TokenId> Encode(const BytePairs& pairs, std::string_view word) {
  BytePairs::Scratch scratch;
  std::vector<TokenId> tokens;
  pairs.Encode(word, scratch, tokens);
  return tokens;
}

TEST_CASE("Merging agrees with its definition on random rules and words") {
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    Random random(seed);
    const Rules rules = RandomRules(random);
    const BytePairs pairs = Make(rules);
    BytePairs::Scratch scratch;
    for (int32_t i = 0; i < 10; ++i) {
      std::string word;
      for (uint64_t n = random.Below(40); n > 0; --n) word.push_back(static_cast<char>('a' + random.Below(random.Below(6) == 0 ? 5 : 3)));
      std::vector<TokenId> tokens;
      pairs.Encode(word, scratch, tokens);
      INFO("seed " << seed << " word " << word);
      REQUIRE(tokens == SlowEncode(rules, word));
    }
  }
}

TEST_CASE("Equal pairs merge from the left") {
  Rules rules;
  rules.bytes.fill(BytePairs::kNoToken);
  rules.bytes['a'] = 0;
  rules.merges = {{{0, 0}, 1}};
  CHECK(Encode(Make(rules), "aaaaa") == std::vector<TokenId>{1, 1, 0});
}

TEST_CASE("Of two rules for one pair the first holds") {
  Rules rules;
  rules.bytes.fill(BytePairs::kNoToken);
  rules.bytes['a'] = 0;
  rules.merges = {{{0, 0}, 1}, {{0, 0}, 2}};
  CHECK(Encode(Make(rules), "aa") == std::vector<TokenId>{1});
}

TEST_CASE("Bytes without a token are left out, and their neighbours meet") {
  Rules rules;
  rules.bytes.fill(BytePairs::kNoToken);
  rules.bytes['a'] = 0;
  rules.merges = {{{0, 0}, 1}};
  CHECK(Encode(Make(rules), "a-a") == std::vector<TokenId>{1});
  CHECK(Encode(Make(rules), "---").empty());
  CHECK(Encode(Make(rules), "").empty());
}

TEST_CASE("A word of a megabyte is not quadratic") {
  // 2^20 letters, merged 20 times over by halves. Looking at all pairs for each merge would take 10^12 steps: the test would time out.
  Rules rules;
  rules.bytes.fill(BytePairs::kNoToken);
  rules.bytes['a'] = 0;
  for (TokenId i = 0; i < 20; ++i) rules.merges.push_back({{i, i}, i + 1});
  CHECK(Encode(Make(rules), std::string(1 << 20, 'a')) == std::vector<TokenId>{20});
}

}  // namespace
}  // namespace spherical::engine
