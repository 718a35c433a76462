#include "engine/batch/row_sharing.h"

#include <cmath>
#include <limits>
#include <utility>

namespace spherical::engine {
namespace {

// One tenant's wishes, and how far they are met.
struct Party {
  TenantId tenant = kDefaultTenant;
  double due = 0, per_token = 1;  // virtual tokens: so far with the rows it is given here, and of one row
  double weight = 1;
  bool flooding = false;          // wanted more than its share in the last step already
  std::vector<const Sequence*> decoding;
  std::vector<Chunk> prompts;     // the oldest first, then in order
  size_t decoded = 0, entered = 0;  // so many of each list are done with
  bool oldest_had_share = false;
  bool ended = false;             // its last prompt is complete with this step

  bool decodes() const { return decoded < decoding.size(); }
  bool enters() const { return entered < prompts.size(); }
  // Its prompts go on too, however many rows it decodes: the oldest's share comes before what decodes beyond half of its own.
  bool decodes_next() const { return decodes() && (oldest_had_share || !enters()); }
  bool met() const { return !decodes() && !enters(); }
  // Where it will stand with the rows it takes next: who stands least then goes first.
  double finish(int32_t rows) const { return due + per_token * rows; }
  int32_t piece() const { return std::min(kChunkRowsMin, prompts[entered].left()); }
};

class Sharing {
 public:
  Sharing(const StepCost& cost, const RowLimits& limits, RowWishes wishes)
      : cost_(cost), limits_(limits), one_tenant_(wishes.one_tenant), work_(wishes.work) {
    for (const Sequence* sequence : wishes.decoding) PartyOf(*sequence).decoding.push_back(sequence);
    for (const Chunk& chunk : wishes.prompts) {
      if (chunk.left() > 0) PartyOf(*chunk.sequence).prompts.push_back(chunk);
    }
    for (Party& party : parties_) PutInOrder(party);
  }

  SharedRows Share() {
    EnterOldest();
    DecodeWithinShares();
    ShareTheRest();
    SharedRows shared;
    for (const Party& party : parties_) {
      shared.decoding.insert(shared.decoding.end(), party.decoding.begin(), party.decoding.begin() + static_cast<int64_t>(party.decoded));
      for (const Chunk& chunk : party.prompts) {
        if (chunk.rows > 0) shared.chunks.push_back(chunk);
      }
      if (!party.met()) shared.unmet.push_back(party.tenant);
    }
    return shared;
  }

 private:
  Party& PartyOf(const Sequence& sequence) {
    const TenantId tenant = sequence.request.tenant;
    for (Party& party : parties_) {
      if (party.tenant == tenant) return party;
    }
    Party party;
    party.tenant = tenant;
    if (limits_.share != nullptr) {
      party.due = limits_.share->due(tenant);
      party.weight = limits_.share->weight(tenant);
      party.per_token = 1 / party.weight;
      party.flooding = limits_.share->unmet(tenant);
    }
    parties_.push_back(std::move(party));
    return parties_.back();
  }

  void PutInOrder(Party& party) const {
    if (!one_tenant_) {
      std::stable_sort(party.decoding.begin(), party.decoding.end(),
                       [](const Sequence* a, const Sequence* b) { return a->last_step < b->last_step; });
    }
    if (party.prompts.empty()) return;
    std::stable_sort(party.prompts.begin() + 1, party.prompts.end(), InOrder);
  }
  // Equals stay in order of admission.
  static bool InOrder(const Chunk& a, const Chunk& b) {
    if (a.sequence->request.priority != b.sequence->request.priority) return a.sequence->request.priority > b.sequence->request.priority;
    return a.sequence->prompt_left() < b.sequence->prompt_left();
  }

  // The tenant whose turn it is to take so many rows, of those that take any, or nullptr.
  template <class RowsOf>
  Party* First(RowsOf rows_of) {
    Party* first = nullptr;
    for (Party& party : parties_) {
      if (rows_of(party) > 0 && (first == nullptr || Before(party, *first, rows_of))) first = &party;
    }
    return first;
  }
  template <class RowsOf>
  static bool Before(const Party& a, const Party& b, RowsOf rows_of) {
    const double da = a.finish(rows_of(a)), db = b.finish(rows_of(b));
    if (da != db) return da < db;
    if (a.flooding != b.flooding) return b.flooding;
    return a.weight > b.weight;  // equals: in order of admission
  }

