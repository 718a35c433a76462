#include "engine/budget/reservation_size.h"

#include <algorithm>
#include <cmath>

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

// All heads of a sequence in mode `rdr`.
int64_t PricedPages(const KvShape& shape, int64_t tokens, double floor_bits) {
  const int64_t lower = std::max<int64_t>(tokens - kSinkTokens - kNewestTokens, 0);
  int64_t usable = shape.page_bytes.value();
  for (const Tier tier : {Tier::kT8, Tier::kT4, Tier::kT3, Tier::kT2}) {
    usable = std::min<int64_t>(usable, int64_t{kernels::TokensPerPage(tier, shape.head_dim)} * kernels::TokenBytes(tier, shape.head_dim));
  }
  const int64_t whole = CeilDiv(std::min<int64_t>(tokens, kWholeTokensMax), kernels::TokensPerPage(Tier::kT8, shape.head_dim));
  const int64_t open = std::min<int64_t>(lower, kernels::kLadderTiers);
  const double bits = shape.mode.rate > 0 ? shape.mode.rate : floor_bits;
  const double bytes = bits / 8 * 2 * shape.head_dim * static_cast<double>(lower) * shape.heads();
  return shape.heads() * (whole + open) + static_cast<int64_t>(std::ceil(bytes / static_cast<double>(usable)));
}

// Bits per element of a token on the last rung that is not dropping.
double LastRungBits(const KvShape& shape) { return 8.0 * kernels::TokenBytes(Tier::kT2, shape.head_dim) / (2.0 * shape.head_dim); }

}  // namespace

KvShape MakeKvShape(int32_t layers, int32_t kv_heads, int32_t head_dim, KvMode mode, int32_t group) {
  return {.layers = layers,
          .kv_heads = kv_heads,
          .head_dim = head_dim,
          .page_bytes = ByteCount(kernels::PageBytes(head_dim)),
          .mode = mode,
          .group = group};
}

PrefillWorkspace::Shape WorkspaceShape(const KvShape& shape) {
  return {.heads = shape.heads(), .head_dim = shape.head_dim, .group = shape.mode.priced ? shape.group : 0};
}

ByteCount ExactTokenBytes(const KvShape& shape) {
  return ByteCount(int64_t{shape.heads()} * kernels::ExactBytesUsed(shape.head_dim) / kernels::kExactTokensPerPage);
}

bool KeepsAll(const KvShape& shape, const Quota& quota) {
  return !quota.allow_drop && (shape.mode.rate == 0 || shape.mode.rate >= LastRungBits(shape));
}

PageCount ReservedPages(const KvShape& shape, TokenCount tokens, double floor_bits) {
  if (shape.mode.priced) return PageCount(PricedPages(shape, tokens.value(), floor_bits));
  return PageCount(shape.heads() * PagesOfHead(shape, tokens.value()));
}

TokenCount TokensWithin(const KvShape& shape, PageCount pages, double floor_bits) {
  int64_t fits = 0, too_many = 1;
  while (ReservedPages(shape, TokenCount(too_many), floor_bits) <= pages) too_many *= 2;
  while (too_many - fits > 1) {
    const int64_t middle = fits + (too_many - fits) / 2;
    (ReservedPages(shape, TokenCount(middle), floor_bits) <= pages ? fits : too_many) = middle;
  }
  return TokenCount(fits);
}

}  // namespace spherical::engine
