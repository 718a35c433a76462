#include "engine/kv/prefill_workspace.h"

#include <algorithm>
#include <utility>

#include "engine/kv/head_notes.h"
#include "engine/kv/page_table.h"
#include "engine/kv/query_sampling.h"
#include "kernels/base/check.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

constexpr int32_t kPageTokens = kernels::kExactTokensPerPage;

// Of the coordinates that are sealed between two steps, those that are measured: each takes as long as eight that are sealed.
constexpr int64_t kMeasuredPart = 4;

int32_t HeadsPerStep(const PrefillWorkspace::Shape& shape, int64_t exact, int64_t coordinates) {
  return static_cast<int32_t>(std::clamp<int64_t>(coordinates / (std::max<int64_t>(exact, 1) * shape.head_dim), 1, shape.heads));
}

// In mode `rdr` measuring and sealing together end before more tokens have decoded than are protected anyway: so every token that leaves T8
// at sealing was measured.
constexpr int32_t kMeasureStepsMax = 24, kPricedSealStepsMax = 36;
static_assert(kMeasureStepsMax + kPricedSealStepsMax + 2 <= 64);

// Exact tokens of a head, in the mean, when a prompt with a window of so many is complete.
int64_t MeanExact(const PrefillWorkspace::Shape& shape, int64_t window) {
  const int64_t local = std::min<int64_t>(window, shape.window + kPageTokens);
  return ((shape.heads - shape.local_heads) * window + shape.local_heads * local) / std::max(shape.heads, 1);
}

int32_t MeasureHeads(const PrefillWorkspace::Shape& shape, int64_t exact) {
  return static_cast<int32_t>(std::max<int64_t>(HeadsPerStep(shape, exact, shape.seal_coordinates / kMeasuredPart),
                                                CeilDiv(shape.heads, kMeasureStepsMax)));
}
int32_t SealHeads(const PrefillWorkspace::Shape& shape, int64_t exact) {
  const int32_t heads = HeadsPerStep(shape, exact, shape.seal_coordinates);
  return shape.group == 0 ? heads : std::max(heads, static_cast<int32_t>(CeilDiv(shape.heads, kPricedSealStepsMax)));
}

// Tokens that decode while the heads of `exact` tokens are measured and sealed: one a step. A last step's row enters before commit sees the
// head sealed.
int64_t Slack(const PrefillWorkspace::Shape& shape, int64_t exact) {
  int64_t steps = CeilDiv(shape.heads, SealHeads(shape, exact)) + 1;
  if (shape.group > 0) steps += CeilDiv(shape.heads, MeasureHeads(shape, exact)) + 1;
  return RoundUp(steps, kPageTokens);
}

int32_t RoundDown(int64_t tokens) { return static_cast<int32_t>(tokens / kPageTokens * kPageTokens); }

}  // namespace

PrefillWorkspace::PrefillWorkspace(const Shape& shape, TokenCount tokens)
    : shape_(shape),
      pages_(PagesFor(shape.heads, tokens), ByteCount(kernels::ExactBytesUsed(shape.head_dim))),
      large_pages_(PagesFor(shape.heads, TokenCount(tokens.value() * 4 / 5))),
      small_pages_(pages_.pages() - large_pages_) {}

PageCount PrefillWorkspace::PagesFor(int32_t heads, TokenCount tokens) {
  return PageCount(int64_t{heads} * (RoundDown(tokens.value()) / kPageTokens));
}

int32_t PrefillWorkspace::SealHeadsPerStep(const WorkspaceRoom& room) const {
  return SealHeads(shape_, MeanExact(shape_, room.window));
}
int32_t PrefillWorkspace::MeasureHeadsPerStep(const WorkspaceRoom& room) const {
  return MeasureHeads(shape_, MeanExact(shape_, room.window));
}

int32_t PrefillWorkspace::SamplePagesFor(const Shape& shape, int32_t prompt_tokens) {
  const QuerySampling sampling = QuerySampling::For(prompt_tokens);
  return shape.group == 0 ? 0 : SamplePages(sampling.CountAfter(prompt_tokens), shape.group);
}

// `held` exact tokens of a window of a prompt, what decodes until they are sealed, and in mode `rdr` samples and notes.
int64_t PrefillWorkspace::PagesOfHead(const Shape& shape, int64_t prompt_tokens, int64_t window, int64_t held) {
  const int64_t exact = RoundUp(held, kPageTokens) + Slack(shape, MeanExact(shape, window));
  const int64_t notes = shape.group == 0 ? 0 : NotePages(static_cast<int32_t>(exact), shape.head_dim);
  return exact / kPageTokens + notes + SamplePagesFor(shape, static_cast<int32_t>(prompt_tokens));
}

int64_t PrefillWorkspace::PagesOfRoom(const Shape& shape, int64_t prompt_tokens, int64_t window) {
  const int64_t local = std::min<int64_t>(prompt_tokens, shape.window + kStepRowsMax + kPageTokens);
  return (shape.heads - shape.local_heads) * PagesOfHead(shape, prompt_tokens, window, window) +
         shape.local_heads * PagesOfHead(shape, prompt_tokens, window, local);
}

PrefillWorkspace::Need PrefillWorkspace::NeedOf(int32_t prompt_tokens) const {
  const PageCount whole(PagesOfRoom(shape_, prompt_tokens, prompt_tokens));
  if (whole <= PageCount(small_pages_.value() / 4)) return {.large = false, .window = prompt_tokens, .pages = whole};
  if (whole <= large_pages_) return {.large = true, .window = prompt_tokens, .pages = whole};
  int64_t fits = 0, too_long = prompt_tokens;
  while (too_long - fits > 1) {
    const int64_t middle = fits + (too_long - fits) / 2;
    (PagesOfRoom(shape_, prompt_tokens, middle) <= large_pages_.value() ? fits : too_long) = middle;
  }
  return {.large = true, .window = RoundDown(fits), .pages = large_pages_};
}

std::optional<WorkspaceRoom> PrefillWorkspace::Grant(int32_t prompt_tokens) {
  const Need need = NeedOf(prompt_tokens);
  SPH_CHECK(need.window >= std::min(prompt_tokens, 2 * kPageTokens));  // Least() is enforced at start
  PageCount& lane = need.large ? large_ : small_;
  if (lane + need.pages > LaneOf(need.large)) return std::nullopt;
  std::optional<Reservation> pages = pages_.Reserve(need.pages);
  SPH_CHECK(pages.has_value());
  lane += need.pages;
  return WorkspaceRoom{.pages = *std::move(pages), .large = need.large, .window = need.window};
}

void PrefillWorkspace::TakeBack(WorkspaceRoom room) {
  (room.large ? large_ : small_) -= room.pages.promised();
  pages_.Cancel(std::move(room.pages));
}

TokenCount PrefillWorkspace::Least(const Shape& shape, int32_t context, int32_t chunk) {
  return TokensFor(shape, PagesOfRoom(shape, context, std::min(context, chunk)));
}

TokenCount PrefillWorkspace::ForContext(const Shape& shape, int32_t context) {
  return TokensFor(shape, PagesOfRoom(shape, context, context));
}

TokenCount PrefillWorkspace::TokensFor(const Shape& shape, int64_t pages) {
  return TokenCount(CeilDiv(CeilDiv(pages, shape.heads) * kPageTokens * 5, 4) + 2 * kPageTokens);  // what rounding down loses
}

}  // namespace spherical::engine
