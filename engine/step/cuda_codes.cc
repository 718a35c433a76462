#include "engine/step/cuda_codes.h"

#include <algorithm>
#include <cstring>

#include "engine/step/device_pieces.h"
#include "kernels/base/check.h"
#include "kernels/cuda/dense_rows.h"
#include "kernels/cuda/products.h"

namespace spherical::engine {
namespace {

using kernels::kTokenTile;
using kernels::Tier;
using kernels::cuda::AdaList;
using kernels::cuda::CodedSlot;
using kernels::cuda::CudaStatus;
using kernels::cuda::EncodeItem;
using kernels::cuda::RefreshItem;
using kernels::cuda::RefreshWork;

constexpr int32_t kEntryRows = kernels::cuda::kAppendRows;  // of new tokens that are coded together
// A layer of so many rows is planned in a microsecond or two: waking another thread takes longer.
constexpr int32_t kRowsPlannedSoon = 4;

bool Both(CudaStatus& status, CudaStatus next) {
  if (status == CudaStatus::kOk) status = next;
  return status == CudaStatus::kOk;
}

}  // namespace

CudaCodes::CudaCodes(const TransformerSpec& spec, const ModelGeometry& geometry, std::span<const float> value_weights, ThreadPool& pool,
                     kernels::cuda::Stream stream)
    : spec_(spec),
      geometry_(geometry),
      value_weights_(value_weights),
      threads_(pool),
      stream_(stream),
      retier_(spec, pool, stream),
      rates_(spec, pool, stream),
      layers_(static_cast<size_t>(spec.layers)),
      planners_(static_cast<size_t>(pool.threads())) {}

CudaStatus CudaCodes::Create(int32_t sequences, int32_t context_max, const KvArenas& arenas) {
  arenas_ = arenas;
  const int32_t d = spec_.head_dim, group = spec_.heads / spec_.kv_heads, heads = spec_.layers * spec_.kv_heads;
  const auto pages_for = [&](Tier tier, int32_t tokens) {
    return static_cast<int32_t>(CeilDiv(tokens, kernels::TokensPerPage(tier, d))) + 2;
  };
  // Most pages are needed where all tokens are T8; besides, each tier's last one need not be full.
  list_pages_ = pages_for(Tier::kT8, context_max) + kernels::kTierCount;
  slots_.resize(static_cast<size_t>(sequences));
  for (Slot& slot : slots_) slot.heads.resize(static_cast<size_t>(heads));

  CudaStatus status = decoder_.Create(d, group);
  if (status != CudaStatus::kOk) return status;
  no_counts_.assign(static_cast<size_t>(decoder_.counter_words()), 0);
  const int64_t rows = kernels::cuda::PaddedRows(sequences), row_heads = rows * spec_.kv_heads;
  lists_max_ = static_cast<int32_t>(row_heads * (priced() ? kernels::kLadderTiers : 2));
  const int64_t parts = lists_max_ + decoder_.workers(), states = parts * kernels::cuda::kAdaPartStates;
  int64_t plan_bytes = 0;
  const auto place = [&](uint8_t* base) {
    DevicePieces pieces(base);
    lists_ = pieces.Take<PageId>(int64_t{sequences} * heads * list_pages_);
    raw_query_ = pieces.Take<float>(rows * spec_.heads * d);
    raw_key_ = pieces.Take<float>(row_heads * d);
    raw_value_ = pieces.Take<float>(row_heads * d);
    digits_ = pieces.Take<uint8_t>(lists_max_ * decoder_.DigitBytes());
    states_ = {.max = pieces.Take<float>(states * group), .sum = pieces.Take<float>(states * group),
               .output = pieces.Take<float>(states * group * d)};
    const int64_t before = pieces.used();
    for (Layer& layer : layers_) {
      layer = {.coded = pieces.Take<uint8_t>(row_heads),
               .places = pieces.Take<CodedSlot>(row_heads),
               .entries = pieces.Take<EncodeItem>(EntryCount(static_cast<int32_t>(rows))),
               .lists = pieces.Take<AdaList>(lists_max_),
               .head_lists = pieces.Take<int32_t>(row_heads + 1),
               .parts = pieces.Take<kernels::cuda::AdaPart>(parts),
               .worker_parts = pieces.Take<int32_t>(decoder_.workers() + 1),
               .counters = pieces.Take<uint32_t>(decoder_.counter_words()),
               .head_states = pieces.Take<kernels::cuda::AdaHeadStates>(row_heads),
               .refresh = pieces.Take<RefreshWork>(1),
               .refreshed = pieces.Take<RefreshItem>(priced() ? row_heads : 0)};
    }
    plan_bytes = pieces.used() - before;
    return pieces.used();
  };
  if (!Both(status, memory_.Allocate(place(nullptr)))) return status;
  place(memory_.data());
  // Nothing is planned: a step recorded before the first one does nothing here.
  Both(status, kernels::cuda::FillBytes(stream_, memory_.data(), 0, memory_.bytes()));
  constexpr int32_t kPiecesOfLayer = 11, kRounding = 12;  // a table of pieces is rounded up to 256 bytes
  Both(status, input_.Create(plan_bytes, spec_.layers * (kPiecesOfLayer + kRounding)));
  if (status != CudaStatus::kOk) return status;
  const int64_t layer_bytes = plan_bytes / spec_.layers;  // all have the same pieces, each a multiple of its alignment
  for (int32_t layer = 0; layer < spec_.layers; ++layer) sections_.push_back(input_.SectionAt(layer * layer_bytes, layer_bytes));
  sections_end_ = plan_bytes;
  Both(status, list_entries_.Create());
  for (const CudaStatus made : {beside_.Create(), attended_.Create(), beside_done_.Create()}) Both(status, made);
  if (!Both(status, on_device_.Create(stream_, spec_, geometry_))) return status;
  Both(status, retier_.Create(context_max, arenas, on_device_.keys(), on_device_.losses()));
  if (priced()) Both(status, rates_.Create(sequences, context_max, arenas, value_weights_, on_device_.keys(), on_device_.losses()));
  return status;
}

uint8_t* CudaCodes::PageOf(const HeadPages& pages, Tier tier, int32_t slot) const {
  const PageId page = pages.of(tier).pages[static_cast<size_t>(slot / kernels::TokensPerPage(tier, spec_.head_dim))];
  return arenas_.coded + page * arenas_.coded_page_bytes;
}

// T8's list, which grows as tokens come, is behind those of the other tiers.
int32_t CudaCodes::ListOffset(const HeadPages& pages, Tier tier) const {
  int32_t offset = 0;
  const size_t end = tier == Tier::kT8 ? kernels::kTierCount : static_cast<size_t>(tier);
  for (size_t t = 1; t < end; ++t) offset += static_cast<int32_t>(pages.tiers[t].pages.size());
  return offset;
}

// Lists grow at their end, but for those that Retier changed and those of local heads, which lose pages in front: they are listed anew.
void CudaCodes::Follow(const StepItem& item, int32_t slot, int32_t first_head, int32_t end_head, Planner& planner) {
  Slot& on_device = slots_[static_cast<size_t>(slot)];
  const int32_t heads = spec_.layers * spec_.kv_heads;
  for (int32_t head = first_head; head < end_head; ++head) {
    const HeadPages& pages = item.pages->head(head);
    if (!pages.sealed) continue;
    for (int32_t t = 0; t < kernels::kTierCount; ++t) {
      const Tier tier = static_cast<Tier>(t);
      const std::vector<PageId>& list = pages.of(tier).pages;
      const int32_t count = static_cast<int32_t>(list.size());
      if (count == 0) continue;
      int32_t& listed = on_device.heads[static_cast<size_t>(head)][static_cast<size_t>(t)];
      if (pages.local()) listed = 0;
      const int32_t offset = ListOffset(pages, tier);
      SPH_CHECK(offset + count <= list_pages_);
      const int64_t at = (int64_t{slot} * heads + head) * list_pages_ + offset;
      for (int32_t i = listed; i < count; ++i) planner.new_entries.push_back({.where = at + i, .page = list[static_cast<size_t>(i)]});
      listed = count;
    }
  }
}

void CudaCodes::Begin(const StepPlan& plan, std::span<const int32_t> slots) {
  rows_ = 0;
  if (priced()) kept_status_ = rates_.Begin(plan);
  int32_t row = 0;
  for (size_t i = 0; i < plan.items.size(); ++i) {
    const StepItem& item = plan.items[i];
    row += static_cast<int32_t>(item.tokens.size());
    if (!item.pages->holds_codes()) continue;
    SPH_CHECK(item.tokens.size() == 1);  // nothing is sealed before its prompt is complete
    Slot& slot = slots_[static_cast<size_t>(slots[i])];
    if (slot.sequence != item.sequence) {
      slot.sequence = item.sequence;
      for (auto& head : slot.heads) head = {};
    }
    rows_ = row;
  }
  SPH_CHECK(rows_ <= static_cast<int32_t>(slots_.size()));  // decoding sequences come first
  step_ = &plan;
  step_slots_ = slots;
  input_.Begin(sections_end_);
  for (PlacedInput::Section& section : sections_) section.Begin();
  list_entries_.Begin();
  for (Planner& planner : planners_) planner.last_plan.reset();
}

std::vector<int32_t> CudaCodes::Pieces(int32_t rows) const {
  const int32_t growth = rows <= kRowsPlannedSoon ? 8 : std::clamp(threads_.threads(), 2, 16);
  std::vector<int32_t> ends;
  for (int32_t layers = 1; ends.empty() || ends.back() < spec_.layers; layers *= growth) {
    ends.push_back(std::min(spec_.layers, (ends.empty() ? 0 : ends.back()) + layers));
  }
  return ends;
}

CudaStatus CudaCodes::PlanLayers(int32_t first, int32_t end, int32_t rows) {
  if (rows == 0) return CudaStatus::kOk;
  const int32_t layers = end - first, stretches = rows <= kRowsPlannedSoon ? 1 : std::min(layers, threads_.threads());
  if (stretches == 1) {
    PlanStretch(first, end, rows, planners_[0]);
  } else {
    threads_.RunWithWorker(stretches, [&](Shard shard, int32_t worker) {
      const auto border = [&](int32_t i) { return first + layers * i / shard.count; };
      PlanStretch(border(shard.index), border(shard.index + 1), rows, planners_[static_cast<size_t>(worker)]);
    });
  }
  new_entries_.clear();
  for (Planner& planner : planners_) {
    new_entries_.insert(new_entries_.end(), planner.new_entries.begin(), planner.new_entries.end());
    planner.new_entries.clear();
  }
  CudaStatus status = list_entries_.Send(stream_, new_entries_, lists_);
  for (int32_t layer = first; layer < end; ++layer) input_.Take(sections_[static_cast<size_t>(layer)]);
  Both(status, input_.Send(stream_));
  return status;
}

void CudaCodes::PlanStretch(int32_t first, int32_t end, int32_t rows, Planner& planner) {
  int32_t row = 0;
  for (size_t i = 0; i < step_->items.size() && row < rows_; ++i) {
    Follow(step_->items[i], step_slots_[i], first * spec_.kv_heads, end * spec_.kv_heads, planner);
    row += static_cast<int32_t>(step_->items[i].tokens.size());
  }
  for (int32_t layer = first; layer < end; ++layer) PlanLayer(layer, rows, planner);
}

// The tokens of a sealed head that the row sees, its own among them.
void CudaCodes::AddLists(const StepItem& item, int32_t row, int32_t slot, int32_t layer, int32_t kv_head, Planner& planner) const {
  const HeadPages& pages = item.pages->at(layer, kv_head);
  const int32_t heads = spec_.layers * spec_.kv_heads;
  for (int32_t t = 0; t < kernels::kTierCount; ++t) {
    const Tier tier = static_cast<Tier>(t);
    const int32_t tokens = pages.of(tier).tokens + (tier == Tier::kT8 ? 1 : 0);
    if (tokens == 0) continue;
    const int32_t left = pages.local() ? std::max(0, pages.oldest_seen(item.position) - pages.first_held(tier, item.position)) : 0;
    if (left >= tokens) continue;
    int32_t gone = 0, gone_tokens = 0;  // whole pages
    if (left > 0) {                     // divisions are dear, and most heads global
      const int32_t page_tokens = kernels::TokensPerPage(tier, spec_.head_dim);
      gone = left / page_tokens, gone_tokens = gone * page_tokens;
    }
    // Relative to the layer's first head, so that layers whose heads hold as much have the same lists.
    planner.layer_lists.push_back({.head = row * spec_.kv_heads + kv_head,
                                   .tier = t,
                                   .first_page = (slot * heads + kv_head) * list_pages_ + ListOffset(pages, tier) + gone,
                                   .tokens = tokens - gone_tokens,
                                   .skip = left - gone_tokens});
  }
}

void CudaCodes::AddRefreshed(const StepItem& item, int32_t row, int32_t slot, int32_t layer, int32_t kv_head, Planner& planner) const {
  const HeadPages& pages = item.pages->at(layer, kv_head);
  const int32_t head = layer * spec_.kv_heads + kv_head, tokens = pages.of(Tier::kT8).tokens + 1;
  const int64_t list = int64_t{slot} * spec_.layers * spec_.kv_heads + head;
  const int32_t first_held = pages.local() ? pages.first_held(Tier::kT8, item.position) : 0;
  const float share = static_cast<float>(spec_.head_dim) * kernels::kDropPremium / static_cast<float>(spec_.heads / spec_.kv_heads);
  planner.refreshed.push_back({.first_chunk = planner.refresh.chunks,
                               .row = row,
                               .kv_head = kv_head,
                               .position = item.position,
                               .pages = lists_ + list * list_pages_ + ListOffset(pages, Tier::kT8),
                               .tokens = tokens,
                               .gone = std::clamp(pages.oldest_seen(item.position) - first_held, 0, tokens),
                               .unit = value_weights_[static_cast<size_t>(head)] / item.refresh[static_cast<size_t>(layer)] * share});
  planner.refresh.chunks += kernels::cuda::RefreshChunks(tokens);
  ++planner.refresh.items;
}

void CudaCodes::PlanLayer(int32_t layer, int32_t rows, Planner& planner) {
  const StepPlan& plan = *step_;
  Layer& planned = layers_[static_cast<size_t>(layer)];
  PlacedInput::Section& section = sections_[static_cast<size_t>(layer)];
  planner.layer_lists.clear();
  planner.refreshed.clear();
  planner.refresh = {};
  planner.flags.assign(static_cast<size_t>(rows * spec_.kv_heads), 0);
  int32_t row = 0;
  for (size_t i = 0; i < plan.items.size() && row < rows_; ++i) {
    const StepItem& item = plan.items[i];
    for (int32_t kv_head = 0; kv_head < spec_.kv_heads; ++kv_head) {
      if (!item.pages->at(layer, kv_head).sealed) continue;
      planner.flags[static_cast<size_t>(row * spec_.kv_heads + kv_head)] = 1;
      AddLists(item, row, step_slots_[i], layer, kv_head, planner);
      if (!item.refresh.empty()) AddRefreshed(item, row, step_slots_[i], layer, kv_head, planner);
    }
    row += static_cast<int32_t>(item.tokens.size());
  }
  SPH_CHECK(static_cast<int32_t>(planner.layer_lists.size()) <= lists_max_);
  planned.list_count = static_cast<int32_t>(planner.layer_lists.size());
  section.Place(std::span<const uint8_t>(planner.flags), planned.coded);
  section.Place(std::span<const uint32_t>(no_counts_), planned.counters);
  PlaceEntries(layer, rows, planner);
  if (priced()) {
    section.Place(std::span<const RefreshWork>(&planner.refresh, 1), planned.refresh);
    section.Place(std::span<const RefreshItem>(planner.refreshed), planned.refreshed);
  }
  const std::vector<AdaList>&lists = planner.layer_lists, &last = planner.last_lists;
  if (planner.last_plan.has_value() && lists.size() == last.size() &&
      std::memcmp(lists.data(), last.data(), lists.size() * sizeof(AdaList)) == 0) {
    section.PlaceAgain(planner.last_plan->lists, planned.lists);
    section.PlaceAgain(planner.last_plan->head_lists, planned.head_lists);
    section.PlaceAgain(planner.last_plan->parts, planned.parts);
    section.PlaceAgain(planner.last_plan->worker_parts, planned.worker_parts);
    section.PlaceAgain(planner.last_plan->head_states, planned.head_states);
    return;
  }
  kernels::cuda::AdaPlan& made = planner.plan;
  kernels::cuda::PlanAda(spec_.head_dim, lists, rows * spec_.kv_heads, {}, decoder_.workers(), made);
  const auto place = [&]<class T>(const std::vector<T>& values, T* to) { return section.Place(std::span<const T>(values), to); };
  planner.last_plan = PutPlan{.lists = place(lists, planned.lists),
                              .head_lists = place(made.head_lists, planned.head_lists),
                              .worker_parts = place(made.worker_parts, planned.worker_parts),
                              .parts = place(made.parts, planned.parts),
                              .head_states = place(made.states, planned.head_states)};
  std::swap(planner.last_lists, planner.layer_lists);
}

int32_t CudaCodes::EntryCount(int32_t rows) const { return spec_.kv_heads * static_cast<int32_t>(CeilDiv(rows, kEntryRows)); }

// Where the rows' new tokens go, some rows of a head together; a row whose head is not sealed goes nowhere.
void CudaCodes::PlaceEntries(int32_t layer, int32_t rows, Planner& planner) {
  const Layer& planned = layers_[static_cast<size_t>(layer)];
  PlacedInput::Section& section = sections_[static_cast<size_t>(layer)];
  const int32_t d = spec_.head_dim, page_tokens = kernels::TokensPerPage(Tier::kT8, d);
  constexpr CodedSlot kNowhere = {.page = nullptr, .slot = 0, .tier = Tier::kT8, .utility = 0, .noted = true};
  planner.places.assign(static_cast<size_t>(spec_.kv_heads * rows), kNowhere);
  int32_t row = 0;
  for (const StepItem& item : step_->items) {
    if (row >= rows_) break;
    for (int32_t kv_head = 0; kv_head < spec_.kv_heads; ++kv_head) {
      const HeadPages& pages = item.pages->at(layer, kv_head);
      if (!pages.sealed) continue;
      const int32_t slot = pages.of(Tier::kT8).tokens;
      CodedSlot& place = planner.places[static_cast<size_t>(kv_head * rows + row)];
      place.page = PageOf(pages, Tier::kT8, slot);
      place.slot = static_cast<int16_t>(slot % page_tokens);
    }
    row += static_cast<int32_t>(item.tokens.size());
  }
  section.Place(std::span<const CodedSlot>(planner.places), planned.places);
  planner.entries.clear();
  for (int32_t kv_head = 0; kv_head < spec_.kv_heads; ++kv_head) {
    for (int32_t first = 0; first < rows; first += kEntryRows) {
      const int64_t at = (int64_t{first} * spec_.kv_heads + kv_head) * d;
      planner.entries.push_back({.head = layer * spec_.kv_heads + kv_head,
                                 .rows = std::min(kEntryRows, rows - first),
                                 .codings = 1,
                                 .source = kernels::cuda::TokenSource::kRaw,
                                 .first = 0,
                                 .keys = raw_key_ + at,
                                 .values = raw_value_ + at,
                                 .key_stride = int64_t{spec_.kv_heads} * d,
                                 .value_stride = int64_t{spec_.kv_heads} * d,
                                 .slots = planned.places + kv_head * rows + first,
                          .errors = nullptr});
    }
  }
  section.Place(std::span<const EncodeItem>(planner.entries), planned.entries);
}

kernels::AttentionShape CudaCodes::ShapeOfCodes() const {
  return {.head_dim = spec_.head_dim,
          .group = spec_.heads / spec_.kv_heads,
          .scale = spec_.attention_scale,
          .softcap = spec_.attention_softcap,
          .window = 0,
          .page_bytes = arenas_.coded_page_bytes};
}

CudaStatus CudaCodes::Attend(int32_t layer, int32_t rows, uint16_t* attended) {
  const Layer& planned = layers_[static_cast<size_t>(layer)];
  CudaStatus status = kernels::cuda::Append(stream_, spec_.head_dim, on_device_.keys(), planned.entries, EntryCount(rows), overlap_);
  Both(status, decoder_.Attend(stream_, on_device_.heads(layer),
                               {.shape = ShapeOfCodes(),
                                .rows = rows,
                                .kv_heads = spec_.kv_heads,
                                .query = raw_query_,
                                .arena = arenas_.coded,
                                .pages = lists_ + int64_t{layer} * spec_.kv_heads * list_pages_,
                                .lists = planned.lists,
                                .list_count = lists_max_,  // of a recorded step there may be as many: head_lists says how many there are
                                .head_lists = planned.head_lists,
                                .parts = planned.parts,
                                .worker_parts = planned.worker_parts,
                                .counters = planned.counters,
                                .head_states = planned.head_states,
                                .digits = digits_,
                                .states = states_,
                                .attended = attended,
                                .entering = true}));
  if (priced()) {
    const bool beside = RefreshesBeside(rows);
    if (beside) {
      Both(status, attended_.Record(stream_));
      Both(status, attended_.Await(beside_.get()));
    }
    Both(status, kernels::cuda::RefreshUtilities(beside ? beside_.get() : stream_, on_device_.heads(layer),
                                                 {.shape = ShapeOfCodes(),
                                                  .kv_heads = spec_.kv_heads,
                                                  .query = raw_query_,
                                                  .head_states = planned.head_states,
                                                  .states = states_,
                                                  .arena = arenas_.coded,
                                                  .step = geometry_.query(0).steps()[8]},
                                                 planned.refresh, planned.refreshed));
    if (beside) Both(status, beside_done_.Record(beside_.get()));
  }
  return status;
}

CudaStatus CudaCodes::JoinRefresh(int32_t rows) const {
  return RefreshesBeside(rows) ? beside_done_.Await(stream_) : CudaStatus::kOk;
}

CudaStatus CudaCodes::Retier(std::span<const RetierItem> items) {
  Slot* slot = nullptr;  // of the last item's sequence, as most are its neighbour's
  SequenceId of = 0;
  for (const RetierItem& item : items) {
    if (item.sequence != of || slot == nullptr) {
      of = item.sequence;
      const auto found = std::ranges::find(slots_, of, &Slot::sequence);
      slot = found == slots_.end() ? nullptr : &*found;
    }
    if (slot != nullptr) slot->heads[static_cast<size_t>(item.head)] = {};
  }
  return retier_.Run(items);
}

}  // namespace spherical::engine
