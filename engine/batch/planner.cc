#include "engine/batch/planner.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/base/check.h"

namespace spherical::engine {
namespace {

struct Chunk {
  const Sequence* sequence;
  int32_t rows = 0;

  int32_t position() const { return sequence->entered + rows; }        // of the next row to add
  int32_t left() const { return sequence->prompt_left() - rows; }
};

StepItem ItemOf(const Sequence& sequence) {
  StepItem item;
  item.sequence = sequence.request.id;
  item.position = sequence.entered;
  item.pages = &sequence.pages;
  item.sampling = &sequence.request.sampling;
  item.output_index = static_cast<int32_t>(sequence.output.size());
  item.prompt = sequence.request.prompt;
  item.output = sequence.output;
  item.logprobs = sequence.request.logprobs;
  return item;
}

StepItem DecodeItem(const Sequence& sequence) {
  StepItem item = ItemOf(sequence);
  item.tokens = std::span(sequence.output).last(1);
  item.sample = true;
  return item;
}

StepItem ChunkItem(const Chunk& chunk) {
  const Sequence& sequence = *chunk.sequence;
  const std::span<const TokenId> prompt = sequence.request.prompt;
  StepItem item = ItemOf(sequence);
  item.tokens = prompt.subspan(sequence.entered, chunk.rows);
  item.sample = chunk.left() == 0;
  item.prompt_logprobs = sequence.request.prompt_logprobs;
  if (item.prompt_logprobs >= 0) {
    const int32_t after = sequence.entered + 1;
    item.targets = prompt.subspan(after, std::min(chunk.rows, sequence.prompt_size() - after));
  }
  return item;
}

// Sizes the chunks: the oldest prompt's share, then shortest first.
std::vector<Chunk> CutChunks(std::vector<Chunk> chunks, const StepCost& cost, const PlanLimits& limits, StepWork work) {
  if (chunks.empty()) return chunks;
  const auto grow = [&](Chunk& chunk, int32_t rows) {
    work += WorkOf(chunk.position(), rows);
    chunk.rows += rows;
  };
  const auto rows_left = [&] { return limits.rows_max - static_cast<int32_t>(work.rows); };
  grow(chunks.front(), std::min({kChunkRowsMin, chunks.front().left(), rows_left()}));
  std::stable_sort(chunks.begin(), chunks.end(), [](const Chunk& a, const Chunk& b) {
    return a.sequence->prompt_left() < b.sequence->prompt_left();  // equals stay in order of admission
  });
  for (Chunk& chunk : chunks) {
    const int32_t rows_max = std::min(chunk.left(), rows_left());
    grow(chunk, cost.RowsWithin(limits.target - cost.Expect(work), chunk.position(), rows_max));
  }
  return chunks;
}

}  // namespace

StepPlan PlanStep(std::span<const Sequence* const> running, const StepCost& cost, const PlanLimits& limits) {
  SPH_CHECK(running.size() <= kStepSequencesMax);
  StepPlan plan;
  std::vector<Chunk> prompts;
  for (const Sequence* sequence : running) {
    if (sequence->paused_since) continue;
    if (sequence->decoding()) {
      plan.items.push_back(DecodeItem(*sequence));
    } else {
      prompts.push_back({.sequence = sequence});
    }
  }
  for (const Chunk& chunk : CutChunks(std::move(prompts), cost, limits, WorkOf(plan))) {
    if (chunk.rows > 0) plan.items.push_back(ChunkItem(chunk));
  }
  const StepWork work = WorkOf(plan);
  plan.rows = static_cast<int32_t>(work.rows);
  plan.cost = cost.Expect(work);
  return plan;
}

}  // namespace spherical::engine
