#include "engine/step/cuda_pass.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "engine/step/device_pieces.h"
#include "engine/step/device_room.h"
#include "kernels/base/check.h"
#include "kernels/cuda/dense_rows.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

using kernels::cuda::CudaStatus;
using kernels::cuda::ExactJoin;
using kernels::cuda::ExactWork;

// What cuBLASLt may use of its own; 32 MiB is what it asks for on Hopper.
constexpr int64_t kProductWorkspaceBytes = int64_t{32} << 20;
constexpr int64_t kEntriesMax = 1 << 16;     // page table entries that are sent together
constexpr int64_t kInputAlignment = 256;

}  // namespace

CudaPass::CudaPass(const TransformerSpec& spec, const CudaWeights& weights, ThreadPool& pool, kernels::cuda::Stream stream)
    : spec_(spec), weights_(weights), threads_(pool), stream_(stream) {
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    const int32_t window = spec.window(layer);
    const auto kind = std::ranges::find(kinds_, window, &Kind::window);
    kind_of_layer_.push_back(static_cast<int32_t>(kind - kinds_.begin()));
    if (kind == kinds_.end()) kinds_.emplace_back().window = window;
  }
}

int64_t CudaPass::InputBytesMax() const {
  const int64_t group = spec_.heads / spec_.kv_heads;
  const int64_t tiles = kStepRowsMax * group / kernels::cuda::kTileFlats + kStepSequencesMax;
  const int64_t of_kind = (states_max_ + kStepSequencesMax) * int64_t{sizeof(ExactWork)} + tiles * int64_t{sizeof(ExactWork)} +
                          kStepSequencesMax * int64_t{sizeof(ExactJoin)} + 3 * kInputAlignment;
  return 3 * (kStepRowsMax * int64_t{sizeof(int32_t)} + kInputAlignment) + static_cast<int64_t>(kinds_.size()) * of_kind;
}

int64_t CudaPass::PlaceOnDevice(const CudaPassOptions& options, uint8_t* base) {
  const int64_t m = kStepRowsMax, d = spec_.head_dim;
  DevicePieces pieces(base);
  lists_ = pieces.Take<int32_t>(pages_[0].list_entries());
  entry_where_ = pieces.Take<int64_t>(kEntriesMax);
  entry_page_ = pieces.Take<int32_t>(kEntriesMax);
  frequency_ = pieces.Take<double>(spec_.rotary_dim / 2);
  local_frequency_ = pieces.Take<double>(spec_.rotary_dim / 2);
  angles_ = pieces.Take<float>(m * spec_.rotary_dim);
  local_angles_ = pieces.Take<float>(m * spec_.rotary_dim);
  x_ = pieces.Take<float>(m * spec_.width);
  normed_ = pieces.Take<uint16_t>(m * spec_.width);
  joined_ = pieces.Take<float>(m * JoinedOutputs());
  query_ = pieces.Take<uint16_t>(m * spec_.heads * d);
  attended_ = pieces.Take<uint16_t>(m * spec_.heads * d);
  delta_ = pieces.Take<float>(m * spec_.width);
  energy_ = pieces.Take<float>(options.value_weights.empty() ? 0 : spec_.layers * m);
  gate_up_ = pieces.Take<float>(m * 2 * spec_.ffn_width);
  gated_ = pieces.Take<uint16_t>(m * spec_.ffn_width);
  const int64_t states = states_max_ * spec_.kv_heads * kernels::cuda::kRunFlats;
  state_max_ = pieces.Take<float>(states);
  state_sum_ = pieces.Take<float>(states);
  state_output_ = pieces.Take<float>(states * d);
  logit_rows_ = pieces.Take<int32_t>(kLogitsRowsMax);
  logits_ = pieces.Take<float>(int64_t{kLogitsRowsMax} * spec_.vocabulary);
  greatest_ = pieces.Take<int32_t>(kLogitsRowsMax);
  SPH_CHECK(options.sequences <= kStepSequencesMax);
  return pieces.used();
}

int64_t CudaPass::PlacePinned(const CudaPassOptions& options, uint8_t* base) {
  DevicePieces pieces(base);
  pinned_where_ = pieces.Take<int64_t>(kEntriesMax);
  pinned_page_ = pieces.Take<int32_t>(kEntriesMax);
  pinned_rows_ = pieces.Take<int32_t>(kLogitsRowsMax);
  pinned_energy_ = pieces.Take<float>(options.value_weights.empty() ? 0 : int64_t{spec_.layers} * kStepRowsMax);
  return pieces.used();
}

