#include "engine/kv/prefill_workspace.h"

#include <algorithm>
#include <utility>

#include "kernels/base/check.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

constexpr int32_t kPageTokens = kernels::kExactTokensPerPage;

int32_t HeadsPerStep(int32_t heads, int32_t head_dim, int64_t exact) {
  return static_cast<int32_t>(std::clamp<int64_t>(kSealCoordinatesPerStep / (std::max<int64_t>(exact, 1) * head_dim), 1, heads));
}

// Tokens that decode while the heads of `exact` tokens are sealed: one a step. A last step's row enters before commit sees the head sealed.
int32_t Slack(int32_t heads, int32_t head_dim, int64_t exact) {
  return static_cast<int32_t>(RoundUp(CeilDiv(heads, HeadsPerStep(heads, head_dim, exact)) + 1, kPageTokens));
}

int32_t RoundDown(int64_t tokens) { return static_cast<int32_t>(tokens / kPageTokens * kPageTokens); }

}  // namespace

PrefillWorkspace::PrefillWorkspace(int32_t heads, int32_t head_dim, TokenCount tokens)
    : heads_(heads),
      head_dim_(head_dim),
      large_tokens_(RoundDown(tokens.value() * 4 / 5)),
      small_tokens_(RoundDown(tokens.value()) - large_tokens_),
      pages_(PagesFor(heads, tokens), ByteCount(kernels::ExactBytesUsed(head_dim))) {}

PageCount PrefillWorkspace::PagesFor(int32_t heads, TokenCount tokens) {
  return PageCount(int64_t{heads} * (RoundDown(tokens.value()) / kPageTokens));
}

int32_t PrefillWorkspace::SealHeadsPerStep(const WorkspaceRoom& room) const { return HeadsPerStep(heads_, head_dim_, room.window); }

PrefillWorkspace::Need PrefillWorkspace::NeedOf(int32_t prompt_tokens) const {
  const int64_t whole = RoundUp(prompt_tokens, kPageTokens) + Slack(heads_, head_dim_, prompt_tokens);
  const auto pages = [&](int64_t tokens) { return PageCount(heads_ * (tokens / kPageTokens)); };
  if (whole <= small_tokens_ / 4) return {.large = false, .window = prompt_tokens, .pages = pages(whole)};
  if (whole <= large_tokens_) return {.large = true, .window = prompt_tokens, .pages = pages(whole)};
  const int32_t window = large_tokens_ - Slack(heads_, head_dim_, large_tokens_);
  return {.large = true, .window = window, .pages = pages(large_tokens_)};
}

std::optional<WorkspaceRoom> PrefillWorkspace::Grant(int32_t prompt_tokens) {
  const Need need = NeedOf(prompt_tokens);
  SPH_CHECK(need.window >= std::min(prompt_tokens, 2 * kPageTokens));  // Least() is enforced at start
  PageCount& lane = need.large ? large_ : small_;
  const PageCount most(heads_ * ((need.large ? large_tokens_ : small_tokens_) / kPageTokens));
  if (lane + need.pages > most) return std::nullopt;
  std::optional<Reservation> pages = pages_.Reserve(need.pages);
  SPH_CHECK(pages.has_value());
  lane += need.pages;
  return WorkspaceRoom{.pages = *std::move(pages), .large = need.large, .window = need.window};
}

void PrefillWorkspace::TakeBack(WorkspaceRoom room) {
  (room.large ? large_ : small_) -= room.pages.promised();
  pages_.Cancel(std::move(room.pages));
}

TokenCount PrefillWorkspace::Least(int32_t heads, int32_t head_dim, int32_t context, int32_t chunk) {
  return ForContext(heads, head_dim, std::min(context, chunk));
}

TokenCount PrefillWorkspace::ForContext(int32_t heads, int32_t head_dim, int32_t context) {
  const int64_t large = RoundUp(context, kPageTokens) + Slack(heads, head_dim, context);
  return TokenCount(CeilDiv(large * 5, 4) + 2 * kPageTokens);  // what rounding down loses
}

}  // namespace spherical::engine
