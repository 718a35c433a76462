#include "engine/step/forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/kv/head_notes.h"
#include "engine/kv/retier.h"
#include "kernels/base/check.h"
#include "kernels/base/float16.h"
#include "kernels/dense/rows.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

using kernels::Tier;

// Parts per worker and parallel call: enough that a worker whose core is taken away costs little, few enough that taking one stays cheap.
constexpr int32_t kPartsPerWorker = 4;
// Below this, row-wise work is done sooner than a worker wakes.
constexpr int64_t kParallelRowsMin = 4;

template <class T>
void Grow(std::vector<T>& v, int64_t size) {
  if (static_cast<int64_t>(v.size()) < size) v.resize(static_cast<size_t>(size));
}

}  // namespace

Forward::Forward(const TransformerSpec& spec, const Weights& weights, const ModelGeometry* geometry, ThreadPool& pool,
                 kernels::ActivationType activations)
    : spec_(spec),
      weights_(weights),
      geometry_(geometry),
      pool_(pool),
      activations_(activations),
      attention_{.head_dim = spec.head_dim,
                 .group = spec.heads / spec.kv_heads,
                 .scale = spec.attention_scale,
                 .softcap = spec.attention_softcap},
      matmul_(kernels::BestMatMul()),
      exact_(kernels::BestExactAttention()),
      ada_(kernels::BestAdaDecode()),
      codec_(kernels::BestCodec()) {}

void Forward::RunLayers(const StepPlan& plan, const KvArenas& arenas) {
  Embed(plan);
  energy_.assign(plan.items.size() * static_cast<size_t>(spec_.layers), 0);
  for (int32_t layer = 0; layer < spec_.layers; ++layer) RunLayer(plan, layer, arenas);
}

void Forward::Embed(const StepPlan& plan) {
  rows_.clear();
  coded_rows_ = 0;
  for (int32_t i = 0; i < static_cast<int32_t>(plan.items.size()); ++i) {
    const StepItem& item = plan.items[i];
    const bool codes = item.pages->holds_codes();
    for (int32_t t = 0; t < static_cast<int32_t>(item.tokens.size()); ++t) {
      rows_.push_back({.item = i, .index = t, .position = item.position + t, .token = item.tokens[static_cast<size_t>(t)],
                       .coded_row = codes ? coded_rows_++ : -1});
    }
  }
  const int64_t m = static_cast<int64_t>(rows_.size());
  SPH_CHECK(m > 0 && m <= kStepRowsMax);
  const bool local = !spec_.local_rotary_frequency.empty();
  Grow(angles_, m * spec_.rotary_dim);
  if (local) Grow(local_angles_, m * spec_.rotary_dim);
  for (std::vector<float>* rows : {&x_, &normed_, &delta_}) Grow(*rows, m * spec_.width);
  for (std::vector<float>* rows : {&query_, &attended_}) Grow(*rows, m * spec_.heads * spec_.head_dim);
  for (std::vector<float>* rows : {&key_, &value_}) Grow(*rows, m * spec_.kv_heads * spec_.head_dim);
  for (std::vector<float>* rows : {&gate_, &up_}) Grow(*rows, m * spec_.ffn_width);
  ForRows(m, [&](Range range) {
    for (int64_t r = range.begin; r < range.end; ++r) {
      float* const x = &x_[r * spec_.width];
      kernels::UnpackRow(weights_.embedding, rows_[r].token, x);
      for (int32_t i = 0; i < spec_.width && spec_.embedding_scale != 1; ++i) x[i] *= spec_.embedding_scale;
      const int64_t at = r * spec_.rotary_dim, position = rows_[r].position;
      kernels::RotaryAngles(spec_.rotary_frequency.data(), spec_.rotary_dim, position, &angles_[at]);
      if (local) kernels::RotaryAngles(spec_.local_rotary_frequency.data(), spec_.rotary_dim, position, &local_angles_[at]);
    }
  });
}

