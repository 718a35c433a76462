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
using kernels::cuda::MoveItem;
using kernels::cuda::MoveRun;

constexpr int32_t kTile = kernels::kExactTokensPerPage;
constexpr int32_t kEntryRows = 4;  // of new tokens that are coded together: the codec is quick with so few, and blocks are many
constexpr int64_t kRetierInputBytes = int64_t{4} << 20;
// T8 tokens of a head whose other tokens are of another tier: those that are new, as many as enter while a long prompt is sealed.
constexpr int32_t kWholeTokensMax = 2048;

bool Both(CudaStatus& status, CudaStatus next) {
  if (status == CudaStatus::kOk) status = next;
  return status == CudaStatus::kOk;
}

}  // namespace

CudaCodes::CudaCodes(const TransformerSpec& spec, const ModelGeometry& geometry, kernels::cuda::Stream stream)
    : spec_(spec), geometry_(geometry), stream_(stream), layers_(static_cast<size_t>(spec.layers)) {}

CudaStatus CudaCodes::UploadGeometry() {
  const int32_t d = spec_.head_dim, heads = geometry_.heads(), groups = d / kernels::kGroup;
  const int64_t square = int64_t{d} * d, shaping = int64_t{groups} * kernels::kGroup * kernels::kGroup;
  struct Places {
    float *centres, *maps, *importances, *shapings, *query_maps;
    kernels::cuda::DeviceGeometry* geometries;
    kernels::cuda::AdaPlanes* planes;
  };
  const auto place = [&](uint8_t* base, Places& at) {
    DevicePieces pieces(base);
    at = {.centres = pieces.Take<float>(heads * int64_t{d}),
          .maps = pieces.Take<float>(heads * square),
          .importances = pieces.Take<float>(heads * int64_t{kernels::kGroupsMax}),  // 16 floats a head keep it aligned
          .shapings = pieces.Take<float>(heads * shaping),
          .query_maps = pieces.Take<float>(heads * square),
          .geometries = pieces.Take<kernels::cuda::DeviceGeometry>(heads),
          .planes = pieces.Take<kernels::cuda::AdaPlanes>(int64_t{heads} * kernels::kTierCount)};
    return pieces.used();
  };
  Places device;
  const int64_t bytes = place(nullptr, device);
  CudaStatus status = geometry_memory_.Allocate(bytes);
  if (status != CudaStatus::kOk) return status;
  place(geometry_memory_.data(), device);
  std::vector<uint8_t> image(static_cast<size_t>(bytes) + 256);
  uint8_t* const base = reinterpret_cast<uint8_t*>(RoundUp(reinterpret_cast<int64_t>(image.data()), 256));
  Places host;
  place(base, host);
  for (int32_t head = 0; head < heads; ++head) {
    const kernels::KeyGeometry& key = geometry_.key(head);
    const kernels::QueryGeometry& query = geometry_.query(head);
    std::copy_n(key.centre, d, host.centres + int64_t{head} * d);
    kernels::cuda::PackMap(d, key.map, host.maps + head * square);
    std::copy_n(key.importance, groups, host.importances + int64_t{head} * kernels::kGroupsMax);
    if (key.shaping != nullptr) std::copy_n(key.shaping, shaping, host.shapings + head * shaping);
    for (int32_t i = 0; i < d; ++i) {
      for (int32_t j = 0; j < d; ++j) host.query_maps[head * square + int64_t{j} * d + i] = query.map[int64_t{i} * d + j];
    }
    host.geometries[head] = {.centre = device.centres + int64_t{head} * d,
                             .map = device.maps + head * square,
                             .importance = device.importances + int64_t{head} * kernels::kGroupsMax,
                             .shaping = key.shaping == nullptr ? nullptr : device.shapings + head * shaping,
                             .widths = {}};
    std::memcpy(host.geometries[head].widths, key.widths, sizeof(key.widths));
    for (int32_t t = 0; t < kernels::kTierCount; ++t) {
      host.planes[head * kernels::kTierCount + t] = kernels::cuda::AdaPlanesOf(query.widths[t], query.steps(), d);
    }
  }
  Both(status, kernels::cuda::CopyToDevice(stream_, geometry_memory_.data(), base, bytes));
  Both(status, kernels::cuda::Synchronize(stream_));
  geometries_ = device.geometries;
  for (int32_t layer = 0; layer < spec_.layers; ++layer) {
    const int64_t first = int64_t{layer} * spec_.kv_heads;
    ada_heads_.push_back({.maps = device.query_maps + first * square,
                          .centres = device.centres + first * d,
                          .planes = device.planes + first * kernels::kTierCount});
    layer_maps_.push_back({.from = {device.maps + first * square, device.query_maps + first * square},
                           .bytes = spec_.kv_heads * square * int64_t{sizeof(float)}});
  }
  return status;
}

