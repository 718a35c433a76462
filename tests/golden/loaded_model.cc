#include "tests/golden/loaded_model.h"

#include <algorithm>
#include <utility>

#include "engine/batch/step_plan.h"
#include "engine/step/cpu_stepper.h"
#include "kernels/base/check.h"
#include "kernels/spherical/page_layout.h"
#include "tests/golden/model_parts.h"

namespace spherical {
namespace {

// Rows scored in one step: a row carries a whole vocabulary of log-probabilities.
constexpr size_t kScoredRows = 64;

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
  model->shape_ = engine::MakeKvShape(spec.layers, spec.kv_heads, spec.head_dim);
  // Each sequence may leave its last pages part empty.
  const TokenCount slack(static_cast<int64_t>(options.sequences_max) * kernels::kExactTokensPerPage);
  const PageCount pages = engine::ReservedPages(model->shape_, options.tokens + slack);
  model->pool_ = std::make_unique<engine::KvPool>(pages, model->shape_.page_bytes);
  model->room_ = *model->pool_->Reserve(pages);
  absl::StatusOr<std::unique_ptr<engine::Stepper>> stepper =
      engine::MakeCpuStepper(std::move(parts->spec), std::move(parts->weights), *model->threads_,
                             {.activations = options.activations, .pages = pages});
  if (!stepper.ok()) return stepper.status();
  model->stepper_ = *std::move(stepper);
  return model;
}

LoadedModel::~LoadedModel() {
  EndAll();
  if (pool_ != nullptr) pool_->Cancel(std::move(room_));
}

LoadedModel::Sequence LoadedModel::Begin() {
  sequences_.push_back({.pages = engine::PageTable(spec_.layers, spec_.kv_heads)});
  return static_cast<Sequence>(sequences_.size()) - 1;
}

void LoadedModel::Truncate(Sequence sequence, int32_t position) {
  Held& held = sequences_[sequence];
  SPH_CHECK(position >= 0 && position <= held.position);
  const size_t kept = static_cast<size_t>(CeilDiv(position, kernels::kExactTokensPerPage));
  for (int32_t i = 0; i < held.pages.heads(); ++i) {
    for (std::vector<PageId>& list = held.pages.head(i).exact; list.size() > kept; list.pop_back()) pool_->Release(list.back(), room_);
  }
  held.position = position;
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
  return *std::move(output);
}

void LoadedModel::Lend(Held& held, int32_t tokens) {
  const size_t needed = static_cast<size_t>(CeilDiv(held.position + tokens, kernels::kExactTokensPerPage));
  for (int32_t i = 0; i < held.pages.heads(); ++i) {
    while (held.pages.head(i).exact.size() < needed) held.pages.head(i).exact.push_back(pool_->Acquire(room_));
  }
}

}  // namespace spherical
