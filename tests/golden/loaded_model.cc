#include "tests/golden/loaded_model.h"

#include <algorithm>
#include <utility>

#include "engine/batch/step_plan.h"
#include "engine/step/cpu_stepper.h"
#include "engine/step/cuda_stepper.h"
#include "kernels/base/check.h"
#include "kernels/spherical/page_layout.h"
#include "tests/golden/model_parts.h"

namespace spherical {
namespace {

// Rows scored in one step: a row carries a whole vocabulary of log-probabilities.
constexpr size_t kScoredRows = 64;
// Of a sealed head, beyond what one sequence's reservation counts: two part empty pages, and T8 tokens of a step of kStepRowsMax rows.
constexpr int64_t kOpenPagesMax = 2 + 512 / 16;

engine::SamplingParams MakeGreedy() {
  engine::SamplingParams params;
  params.temperature = 0;
  return params;
}
const engine::SamplingParams kGreedy = MakeGreedy();

}  // namespace

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadedModel::Load(const std::string& path, Options options) {
  auto model = std::make_unique<LoadedModel>();
  model->threads_ = std::make_unique<engine::ThreadPool>(options.threads);
  absl::StatusOr<ModelParts> parts = LoadModelParts(path, *model->threads_);
  if (!parts.ok()) return parts.status();
  model->spec_ = parts->spec;
  model->tokenizer_ = std::move(parts->tokenizer);

  const engine::TransformerSpec& spec = model->spec_;
  model->shape_ = engine::MakeKvShape(spec.layers, spec.kv_heads, spec.head_dim, options.mode);
  // Each sequence may leave its last pages part empty, of every tier that it uses.
  const TokenCount slack(static_cast<int64_t>(options.sequences_max) * kernels::kExactTokensPerPage);
  const PageCount exact = engine::ReservedPages(engine::MakeKvShape(spec.layers, spec.kv_heads, spec.head_dim), options.tokens + slack);
  const PageCount open(int64_t{model->shape_.heads()} * options.sequences_max * kOpenPagesMax);
  const PageCount pages = options.mode.coded ? engine::ReservedPages(model->shape_, options.tokens) + open : exact;
  const PageCount workspace = options.mode.coded ? exact : PageCount(0);
  model->pool_ = std::make_unique<engine::KvPool>(pages, model->shape_.page_bytes);
  model->room_ = *model->pool_->Reserve(pages);
  model->workspace_ = std::make_unique<engine::KvPool>(workspace, ByteCount(kernels::ExactBytesUsed(spec.head_dim)));
  model->workspace_room_ = *model->workspace_->Reserve(workspace);
  std::optional<engine::ModelGeometry> geometry = std::move(options.geometry);
  if (options.mode.coded && !geometry) {
    geometry = engine::ModelGeometry::Plain({.layers = spec.layers, .kv_heads = spec.kv_heads, .head_dim = spec.head_dim});
  }
  absl::StatusOr<std::unique_ptr<engine::Stepper>> stepper =
      options.cuda_device >= 0 ? engine::MakeCudaStepper(std::move(parts->spec), parts->weights, *model->threads_,
                                                         {.device = options.cuda_device,
                                                          .pages = pages,
                                                          .geometry = std::move(geometry),
                                                          .workspace_pages = workspace,
                                                          .sequences = options.sequences_max,
                                                          .context_max = static_cast<int32_t>(options.tokens.value())})
                               : engine::MakeCpuStepper(std::move(parts->spec), std::move(parts->weights), *model->threads_,
                                                        {.activations = options.activations,
                                                         .pages = pages,
                                                         .geometry = std::move(geometry),
                                                         .workspace_pages = workspace});
  if (!stepper.ok()) return stepper.status();
  model->stepper_ = *std::move(stepper);
  return model;
}

LoadedModel::~LoadedModel() {
  EndAll();
  if (pool_ != nullptr) pool_->Cancel(std::move(room_));
  if (workspace_ != nullptr) workspace_->Cancel(std::move(workspace_room_));
}

LoadedModel::Sequence LoadedModel::Begin() {
  sequences_.push_back({.pages = engine::PageTable(spec_.layers, spec_.kv_heads, {}, spec_.windows)});
  return static_cast<Sequence>(sequences_.size()) - 1;
}

void LoadedModel::Truncate(Sequence sequence, int32_t position) {
  Held& held = sequences_[sequence];
  SPH_CHECK(position >= 0 && position <= held.position);
  for (int32_t i = 0; i < held.pages.heads(); ++i) {
    engine::HeadPages& head = held.pages.head(i);
    Keep(head.exact, CeilDiv(position - std::min(position, head.exact_begin), kernels::kExactTokensPerPage), exact_pool(), exact_room());
    for (size_t t = 0; t < head.tiers.size(); ++t) {
      engine::HeadPages::Coded& tier = head.tiers[t];
      if (position == 0) {
        tier.tokens = 0;
      } else if (head.sealed && static_cast<kernels::Tier>(t) == kernels::Tier::kT8) {
        tier.tokens -= held.position - position;
        SPH_CHECK(tier.tokens >= std::min(position, engine::kSinkTokens));
      }
      Keep(tier.pages, CeilDiv(tier.tokens, kernels::TokensPerPage(static_cast<kernels::Tier>(t), spec_.head_dim)), *pool_, room_);
    }
  }
  held.position = position;
}

void LoadedModel::Keep(std::vector<PageId>& pages, int64_t kept, engine::KvPool& pool, engine::Reservation& room) {
  for (; static_cast<int64_t>(pages.size()) > kept; pages.pop_back()) pool.Release(pages.back(), room);
}

void LoadedModel::Seal(Sequence sequence) {
  Held& held = sequences_[sequence];
  SPH_CHECK(shape_.mode.coded);
  std::vector<engine::RetierItem> items;
  for (int32_t i = 0; i < held.pages.heads(); ++i) {
    items.push_back({.kind = engine::RetierItem::Kind::kSeal,
                     .pages = &held.pages.head(i),
                     .head = i,
                     .tier = shape_.mode.tier,
                     .end = held.position,
                     .newest = held.position - engine::kNewestTokens,
                     .last = true});
  }
  Retier(held, items);
  for (int32_t i = 0; i < held.pages.heads(); ++i) Keep(held.pages.head(i).exact, 0, exact_pool(), exact_room());
}

// As the planner does it.
void LoadedModel::DemoteOld(Held& held) {
  if (shape_.mode.tier == kernels::Tier::kT8) return;
  std::vector<engine::RetierItem> items;
  for (int32_t i = 0; i < held.pages.heads(); ++i) {
    const engine::HeadPages& head = held.pages.head(i);
    if (!head.sealed || head.of(kernels::Tier::kT8).tokens < engine::kWholeTokensMax) continue;
    items.push_back({.kind = engine::RetierItem::Kind::kDemote,
                     .pages = &head,
                     .head = i,
                     .tier = shape_.mode.tier,
                     .count = engine::kDemoteTokens});
  }
  if (!items.empty()) Retier(held, items);
}

void LoadedModel::Retier(Held& held, std::span<const engine::RetierItem> items) {
  for (const engine::RetierItem& item : items) {
    const engine::TierCounts counts = engine::CountsAfter(item);
    for (size_t t = 0; t < counts.size(); ++t) LendTier(held.pages.head(item.head), static_cast<kernels::Tier>(t), counts[t]);
  }
  SPH_CHECK(stepper_->Retier(items).ok());
  for (const engine::RetierItem& item : items) {
    engine::HeadPages& head = held.pages.head(item.head);
    engine::RecordRetier(item, head);
    engine::HeadPages::Coded& whole = head.of(kernels::Tier::kT8);
    Keep(whole.pages, CeilDiv(whole.tokens, kernels::TokensPerPage(kernels::Tier::kT8, spec_.head_dim)), *pool_, room_);
  }
}

void LoadedModel::EndAll() {
  for (Sequence i = 0; i < static_cast<Sequence>(sequences_.size()); ++i) Truncate(i, 0);
  sequences_.clear();
}

engine::TokenId LoadedModel::Enter(Sequence sequence, std::span<const engine::TokenId> tokens) {
  for (; tokens.size() > engine::kStepRowsMax; tokens = tokens.subspan(engine::kStepRowsMax)) {
    const Entry chunk{sequence, tokens.first(engine::kStepRowsMax)};
    engine::StepPlan plan;
    plan.items.resize(1);
    Run(plan, {&chunk, 1});
  }
  const Entry last{sequence, tokens};
  return EnterTogether({&last, 1})[0];
}

std::vector<engine::TokenId> LoadedModel::EnterTogether(std::span<const Entry> entries) {
  engine::StepPlan plan;
  plan.items.resize(entries.size());
  for (engine::StepItem& item : plan.items) {
    item.sample = true;
    item.sampling = &kGreedy;
  }
  const engine::StepOutput output = Run(plan, entries);
  std::vector<engine::TokenId> next;
  for (const engine::StepItemOutput& item : output.items) {
    SPH_CHECK(item.finite && item.sampled.has_value());
    next.push_back(item.sampled->id);
  }
  return next;
}

void LoadedModel::Score(Sequence sequence, std::span<const engine::TokenId> tokens,
                        const std::function<void(std::span<const float>)>& row) {
  std::vector<float> logprobs(static_cast<size_t>(spec_.vocabulary));
  while (!tokens.empty()) {
    const Entry chunk{sequence, tokens.first(std::min(kScoredRows, tokens.size()))};
    engine::StepPlan plan;
    plan.items.resize(1);
    plan.items[0].prompt_logprobs = spec_.vocabulary;  // the whole distribution
    plan.items[0].targets = chunk.tokens;              // any will do
    const engine::StepOutput output = Run(plan, {&chunk, 1});
    SPH_CHECK(output.items[0].finite && output.items[0].prompt_scores.size() == chunk.tokens.size());
    for (const engine::SampledToken& scored : output.items[0].prompt_scores) {
      SPH_CHECK(static_cast<int32_t>(scored.top.size()) == spec_.vocabulary);
      for (const engine::TokenLogprob& one : scored.top) logprobs[one.id] = one.logprob;
      row(logprobs);
    }
    tokens = tokens.subspan(chunk.tokens.size());
  }
}

// Completes the plan, whose items say what is wanted of each entry, and runs it.
engine::StepOutput LoadedModel::Run(engine::StepPlan& plan, std::span<const Entry> entries) {
  for (size_t i = 0; i < entries.size(); ++i) {
    Held& held = sequences_[entries[i].sequence];
    const int32_t tokens = static_cast<int32_t>(entries[i].tokens.size());
    DemoteOld(held);
    Lend(held, tokens);
    engine::StepItem& item = plan.items[i];
    item.sequence = static_cast<engine::SequenceId>(entries[i].sequence);
    item.tokens = entries[i].tokens;
    item.position = held.position;
    item.pages = &held.pages;
    held.position += tokens;
    plan.rows += tokens;
  }
  SPH_CHECK(plan.rows <= engine::kStepRowsMax);
  absl::StatusOr<engine::StepOutput> output = stepper_->Run(plan);
  SPH_CHECK(output.ok());
  for (const Entry& entry : entries) engine::RecordEntry(static_cast<int32_t>(entry.tokens.size()), sequences_[entry.sequence].pages);
  return *std::move(output);
}

void LoadedModel::Lend(Held& held, int32_t tokens) {
  for (int32_t i = 0; i < held.pages.heads(); ++i) {
    engine::HeadPages& head = held.pages.head(i);
    if (head.sealed) {
      LendTier(head, kernels::Tier::kT8, head.of(kernels::Tier::kT8).tokens + tokens);
      continue;
    }
    const size_t needed = static_cast<size_t>(CeilDiv(held.position + tokens, kernels::kExactTokensPerPage));
    while (head.exact.size() < needed) head.exact.push_back(exact_pool().Acquire(exact_room()));
  }
}

void LoadedModel::LendTier(engine::HeadPages& head, kernels::Tier tier, int32_t tokens) {
  std::vector<PageId>& pages = head.of(tier).pages;
  const size_t needed = static_cast<size_t>(CeilDiv(tokens, kernels::TokensPerPage(tier, spec_.head_dim)));
  while (pages.size() < needed) pages.push_back(pool_->Acquire(room_));
}

}  // namespace spherical