CudaStatus CudaCodes::Create(int32_t sequences, int32_t context_max, const KvArenas& arenas) {
  arenas_ = arenas;
  const int32_t d = spec_.head_dim, group = spec_.heads / spec_.kv_heads, heads = spec_.layers * spec_.kv_heads;
  const auto pages_for = [&](Tier tier, int32_t tokens) {
    return static_cast<int32_t>(CeilDiv(tokens, kernels::TokensPerPage(tier, d))) + 2;
  };
  whole_pages_ = pages_for(Tier::kT8, context_max);
  int32_t others = 0;
  for (int32_t t = 1; t < kernels::kTierCount; ++t) others = std::max(others, pages_for(static_cast<Tier>(t), context_max));
  list_pages_ = whole_pages_ + others;
  slots_.resize(static_cast<size_t>(sequences));
  for (Slot& slot : slots_) slot.heads.resize(static_cast<size_t>(heads));

  CudaStatus status = decoder_.Create(d, group);
  if (status != CudaStatus::kOk) return status;
  const int64_t rows = kernels::cuda::PaddedRows(sequences), row_heads = rows * spec_.kv_heads;
  lists_max_ = static_cast<int32_t>(row_heads * 2);
  const int64_t parts = lists_max_ + decoder_.workers(), states = parts * kernels::cuda::kAdaPartStates;
  int64_t plan_bytes = 0;
  const auto place = [&](uint8_t* base) {
    DevicePieces pieces(base);
    lists_ = pieces.Take<PageId>(int64_t{sequences} * heads * list_pages_);
    raw_query_ = pieces.Take<float>(rows * spec_.heads * d);
    raw_key_ = pieces.Take<float>(row_heads * d);
    raw_value_ = pieces.Take<float>(row_heads * d);
    output_ = pieces.Take<float>(rows * spec_.heads * d);
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
               .head_states = pieces.Take<kernels::cuda::AdaHeadStates>(row_heads)};
    }
    plan_bytes = pieces.used() - before;
    return pieces.used();
  };
  if (!Both(status, memory_.Allocate(place(nullptr)))) return status;
  place(memory_.data());
  // Nothing is planned: a step recorded before the first one does nothing here.
  Both(status, kernels::cuda::FillBytes(stream_, memory_.data(), 0, memory_.bytes()));
  constexpr int32_t kPiecesOfLayer = 8, kRounding = 11;  // a table of pieces is rounded up to 256 bytes
  Both(status, input_.Create(plan_bytes, spec_.layers * (kPiecesOfLayer + kRounding)));
  Both(status, list_entries_.Create());
  Both(status, retier_input_.Create(kRetierInputBytes));
  Both(status, UploadGeometry());
  return status;
}

uint8_t* CudaCodes::PageOf(const HeadPages& pages, Tier tier, int32_t slot) const {
  const PageId page = pages.of(tier).pages[static_cast<size_t>(slot / kernels::TokensPerPage(tier, spec_.head_dim))];
  return arenas_.coded + page * arenas_.coded_page_bytes;
}

// Lists grow at their end, but for those that Retier changed and those of local heads, which lose pages in front: they are listed anew.
void CudaCodes::Follow(const StepItem& item, int32_t slot, int32_t first_head, int32_t end_head) {
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
      SPH_CHECK(ListOffset(tier) + count <= (tier == Tier::kT8 ? whole_pages_ : list_pages_));
      const int64_t at = (int64_t{slot} * heads + head) * list_pages_ + ListOffset(tier);
      for (int32_t i = listed; i < count; ++i) new_entries_.push_back({.where = at + i, .page = list[static_cast<size_t>(i)]});
      listed = count;
    }
  }
}

void CudaCodes::Begin(const StepPlan& plan, std::span<const int32_t> slots) {
  rows_ = 0;
  all_coded_.assign(plan.items.size(), 0);
  int32_t row = 0;
  for (size_t i = 0; i < plan.items.size(); ++i) {
    const StepItem& item = plan.items[i];
    row += static_cast<int32_t>(item.tokens.size());
    if (!item.pages->holds_codes()) continue;
    SPH_CHECK(item.tokens.size() == 1);  // nothing is sealed before its prompt is complete
    Slot& slot = slots_[static_cast<size_t>(slots[i])];
    if (slot.sequence != item.sequence) {
      slot.sequence = item.sequence;
      slot.all_sealed = false;
      for (auto& head : slot.heads) head = {};
    }
    for (int32_t head = 0; !slot.all_sealed && item.pages->head(head).sealed; ++head) {  // once true it stays so
      slot.all_sealed = head + 1 == item.pages->heads();
    }
    all_coded_[i] = slot.all_sealed ? 1 : 0;
    rows_ = row;
  }
  SPH_CHECK(rows_ <= static_cast<int32_t>(slots_.size()));  // decoding sequences come first
  step_ = &plan;
  step_slots_ = slots;
  input_.Begin();
  list_entries_.Begin();
  last_plan_.reset();
}

