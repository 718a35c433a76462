#include "engine/step/cuda_codes.h"

#include <algorithm>
#include <cstring>

#include "engine/step/device_pieces.h"
#include "kernels/base/check.h"
#include "kernels/cuda/dense_rows.h"

namespace spherical::engine {
namespace {

using kernels::kTokenTile;
using kernels::Tier;
using kernels::cuda::AdaList;
using kernels::cuda::CodedSlot;
using kernels::cuda::CudaStatus;
using kernels::cuda::EncodeItem;
using kernels::cuda::RefreshItem;

constexpr int64_t kListInputBytes = int64_t{4} << 20;
constexpr int64_t kNewListsMax = kListInputBytes / 16;  // an entry is 12 bytes, and two alignments

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
      stream_(stream),
      retier_(spec, pool, stream),
      rates_(spec, stream),
      layers_(static_cast<size_t>(spec.layers)) {}

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
  const int64_t row_heads = int64_t{sequences} * spec_.kv_heads;
  lists_max_ = static_cast<int32_t>(row_heads * (priced() ? kernels::kLadderTiers : 2));
  const int64_t parts = lists_max_ + decoder_.workers(), states = parts * kernels::cuda::kAdaPartStates;
  const auto place = [&](uint8_t* base) {
    DevicePieces pieces(base);
    lists_ = pieces.Take<PageId>(int64_t{sequences} * heads * list_pages_);
    raw_query_ = pieces.Take<float>(int64_t{sequences} * spec_.heads * d);
    raw_key_ = pieces.Take<float>(row_heads * d);
    raw_value_ = pieces.Take<float>(row_heads * d);
    output_ = pieces.Take<float>(int64_t{sequences} * spec_.heads * d);
    digits_ = pieces.Take<uint8_t>(lists_max_ * decoder_.DigitBytes());
    refresh_mapped_ = pieces.Take<float>(priced() ? int64_t{sequences} * spec_.heads * d : 0);
    refresh_terms_ = pieces.Take<float>(priced() ? int64_t{sequences} * spec_.heads * 3 : 0);
    states_ = {.max = pieces.Take<float>(states * group), .sum = pieces.Take<float>(states * group),
               .output = pieces.Take<float>(states * group * d)};
    return pieces.used();
  };
  if (!Both(status, memory_.Allocate(place(nullptr)))) return status;
  place(memory_.data());
  const int64_t of_layer = StepInput::BytesFor(row_heads) + StepInput::BytesFor(row_heads * int64_t{sizeof(CodedSlot)}) +
                           StepInput::BytesFor(spec_.kv_heads * CeilDiv(sequences, kTokenTile) * int64_t{sizeof(EncodeItem)}) +
                           StepInput::BytesFor(lists_max_ * int64_t{sizeof(AdaList)}) + StepInput::BytesFor((row_heads + 1) * 4) +
                           StepInput::BytesFor(parts * int64_t{sizeof(kernels::cuda::AdaPart)}) +
                           StepInput::BytesFor((decoder_.workers() + 1) * int64_t{4}) +
                           StepInput::BytesFor(row_heads * int64_t{sizeof(kernels::cuda::AdaHeadStates)}) +
                           StepInput::BytesFor(row_heads * int64_t{sizeof(RefreshItem)});
  Both(status, input_.Create(spec_.layers * of_layer));
  Both(status, list_input_.Create(kListInputBytes));
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
void CudaCodes::Follow(const StepItem& item, int32_t slot) {
  Slot& on_device = slots_[static_cast<size_t>(slot)];
  if (on_device.sequence != item.sequence) {
    on_device.sequence = item.sequence;
    for (auto& head : on_device.heads) head = {};
  }
  const int32_t heads = spec_.layers * spec_.kv_heads;
  for (int32_t head = 0; head < heads; ++head) {
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
      for (int32_t i = listed; i < count; ++i) {
        new_where_.push_back(at + i);
        new_pages_.push_back(list[static_cast<size_t>(i)]);
      }
      listed = count;
    }
  }
}

CudaStatus CudaCodes::SendLists() {
  CudaStatus status = CudaStatus::kOk;
  for (size_t first = 0; first < new_where_.size(); first += kNewListsMax) {
    if (first > 0) Both(status, kernels::cuda::Synchronize(stream_));
    const size_t count = std::min<size_t>(kNewListsMax, new_where_.size() - first);
    list_input_.Begin();
    const int64_t* where = list_input_.Put(std::span<const int64_t>(new_where_).subspan(first, count));
    const int32_t* pages = list_input_.Put(std::span<const int32_t>(new_pages_).subspan(first, count));
    Both(status, list_input_.Send(stream_));
    Both(status, kernels::cuda::EnterPages(stream_, where, pages, static_cast<int32_t>(count), lists_));
  }
  return status;
}

CudaStatus CudaCodes::Begin(const StepPlan& plan, std::span<const int32_t> slots) {
  rows_ = 0;
  new_where_.clear();
  new_pages_.clear();
  CudaStatus status = priced() ? rates_.Begin(plan) : CudaStatus::kOk;
  int32_t row = 0;
  for (size_t i = 0; i < plan.items.size(); ++i) {
    const StepItem& item = plan.items[i];
    row += static_cast<int32_t>(item.tokens.size());
    if (!item.pages->holds_codes()) continue;
    SPH_CHECK(item.tokens.size() == 1);  // nothing is sealed before its prompt is complete
    Follow(item, slots[i]);
    rows_ = row;
  }
  if (rows_ == 0) return status;
  SPH_CHECK(rows_ <= static_cast<int32_t>(slots_.size()));  // decoding sequences come first
  step_ = &plan;
  step_slots_ = slots;
  input_.Begin();
  last_lists_.clear();
  Both(status, SendLists());
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
                            .first_page = (slot * heads + kv_head) * list_pages_ + ListOffset(pages, tier) + gone,
                            .tokens = tokens - gone * page_tokens,
                            .skip = left - gone * page_tokens});
  }
}