void Forward::RunLayer(const StepPlan& plan, int32_t layer, const KvArenas& arenas) {
  const LayerWeights& w = weights_.layers[layer];
  const int64_t m = static_cast<int64_t>(rows_.size());

  NormAndPrepare(x_.data(), w.attention_norm, m);
  Multiply({{&w.query, query_.data()}, {&w.key, key_.data()}, {&w.value, value_.data()}});
  BiasAndNormHeads(layer, m);
  if (observer_) observer_({.layer = layer, .rows = m, .residual = x_.data(), .query = query_.data(), .key = key_.data()});
  RotateAndEnter(plan, layer, arenas);
  Attend(plan, layer, arenas);
  RefreshUtilities(plan, layer, arenas);
  prepared_.Bind(activations_, attended_.data(), m, int64_t{spec_.heads} * spec_.head_dim);
  ForRows(m, [&](Range range) { matmul_.prepare(range, prepared_); });
  Multiply({{&w.output, delta_.data()}});
  AddEnergy(plan, layer);
  AddToResidual(w.attention_post_norm, m);

  NormAndPrepare(x_.data(), w.ffn_norm, m);
  Multiply({{&w.gate, gate_.data()}, {&w.up, up_.data()}});
  prepared_.Bind(activations_, gate_.data(), m, spec_.ffn_width);
  ForRows(m, [&](Range range) {
    const int64_t at = range.begin * spec_.ffn_width;
    const auto gate = spec_.gate == GateActivation::kSilu ? kernels::SiluGate : kernels::GeluGate;
    gate(&up_[at], range.end - range.begin, spec_.ffn_width, &gate_[at]);
    matmul_.prepare(range, prepared_);
  });
  Multiply({{&w.down, delta_.data()}});
  AddToResidual(w.ffn_post_norm, m);
}

void Forward::BiasAndNormHeads(int32_t layer, int64_t m) {
  if (!spec_.qkv_bias && !spec_.query_key_norm) return;
  const LayerWeights& w = weights_.layers[layer];
  const int64_t query = int64_t{spec_.heads} * spec_.head_dim, kv = int64_t{spec_.kv_heads} * spec_.head_dim;
  ForRows(m, [&](Range range) {
    const int64_t rows = range.end - range.begin;
    float *const queries = &query_[range.begin * query], *const keys = &key_[range.begin * kv];
    if (spec_.qkv_bias) {
      kernels::AddBias(w.query_bias.data(), rows, query, queries);
      kernels::AddBias(w.key_bias.data(), rows, kv, keys);
      kernels::AddBias(w.value_bias.data(), rows, kv, &value_[range.begin * kv]);
    }
    if (spec_.query_key_norm) {
      kernels::RmsNorm(queries, w.query_norm.data(), spec_.norm_epsilon, rows * spec_.heads, spec_.head_dim, queries);
      kernels::RmsNorm(keys, w.key_norm.data(), spec_.norm_epsilon, rows * spec_.kv_heads, spec_.head_dim, keys);
    }
  });
}

void Forward::AddToResidual(const std::vector<float>& post_norm, int64_t m) {
  ForRows(m, [&](Range range) {
    const int64_t rows = range.end - range.begin;
    float* const delta = &delta_[range.begin * spec_.width];
    if (!post_norm.empty()) kernels::RmsNorm(delta, post_norm.data(), spec_.norm_epsilon, rows, spec_.width, delta);
    kernels::AddRows(delta, rows, spec_.width, &x_[range.begin * spec_.width]);
  });
}

// Where attention's output d is normed before it is added, an error e in it becomes e p / |d| sqrt(width), p the norm's weights; and what
// reads the sum x next norms it with weights f of its own, which silence the few coordinates that most of |x|^2 lies in. So the share of an
// error is, in the mean over coordinates, |e|^2 |f p|^2 / (|f x|^2 |d|^2), and its unit |f x|^2 |d|^2 / |f p|^2. Without such a norm |x|^2.
void Forward::AddEnergy(const StepPlan& plan, int32_t layer) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const bool normed = !w.attention_post_norm.empty();
  const auto square_of = [&](const float* row, const float* weights) {
    float sum = 0;
    for (int32_t i = 0; i < spec_.width; ++i) {
      const float x = weights == nullptr ? row[i] : row[i] * weights[i];
      sum += x * x;
    }
    return sum;
  };
  const float weights = normed ? square_of(w.attention_post_norm.data(), w.ffn_norm.data()) : 1;
  for (size_t r = 0; r < rows_.size(); ++r) {
    const Row& row = rows_[r];
    if (plan.items[static_cast<size_t>(row.item)].pages->sampling().stride == 0 || row.position < kSinkTokens) continue;
    const size_t at = r * static_cast<size_t>(spec_.width);
    const float energy = normed ? square_of(&x_[at], w.ffn_norm.data()) * (square_of(&delta_[at], nullptr) / weights)
                                : square_of(&x_[at], nullptr);
    energy_[static_cast<size_t>(row.item * spec_.layers + layer)] += energy;
  }
}