absl::Status CudaPass::Create(const CudaPassOptions& options) {
  SPH_CHECK(pages_.empty());
  const int32_t list_pages = static_cast<int32_t>(CeilDiv(options.context_max, kernels::kExactTokensPerPage)) + 1;
  pages_.emplace_back(options.sequences, spec_.layers * spec_.kv_heads, list_pages);
  // No more runs than the tokens that sequences of a step can have, whichever bound is the lower: the context, or (where no window lets
  // tokens go) the pool.
  states_max_ = int64_t{options.sequences} * (options.context_max / kernels::cuda::kRunKeys + 2);
  const int64_t page_bytes = kernels::PageBytes(spec_.head_dim), exact_bytes = kernels::ExactBytesUsed(spec_.head_dim);
  int64_t free_bytes = 0, all_bytes = 0;
  Note(kernels::cuda::FreeMemory(&free_bytes, &all_bytes));
  if (spec_.windows.empty()) {
    const int64_t pool_pages = options.pages > 0 ? options.pages : free_bytes / page_bytes;
    const int64_t exact_pages = options.geometry == nullptr ? pool_pages : options.workspace_pages;
    const int64_t tokens = exact_pages / (spec_.layers * spec_.kv_heads) * kernels::kExactTokensPerPage;
    states_max_ = std::min(states_max_, DeviceStatesMax(tokens));
  }
  const int64_t prefill_bytes = options.workspace_pages * exact_bytes, workspace_bytes = PlaceOnDevice(options, nullptr);
  const auto exhausted = [&](const char* why) {
    return absl::ResourceExhaustedError(
        fmt::format("the prefill workspace of {} bytes, page tables of {} and {} for steps do not fit the device, where {} of {} bytes are "
                    "free beside the weights: {}; lower limits.running (--limits-running), context.max (--context-max) or "
                    "kv.prefill_workspace_bytes (--kv-prefill-workspace-bytes)",
                    prefill_bytes, pages_[0].list_entries() * int64_t{sizeof(int32_t)}, workspace_bytes, free_bytes, all_bytes, why));
  };
  const int64_t pinned_bytes = PlacePinned(options, nullptr);
  for (const CudaStatus taken : {workspace_.Allocate(workspace_bytes), pinned_.Allocate(pinned_bytes)}) {
    if (taken != CudaStatus::kOk) return exhausted(kernels::cuda::TextOf(taken));
  }
  if (!products_.Create(kProductWorkspaceBytes)) return exhausted(products_.why().c_str());
  if (const CudaStatus taken = input_.Create(InputBytesMax()); taken != CudaStatus::kOk) return exhausted(kernels::cuda::TextOf(taken));
  if (options.geometry != nullptr) {
    if (const CudaStatus taken = prefill_.Allocate(std::max<int64_t>(1, prefill_bytes)); taken != CudaStatus::kOk) {
      return exhausted(kernels::cuda::TextOf(taken));
    }
    arenas_ = {.exact = prefill_.data(), .exact_page_bytes = exact_bytes, .coded_page_bytes = page_bytes};
    codes_ = std::make_unique<CudaCodes>(spec_, *options.geometry, options.value_weights, threads_, stream_);
    const CudaStatus taken = codes_->Create(options.sequences, options.context_max, arenas_);
    if (taken != CudaStatus::kOk) return exhausted(kernels::cuda::TextOf(taken));
  }
  if (absl::Status taken = TakePool(options, free_bytes); !taken.ok()) return taken;
  PlaceOnDevice(options, workspace_.data());
  PlacePinned(options, pinned_.data());
  Note(kernels::cuda::PrepareExactAttention(spec_.head_dim));
  const int64_t frequency_bytes = spec_.rotary_dim / 2 * int64_t{sizeof(double)};
  // What products read beyond a step's rows must be some number.
  Note(kernels::cuda::FillBytes(stream_, workspace_.data(), 0, workspace_.bytes()));
  Note(kernels::cuda::CopyToDevice(stream_, frequency_, spec_.rotary_frequency.data(), frequency_bytes));
  if (!spec_.local_rotary_frequency.empty()) {
    Note(kernels::cuda::CopyToDevice(stream_, local_frequency_, spec_.local_rotary_frequency.data(), frequency_bytes));
  }
  TryProducts(kStepRowsMax);
  return Await();
}