void CudaCodes::AddRefreshed(const StepItem& item, int32_t row, int32_t slot, int32_t layer, int32_t kv_head) {
  const HeadPages& pages = item.pages->at(layer, kv_head);
  const int32_t head = layer * spec_.kv_heads + kv_head, tokens = pages.of(Tier::kT8).tokens + 1;
  const int64_t list = int64_t{slot} * spec_.layers * spec_.kv_heads + head;
  const int32_t first_held = pages.local() ? pages.first_held(Tier::kT8, item.position) : 0;
  const float share = static_cast<float>(spec_.head_dim) * kernels::kDropPremium / static_cast<float>(spec_.heads / spec_.kv_heads);
  refreshed_.push_back({.row = row,
                        .kv_head = kv_head,
                        .position = item.position,
                        .pages = lists_ + list * list_pages_ + ListOffset(pages, Tier::kT8),
                        .tokens = tokens,
                        .gone = std::clamp(pages.oldest_seen(item.position) - first_held, 0, tokens),
                        .unit = value_weights_[static_cast<size_t>(head)] / item.refresh[static_cast<size_t>(layer)] * share});
  Layer& planned = layers_[static_cast<size_t>(layer)];
  planned.refreshed_tokens = std::max(planned.refreshed_tokens, tokens);
}

CudaStatus CudaCodes::PlanLayer(int32_t layer) {
  if (rows_ == 0) return CudaStatus::kOk;
  const StepPlan& plan = *step_;
  Layer& planned = layers_[static_cast<size_t>(layer)];
  layer_lists_.clear();
  refreshed_.clear();
  planned.refreshed_tokens = 0;
  flags_.assign(static_cast<size_t>(rows_ * spec_.kv_heads), 0);
  int32_t row = 0;
  for (size_t i = 0; i < plan.items.size() && row < rows_; ++i) {
    const StepItem& item = plan.items[i];
    for (int32_t kv_head = 0; kv_head < spec_.kv_heads; ++kv_head) {
      if (!item.pages->at(layer, kv_head).sealed) continue;
      flags_[static_cast<size_t>(row * spec_.kv_heads + kv_head)] = 1;
      AddLists(item, row, step_slots_[i], layer, kv_head);
      if (!item.refresh.empty() && item.tokens.size() == 1) AddRefreshed(item, row, step_slots_[i], layer, kv_head);
    }
    row += static_cast<int32_t>(item.tokens.size());
  }
  SPH_CHECK(static_cast<int32_t>(layer_lists_.size()) <= lists_max_);
  planned.coded = input_.Put(std::span<const uint8_t>(flags_));
  PutEntries(layer);
  const bool same = layer > 0 && layer_lists_.size() == last_lists_.size() &&
                    std::memcmp(layer_lists_.data(), last_lists_.data(), layer_lists_.size() * sizeof(AdaList)) == 0;
  if (same) {
    planned.batch = layers_[static_cast<size_t>(layer) - 1].batch;
  } else {
    PutPlan(planned);
    last_lists_ = layer_lists_;
  }
  planned.batch.pages = lists_ + int64_t{layer} * spec_.kv_heads * list_pages_;
  planned.refreshed = input_.Put(std::span<const RefreshItem>(refreshed_));
  planned.refreshed_count = static_cast<int32_t>(refreshed_.size());
  return input_.Send(stream_);
}