std::span<const double> Forward::EnergyOf(int32_t item) const {
  return std::span(energy_).subspan(static_cast<size_t>(item * spec_.layers), static_cast<size_t>(spec_.layers));
}

void Forward::NormAndPrepare(const float* x, const std::vector<float>& norm, int64_t m) {
  prepared_.Bind(activations_, normed_.data(), m, spec_.width);
  ForRows(m, [&](Range range) {
    const int64_t at = range.begin * spec_.width;
    kernels::RmsNorm(x + at, norm.data(), spec_.norm_epsilon, range.end - range.begin, spec_.width, &normed_[at]);
    matmul_.prepare(range, prepared_);
  });
}

void Forward::Multiply(std::initializer_list<Product> products) {
  int64_t tiles = 0;
  for (const Product& product : products) tiles = std::max(tiles, CeilDiv(product.weights->outputs(), 16));
  const int64_t parts = std::min(tiles, int64_t{pool_.threads()} * kPartsPerWorker);
  pool_.Run(static_cast<int32_t>(parts), [&](Shard shard) {
    for (const Product& product : products) {
      kernels::MatMul(matmul_, *product.weights, prepared_, product.out, product.weights->outputs(), shard);
    }
  });
}

const float* Forward::AnglesOf(int32_t layer, size_t row) const {
  const bool local = spec_.window(layer) > 0 && !spec_.local_rotary_frequency.empty();
  return &(local ? local_angles_ : angles_)[row * static_cast<size_t>(spec_.rotary_dim)];
}

void Forward::RotateAndEnter(const StepPlan& plan, int32_t layer, const KvArenas& arenas) {
  const int32_t d = spec_.head_dim;
  Grow(mapped_, int64_t{coded_rows_} * spec_.kv_heads);
  ForRows(static_cast<int64_t>(rows_.size()), [&](Range range) {
    for (int64_t r = range.begin; r < range.end; ++r) {
      const float* angles = AnglesOf(layer, static_cast<size_t>(r));
      float* keys = &key_[r * spec_.kv_heads * d];
      const float* values = &value_[r * spec_.kv_heads * d];
      kernels::ApplyRotary(angles, spec_.rotary_pairing, spec_.heads, d, spec_.rotary_dim, &query_[r * spec_.heads * d]);
      kernels::ApplyRotary(angles, spec_.rotary_pairing, spec_.kv_heads, d, spec_.rotary_dim, keys);
      const Row& row = rows_[r];
      const StepItem& item = plan.items[row.item];
      for (int32_t kv_head = 0; kv_head < spec_.kv_heads; ++kv_head) {
        const HeadPages& pages = item.pages->at(layer, kv_head);
        const float *key = keys + kv_head * d, *value = values + kv_head * d;
        const int32_t head = layer * spec_.kv_heads + kv_head;
        if (pages.holds_codes()) {
          ada_.map(geometry_->query(head), &query_[(r * spec_.kv_heads + kv_head) * attention_.group * d], attention_.group,
                   MappedOf(r, kv_head));
        }
        if (!pages.samples.empty() && item.pages->sampling().Takes(row.position)) {
          KeepSample(pages, item.pages->sampling().SlotOf(row.position),
                     &query_[(r * spec_.kv_heads + kv_head) * attention_.group * d], arenas);
        }
        if (!pages.sealed) {
          EnterExact(pages, row.position - pages.exact_begin, key, value, arenas);
        } else if (item.tokens.size() == 1) {
          EnterCoded(pages, head, pages.of(Tier::kT8).tokens, key, value, arenas);
        }
      }
    }
  });
  EnterCodedTogether(plan, layer, arenas);
}

