#include "engine/step/cuda_pass.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "engine/step/device_pieces.h"
#include "engine/step/device_room.h"
#include "kernels/base/check.h"
#include "kernels/cuda/dense_rows.h"
#include "kernels/cuda/few_rows.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

using kernels::cuda::CudaStatus;
using kernels::cuda::ExactJoin;
using kernels::cuda::ExactWork;

// What cuBLASLt may use of its own; 32 MiB is what it asks for on Hopper.
constexpr int64_t kProductWorkspaceBytes = int64_t{32} << 20;
constexpr int32_t kRunsOfBlock = 2;           // of exact attention; 10 were slower at 32 x 1,024 by 5 %, quicker at 128 x 1,024 by 2
constexpr int32_t kPiecesOfStep = 3;  // of a step's input: tokens, positions, slots
constexpr int32_t kPiecesOfKind = 4;

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

int64_t CudaPass::PlaceOnDevice(const CudaPassOptions& options, uint8_t* base) {
  const int64_t m = kStepRowsMax, d = spec_.head_dim;
  DevicePieces pieces(base);
  tokens_ = pieces.Take<int32_t>(m);
  positions_ = pieces.Take<int32_t>(m);
  slots_ = pieces.Take<int32_t>(m);
  const int64_t tiles = m * (spec_.heads / spec_.kv_heads) / kernels::cuda::kTileFlats + kStepSequencesMax;
  for (Kind& kind : kinds_) {
    kind.runs = pieces.Take<ExactWork>(states_max_ + kStepSequencesMax);
    kind.tiles = pieces.Take<ExactWork>(tiles);
    kind.joins = pieces.Take<ExactJoin>(kStepSequencesMax);
    kind.counts = pieces.Take<int32_t>(2);
  }
  input_bytes_ = pieces.used();
  lists_ = pieces.Take<int32_t>(pages_[0].list_entries());
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
  if (!options.value_weights.empty()) energy_ = pieces.Take<float>(spec_.layers * m);
  gate_up_ = pieces.Take<float>(m * 2 * spec_.ffn_width);
  gated_ = pieces.Take<uint16_t>(m * spec_.ffn_width);
  const int64_t states = states_max_ * spec_.kv_heads * kernels::cuda::kRunFlats;
  state_max_ = pieces.Take<float>(states);
  state_sum_ = pieces.Take<float>(states);
  state_output_ = pieces.Take<float>(states * d);
  logits_ = pieces.Take<float>(int64_t{kLogitsRowsMax} * spec_.vocabulary);
  greatest_scratch_ = pieces.Take<kernels::cuda::Greatest>(kLogitsRowsMax * kernels::cuda::kGreatestPieces);
  SPH_CHECK(options.sequences <= kStepSequencesMax);
  return pieces.used();
}

int64_t CudaPass::PlacePinned(const CudaPassOptions& options, uint8_t* base) {
  DevicePieces pieces(base);
  logit_rows_ = pieces.Take<int32_t>(kLogitsRowsMax);
  greatest_ = pieces.Take<int32_t>(kLogitsRowsMax);
  pinned_energy_ = pieces.Take<float>(options.value_weights.empty() ? 0 : int64_t{spec_.layers} * kStepRowsMax);
  return pieces.used();
}