void CudaCodes::PutPlan(Layer& layer) {
  layer.batch = {.shape = {.head_dim = spec_.head_dim,
                           .group = spec_.heads / spec_.kv_heads,
                           .scale = spec_.attention_scale,
                           .softcap = spec_.attention_softcap,
                           .window = 0,
                           .page_bytes = arenas_.coded_page_bytes},
                 .rows = rows_,
                 .kv_heads = spec_.kv_heads,
                 .query = raw_query_,
                 .arena = arenas_.coded,
                 .digits = digits_,
                 .states = states_,
                 .output = output_};
  layer.batch.list_count = static_cast<int32_t>(layer_lists_.size());
  if (layer_lists_.empty()) return;
  kernels::cuda::PlanAda(spec_.head_dim, layer_lists_, rows_ * spec_.kv_heads, {}, decoder_.workers(), plan_);
  layer.batch.lists = input_.Put(std::span<const AdaList>(layer_lists_));
  layer.batch.head_lists = input_.Put(std::span<const int32_t>(plan_.head_lists));
  layer.batch.parts = input_.Put(std::span<const kernels::cuda::AdaPart>(plan_.parts));
  layer.batch.worker_parts = input_.Put(std::span<const int32_t>(plan_.worker_parts));
  layer.batch.head_states = input_.Put(std::span<const kernels::cuda::AdaHeadStates>(plan_.states));
}

// Where the rows' new tokens go, sixteen rows of a head together; a row whose head is not sealed goes nowhere.
void CudaCodes::PutEntries(int32_t layer) {
  Layer& planned = layers_[static_cast<size_t>(layer)];
  const int32_t d = spec_.head_dim, page_tokens = kernels::TokensPerPage(Tier::kT8, d);
  places_.assign(static_cast<size_t>(spec_.kv_heads * rows_), {.page = nullptr, .slot = 0, .tier = Tier::kT8, .utility = 0, .noted = true});
  int32_t row = 0;
  for (const StepItem& item : step_->items) {
    if (row >= rows_) break;
    for (int32_t kv_head = 0; kv_head < spec_.kv_heads; ++kv_head) {
      const HeadPages& pages = item.pages->at(layer, kv_head);
      if (!pages.sealed) continue;
      const int32_t slot = pages.of(Tier::kT8).tokens;
      CodedSlot& place = places_[static_cast<size_t>(kv_head * rows_ + row)];
      place.page = PageOf(pages, Tier::kT8, slot);
      place.slot = static_cast<int16_t>(slot % page_tokens);
    }
    row += static_cast<int32_t>(item.tokens.size());
  }
  const CodedSlot* const places = input_.Put(std::span<const CodedSlot>(places_));
  entries_.clear();
  for (int32_t kv_head = 0; kv_head < spec_.kv_heads; ++kv_head) {
    for (int32_t first = 0; first < rows_; first += kTokenTile) {
      const int64_t at = (int64_t{first} * spec_.kv_heads + kv_head) * d;
      entries_.push_back({.head = layer * spec_.kv_heads + kv_head,
                          .rows = std::min(kTokenTile, rows_ - first),
                          .codings = 1,
                          .source = kernels::cuda::TokenSource::kRaw,
                          .first = 0,
                          .keys = raw_key_ + at,
                          .values = raw_value_ + at,
                          .key_stride = int64_t{spec_.kv_heads} * d,
                          .value_stride = int64_t{spec_.kv_heads} * d,
                          .slots = places + kv_head * rows_ + first,
                          .errors = nullptr});
    }
  }
  planned.entries = input_.Put(std::span<const EncodeItem>(entries_));
  planned.entry_count = static_cast<int32_t>(entries_.size());
}

CudaStatus CudaCodes::Attend(int32_t layer, uint16_t* attended) {
  const Layer& planned = layers_[static_cast<size_t>(layer)];
  if (rows_ == 0 || planned.batch.list_count == 0) return CudaStatus::kOk;
  CudaStatus status = kernels::cuda::Encode(stream_, spec_.head_dim, on_device_.keys(), planned.entries, planned.entry_count);
  Both(status, decoder_.Attend(stream_, on_device_.heads(layer), planned.batch));
  const int32_t group = spec_.heads / spec_.kv_heads;
  Both(status, kernels::cuda::TakeCoded(stream_, planned.coded, output_, rows_, spec_.kv_heads, group * spec_.head_dim, attended));
  if (planned.refreshed_count > 0) {
    Both(status, kernels::cuda::RefreshUtilities(stream_, on_device_.heads(layer),
                                                 {.shape = planned.batch.shape,
                                                  .kv_heads = spec_.kv_heads,
                                                  .query = raw_query_,
                                                  .head_states = planned.batch.head_states,
                                                  .states = states_,
                                                  .arena = arenas_.coded,
                                                  .step = geometry_.query(0).steps()[8],
                                                  .mapped = refresh_mapped_,
                                                  .terms = refresh_terms_},
                                                 planned.refreshed, planned.refreshed_count, planned.refreshed_tokens));
  }
  return status;
}

CudaStatus CudaCodes::Retier(std::span<const RetierItem> items) {
  for (const RetierItem& item : items) {
    for (Slot& slot : slots_) {
      if (slot.sequence == item.sequence) slot.heads[static_cast<size_t>(item.head)] = {};
    }
  }
  return retier_.Run(items);
}

}  // namespace spherical::engine
