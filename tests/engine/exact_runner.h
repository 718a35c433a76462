// The forward pass over exact keys and values alone.
#ifndef SPHERICAL_TESTS_ENGINE_EXACT_RUNNER_H_
#define SPHERICAL_TESTS_ENGINE_EXACT_RUNNER_H_

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/host_memory.h"
#include "engine/step/forward.h"
#include "kernels/spherical/page_layout.h"
#include "tests/engine/tiny_model.h"

namespace spherical::engine {

// A forward pass with its own arena; pages are handed out in an order that is not that of the tokens.
class ExactRunner {
 public:
  ExactRunner(const TinyModel& model, int32_t threads, kernels::ActivationType activations)
      : ExactRunner(model.spec, model.weights, threads, activations) {}
  ExactRunner(const TransformerSpec& spec, const Weights& weights, int32_t threads, kernels::ActivationType activations)
      : spec_(spec),
        pool_(threads),
        page_bytes_(kernels::PageBytes(spec.head_dim)),
        arena_(*HostMemory::Allocate(ByteCount(kPages * page_bytes_), "the arena", "")),
        forward_(spec, weights, nullptr, pool_, activations) {
    for (PageId page = 0; page < kPages; ++page) free_.push_back((page * 7 + 3) % kPages);
  }

  struct Sequence {
    std::vector<TokenId> prompt;
    PageTable pages;
    int32_t position = 0;
  };
  Sequence Start(std::vector<TokenId> prompt) { return {std::move(prompt), PageTable(spec_.layers, spec_.kv_heads, {}, spec_.windows), 0}; }

  struct Part {
    Sequence* sequence;
    std::vector<TokenId> tokens;
  };
  // Runs one step of several sequences; logits of every row, in order.
  std::vector<std::vector<float>> Step(std::vector<Part> parts) {
    StepPlan plan;
    for (Part& part : parts) {
      Lend(*part.sequence, part.sequence->position + static_cast<int32_t>(part.tokens.size()));
      StepItem item;
      item.tokens = part.tokens;
      item.position = part.sequence->position;
      item.pages = &part.sequence->pages;
      item.prompt = part.sequence->prompt;
      plan.items.push_back(item);
      plan.rows += static_cast<int32_t>(part.tokens.size());
    }
    forward_.RunLayers(plan, {.exact = arena_.data(), .exact_page_bytes = page_bytes_});
    for (Part& part : parts) part.sequence->position += static_cast<int32_t>(part.tokens.size());
    std::vector<std::vector<float>> logits;
    for (int32_t row = 0; row < plan.rows; ++row) {
      logits.emplace_back(static_cast<size_t>(spec_.vocabulary));
      forward_.Logits(std::span<const int32_t>(&row, 1), logits.back().data());
    }
    return logits;
  }

 private:
  static constexpr PageId kPages = 4096;

  void Lend(Sequence& sequence, int32_t tokens) {
    for (int32_t list = 0; list < sequence.pages.heads(); ++list) {
      while (static_cast<int32_t>(sequence.pages.head(list).exact.size()) * kernels::kExactTokensPerPage < tokens) {
        sequence.pages.head(list).exact.push_back(free_.back());
        free_.pop_back();
      }
    }
  }

  const TransformerSpec& spec_;
  ThreadPool pool_;
  const int64_t page_bytes_;
  HostMemory arena_;
  Forward forward_;
  std::vector<PageId> free_;
};

}  // namespace spherical::engine

#endif  // SPHERICAL_TESTS_ENGINE_EXACT_RUNNER_H_