absl::Status CudaPass::TakePool(const CudaPassOptions& options, int64_t free_at_first) {
  const int64_t page_bytes = kernels::PageBytes(spec_.head_dim);
  DeviceRoom room = {.weights = weights_.memory.bytes(), .prefill = prefill_.bytes()};
  Note(kernels::cuda::FreeMemory(&room.free, &room.all));
  room.steps = free_at_first - room.free - room.prefill;
  const auto pages = PoolPagesIn(room, page_bytes, PageCount(options.pages), PageCount(options.least_pages));
  if (!pages.ok()) return pages.status();
  if (const CudaStatus taken = pool_.Allocate(pages->value() * page_bytes); taken != CudaStatus::kOk) {
    return absl::ResourceExhaustedError(
        fmt::format("kv.pool_bytes (--kv-pool-bytes): {} bytes for the pool could not be had: {}; {}; ask for less",
                    pages->value() * page_bytes, kernels::cuda::TextOf(taken), TextOf(room)));
  }
  if (codes_ == nullptr) {
    arenas_ = {.exact = pool_.data(), .exact_page_bytes = page_bytes};
  } else {
    arenas_.coded = pool_.data();
    codes_->UsePages(arenas_);
  }
  return absl::OkStatus();
}

void CudaPass::TryProducts(int32_t rows_max) {
  const int64_t width = spec_.width, attended = int64_t{spec_.heads} * spec_.head_dim;
  const CudaLayerWeights& w = weights_.layers[0];
  for (int32_t m = 1; m <= rows_max; m = kernels::cuda::PaddedRows(m) + 1) {
    Multiply(w.joined, normed_, joined_, m, JoinedOutputs(), width);
    Multiply(w.output, attended_, delta_, m, width, attended);
    Multiply(w.gate_up, normed_, gate_up_, m, 2 * int64_t{spec_.ffn_width}, width);
    Multiply(w.down, gated_, delta_, m, width, spec_.ffn_width);
    if (m <= kLogitsRowsMax) Multiply(weights_.output, normed_, logits_, m, spec_.vocabulary, width);
  }
}

void CudaPass::Note(CudaStatus status) {
  if (status != CudaStatus::kOk && why_.empty()) why_ = kernels::cuda::TextOf(status);
}

absl::Status CudaPass::Await() {
  Note(kernels::cuda::Synchronize(stream_));
  return why_.empty() ? absl::OkStatus() : absl::InternalError(fmt::format("the CUDA device failed: {}", why_));
}

void CudaPass::SendPages() {
  for (size_t first = 0; first < entries_.size(); first += kEntriesMax) {
    if (first > 0) Note(kernels::cuda::Synchronize(stream_));  // the pinned memory is still being read
    const int32_t count = static_cast<int32_t>(std::min<size_t>(kEntriesMax, entries_.size() - first));
    for (int32_t i = 0; i < count; ++i) {
      pinned_where_[i] = entries_[first + static_cast<size_t>(i)].where;
      pinned_page_[i] = entries_[first + static_cast<size_t>(i)].page;
    }
    Note(kernels::cuda::CopyToDevice(stream_, entry_where_, pinned_where_, count * int64_t{sizeof(int64_t)}));
    Note(kernels::cuda::CopyToDevice(stream_, entry_page_, pinned_page_, count * int64_t{sizeof(int32_t)}));
    Note(kernels::cuda::EnterPages(stream_, entry_where_, entry_page_, count, lists_));
  }
}

void CudaPass::PutInput(const StepPlan& plan) {
  input_.Begin();
  entries_.clear();
  item_slots_.clear();
  pages_[0].BeginStep();
  for (const StepItem& item : plan.items) item_slots_.push_back(pages_[0].Follow(item, entries_));

  const auto put_rows = [&](auto value_of) {
    gathered_.clear();
    for (size_t i = 0; i < plan.items.size(); ++i) {
      for (size_t t = 0; t < plan.items[i].tokens.size(); ++t) gathered_.push_back(value_of(i, t));
    }
    return input_.Put(std::span<const int32_t>(gathered_));
  };
  tokens_ = put_rows([&](size_t i, size_t t) { return plan.items[i].tokens[t]; });
  positions_ = put_rows([&](size_t i, size_t t) { return plan.items[i].position + static_cast<int32_t>(t); });
  slots_ = put_rows([&](size_t i, size_t) { return item_slots_[i]; });
  rows_ = static_cast<int32_t>(gathered_.size());
  SPH_CHECK(rows_ > 0 && rows_ <= kStepRowsMax);
  const bool sampled = std::ranges::any_of(plan.items, [](const StepItem& item) { return item.pages->sampling().stride > 0; });
  energy_rows_ = sampled && codes_ != nullptr && codes_->priced() ? rows_ : 0;
  for (Kind& kind : kinds_) {
    CutForDevice(plan, item_slots_, spec_.heads / spec_.kv_heads, kind.window, kind.work);
    SPH_CHECK(kind.work.states <= states_max_);
    kind.runs = input_.Put(std::span<const ExactWork>(kind.work.runs));
    kind.tiles = input_.Put(std::span<const ExactWork>(kind.work.tiles));
    kind.joins = input_.Put(std::span<const ExactJoin>(kind.work.joins));
  }
}