// Rows of one item, coded: tokens of a page share bytes, so one worker writes all of a head's.
void Forward::EnterCodedTogether(const StepPlan& plan, int32_t layer, const KvArenas& arenas) {
  if (coded_rows_ == 0 || std::ranges::all_of(plan.items, [](const StepItem& item) { return item.tokens.size() == 1; })) return;
  pool_.Run(spec_.kv_heads, [&](Shard shard) {
    const int32_t kv_head = shard.index, d = spec_.head_dim;
    for (int64_t r = 0; r < static_cast<int64_t>(rows_.size()); ++r) {
      const Row& row = rows_[static_cast<size_t>(r)];
      const StepItem& item = plan.items[static_cast<size_t>(row.item)];
      const HeadPages& pages = item.pages->at(layer, kv_head);
      if (!pages.sealed || item.tokens.size() == 1) continue;
      const int64_t at = (r * spec_.kv_heads + kv_head) * d;
      EnterCoded(pages, layer * spec_.kv_heads + kv_head, pages.of(Tier::kT8).tokens + row.index, &key_[at], &value_[at], arenas);
    }
  });
}

kernels::AdaMappedQuery& Forward::MappedOf(int64_t row, int32_t kv_head) {
  return mapped_[static_cast<size_t>(rows_[static_cast<size_t>(row)].coded_row) * static_cast<size_t>(spec_.kv_heads) +
                 static_cast<size_t>(kv_head)];
}

// The group's queries, after rotary positions. Each row has slots of its own.
void Forward::KeepSample(const HeadPages& pages, int32_t slot, const float* queries, const KvArenas& arenas) {
  const int32_t d = spec_.head_dim;
  for (int32_t g = 0; g < attention_.group; ++g) {
    const int32_t vector = slot * attention_.group + g;
    const PageId page = pages.samples[static_cast<size_t>(vector / kSampleVectorsPerPage)];
    uint16_t* to = reinterpret_cast<uint16_t*>(arenas.exact + page * arenas.exact_page_bytes) + vector % kSampleVectorsPerPage * d;
    for (int32_t i = 0; i < d; ++i) to[i] = kernels::F32ToF16(queries[g * d + i]);
  }
}

void Forward::EnterExact(const HeadPages& pages, int32_t slot, const float* key, const float* value, const KvArenas& arenas) {
  const PageId page = pages.exact[static_cast<size_t>(slot / kernels::kExactTokensPerPage)];
  exact_.append(spec_.head_dim, key, value, slot % kernels::kExactTokensPerPage, arenas.exact + page * arenas.exact_page_bytes);
}

void Forward::EnterCoded(const HeadPages& pages, int32_t head, int32_t slot, const float* key, const float* value,
                         const KvArenas& arenas) {
  const int32_t d = spec_.head_dim;
  const int32_t page_tokens = kernels::TokensPerPage(Tier::kT8, d);
  alignas(64) float z[kernels::kHeadDimMax], rotated[kernels::kHeadDimMax];
  codec_.map_keys(geometry_->key(head), key, d, 1, z);
  codec_.rotate_values(d, value, d, 1, rotated);
  const PageId page = pages.of(Tier::kT8).pages[static_cast<size_t>(slot / page_tokens)];
  uint8_t* const bytes = arenas.coded + page * arenas.coded_page_bytes;
  codec_.encode(geometry_->key(head), Tier::kT8, z, rotated, 1, slot % page_tokens, bytes, nullptr);
  bytes[kernels::LayoutOf(Tier::kT8, d).utilities + slot % page_tokens] = 0;  // nobody has looked at it yet
}

