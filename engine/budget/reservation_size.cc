#include "engine/budget/reservation_size.h"

#include <algorithm>

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

}  // namespace

KvShape MakeKvShape(int32_t layers, int32_t kv_heads, int32_t head_dim, KvMode mode) {
  return {.layers = layers,
          .kv_heads = kv_heads,
          .head_dim = head_dim,
          .page_bytes = ByteCount(kernels::PageBytes(head_dim)),
          .mode = mode};
}

ByteCount ExactTokenBytes(const KvShape& shape) {
  return ByteCount(int64_t{shape.heads()} * kernels::ExactBytesUsed(shape.head_dim) / kernels::kExactTokensPerPage);
}

PageCount ReservedPages(const KvShape& shape, TokenCount tokens) { return PageCount(shape.heads() * PagesOfHead(shape, tokens.value())); }

TokenCount TokensWithin(const KvShape& shape, PageCount pages) {
  int64_t fits = 0, too_many = 1;
  while (ReservedPages(shape, TokenCount(too_many)) <= pages) too_many *= 2;
  while (too_many - fits > 1) {
    const int64_t middle = fits + (too_many - fits) / 2;
    (ReservedPages(shape, TokenCount(middle)) <= pages ? fits : too_many) = middle;
  }
  return TokenCount(fits);
}

}  // namespace spherical::engine
