#include "engine/budget/reservation_size.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/spherical/ladder.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

using kernels::Tier;

int64_t PagesOfHead(const KvShape& shape, int64_t tokens) {
  if (!shape.mode.coded) return CeilDiv(tokens, kernels::kExactTokensPerPage);
  const auto pages = [&](Tier tier, int64_t n) { return CeilDiv(n, kernels::TokensPerPage(tier, shape.head_dim)); };
  if (shape.mode.tier == Tier::kT8) return pages(Tier::kT8, tokens);
  const int64_t kept = kSinkTokens + kNewestTokens;
  return pages(Tier::kT8, std::min<int64_t>(tokens, kWholeTokensMax)) + pages(shape.mode.tier, std::max<int64_t>(tokens - kept, 0));
}

// A local head whose older tokens are on one tier. Its list has tokens in front that have left, fewer than fill a page.
int64_t LocalPages(const KvShape& shape, int32_t window, Tier older, int64_t tokens) {
  if (!shape.mode.coded) {
    const int64_t held = std::min<int64_t>(tokens, window + kStepRowsMax + kernels::kExactTokensPerPage);
    return CeilDiv(held, kernels::kExactTokensPerPage);
  }
  const auto pages = [&](Tier tier, int64_t n) { return CeilDiv(n, kernels::TokensPerPage(tier, shape.head_dim)); };
  const int64_t reach = std::min<int64_t>(tokens, window + kWindowSlack);
  const int64_t held = std::min<int64_t>(tokens, reach + kernels::TokensPerPage(older, shape.head_dim) - 1);
  if (older == Tier::kT8) return pages(Tier::kT8, held);
  const int64_t whole = std::min<int64_t>(tokens, kWholeTokensMax);
  return pages(Tier::kT8, whole) + pages(older, std::max<int64_t>(held - kNewestTokens, 0));
}

constexpr int64_t kTokensMax = int64_t{1} << 31;

// Bits per element of K and V of a token that takes so many bytes in a head.
double BitsPerElement(const KvShape& shape, int64_t token_bytes) { return 8.0 * static_cast<double>(token_bytes) / (2.0 * shape.head_dim); }
double BitsOf(const KvShape& shape, Tier tier) { return BitsPerElement(shape, kernels::TokenBytes(tier, shape.head_dim)); }

// The lowest tier of the ladder that is at or above a rate.
Tier TierOfRate(const KvShape& shape, double bits) {
  Tier tier = Tier::kT2;
  while (tier != Tier::kT8 && BitsOf(shape, tier) < bits) {
    tier = static_cast<Tier>(static_cast<int32_t>(tier) - 1);
  }
  return tier;
}

// Global heads of a sequence in mode `rdr`.
int64_t PricedPages(const KvShape& shape, int64_t heads, int64_t tokens, double bits) {
  const int64_t lower = std::max<int64_t>(tokens - kSinkTokens - kNewestTokens, 0);
  int64_t usable = shape.page_bytes.value();
  for (const Tier tier : {Tier::kT8, Tier::kT4, Tier::kT3, Tier::kT2}) {
    usable = std::min<int64_t>(usable, int64_t{kernels::TokensPerPage(tier, shape.head_dim)} * kernels::TokenBytes(tier, shape.head_dim));
  }
  const int64_t whole = CeilDiv(std::min<int64_t>(tokens, kWholeTokensMax), kernels::TokensPerPage(Tier::kT8, shape.head_dim));
  const int64_t open = std::min<int64_t>(lower, kernels::kLadderTiers);
  const double bytes = bits / 8 * 2 * shape.head_dim * static_cast<double>(lower) * static_cast<double>(heads);
  return heads * (whole + open) + static_cast<int64_t>(std::ceil(bytes / static_cast<double>(usable)));
}

}  // namespace

