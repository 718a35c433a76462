#ifndef SPHERICAL_ENGINE_STEP_LOGIT_ROWS_H_
#define SPHERICAL_ENGINE_STEP_LOGIT_ROWS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/batch/step_plan.h"
#include "engine/model/sampler.h"

namespace spherical::engine {

// One row whose logits someone wants, on whichever device they are made.
struct LogitRow {
  int32_t item;    // of the plan
  int32_t row;     // among all rows of the step
  int32_t target;  // index into the item's targets to score; -1: sample the next token
};

// All of a step, in order of rows; prompt scores get their room in `output`, whose items are there already.
void FindLogitRows(const StepPlan& plan, StepOutput& output, std::vector<LogitRow>& rows);

// What is wanted of a row, from its logits, all finite.   logits [vocabulary]
void ReadLogitRow(const StepItem& item, const LogitRow& row, std::span<const float> logits, SamplerScratch& scratch,
                  StepItemOutput& output);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_STEP_LOGIT_ROWS_H_