void CudaPass::RunLayers(const StepPlan& plan) {
  PutInput(plan);
  SendPages();
  Note(input_.Send(stream_));
  if (codes_ != nullptr) Note(codes_->Begin(plan, item_slots_));
  Note(kernels::cuda::EmbedRows(stream_, weights_.embedding, tokens_, rows_, spec_.width, spec_.embedding_scale, x_));
  Note(kernels::cuda::RotaryAnglesOf(stream_, frequency_, spec_.rotary_dim, positions_, rows_, angles_));
  if (!spec_.local_rotary_frequency.empty()) {
    Note(kernels::cuda::RotaryAnglesOf(stream_, local_frequency_, spec_.rotary_dim, positions_, rows_, local_angles_));
  }
  // Each norm also takes in what came before it; the last one adds what the last layer leaves, for whichever rows are asked for later.
  Note(kernels::cuda::AddAndNorm(stream_, {.x = x_, .weight = weights_.layers[0].attention_norm, .out = normed_,
                                           .epsilon = spec_.norm_epsilon, .m = rows_, .d = spec_.width}));
  for (int32_t layer = 0; layer < spec_.layers; ++layer) RunLayer(layer);
  if (energy_rows_ == 0) return;
  Note(kernels::cuda::CopyToHost(stream_, pinned_energy_, energy_, int64_t{spec_.layers} * energy_rows_ * int64_t{sizeof(float)}));
}

// From the normed rows that the layer takes to those that the next one does.
void CudaPass::RunLayer(int32_t layer) {
  const CudaLayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const int64_t width = spec_.width, attended = int64_t{spec_.heads} * spec_.head_dim;
  const bool local = spec_.window(layer) > 0 && !spec_.local_rotary_frequency.empty();
  if (codes_ != nullptr) Note(codes_->PlanLayer(layer));
  Multiply(w.joined, normed_, joined_, rows_, JoinedOutputs(), width);
  Note(kernels::cuda::PrepareHeads(stream_, {.joined = joined_,
                                             .bias = w.joined_bias,
                                             .query_norm = w.query_norm,
                                             .key_norm = w.key_norm,
                                             .angles = local ? local_angles_ : angles_,
                                             .epsilon = spec_.norm_epsilon,
                                             .m = rows_,
                                             .heads = spec_.heads,
                                             .kv_heads = spec_.kv_heads,
                                             .head_dim = spec_.head_dim,
                                             .rotary_dim = spec_.rotary_dim,
                                             .adjacent = spec_.rotary_pairing == kernels::RotaryPairing::kAdjacent,
                                             .query = query_,
                                             .positions = positions_,
                                             .slots = slots_,
                                             .lists = lists_,
                                             .list = layer * spec_.kv_heads,
                                             .lists_per_slot = spec_.layers * spec_.kv_heads,
                                             .list_pages = pages_[0].list_pages(),
                                             .arena = arenas_.exact,
                                             .page_bytes = arenas_.exact_page_bytes,
                                             .coded_rows = codes_ == nullptr ? 0 : codes_->rows(),
                                             .coded = CodedHeads(layer),
                                             .raw_query = codes_ == nullptr ? nullptr : codes_->raw_query(),
                                             .raw_key = codes_ == nullptr ? nullptr : codes_->raw_key(),
                                             .raw_value = codes_ == nullptr ? nullptr : codes_->raw_value()}));
  if (codes_ != nullptr) Note(codes_->KeepQueries(layer, query_));
  Attend(layer);
  Multiply(w.output, attended_, delta_, rows_, width, attended);
  Note(kernels::cuda::AddAndNorm(stream_, {.x = x_, .delta = delta_, .post_weight = w.attention_post_norm, .weight = w.ffn_norm,
                                           .out = normed_, .energy = energy_rows_ == 0 ? nullptr : energy_ + layer * energy_rows_,
                                           .epsilon = spec_.norm_epsilon, .m = rows_, .d = spec_.width}));
  Multiply(w.gate_up, normed_, gate_up_, rows_, 2 * int64_t{spec_.ffn_width}, width);
  const auto gate = spec_.gate == GateActivation::kSilu ? kernels::cuda::Gate::kSilu : kernels::cuda::Gate::kGeluTanh;
  Note(kernels::cuda::GateRows(stream_, gate, gate_up_, rows_, spec_.ffn_width, gated_));
  Multiply(w.down, gated_, delta_, rows_, width, spec_.ffn_width);
  const bool last = layer + 1 == spec_.layers;
  Note(kernels::cuda::AddAndNorm(stream_, {.x = x_, .delta = delta_, .post_weight = w.ffn_post_norm,
                                           .weight = last ? nullptr : weights_.layers[static_cast<size_t>(layer) + 1].attention_norm,
                                           .out = normed_, .epsilon = spec_.norm_epsilon, .m = rows_, .d = spec_.width}));
}