absl::Status CudaPass::Create(const CudaPassOptions& options) {
  SPH_CHECK(pages_.empty());
  const int32_t list_pages = static_cast<int32_t>(CeilDiv(options.context_max, kernels::kExactTokensPerPage)) + 1;
  pages_.emplace_back(options.sequences, spec_.layers * spec_.kv_heads, list_pages);
  // No more runs than the tokens that sequences of a step can have, whichever bound is the lower: the context, or (where no window lets
  // tokens go) the pool.
  if (const CudaStatus prepared = kernels::cuda::PrepareExactAttention(spec_.head_dim, &run_blocks_); prepared != CudaStatus::kOk) {
    return absl::InternalError(fmt::format("attention on the CUDA device: {}", kernels::cuda::TextOf(prepared)));
  }
  runs_wanted_ = static_cast<int32_t>(CeilDiv(kRunsOfBlock * run_blocks_, spec_.kv_heads));
  states_max_ = DeviceStatesMax(int64_t{options.sequences} * options.context_max, runs_wanted_);
  const int64_t page_bytes = kernels::PageBytes(spec_.head_dim), exact_bytes = kernels::ExactBytesUsed(spec_.head_dim);
  int64_t free_bytes = 0, all_bytes = 0;
  Note(kernels::cuda::FreeMemory(&free_bytes, &all_bytes));
  if (spec_.windows.empty()) {
    const int64_t pool_pages = options.pages > 0 ? options.pages : free_bytes / page_bytes;
    const int64_t exact_pages = options.geometry == nullptr ? pool_pages : options.workspace_pages;
    const int64_t tokens = exact_pages / (spec_.layers * spec_.kv_heads) * kernels::kExactTokensPerPage;
    states_max_ = std::min(states_max_, DeviceStatesMax(tokens, runs_wanted_));
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
  const int32_t input_pieces = kPiecesOfStep + kPiecesOfKind * static_cast<int32_t>(kinds_.size());
  for (const CudaStatus taken : {input_.Create(input_bytes_, input_pieces), list_entries_.Create()}) {
    if (taken != CudaStatus::kOk) return exhausted(kernels::cuda::TextOf(taken));
  }
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
  const int64_t frequency_bytes = spec_.rotary_dim / 2 * int64_t{sizeof(double)};
  // What products read beyond a step's rows must be some number.
  Note(kernels::cuda::FillBytes(stream_, workspace_.data(), 0, workspace_.bytes()));
  Note(kernels::cuda::CopyToDevice(stream_, frequency_, spec_.rotary_frequency.data(), frequency_bytes));
  if (!spec_.local_rotary_frequency.empty()) {
    Note(kernels::cuda::CopyToDevice(stream_, local_frequency_, spec_.local_rotary_frequency.data(), frequency_bytes));
  }
  TryProducts(kStepRowsMax);
  if (absl::Status done = Await(); !done.ok()) return done;
  if (options.recorded) {
    // With the pool's address. What they take is not known before: the headroom is for that too.
    const CudaStatus recorded = Record();
    if (recorded != CudaStatus::kOk) return exhausted(kernels::cuda::TextOf(recorded));
  }
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

std::vector<int32_t> CudaPass::Pieces(int32_t coded_rows) const {
  return codes_ == nullptr ? std::vector<int32_t>{spec_.layers} : codes_->Pieces(coded_rows);
}

CudaStatus CudaPass::Record() {
  const int32_t most = kernels::cuda::PaddedRows(pages_[0].slots());
  // Recorded kernels have run before: what a first launch loads is there.
  Note(kernels::cuda::FillBytes(stream_, slots_, 0xff, kStepRowsMax * int64_t{sizeof(int32_t)}));
  for (int32_t rows = 1; rows <= most; rows = kernels::cuda::PaddedRows(rows + 1)) {
    Recording& recording = recordings_.emplace_back();
    recording.rows = rows;
    recording.ends = Pieces(rows);
    for (const bool exact : {false, true}) {
      if (!exact && codes_ == nullptr) continue;
      const Shape shape = {.rows = rows, .coded_rows = codes_ == nullptr ? 0 : rows, .exact = exact, .any_step = true};
      QueueBegin(shape);
      QueueLayers(0, spec_.layers, shape);
      int64_t before = 0, after = 0, all = 0;
      Note(kernels::cuda::Synchronize(stream_));
      Note(kernels::cuda::FreeMemory(&before, &all));
      if (!recording.begin.recorded()) {
        if (const CudaStatus begun = recording.begin.BeginRecording(stream_); begun != CudaStatus::kOk) return begun;
        QueueBegin(shape);
        if (const CudaStatus ended = recording.begin.EndRecording(stream_); ended != CudaStatus::kOk) return ended;
      }
      int32_t first = 0;
      for (const int32_t end : recording.ends) {
        kernels::cuda::Graph& graph = recording.pieces[exact ? 1 : 0].emplace_back();
        if (const CudaStatus begun = graph.BeginRecording(stream_); begun != CudaStatus::kOk) return begun;
        QueueLayers(first, end, shape);
        if (const CudaStatus ended = graph.EndRecording(stream_); ended != CudaStatus::kOk) return ended;
        first = end;
      }
      Note(kernels::cuda::FreeMemory(&after, &all));
      graph_bytes_ += before - after;
    }
  }
  return kernels::cuda::Synchronize(stream_);
}

const CudaPass::Recording* CudaPass::RecordingOf(const StepPlan& plan) const {
  // A prompt's last token alone may be one whose query is kept.
  const auto recorded = [](const StepItem& item) { return item.tokens.size() == 1 && !item.pages->sampling().Takes(item.position); };
  if (!std::ranges::all_of(plan.items, recorded)) return nullptr;
  const int32_t rows = static_cast<int32_t>(plan.items.size());
  const auto found = std::ranges::find_if(recordings_, [&](const Recording& recording) { return recording.rows >= rows; });
  return found == recordings_.end() ? nullptr : &*found;
}

void CudaPass::TryProducts(int32_t rows_max) {
  const int64_t width = spec_.width, attended = int64_t{spec_.heads} * spec_.head_dim;
  // All layers' weights of a kind: trials take turns among them.
  const auto of_layers = [&](uint16_t* CudaLayerWeights::*which) {
    std::vector<const uint16_t*> all;
    for (const CudaLayerWeights& layer : weights_.layers) all.push_back(layer.*which);
    return all;
  };
  const auto attempt = [&](const std::vector<const uint16_t*>& weights, const uint16_t* rows, float* out, int32_t m, int64_t n, int64_t k) {
    if (!products_.Choose(stream_, {.weights = weights[0], .rows = rows, .out = out, .m = m, .n = n, .k = k}, weights) && why_.empty()) {
      why_ = products_.why();
    }
  };
  const auto joined = of_layers(&CudaLayerWeights::joined), output = of_layers(&CudaLayerWeights::output),
             gate_up = of_layers(&CudaLayerWeights::gate_up), down = of_layers(&CudaLayerWeights::down);
  for (int32_t m = kernels::cuda::kFewRows + 1; m <= rows_max; m = kernels::cuda::PaddedRows(m) + 1) {
    attempt(joined, normed_, joined_, m, JoinedOutputs(), width);
    attempt(output, attended_, delta_, m, width, attended);
    attempt(gate_up, normed_, gate_up_, m, 2 * int64_t{spec_.ffn_width}, width);
    attempt(down, gated_, delta_, m, width, spec_.ffn_width);
    if (m <= kLogitsRowsMax) attempt({weights_.output}, normed_, logits_, m, spec_.vocabulary, width);
  }
}

void CudaPass::Note(CudaStatus status) {
  if (status != CudaStatus::kOk && why_.empty()) why_ = kernels::cuda::TextOf(status);
}

absl::Status CudaPass::Await() {
  Note(kernels::cuda::Synchronize(stream_));
  return why_.empty() ? absl::OkStatus() : absl::InternalError(fmt::format("the CUDA device failed: {}", why_));
}

void CudaPass::PutInput(const StepPlan& plan, int32_t padded_rows) {
  input_.Begin();
  const auto place_rows = [&](auto value_of, int32_t of_none, int32_t* to) {
    gathered_.clear();
    for (size_t i = 0; i < plan.items.size(); ++i) {
      for (size_t t = 0; t < plan.items[i].tokens.size(); ++t) gathered_.push_back(value_of(i, t));
    }
    gathered_.resize(std::max(gathered_.size(), static_cast<size_t>(padded_rows)), of_none);
    input_.Place(std::span<const int32_t>(gathered_), to);
  };
  place_rows([&](size_t i, size_t t) { return plan.items[i].tokens[t]; }, 0, tokens_);
  place_rows([&](size_t i, size_t t) { return plan.items[i].position + static_cast<int32_t>(t); }, 0, positions_);
  place_rows([&](size_t i, size_t) { return item_slots_[i]; }, -1, slots_);
  for (Kind& kind : kinds_) {
    CutForDevice(plan, item_slots_, spec_.heads / spec_.kv_heads, kind.window, item_sealed_, runs_wanted_, kind.work);
    SPH_CHECK(kind.work.states <= states_max_);
    input_.Place(std::span<const ExactWork>(kind.work.runs), kind.runs);
    input_.Place(std::span<const ExactWork>(kind.work.tiles), kind.tiles);
    input_.Place(std::span<const ExactJoin>(kind.work.joins), kind.joins);
    const int32_t counts[] = {static_cast<int32_t>(kind.work.runs.size()), static_cast<int32_t>(kind.work.joins.size())};
    input_.Place(std::span<const int32_t>(counts), kind.counts);
  }
}

void CudaPass::RunLayers(const StepPlan& plan) {
  const Recording* const recording = RecordingOf(plan);
  entries_.clear();
  item_slots_.clear();
  item_sealed_.clear();
  pages_[0].BeginStep();
  Shape shape;
  for (const StepItem& item : plan.items) {
    item_slots_.push_back(pages_[0].Follow(item, entries_));
    item_sealed_.push_back(pages_[0].all_sealed(item_slots_.back()) ? 1 : 0);
    shape.rows += static_cast<int32_t>(item.tokens.size());
  }
  SPH_CHECK(shape.rows > 0 && shape.rows <= kStepRowsMax);
  const bool sampled = std::ranges::any_of(plan.items, [](const StepItem& item) { return item.pages->sampling().stride > 0; });
  energy_rows_ = sampled && codes_ != nullptr && codes_->priced() ? shape.rows : 0;
  if (codes_ != nullptr) {
    codes_->Begin(plan, item_slots_);
    shape.coded_rows = codes_->rows();
    shape.exact = std::ranges::count(item_sealed_, 0) > 0;
  }
  PutInput(plan, recording == nullptr ? 0 : recording->rows);
  list_entries_.Begin();
  Note(list_entries_.Send(stream_, entries_, lists_));
  Note(input_.Send(stream_));
  if (recording == nullptr) {
    QueueBegin(shape);
    int32_t first = 0;
    for (const int32_t end : Pieces(shape.coded_rows)) {
      if (codes_ != nullptr) Note(codes_->PlanLayers(first, end, shape.coded_rows));
      QueueLayers(first, end, shape);
      first = end;
    }
    return FetchEnergies();
  }
  Note(recording->begin.Launch(stream_));
  int32_t first = 0;
  for (size_t piece = 0; piece < recording->ends.size(); ++piece) {
    if (codes_ != nullptr) Note(codes_->PlanLayers(first, recording->ends[piece], recording->rows));
    Note(recording->pieces[shape.exact ? 1 : 0][piece].Launch(stream_));
    first = recording->ends[piece];
  }
  FetchEnergies();
}

void CudaPass::FetchEnergies() {
  if (energy_rows_ == 0) return;
  Note(kernels::cuda::CopyToHost(stream_, pinned_energy_, energy_, int64_t{spec_.layers} * energy_rows_ * int64_t{sizeof(float)}));
}

void CudaPass::TellEnergies(const StepPlan& plan, std::span<StepItemOutput> outputs) const {
  if (energy_rows_ == 0) return;
  const float* end = pinned_energy_;  // of the item's rows
  for (size_t i = 0; i < plan.items.size(); ++i) {
    end += static_cast<int64_t>(plan.items[i].tokens.size()) * spec_.layers;
    const int32_t rows = EnergyRowsOf(plan.items[i]);  // the last ones
    if (rows == 0) continue;
    outputs[i].energy_rows = rows;
    outputs[i].energy.assign(static_cast<size_t>(spec_.layers), 0);
    for (const float* row = end - int64_t{rows} * spec_.layers; row < end; row += spec_.layers) {
      for (size_t layer = 0; layer < outputs[i].energy.size(); ++layer) outputs[i].energy[layer] += static_cast<double>(row[layer]);
    }
  }
}

void CudaPass::QueueBegin(const Shape& shape) {
  Note(kernels::cuda::EmbedRows(stream_, weights_.embedding, tokens_, shape.rows, spec_.width, spec_.embedding_scale, x_));
  Note(kernels::cuda::RotaryAnglesOf(stream_, frequency_, spec_.rotary_dim, positions_, shape.rows, angles_));
  if (!spec_.local_rotary_frequency.empty()) {
    Note(kernels::cuda::RotaryAnglesOf(stream_, local_frequency_, spec_.rotary_dim, positions_, shape.rows, local_angles_));
  }
  QueueJoined(0, /*begins=*/true, shape);
}

void CudaPass::QueueLayers(int32_t first, int32_t end, const Shape& shape) {
  for (int32_t layer = first; layer < end; ++layer) QueueLayer(layer, layer == first, shape);
  if (end < spec_.layers) return;
  // What the last layer leaves is added, for whichever rows are asked for later.
  Note(kernels::cuda::AddAndNorm(stream_, {.x = x_, .delta = delta_, .post_weight = weights_.layers.back().ffn_post_norm,
                                           .epsilon = spec_.norm_epsilon, .m = shape.rows, .d = spec_.width, .overlap = overlap_}));
}

// Each norm also takes in what came before it. begins: other things than this pass's kernels may be queued before.
void CudaPass::QueueJoined(int32_t layer, bool begins, const Shape& shape) {
  const CudaLayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const int64_t width = spec_.width;
  const int32_t m = shape.rows;
  Note(kernels::cuda::AddAndNorm(stream_,
                                 {.x = x_,
                                  .delta = layer == 0 ? nullptr : delta_,
                                  .post_weight = layer == 0 ? nullptr : weights_.layers[static_cast<size_t>(layer) - 1].ffn_post_norm,
                                  .weight = w.attention_norm,
                                  .out = normed_,
                                  .epsilon = spec_.norm_epsilon,
                                  .m = m,
                                  .d = spec_.width,
                                  .overlap = overlap_ && !begins}));
  Multiply(w.joined, normed_, joined_, m, JoinedOutputs(), width);
}

void CudaPass::QueueLayer(int32_t layer, bool begins, const Shape& shape) {
  const CudaLayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const int64_t width = spec_.width, attended = int64_t{spec_.heads} * spec_.head_dim;
  const bool local = spec_.window(layer) > 0 && !spec_.local_rotary_frequency.empty();
  const bool priced = codes_ != nullptr && codes_->priced();
  const int32_t m = shape.rows;
  if (layer > 0) QueueJoined(layer, begins, shape);
  Note(kernels::cuda::PrepareHeads(stream_, {.joined = joined_,
                                             .bias = w.joined_bias,
                                             .query_norm = w.query_norm,
                                             .key_norm = w.key_norm,
                                             .angles = local ? local_angles_ : angles_,
                                             .epsilon = spec_.norm_epsilon,
                                             .m = m,
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
                                             .coded_rows = shape.coded_rows,
                                             .coded = CodedHeads(layer, shape),
                                             .raw_query = codes_ == nullptr ? nullptr : codes_->raw_query(),
                                             .raw_key = codes_ == nullptr ? nullptr : codes_->raw_key(),
                                             .raw_value = codes_ == nullptr ? nullptr : codes_->raw_value(),
                                             .needed_next = codes_ == nullptr ? kernels::cuda::NeededNext() : codes_->maps(layer),
                                             .overlap = overlap_ && !(layer == 0 && begins)}));
  if (codes_ != nullptr && !shape.any_step) Note(codes_->KeepQueries(layer, query_));
  QueueAttention(layer, shape);
  Multiply(w.output, attended_, delta_, m, width, attended);
  Note(kernels::cuda::AddAndNorm(stream_, {.x = x_, .delta = delta_, .post_weight = w.attention_post_norm, .weight = w.ffn_norm,
                                           .out = normed_, .energy = priced ? energy_ + layer : nullptr,
                                           .energy_stride = spec_.layers, .epsilon = spec_.norm_epsilon, .m = m, .d = spec_.width,
                                           .overlap = overlap_}));
  const auto gate = spec_.gate == GateActivation::kSilu ? kernels::cuda::Gate::kSilu : kernels::cuda::Gate::kGeluTanh;
  if (m <= kernels::cuda::kFewRows) {
    Note(kernels::cuda::GateFewRows(stream_, {.weights = w.gate_up, .rows = normed_, .m = m, .n = spec_.ffn_width, .k = width,
                                              .overlap = overlap_}, gate, gated_));
  } else {
    Multiply(w.gate_up, normed_, gate_up_, m, 2 * int64_t{spec_.ffn_width}, width);
    Note(kernels::cuda::GateRows(stream_, gate, gate_up_, m, spec_.ffn_width, gated_, overlap_));
  }
  if (shape.coded_rows > 0 && (shape.any_step || codes_->any_coded(layer))) Note(codes_->JoinRefresh(shape.coded_rows));
  Multiply(w.down, gated_, delta_, m, width, spec_.ffn_width, kernels::cuda::kGatedUnit);
}

void CudaPass::QueueAttention(int32_t layer, const Shape& shape) {
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
                                         .coded = CodedHeads(layer, shape),
                                         .coded_rows = shape.coded_rows,
                                         .arena = arenas_.exact,
                                         .page_bytes = arenas_.exact_page_bytes,
                                         .out = attended_,
                                         .max = state_max_,
                                         .sum = state_sum_,
                                         .output = state_output_,
                                         .run_blocks = run_blocks_,
                                         .overlap = overlap_};
  if (shape.any_step) {
    if (shape.exact) {
      Note(kernels::cuda::AttendRuns(stream_, args, kind.runs, static_cast<int32_t>(states_max_), &kind.counts[0]));
      Note(kernels::cuda::JoinRuns(stream_, args, kind.joins, shape.rows, &kind.counts[1]));
    }
    if (codes_ != nullptr) Note(codes_->Attend(layer, shape.coded_rows, attended_));
    return;
  }
  Note(kernels::cuda::AttendTiles(stream_, args, kind.tiles, static_cast<int32_t>(kind.work.tiles.size())));
  Note(kernels::cuda::AttendRuns(stream_, args, kind.runs, static_cast<int32_t>(kind.work.runs.size())));
  Note(kernels::cuda::JoinRuns(stream_, args, kind.joins, static_cast<int32_t>(kind.work.joins.size())));
  if (shape.coded_rows > 0 && codes_->any_coded(layer)) Note(codes_->Attend(layer, shape.coded_rows, attended_));
}

const uint8_t* CudaPass::CodedHeads(int32_t layer, const Shape& shape) const {
  return shape.coded_rows == 0 ? nullptr : codes_->coded(layer);
}

absl::Status CudaPass::Retier(std::span<const RetierItem> items) {
  Note(codes_->Retier(items));
  return Await();
}

absl::Status CudaPass::Measure(std::span<const MeasureItem> items, std::span<RateCurve> curves) {
  Note(codes_->Measure(items, curves));
  return Await();
}

void CudaPass::Multiply(const uint16_t* weights, const uint16_t* rows, float* out, int32_t m, int64_t n, int64_t k, float unit) {
  if (m <= kernels::cuda::kFewRows) {
    const kernels::cuda::FewRowsArgs args = {.weights = weights, .rows = rows, .m = m, .n = n, .k = k, .unit = unit, .overlap = overlap_};
    Note(kernels::cuda::MultiplyFewRows(stream_, args, out));
    return;
  }
  if (!products_.Multiply(stream_, {.weights = weights, .rows = rows, .out = out, .m = m, .n = n, .k = k, .unit = unit}) && why_.empty()) {
    why_ = products_.why();
  }
}

void CudaPass::Logits(std::span<const int32_t> rows) {
  const int32_t m = static_cast<int32_t>(rows.size());
  SPH_CHECK(m > 0 && m <= kLogitsRowsMax);
  std::ranges::copy(rows, logit_rows_);
  Note(kernels::cuda::AddAndNorm(stream_, {.x = x_, .weight = weights_.final_norm, .rows = logit_rows_, .out = normed_,
                                           .epsilon = spec_.norm_epsilon, .m = m, .d = spec_.width}));
  Multiply(weights_.output, normed_, logits_, m, spec_.vocabulary, spec_.width);
  if (spec_.logit_softcap > 0) Note(kernels::cuda::CapValues(stream_, spec_.logit_softcap, int64_t{m} * spec_.vocabulary, logits_));
  Note(kernels::cuda::GreatestOf(stream_, logits_, m, spec_.vocabulary, greatest_scratch_, greatest_));
}

}  // namespace spherical::engine