  void EnterOldest() {
    Party* first = First([](const Party& party) { return party.enters() ? party.piece() : 0; });
    if (first != nullptr) Enter(*first, std::min(first->piece(), RowsLeft()));
  }

  void DecodeWithinShares() {
    double weights = 0;
    for (const Party& party : parties_) weights += party.weight;
    const double part = absl::ToDoubleSeconds(limits_.target - cost_.Expect({})) / 2 / weights;
    std::vector<Party*> in_turn;
    for (Party& party : parties_) in_turn.push_back(&party);
    std::stable_sort(in_turn.begin(), in_turn.end(), [](const Party* a, const Party* b) {
      return Before(*a, *b, [](const Party&) { return 1; });
    });
    for (Party* party : in_turn) {
      StepWork own;
      while (party->decodes()) {
        own += RowOf(*party);
        const bool within = absl::ToDoubleSeconds(cost_.Expect(own) - cost_.Expect({})) <= part * party->weight;
        const bool goes = one_tenant_ || !decoded_any_ || (Fits(RowOf(*party)) && (within || own.rows == 1));
        if (!goes) break;
        Decode(*party);
      }
    }
  }

  void ShareTheRest() {
    const auto next_rows = [&](const Party& party) {
      if (party.met() || ShutOut(party)) return 0;
      return party.decodes_next() ? 1 : party.piece();
    };
    while (Party* next = First(next_rows)) {
      if (next->decodes_next()) {
        if (!Fits(RowOf(*next))) return;
        Decode(*next);
        continue;
      }
      const Chunk& chunk = next->prompts[next->entered];
      const int32_t wanted = std::min({chunk.left(), RowsLeft(), one_tenant_ ? kStepRowsMax : kChunkRowsMin});
      const int32_t rows = cost_.RowsWithin(limits_.target - cost_.Expect(work_), chunk.position(), wanted);
      if (rows > 0) Enter(*next, rows);
      if (rows < wanted || wanted == 0) return;
    }
  }
  // The step is closed to it: it has had its share, and more would only delay another's first token.
  bool ShutOut(const Party& party) const { return !party.ended && party.due > closed_at_; }

  static StepWork RowOf(const Party& party) { return WorkOf(party.decoding[party.decoded]->entered, 1); }
  int32_t RowsLeft() const { return limits_.rows_max - static_cast<int32_t>(work_.rows); }
  bool Fits(StepWork more) const {
    more += work_;
    return RowsLeft() > 0 && cost_.Expect(more) <= limits_.target;
  }

  void Decode(Party& party) {
    work_ += RowOf(party);
    party.due += party.per_token;
    ++party.decoded;
    decoded_any_ = true;
  }
  void Enter(Party& party, int32_t rows) {
    Chunk& chunk = party.prompts[party.entered];
    work_ += WorkOf(chunk.position(), rows);
    chunk.rows += rows;
    party.due += party.per_token * rows;
    const bool oldest = !std::exchange(party.oldest_had_share, true);
    if (chunk.left() > 0) {
      if (oldest) Yield(party);
      return;
    }
    ++party.entered;
    party.ended = !party.enters() && chunk.rows == chunk.sequence->prompt_left();
    if (!party.ended) return;
    closed_at_ = std::isinf(closed_at_) ? party.due : std::max(closed_at_, party.due);
  }
  // The oldest has had its share: it takes its place among the others.
  static void Yield(Party& party) {
    const auto place = std::upper_bound(party.prompts.begin() + 1, party.prompts.end(), party.prompts.front(), InOrder);
    std::rotate(party.prompts.begin(), party.prompts.begin() + 1, place);
  }

  const StepCost& cost_;
  const RowLimits& limits_;
  const bool one_tenant_;
  StepWork work_;
  bool decoded_any_ = false;
  double closed_at_ = std::numeric_limits<double>::infinity();  // where the last stood whose last prompt is complete with this step
  std::vector<Party> parties_;  // in order of their first sequence's admission
};

}  // namespace

SharedRows ShareRows(RowWishes wishes, const StepCost& cost, const RowLimits& limits) {
  return Sharing(cost, limits, std::move(wishes)).Share();
}

}  // namespace spherical::engine