CudaStatus CudaCodes::PlanLayers(int32_t first, int32_t end, int32_t rows) {
  if (rows == 0) return CudaStatus::kOk;
  new_entries_.clear();
  int32_t row = 0;
  for (size_t i = 0; i < step_->items.size() && row < rows_; ++i) {
    Follow(step_->items[i], step_slots_[i], first * spec_.kv_heads, end * spec_.kv_heads);
    row += static_cast<int32_t>(step_->items[i].tokens.size());
  }
  CudaStatus status = list_entries_.Send(stream_, new_entries_, lists_);
  for (int32_t layer = first; layer < end; ++layer) PlanLayer(layer, rows);
  Both(status, input_.Send(stream_));
  return status;
}

// The tokens of a sealed head that the row sees, its own among them.
void CudaCodes::AddLists(const StepItem& item, int32_t row, int32_t slot, int32_t layer, int32_t kv_head) {
  const HeadPages& pages = item.pages->at(layer, kv_head);
  const int32_t heads = spec_.layers * spec_.kv_heads;
  for (int32_t t = 0; t < kernels::kTierCount; ++t) {
    const Tier tier = static_cast<Tier>(t);
    const int32_t tokens = pages.of(tier).tokens + (tier == Tier::kT8 ? 1 : 0);
    if (tokens == 0) continue;
    const int32_t page_tokens = kernels::TokensPerPage(tier, spec_.head_dim);
    const int32_t left = pages.local() ? std::max(0, pages.oldest_seen(item.position) - pages.first_held(tier, item.position)) : 0;
    if (left >= tokens) continue;
    const int32_t gone = left / page_tokens;
    // Relative to the layer's first head, so that layers whose heads hold as much have the same lists.
    layer_lists_.push_back({.head = row * spec_.kv_heads + kv_head,
                            .tier = t,
                            .first_page = (slot * heads + kv_head) * list_pages_ + ListOffset(tier) + gone,
                            .tokens = tokens - gone * page_tokens,
                            .skip = left - gone * page_tokens});
  }
}

void CudaCodes::PlanLayer(int32_t layer, int32_t rows) {
  const StepPlan& plan = *step_;
  Layer& planned = layers_[static_cast<size_t>(layer)];
  layer_lists_.clear();
  flags_.assign(static_cast<size_t>(rows * spec_.kv_heads), 0);
  int32_t row = 0;
  for (size_t i = 0; i < plan.items.size() && row < rows_; ++i) {
    const StepItem& item = plan.items[i];
    for (int32_t kv_head = 0; kv_head < spec_.kv_heads; ++kv_head) {
      if (!item.pages->at(layer, kv_head).sealed) continue;
      flags_[static_cast<size_t>(row * spec_.kv_heads + kv_head)] = 1;
      AddLists(item, row, step_slots_[i], layer, kv_head);
    }
    row += static_cast<int32_t>(item.tokens.size());
  }
  SPH_CHECK(static_cast<int32_t>(layer_lists_.size()) <= lists_max_);
  planned.list_count = static_cast<int32_t>(layer_lists_.size());
  input_.Place(std::span<const uint8_t>(flags_), planned.coded);
  PlaceEntries(layer, rows);
  const bool same = last_plan_.has_value() && layer_lists_.size() == last_lists_.size() &&
                    std::memcmp(layer_lists_.data(), last_lists_.data(), layer_lists_.size() * sizeof(AdaList)) == 0;
  if (same) {
    input_.PlaceAgain(last_plan_->lists, planned.lists);
    input_.PlaceAgain(last_plan_->head_lists, planned.head_lists);
    input_.PlaceAgain(last_plan_->parts, planned.parts);
    input_.PlaceAgain(last_plan_->worker_parts, planned.worker_parts);
    input_.PlaceAgain(last_plan_->head_states, planned.head_states);
    return;
  }
  kernels::cuda::PlanAda(spec_.head_dim, layer_lists_, rows * spec_.kv_heads, {}, decoder_.workers(), plan_);
  last_plan_ = PutPlan{.lists = input_.Place(std::span<const AdaList>(layer_lists_), planned.lists),
                       .head_lists = input_.Place(std::span<const int32_t>(plan_.head_lists), planned.head_lists),
                       .worker_parts = input_.Place(std::span<const int32_t>(plan_.worker_parts), planned.worker_parts),
                       .parts = input_.Place(std::span<const kernels::cuda::AdaPart>(plan_.parts), planned.parts),
                       .head_states = input_.Place(std::span<const kernels::cuda::AdaHeadStates>(plan_.states), planned.head_states)};
  std::swap(last_lists_, layer_lists_);
}