void CudaPass::Attend(int32_t layer) {
  const Kind& kind = kinds_[static_cast<size_t>(kind_of_layer_[static_cast<size_t>(layer)])];
  const kernels::cuda::ExactArgs args = {.heads = spec_.heads,
                                         .kv_heads = spec_.kv_heads,
                                         .head_dim = spec_.head_dim,
                                         .scale = spec_.attention_scale,
                                         .softcap = spec_.attention_softcap,
                                         .window = kind.window,
                                         .query = query_,
                                         .lists = lists_,
                                         .list = layer * spec_.kv_heads,
                                         .lists_per_slot = spec_.layers * spec_.kv_heads,
                                         .list_pages = pages_[0].list_pages(),
                                         .coded = CodedHeads(layer),
                                         .coded_rows = codes_ == nullptr ? 0 : codes_->rows(),
                                         .arena = arenas_.exact,
                                         .page_bytes = arenas_.exact_page_bytes,
                                         .out = attended_,
                                         .max = state_max_,
                                         .sum = state_sum_,
                                         .output = state_output_};
  Note(kernels::cuda::AttendTiles(stream_, args, kind.tiles, static_cast<int32_t>(kind.work.tiles.size())));
  Note(kernels::cuda::AttendRuns(stream_, args, kind.runs, static_cast<int32_t>(kind.work.runs.size())));
  Note(kernels::cuda::JoinRuns(stream_, args, kind.joins, static_cast<int32_t>(kind.work.joins.size())));
  if (codes_ != nullptr) Note(codes_->Attend(layer, attended_));
}

const uint8_t* CudaPass::CodedHeads(int32_t layer) const {
  return codes_ == nullptr || codes_->rows() == 0 ? nullptr : codes_->coded(layer);
}

absl::Status CudaPass::Retier(std::span<const RetierItem> items) {
  Note(codes_->Retier(items));
  return Await();
}

absl::Status CudaPass::Measure(std::span<const MeasureItem> items, std::span<RateCurve> curves) {
  Note(codes_->Measure(items, curves));
  return Await();
}

void CudaPass::Multiply(const uint16_t* weights, const uint16_t* rows, float* out, int32_t m, int64_t n, int64_t k) {
  if (!products_.Multiply(stream_, {.weights = weights, .rows = rows, .out = out, .m = m, .n = n, .k = k}) && why_.empty()) {
    why_ = products_.why();
  }
}

void CudaPass::Logits(std::span<const int32_t> rows) {
  const int32_t m = static_cast<int32_t>(rows.size());
  SPH_CHECK(m > 0 && m <= kLogitsRowsMax);
  std::ranges::copy(rows, pinned_rows_);
  Note(kernels::cuda::CopyToDevice(stream_, logit_rows_, pinned_rows_, m * int64_t{sizeof(int32_t)}));
  Note(kernels::cuda::AddAndNorm(stream_, {.x = x_, .weight = weights_.final_norm, .rows = logit_rows_, .out = normed_,
                                           .epsilon = spec_.norm_epsilon, .m = m, .d = spec_.width}));
  Multiply(weights_.output, normed_, logits_, m, spec_.vocabulary, spec_.width);
  if (spec_.logit_softcap > 0) Note(kernels::cuda::CapValues(stream_, spec_.logit_softcap, int64_t{m} * spec_.vocabulary, logits_));
  Note(kernels::cuda::GreatestOf(stream_, logits_, m, spec_.vocabulary, greatest_));
}

}  // namespace spherical::engine
