#include "engine/step/cuda_logits.h"

#include <algorithm>

#include <fmt/format.h>

#include "engine/step/draw_row.h"

namespace spherical::engine {
namespace {

using kernels::LogitEdit;
using kernels::cuda::CudaStatus;
using kernels::cuda::DrawnToken;
using kernels::cuda::DrawRow;

static_assert(kTopLogprobsMax <= kernels::cuda::kToldMax);

bool Edits(const SamplingParams& params) { return PenaltiesOf(params) != kernels::Penalties{} || !params.logit_bias.empty(); }

// The greatest logit is all that is asked for.
bool WantsGreatest(const StepItem& item, const LogitRow& row) {
  return row.target < 0 && item.logprobs < 0 && item.sampling->temperature == 0 && !Edits(*item.sampling);
}

SampledToken TokenOf(const DrawnToken& drawn) {
  SampledToken token = {.id = drawn.id, .logprob = drawn.logprob, .top = {}};
  for (int32_t i = 0; i < drawn.told; ++i) token.top.push_back({.id = drawn.likeliest[i].id, .logprob = drawn.likeliest[i].logprob});
  std::ranges::sort(token.top, [](const TokenLogprob& a, const TokenLogprob& b) {
    return a.logprob != b.logprob ? a.logprob > b.logprob : a.id < b.id;
  });
  return token;
}

}  // namespace

CudaLogits::CudaLogits(int32_t vocabulary, int32_t edits_max, ThreadPool& pool, kernels::cuda::Stream stream)
    : vocabulary_(vocabulary),
      edits_max_(edits_max),
      pool_(pool),
      stream_(stream),
      scratch_(static_cast<size_t>(pool.threads())),
      edits_of_row_(CudaPass::kLogitsRowsMax) {}

absl::Status CudaLogits::Create() {
  if (const CudaStatus prepared = kernels::cuda::PrepareTokenDraw(); prepared != CudaStatus::kOk) {
    return absl::InternalError(fmt::format("drawing tokens on the CUDA device: {}", kernels::cuda::TextOf(prepared)));
  }
  const int64_t edit_bytes = edits_max_ * int64_t{sizeof(LogitEdit)}, raw_bytes = edits_max_ * int64_t{sizeof(float)};
  for (const CudaStatus taken : {edits_.Allocate(edit_bytes), raw_.Allocate(raw_bytes)}) {
    if (taken == CudaStatus::kOk) continue;
    return absl::ResourceExhaustedError(
        fmt::format("{} bytes for drawing tokens do not fit the device: {}", edit_bytes + raw_bytes, kernels::cuda::TextOf(taken)));
  }
  const int64_t draw_bytes = CudaPass::kLogitsRowsMax * int64_t{sizeof(DrawRow)};
  const int64_t drawn_bytes = CudaPass::kLogitsRowsMax * int64_t{sizeof(DrawnToken)};
  const int64_t logits_bytes = int64_t{kHostRowsMax} * vocabulary_ * int64_t{sizeof(float)};
  for (const CudaStatus taken : {host_edits_.Allocate(edit_bytes), draws_.Allocate(draw_bytes), drawn_.Allocate(drawn_bytes),
                                 logits_.Allocate(logits_bytes)}) {
    if (taken == CudaStatus::kOk) continue;
    return absl::ResourceExhaustedError(fmt::format("{} bytes of pinned memory for logits cannot be had: {}",
                                                    edit_bytes + draw_bytes + drawn_bytes + logits_bytes, kernels::cuda::TextOf(taken)));
  }
  return absl::OkStatus();
}

void CudaLogits::FindAllEdits(const StepPlan& plan, std::span<const LogitRow> wanted) {
  const auto item_of = [&](size_t i) -> const StepItem& { return plan.items[static_cast<size_t>(wanted[i].item)]; };
  bool any = false;
  for (size_t i = 0; i < wanted.size(); ++i) {
    edits_of_row_[i].clear();
    any |= wanted[i].target < 0 && Edits(*item_of(i).sampling);
  }
  if (!any) return;
  pool_.RunWithWorker(static_cast<int32_t>(wanted.size()), [&](Shard shard, int32_t worker) {
    const size_t i = static_cast<size_t>(shard.index);
    const StepItem& item = item_of(i);
    if (wanted[i].target >= 0) return;
    FindEdits(*item.sampling, vocabulary_, item.prompt, item.output, scratch_[static_cast<size_t>(worker)].counts, edits_of_row_[i]);
  });
}

void CudaLogits::Ask(const StepPlan& plan, std::span<const LogitRow> wanted) {
  draw_rows_.clear();
  host_rows_.clear();
  edit_count_ = 0;
  FindAllEdits(plan, wanted);
  for (size_t i = 0; i < wanted.size(); ++i) {
    const StepItem& item = plan.items[static_cast<size_t>(wanted[i].item)];
    if (WantsGreatest(item, wanted[i])) continue;
    const int32_t row = static_cast<int32_t>(i), edits = static_cast<int32_t>(edits_of_row_[i].size());
    if (edits > edits_max_ - edit_count_) {
      host_rows_.push_back(row);
      continue;
    }
    DrawRow& draw = draws_.data<DrawRow>()[draw_rows_.size()];
    if (wanted[i].target >= 0) {
      draw = {.target = item.targets[static_cast<size_t>(wanted[i].target)], .told = item.prompt_logprobs};
    } else {
      draw = DrawRowOf(*item.sampling, item.output_index);
      draw.told = item.logprobs;
    }
    draw.row = row;
    draw.first_edit = edit_count_;
    draw.edits = edits;
    std::ranges::copy(edits_of_row_[i], host_edits_.data<LogitEdit>() + edit_count_);
    edit_count_ += edits;
    draw_rows_.push_back(row);
  }
}

absl::Status CudaLogits::Read(const StepPlan& plan, std::span<const LogitRow> wanted, CudaPass& pass, StepOutput& output) {
  int32_t rows[CudaPass::kLogitsRowsMax];
  for (size_t i = 0; i < wanted.size(); ++i) rows[i] = wanted[i].row;
  pass.Logits(std::span<const int32_t>(rows, wanted.size()));
  Ask(plan, wanted);
  if (edit_count_ > 0) {
    pass.Note(kernels::cuda::CopyToDevice(stream_, edits_.data(), host_edits_.data(), edit_count_ * int64_t{sizeof(LogitEdit)}));
  }
  pass.Note(kernels::cuda::DrawTokens(stream_, {.logits = pass.logits(),
                                                .vocabulary = vocabulary_,
                                                .pieces = pass.greatest_pieces(),
                                                .rows = draws_.data<DrawRow>(),
                                                .n = static_cast<int32_t>(draw_rows_.size()),
                                                .edits = edits_.data<LogitEdit>(),
                                                .raw = raw_.data<float>(),
                                                .drawn = drawn_.data<DrawnToken>()}));
  if (absl::Status done = pass.Await(); !done.ok()) return done;

  const auto item_of = [&](size_t i) -> StepItemOutput& { return output.items[static_cast<size_t>(wanted[i].item)]; };
  for (size_t i = 0; i < wanted.size(); ++i) {
    const int32_t greatest = pass.greatest()[i];
    item_of(i).finite &= greatest >= 0;
    if (greatest >= 0 && WantsGreatest(plan.items[static_cast<size_t>(wanted[i].item)], wanted[i])) {
      item_of(i).sampled = SampledToken{.id = greatest, .top = {}};
    }
  }
  for (size_t d = 0; d < draw_rows_.size(); ++d) {
    const size_t i = static_cast<size_t>(draw_rows_[d]);
    const DrawnToken& drawn = drawn_.data<DrawnToken>()[d];
    if (drawn.id == kernels::cuda::kRowNotFinite) continue;
    if (drawn.id == kernels::cuda::kFrontTooLarge) {
      host_rows_.push_back(draw_rows_[d]);
    } else if (wanted[i].target >= 0) {
      item_of(i).prompt_scores[static_cast<size_t>(wanted[i].target)] = TokenOf(drawn);
    } else {
      item_of(i).sampled = TokenOf(drawn);
    }
  }
  return ReadOnHost(plan, wanted, pass, output);
}

absl::Status CudaLogits::ReadOnHost(const StepPlan& plan, std::span<const LogitRow> wanted, CudaPass& pass, StepOutput& output) {
  for (size_t first = 0; first < host_rows_.size(); first += kHostRowsMax) {
    const std::span<const int32_t> rows =
        std::span<const int32_t>(host_rows_).subspan(first, std::min<size_t>(kHostRowsMax, host_rows_.size() - first));
    for (size_t r = 0; r < rows.size(); ++r) {
      pass.Note(kernels::cuda::CopyToHost(stream_, logits_.data<float>() + static_cast<int64_t>(r) * vocabulary_,
                                          pass.logits() + int64_t{rows[r]} * vocabulary_, vocabulary_ * int64_t{sizeof(float)}));
    }
    if (absl::Status done = pass.Await(); !done.ok()) return done;
    pool_.RunWithWorker(static_cast<int32_t>(rows.size()), [&](Shard shard, int32_t worker) {
      const int32_t row = rows[static_cast<size_t>(shard.index)];
      const LogitRow& want = wanted[static_cast<size_t>(row)];
      if (pass.greatest()[row] < 0) return;
      ReadLogitRow(plan.items[static_cast<size_t>(want.item)], want,
                   {logits_.data<float>() + int64_t{shard.index} * vocabulary_, static_cast<size_t>(vocabulary_)},
                   scratch_[static_cast<size_t>(worker)], output.items[static_cast<size_t>(want.item)]);
    });
  }
  return absl::OkStatus();
}

}  // namespace spherical::engine