void Forward::Attend(const StepPlan& plan, int32_t layer, const KvArenas& arenas) {
  CutAttention(plan, layer, spec_.kv_heads, spec_.head_dim, work_);
  Grow(state_max_, int64_t{work_.state_rows} * attention_.group);
  Grow(state_sum_, int64_t{work_.state_rows} * attention_.group);
  Grow(state_output_, int64_t{work_.state_rows} * attention_.group * spec_.head_dim);
  if (unjoined_.size() < work_.joins.size()) unjoined_ = std::vector<std::atomic<int32_t>>(work_.joins.size());
  for (size_t i = 0; i < work_.joins.size(); ++i) unjoined_[i].store(work_.joins[i].parts, std::memory_order_relaxed);
  pool_.Run(static_cast<int32_t>(work_.parts.size()), [&](Shard shard) { AttendPart(plan, layer, arenas, work_.parts[shard.index]); });
}

void Forward::AttendPart(const StepPlan& plan, int32_t layer, const KvArenas& arenas, const AttentionPart& part) {
  const int64_t group_floats = int64_t{attention_.group} * spec_.head_dim;
  const int64_t row_floats = group_floats * spec_.kv_heads;
  const int64_t offset = part.row * row_floats + part.kv_head * group_floats;  // of queries and of what they attended to
  const HeadPages& pages = plan.items[part.item].pages->at(layer, part.kv_head);
  const AttentionJoin& join = work_.joins[part.join];
  if (part.coded) {
    AttendCoded(pages, layer * spec_.kv_heads + part.kv_head, arenas, part, join.exact);
  } else {
    kernels::AttentionShape shape = attention_;
    shape.page_bytes = arenas.exact_page_bytes;
    shape.window = pages.window;
    exact_.attend(shape, arenas.exact,
                  {.query = query_.data() + offset,
                   .query_stride = row_floats,
                   .rows = part.rows,
                   .row_position = part.row_position,
                   .pages = pages.exact.data() + (part.first - pages.exact_begin) / kernels::kExactTokensPerPage,
                   .first_position = part.first,
                   .tokens = part.tokens,
                   .state = StateAt(part.state_row)});
  }
  // Whoever finishes the last part of a join merges all of them, in order of keys: no second round of waking workers.
  if (unjoined_[part.join].fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  kernels::MergeAttention(StateAt(join.state_row), join.parts, part.rows, attention_.group, spec_.head_dim, attended_.data() + offset,
                          row_floats);
  if (!join.coded || join.exact) return;
  for (int32_t r = 0; r < part.rows; ++r) UnrotateHeads(attended_.data() + offset + r * row_floats);
}

// Row after row: each reads the part's codes anew. `beside_exact`: the states meet those of exact keys, so what is common to coded keys
// alone is added here: the centre's logit, and the values' rotation undone.
void Forward::AttendCoded(const HeadPages& pages, int32_t head, const KvArenas& arenas, const AttentionPart& part, bool beside_exact) {
  const int32_t group = attention_.group;
  const kernels::QueryGeometry& geometry = geometry_->query(head);
  kernels::AttentionShape shape = attention_;
  shape.page_bytes = arenas.coded_page_bytes;
  const std::vector<PageId>& list = pages.of(part.tier).pages;
  for (int32_t r = 0; r < part.rows; ++r) {
    const kernels::AttentionState state = StateAt(part.state_row + r);
    kernels::AdaQuery prepared;
    ada_.split(geometry, part.tier, MappedOf(part.row + r, part.kv_head), group, prepared);
    const int32_t skip = part.skipped_tokens(r), tokens = part.coded_tokens(r);
    ada_.attend(shape, arenas.coded,
                {.query = &prepared,
                 .pages = list.data() + part.first / kernels::TokensPerPage(part.tier, spec_.head_dim),
                 .tokens = skip == tokens ? 0 : tokens,
                 .skip = skip == tokens ? 0 : skip,
                 .tier = part.tier,
                 .widths = geometry.widths[static_cast<size_t>(part.tier)],
                 .state = state});
    if (!beside_exact) continue;
    UnrotateHeads(state.output);
    for (int32_t g = 0; g < group; ++g) state.max[g] += kernels::CentreLogit(attention_, prepared, g);
  }
}

void Forward::RefreshUtilities(const StepPlan& plan, int32_t layer, const KvArenas& arenas) {
  struct Part {
    const StepItem* item;
    int32_t row, kv_head;
  };
  std::vector<Part> parts;
  int32_t row = 0;
  for (const StepItem& item : plan.items) {
    for (int32_t kv_head = 0; kv_head < spec_.kv_heads && !item.refresh.empty() && item.tokens.size() == 1; ++kv_head) {
      if (item.pages->at(layer, kv_head).sealed) parts.push_back({.item = &item, .row = row, .kv_head = kv_head});
    }
    row += static_cast<int32_t>(item.tokens.size());
  }
  if (parts.empty()) return;
  SPH_CHECK(!value_weights_.empty());
  logits_.resize(static_cast<size_t>(pool_.threads()));
  pool_.RunWithWorker(static_cast<int32_t>(parts.size()), [&](Shard shard, int32_t worker) {
    const Part& part = parts[static_cast<size_t>(shard.index)];
    RefreshHead(*part.item, part.row, layer, part.kv_head, arenas, logits_[static_cast<size_t>(worker)]);
  });
}

// What this row, at `position`, pays attention to in a head: probabilities of all its coded tokens.   p [G, padded], T8's tokens first
int32_t Forward::AttentionOf(const HeadPages& pages, int32_t position, int32_t row, int32_t head, const KvArenas& arenas,
                             std::vector<float>& p) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  const int32_t group = attention_.group;
  const kernels::QueryGeometry& geometry = geometry_->query(head);
  kernels::AttentionShape shape = attention_;
  shape.page_bytes = arenas.coded_page_bytes;
  const auto tokens_of = [&](size_t tier) { return pages.tiers[tier].tokens + (tier == 0 ? 1 : 0); };  // the row's own is in T8
  const auto padded_of = [&](size_t tier) { return static_cast<int32_t>(RoundUp(tokens_of(tier), kernels::kAdaUnitTokens)); };
  int32_t padded = 0;
  for (size_t tier = 0; tier < kernels::kTierCount; ++tier) padded += padded_of(tier);
  Grow(p, int64_t{group} * padded);
  int32_t begin = 0;
  for (size_t tier = 0; tier < kernels::kTierCount; ++tier) {
    const int32_t tokens = tokens_of(tier), end = begin + padded_of(tier);
    if (tokens == 0) continue;
    kernels::AdaQuery prepared;
    ada_.split(geometry, static_cast<Tier>(tier), MappedOf(row, head % spec_.kv_heads), group, prepared);
    ada_.score(shape, arenas.coded,
               {.query = &prepared, .pages = pages.tiers[tier].pages.data(), .tokens = tokens, .tier = static_cast<Tier>(tier),
                .widths = geometry.widths[tier], .state = {}},
               p.data() + begin, padded);
    const int32_t first_held = pages.local() ? pages.first_held(static_cast<Tier>(tier), position) : 0;
    const int32_t gone = std::clamp(pages.oldest_seen(position) - first_held, 0, tokens);
    for (int32_t g = 0; g < group; ++g) {
      std::fill_n(p.begin() + g * padded + begin, gone, kNever);
      std::fill_n(p.begin() + g * padded + begin + tokens, end - begin - tokens, kNever);
    }
    begin = end;
  }
  // Below e^-9 their squares are far below what anybody's utility is decided by, and most tokens' are.
  for (int32_t g = 0; g < group; ++g) {
    const std::span<float> logits(p.data() + int64_t{g} * padded, static_cast<size_t>(padded));
    const float total = static_cast<float>(kernels::LogSumExp(logits.data(), padded));
    for (float& x : logits) x = x > total - 9 ? std::exp(x - total) : 0;
  }
  return padded;
}

