#include "engine/batch/row_sharing.h"

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
  bool met() const { return !decodes() && !enters(); }
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

  // The tenant whose turn it is among those that `wants` is true of, or nullptr.
  template <class Wants>
  Party* First(Wants wants) {
    Party* first = nullptr;
    for (Party& party : parties_) {
      if (wants(party) && (first == nullptr || Before(party, *first))) first = &party;
    }
    return first;
  }
  static bool Before(const Party& a, const Party& b) {
    if (a.due != b.due) return a.due < b.due;
    if (a.flooding != b.flooding) return b.flooding;
    return a.weight > b.weight;  // equals: in order of admission
  }

  void EnterOldest() {
    Party* first = First([](const Party& party) { return party.enters(); });
    if (first != nullptr) Enter(*first, std::min({kChunkRowsMin, first->prompts.front().left(), RowsLeft()}));
  }

  void DecodeWithinShares() {
    double weights = 0;
    for (const Party& party : parties_) weights += party.weight;
    const double part = absl::ToDoubleSeconds(limits_.target - cost_.Expect({})) / 2 / weights;
    std::vector<Party*> in_turn;
    for (Party& party : parties_) in_turn.push_back(&party);
    std::stable_sort(in_turn.begin(), in_turn.end(), [](const Party* a, const Party* b) { return Before(*a, *b); });
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
    while (Party* next = First([&](const Party& party) { return !party.met() && !ShutOut(party); })) {
      if (next->decodes()) {
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
  // The step is closed to it: what it wants more would only delay another's first token.
  bool ShutOut(const Party& party) const { return closed_ && !party.ended && (party.flooding || party.decodes()); }

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
    if (chunk.left() > 0) return YieldOldest(party);
    ++party.entered;
    party.ended = !party.enters() && chunk.rows == chunk.sequence->prompt_left();
    closed_ = closed_ || party.ended;
  }
  // The oldest has had its share: it takes its place among the others.
  static void YieldOldest(Party& party) {
    if (std::exchange(party.oldest_had_share, true) || party.entered > 0) return;
    const auto place = std::upper_bound(party.prompts.begin() + 1, party.prompts.end(), party.prompts.front(), InOrder);
    std::rotate(party.prompts.begin(), party.prompts.begin() + 1, place);
  }

  const StepCost& cost_;
  const RowLimits& limits_;
  const bool one_tenant_;
  StepWork work_;
  bool decoded_any_ = false;
  bool closed_ = false;  // somebody's last prompt is complete with this step
  std::vector<Party> parties_;  // in order of their first sequence's admission
};

}  // namespace

SharedRows ShareRows(RowWishes wishes, const StepCost& cost, const RowLimits& limits) {
  return Sharing(cost, limits, std::move(wishes)).Share();
}

}  // namespace spherical::engine
