#include "engine/model/byte_pairs.h"

#include <algorithm>

namespace spherical::engine {
namespace {

constexpr int32_t kNone = -1;

uint64_t PairKey(TokenId left, TokenId right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Heap order: the lowest rank on top, the leftmost of equals.
struct Later {
  bool operator()(const BytePairs::Scratch::Candidate& a, const BytePairs::Scratch::Candidate& b) const {
    return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
  }
};

}  // namespace

void BytePairs::Add(TokenId left, TokenId right, TokenId merged, int32_t rank) {
  merges_.emplace(PairKey(left, right), Merge{rank, merged});
}

const BytePairs::Merge* BytePairs::Find(TokenId left, TokenId right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

// Puts the pair that begins at part `at` on the heap, if it has a rank.
void BytePairs::Consider(int32_t at, Scratch& scratch) const {
  if (at == kNone || scratch.parts[at].next == kNone) return;
  const TokenId left = scratch.parts[at].id, right = scratch.parts[scratch.parts[at].next].id;
  if (const Merge* merge = Find(left, right)) {
    scratch.heap.push_back({merge->rank, at, left, right});
    std::push_heap(scratch.heap.begin(), scratch.heap.end(), Later());
  }
}

void BytePairs::Encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& tokens) const {
  scratch.symbols.clear();
  for (const char byte : word) {
    const TokenId id = byte_tokens_[static_cast<uint8_t>(byte)];
    if (id != kNoToken) scratch.symbols.push_back(id);
  }
  Join(scratch, tokens);
}

void BytePairs::Join(Scratch& scratch, std::vector<TokenId>& tokens) const {
  auto& parts = scratch.parts;
  auto& heap = scratch.heap;
  parts.clear();
  heap.clear();
  for (const TokenId id : scratch.symbols) {
    const int32_t at = static_cast<int32_t>(parts.size());
    parts.push_back({id, at - 1, at + 1});
  }
  if (parts.empty()) return;
  parts.back().next = kNone;
  for (int32_t at = 0; at + 1 < static_cast<int32_t>(parts.size()); ++at) Consider(at, scratch);

  while (!heap.empty()) {
    const Scratch::Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end(), Later());
    heap.pop_back();
    Scratch::Part& left = parts[best.at];
    if (left.id != best.left || left.next == kNone || parts[left.next].id != best.right) continue;  // one of them was merged since
    Scratch::Part& right = parts[left.next];
    left.id = Find(best.left, best.right)->merged;
    left.next = right.next;
    right.id = kNoToken;
    if (left.next != kNone) parts[left.next].previous = best.at;
    Consider(left.previous, scratch);
    Consider(best.at, scratch);
  }
  for (int32_t at = 0; at != kNone; at = parts[at].next) tokens.push_back(parts[at].id);
}

}  // namespace spherical::engine
