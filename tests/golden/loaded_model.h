#ifndef SPHERICAL_TESTS_GOLDEN_LOADED_MODEL_H_
#define SPHERICAL_TESTS_GOLDEN_LOADED_MODEL_H_

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/batch/step_plan.h"
#include "engine/budget/reservation_size.h"
#include "engine/intake/submission.h"
#include "engine/kv/kv_mode.h"
#include "engine/kv/kv_pool.h"
#include "engine/kv/page_table.h"
#include "engine/kv/retier.h"
#include "engine/model/model_geometry.h"
#include "engine/model/tokenizer.h"
#include "engine/model/transformer_spec.h"
#include "engine/step/stepper.h"
#include "engine/step/thread_pool.h"
#include "kernels/base/units.h"
#include "kernels/dense/matmul.h"
#include "kernels/spherical/page_layout.h"

namespace spherical {

// A model on a stepper without the engine around it: a test or a benchmark enters tokens into sequences of its own and reads what
// the model says. Steps are planned as the engine plans them; whatever breaks is the test's end (SPH_CHECK).
//
//   auto model = LoadedModel::Load(path, {.tokens = TokenCount(4096)});
//   const auto sequence = (*model)->Begin();
//   TokenId next = (*model)->Enter(sequence, prompt);     // the likeliest token after the prompt
//   (*model)->Seal(sequence);                             // coded modes: all of the prompt at once, as the engine does step by step
class LoadedModel {
 public:
  struct Options {
    kernels::ActivationType activations = kernels::ActivationType::kInt8;
    int32_t cuda_device = -1;  // CUDA's index: the model runs there, whatever `activations` says; negative: on the CPU
    int32_t threads = 2;
    TokenCount tokens;           // of all sequences at once; sizes the KV pool
    int32_t sequences_max = 1;
    engine::KvMode mode = {};
    std::optional<engine::ModelGeometry> geometry = {};  // coded modes; the plain one if left out
  };
  using Sequence = int32_t;
  struct Entry {
    Sequence sequence;
    std::span<const engine::TokenId> tokens;  // not empty
  };

  static absl::StatusOr<std::unique_ptr<LoadedModel>> Load(const std::string& path, Options options);
  LoadedModel() = default;  // for Load: there is no model in it yet
  LoadedModel(const LoadedModel&) = delete;
  LoadedModel& operator=(const LoadedModel&) = delete;
  ~LoadedModel();

  const engine::Tokenizer& tokenizer() const { return *tokenizer_; }
  const engine::TransformerSpec& spec() const { return spec_; }

  Sequence Begin();                                     // a new, empty sequence
  // Forgets what was entered from `position` on. Of a sealed sequence: no more than what has come since and is still T8, or all.
  void Truncate(Sequence sequence, int32_t position);
  void EndAll();
  // Codes what the sequence holds; what enters from now on is T8, and leaves for the mode's tier when it is old.
  void Seal(Sequence sequence);

  // Appends tokens to a sequence, in chunks of a whole step. The likeliest next token.
  engine::TokenId Enter(Sequence sequence, std::span<const engine::TokenId> tokens);

  // Appends tokens to several sequences in one step. The likeliest next token of each.
  std::vector<engine::TokenId> EnterTogether(std::span<const Entry> entries);

  // Appends tokens and hands over, for each position in order, the natural log-probabilities of the next token.   row [vocabulary]
  void Score(Sequence sequence, std::span<const engine::TokenId> tokens, const std::function<void(std::span<const float>)>& row);

 private:
  struct Held {
    engine::PageTable pages;
    int32_t position = 0;
  };

  engine::StepOutput Run(engine::StepPlan& plan, std::span<const Entry> entries);
  void Lend(Held& held, int32_t tokens);
  void LendTier(engine::HeadPages& head, kernels::Tier tier, int32_t tokens);
  void DemoteOld(Held& held);
  void Retier(Held& held, std::span<const engine::RetierItem> items);
  static void Keep(std::vector<PageId>& pages, int64_t kept, engine::KvPool& pool, engine::Reservation& room);
  // Where f16 pages come from: in the coded modes from a workspace of their own.
  engine::KvPool& exact_pool() { return shape_.mode.coded ? *workspace_ : *pool_; }
  engine::Reservation& exact_room() { return shape_.mode.coded ? workspace_room_ : room_; }

  engine::TransformerSpec spec_;
  engine::KvShape shape_;
  std::unique_ptr<const engine::Tokenizer> tokenizer_;
  std::unique_ptr<engine::ThreadPool> threads_;
  std::unique_ptr<engine::Stepper> stepper_;
  std::unique_ptr<engine::KvPool> pool_, workspace_;
  engine::Reservation room_, workspace_room_;
  std::vector<Held> sequences_;
};

}  // namespace spherical

#endif  // SPHERICAL_TESTS_GOLDEN_LOADED_MODEL_H_