int32_t CudaCodes::EntryCount(int32_t rows) const { return spec_.kv_heads * static_cast<int32_t>(CeilDiv(rows, kEntryRows)); }

// Where the rows' new tokens go, some rows of a head together; a row whose head is not sealed goes nowhere.
void CudaCodes::PlaceEntries(int32_t layer, int32_t rows) {
  const Layer& planned = layers_[static_cast<size_t>(layer)];
  const int32_t d = spec_.head_dim, page_tokens = kernels::TokensPerPage(Tier::kT8, d);
  places_.assign(static_cast<size_t>(spec_.kv_heads * rows), {.page = nullptr, .slot = 0, .tier = Tier::kT8, .utility = 0, .noted = true});
  int32_t row = 0;
  for (const StepItem& item : step_->items) {
    if (row >= rows_) break;
    for (int32_t kv_head = 0; kv_head < spec_.kv_heads; ++kv_head) {
      const HeadPages& pages = item.pages->at(layer, kv_head);
      if (!pages.sealed) continue;
      const int32_t slot = pages.of(Tier::kT8).tokens;
      CodedSlot& place = places_[static_cast<size_t>(kv_head * rows + row)];
      place.page = PageOf(pages, Tier::kT8, slot);
      place.slot = static_cast<int16_t>(slot % page_tokens);
    }
    row += static_cast<int32_t>(item.tokens.size());
  }
  input_.Place(std::span<const CodedSlot>(places_), planned.places);
  entries_.clear();
  for (int32_t kv_head = 0; kv_head < spec_.kv_heads; ++kv_head) {
    for (int32_t first = 0; first < rows; first += kEntryRows) {
      const int64_t at = (int64_t{first} * spec_.kv_heads + kv_head) * d;
      entries_.push_back({.head = layer * spec_.kv_heads + kv_head,
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
  input_.Place(std::span<const EncodeItem>(entries_), planned.entries);
}

CudaStatus CudaCodes::Attend(int32_t layer, int32_t rows, uint16_t* attended) {
  const Layer& planned = layers_[static_cast<size_t>(layer)];
  const int32_t group = spec_.heads / spec_.kv_heads;
  CudaStatus status = kernels::cuda::Encode(stream_, spec_.head_dim, geometries_, planned.entries, EntryCount(rows),
                                             overlap_);
  Both(status, decoder_.Attend(stream_, ada_heads_[static_cast<size_t>(layer)],
                               {.shape = {.head_dim = spec_.head_dim,
                                          .group = group,
                                          .scale = spec_.attention_scale,
                                          .softcap = spec_.attention_softcap,
                                          .window = 0,
                                          .page_bytes = arenas_.coded_page_bytes},
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
                                .head_states = planned.head_states,
                                .digits = digits_,
                                .states = states_,
                                .output = output_}));
  Both(status, kernels::cuda::TakeCoded(stream_, planned.coded, output_, rows, spec_.kv_heads, group * spec_.head_dim, attended,
                                        overlap_));
  return status;
}

CudaStatus CudaCodes::Retier(std::span<const RetierItem> items) {
  retier_status_ = CudaStatus::kOk;
  for (const RetierItem& item : items) {
    switch (item.kind) {
      case RetierItem::Kind::kSeal:
        SPH_CHECK(!item.priced);
        Seal(item);
        break;
      case RetierItem::Kind::kDemote:
        Demote(item);
        break;
      case RetierItem::Kind::kReprice:
        SPH_CHECK(false);  // of mode `rdr`, which is refused at start
    }
    for (Slot& slot : slots_) {
      if (slot.sequence == item.sequence) slot.heads[static_cast<size_t>(item.head)] = {};
    }
  }
  Both(retier_status_, FlushRetier());
  return retier_status_;
}

void CudaCodes::Seal(const RetierItem& item) {
  const HeadPages& pages = *item.pages;
  std::array<int32_t, kernels::kTierCount> filled;
  for (size_t t = 0; t < filled.size(); ++t) filled[t] = pages.tiers[t].tokens;
  for (int32_t first = pages.exact_begin; first < item.end; first += kTile) {
    const int32_t rows = std::min(kTile, item.end - first);
    if (static_cast<int64_t>(seals_.size() + 1) * int64_t{sizeof(EncodeItem) + kTile * sizeof(CodedSlot)} > kRetierInputBytes / 2) {
      Both(retier_status_, FlushRetier());
    }
    const PageId page = pages.exact[static_cast<size_t>((first - pages.exact_begin) / kTile)];
    seals_.push_back({.head = item.head,
                      .rows = rows,
                      .codings = 1,
                      .source = kernels::cuda::TokenSource::kExactPage,
                      .first = 0,
                      .keys = arenas_.exact + page * arenas_.exact_page_bytes,
                      .values = nullptr,
                      .key_stride = 0,
                      .value_stride = 0,
                      .slots = nullptr,  // at FlushRetier
                      .errors = nullptr});
    for (int32_t position = first; position < first + rows; ++position) {
      const Tier tier = position < pages.sinks() || position >= item.newest ? Tier::kT8 : item.tier;
      const int32_t slot = filled[static_cast<size_t>(tier)]++;
      seal_slots_.push_back({.page = PageOf(pages, tier, slot),
                             .slot = static_cast<int16_t>(slot % kernels::TokensPerPage(tier, spec_.head_dim)),
                             .tier = tier,
                             .utility = 0,
                             .noted = true});
    }
  }
}

// The oldest T8 tokens but the sinks go to the tier; those after them move up.
void CudaCodes::Demote(const RetierItem& item) {
  if (static_cast<int64_t>(moves_.size() + kWholeTokensMax) * int64_t{sizeof(MoveItem)} > kRetierInputBytes / 2) {
    Both(retier_status_, FlushRetier());
  }
  const HeadPages& pages = *item.pages;
  const int32_t first = static_cast<int32_t>(moves_.size()), sinks = pages.sinks(), whole = pages.of(Tier::kT8).tokens;
  Move(item, sinks, item.count, item.tier, pages.of(item.tier).tokens);
  Move(item, sinks + item.count, whole - sinks - item.count, Tier::kT8, sinks);
  runs_.push_back({.first = first, .count = static_cast<int32_t>(moves_.size()) - first});
}

void CudaCodes::Move(const RetierItem& item, int32_t from, int32_t tokens, Tier tier, int32_t to) {
  const int32_t from_page = kernels::TokensPerPage(Tier::kT8, spec_.head_dim), to_page = kernels::TokensPerPage(tier, spec_.head_dim);
  while (tokens > 0) {
    const int32_t in_tile = from % kTokenTile, rows = std::min({tokens, kTokenTile - in_tile, to_page - to % to_page});
    moves_.push_back({.head = item.head,
                      .from = Tier::kT8,
                      .to = tier,
                      .which = static_cast<uint16_t>(((1u << rows) - 1) << in_tile),
                      .from_tile = from % from_page / kTokenTile,
                      .to_slot = to % to_page,
                      .from_page = PageOf(*item.pages, Tier::kT8, from),
                      .to_page = PageOf(*item.pages, tier, to)});
    from += rows;
    to += rows;
    tokens -= rows;
  }
}

CudaStatus CudaCodes::FlushRetier() {
  CudaStatus status = CudaStatus::kOk;
  retier_input_.Begin();
  if (!seals_.empty()) {
    const CodedSlot* slots = retier_input_.Put(std::span<const CodedSlot>(seal_slots_));
    for (EncodeItem& seal : seals_) {
      seal.slots = slots;
      slots += seal.rows;
    }
  }
  const EncodeItem* const seals = retier_input_.Put(std::span<const EncodeItem>(seals_));
  const MoveItem* const moves = retier_input_.Put(std::span<const MoveItem>(moves_));
  const MoveRun* const runs = retier_input_.Put(std::span<const MoveRun>(runs_));
  Both(status, retier_input_.Send(stream_));
  if (!seals_.empty()) {
    Both(status, kernels::cuda::Encode(stream_, spec_.head_dim, geometries_, seals, static_cast<int32_t>(seals_.size())));
  }
  if (!runs_.empty()) {
    Both(status, kernels::cuda::Demote(stream_, spec_.head_dim, geometries_, moves, runs, static_cast<int32_t>(runs_.size())));
  }
  Both(status, kernels::cuda::Synchronize(stream_));
  seals_.clear();
  seal_slots_.clear();
  moves_.clear();
  runs_.clear();
  return status;
}

}  // namespace spherical::engine