// A T8 token's utility follows p^2 |v|^2 of this row, mean over the heads of the group: by a 32nd, or for a token that is younger than that
// by what makes it the mean of what was seen. |v|^2 is D r^2 times what T8's radius, that of the largest coordinate, leaves of it. Lower
// tiers keep what was measured with many queries: one a refresh is too few to better it.
void Forward::RefreshHead(const StepItem& item, int32_t row, int32_t layer, int32_t kv_head, const KvArenas& arenas,
                          std::vector<float>& p) {
  constexpr int32_t kRefreshesMax = 32;
  static_assert((kRefreshesMax - 1) * kRefreshSteps <= kOrderedTokens, "those before T8's ordered tokens have the same share");
  constexpr float kWholeEnergy = 2.1f;
  const int32_t group = attention_.group, d = spec_.head_dim, head = layer * spec_.kv_heads + kv_head;
  const HeadPages& pages = item.pages->at(layer, kv_head);
  const int32_t padded = AttentionOf(pages, item.position, row, head, arenas, p);
  const HeadPages::Coded& whole = pages.of(Tier::kT8);
  const int32_t tokens = whole.tokens + 1;
  const kernels::TierLayout layout = kernels::LayoutOf(Tier::kT8, d);
  const float unit = value_weights_[static_cast<size_t>(head)] / item.refresh[static_cast<size_t>(layer)] * static_cast<float>(d) *
                     kernels::kDropPremium;
  for (int32_t i = 0; i < tokens; ++i) {
    uint8_t* page = arenas.coded + whole.pages[static_cast<size_t>(i / layout.tokens)] * arenas.coded_page_bytes;
    const int32_t slot = i % layout.tokens;
    uint16_t half;
    std::memcpy(&half, page + layout.value_radii + 2 * slot, sizeof(half));
    const float radius = kernels::F16ToF32(half);
    float square = 0;
    for (int32_t g = 0; g < group; ++g) square += p[static_cast<size_t>(g * padded + i)] * p[static_cast<size_t>(g * padded + i)];
    const float seen = square / static_cast<float>(group) * radius * radius * unit * kWholeEnergy;
    uint8_t& utility = page[layout.utilities + slot];
    const float before = kernels::UtilityOf(utility);
    const int32_t refreshes = std::min((tokens - i) / kRefreshSteps + 1, kRefreshesMax);  // this one too: the newest are last
    const float by = utility == 0 ? 1.0f : 1.0f / static_cast<float>(refreshes);
    const uint32_t draw = (static_cast<uint32_t>(item.position) * 0x9e3779b9u + static_cast<uint32_t>(i * 31)) * 0x85ebca6bu;
    utility = kernels::DitheredUtilityByteOf(before + by * (seen - before), draw ^ (draw >> 13));
  }
}