KvShape MakeKvShape(int32_t layers, int32_t kv_heads, int32_t head_dim, KvMode mode, int32_t group, std::vector<int32_t> windows) {
  return {.layers = layers,
          .kv_heads = kv_heads,
          .head_dim = head_dim,
          .page_bytes = ByteCount(kernels::PageBytes(head_dim)),
          .mode = mode,
          .group = group,
          .windows = std::move(windows)};
}

int64_t TokensInReach(const KvShape& shape, int64_t tokens) {
  int64_t sum = 0;
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    const int32_t window = shape.window(layer);
    sum += shape.kv_heads * (window > 0 ? std::min<int64_t>(tokens, window) : tokens);
  }
  return sum;
}

PrefillWorkspace::Shape WorkspaceShape(const KvShape& shape) {
  PrefillWorkspace::Shape workspace = {.heads = shape.heads(),
                                       .head_dim = shape.head_dim,
                                       .group = shape.mode.priced ? shape.group : 0,
                                       .seal_coordinates = shape.seal_coordinates};
  for (const int32_t window : shape.windows) {
    if (window == 0) continue;
    workspace.local_heads += shape.kv_heads;
    workspace.window = std::max(workspace.window, window);
  }
  return workspace;
}

std::vector<TierBytes> BytesByTier(const KvShape& shape) {
  int64_t global = 0, windows = 0;
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    global += shape.window(layer) == 0 ? shape.kv_heads : 0;
    windows += int64_t{shape.kv_heads} * shape.window(layer);
  }
  std::vector<TierBytes> tiers;
  const auto add = [&](std::string_view name, int64_t token_bytes) {
    tiers.push_back({.name = name,
                     .bits = BitsPerElement(shape, token_bytes),
                     .per_token = global * token_bytes,
                     .local = windows * token_bytes});
  };
  add("f16", int64_t{shape.head_dim} * 4);
  constexpr std::string_view kNames[kernels::kTierCount] = {"T8", "T4", "T3", "T2", "T1"};
  for (int32_t t = 0; t < kernels::kTierCount; ++t) add(kNames[t], kernels::TokenBytes(static_cast<Tier>(t), shape.head_dim));
  return tiers;
}

ByteCount ExactTokenBytes(const KvShape& shape) {
  return ByteCount(int64_t{shape.heads()} * kernels::ExactBytesUsed(shape.head_dim) / kernels::kExactTokensPerPage);
}

bool KeepsAll(const KvShape& shape, const Quota& quota) {
  return !quota.allow_drop && (shape.mode.rate == 0 || shape.mode.rate >= BitsOf(shape, Tier::kT2));
}

PageCount ReservedPages(const KvShape& shape, TokenCount tokens, double floor_bits) {
  const double bits = shape.mode.rate > 0 ? shape.mode.rate : floor_bits;
  const Tier older = shape.mode.priced ? TierOfRate(shape, bits) : shape.mode.tier;
  int64_t pages = 0, global = shape.heads();
  for (const int32_t window : shape.windows) {
    if (window == 0) continue;
    pages += shape.kv_heads * LocalPages(shape, window, older, tokens.value());
    global -= shape.kv_heads;
  }
  if (global == 0) return PageCount(pages);
  if (shape.mode.priced) return PageCount(pages + PricedPages(shape, global, tokens.value(), bits));
  return PageCount(pages + global * PagesOfHead(shape, tokens.value()));
}

TokenCount TokensWithin(const KvShape& shape, PageCount pages, double floor_bits) {
  int64_t fits = 0, too_many = 1;
  while (ReservedPages(shape, TokenCount(too_many), floor_bits) <= pages) {
    if (too_many >= kTokensMax) return TokenCount(kTokensMax);  // every layer has a window
    too_many *= 2;
  }
  while (too_many - fits > 1) {
    const int64_t middle = fits + (too_many - fits) / 2;
    (ReservedPages(shape, TokenCount(middle), floor_bits) <= pages ? fits : too_many) = middle;
  }
  return TokenCount(fits);
}

}  // namespace spherical::engine
