#include "engine/step/logit_rows.h"

namespace spherical::engine {

void FindLogitRows(const StepPlan& plan, StepOutput& output, std::vector<LogitRow>& rows) {
  rows.clear();
  int32_t first = 0;
  for (int32_t i = 0; i < static_cast<int32_t>(plan.items.size()); ++i) {
    const StepItem& item = plan.items[static_cast<size_t>(i)];
    const int32_t count = static_cast<int32_t>(item.tokens.size());
    if (item.prompt_logprobs >= 0) {
      output.items[static_cast<size_t>(i)].prompt_scores.resize(item.targets.size());
      for (int32_t t = 0; t < static_cast<int32_t>(item.targets.size()); ++t) rows.push_back({i, first + t, t});
    }
    if (item.sample) rows.push_back({i, first + count - 1, -1});
    first += count;
  }
}

void ReadLogitRow(const StepItem& item, const LogitRow& row, std::span<const float> logits, SamplerScratch& scratch,
                  StepItemOutput& output) {
  if (row.target >= 0) {
    output.prompt_scores[static_cast<size_t>(row.target)] =
        Score(logits, item.targets[static_cast<size_t>(row.target)], item.prompt_logprobs, scratch);
  } else {
    output.sampled = Sample(logits, *item.sampling, item.output_index, item.prompt, item.output, item.logprobs, scratch);
  }
}

}  // namespace spherical::engine