void Forward::UnrotateHeads(float* outputs) {
  codec_.unrotate_values(spec_.head_dim, outputs, spec_.head_dim, attention_.group, outputs);
}

kernels::AttentionState Forward::StateAt(int32_t state_row) {
  const int64_t at = int64_t{state_row} * attention_.group;
  return {.max = &state_max_[at], .sum = &state_sum_[at], .output = &state_output_[at * spec_.head_dim]};
}

void Forward::Logits(std::span<const int32_t> rows, float* logits) {
  const int64_t m = static_cast<int64_t>(rows.size());
  SPH_CHECK(m > 0 && m <= kLogitsRowsMax);
  // delta_ is free between layers: it takes the gathered rows.
  Grow(delta_, m * spec_.width);
  Grow(normed_, m * spec_.width);
  for (int64_t i = 0; i < m; ++i) std::copy_n(&x_[rows[i] * spec_.width], spec_.width, &delta_[i * spec_.width]);
  NormAndPrepare(delta_.data(), weights_.final_norm, m);
  Multiply({{&weights_.output_matrix(), logits}});
  if (spec_.logit_softcap > 0) {
    ForRows(m, [&](Range range) {
      kernels::CapRows(spec_.logit_softcap, (range.end - range.begin) * spec_.vocabulary, &logits[range.begin * spec_.vocabulary]);
    });
  }
}

void Forward::ForRows(int64_t m, absl::FunctionRef<void(Range)> work) {
  if (m < kParallelRowsMin) return work({0, m});
  const int64_t parts = std::min(m / 2, int64_t{pool_.threads()} * kPartsPerWorker);
  pool_.Run(static_cast<int32_t>(parts), [&](Shard shard) { work(RangeOf(shard, m)); });
}

}  // namespace spherical::engine
