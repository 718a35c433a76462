#ifndef SPHERICAL_ENGINE_BUDGET_RESERVATION_SIZE_H_
#define SPHERICAL_ENGINE_BUDGET_RESERVATION_SIZE_H_

#include <string_view>
#include <vector>

#include "engine/intake/quota.h"
#include "engine/kv/kv_mode.h"
#include "engine/kv/prefill_workspace.h"
#include "engine/kv/retier.h"
#include "kernels/base/units.h"

namespace spherical::engine {

// What the pool's arithmetic needs to know of a model.
struct KvShape {
  int32_t layers = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  ByteCount page_bytes;
  KvMode mode = {};
  int32_t group = 1;  // query heads per kv head
  std::vector<int32_t> windows = {};  // [layers] as in TransformerSpec, or empty
  int64_t seal_coordinates = kSealCoordinatesPerStep;  // what the device seals between two steps of a sequence
  int32_t heads() const { return layers * kv_heads; }
  int32_t window(int32_t layer) const { return windows.empty() ? 0 : windows[static_cast<size_t>(layer)]; }
};

// The shape with the page that its head dim gives (kernels/spherical/page_layout.h), which rooms above the engine do not see.
KvShape MakeKvShape(int32_t layers, int32_t kv_heads, int32_t head_dim, KvMode mode = {}, int32_t group = 1,
                    std::vector<int32_t> windows = {});

// What the prefill workspace needs to know of it.
PrefillWorkspace::Shape WorkspaceShape(const KvShape& shape);

// Elements of K or V (head dims excluded: tokens of heads) that a sequence of so many tokens can attend to.
int64_t TokensInReach(const KvShape& shape, int64_t tokens);

// What tokens take in each way of keeping them, codes, radii and metadata, fractions of pages: for people.
struct TierBytes {
  std::string_view name;   // "f16", "T8", ...
  double bits = 0;         // per element of K and V
  int64_t per_token = 0;   // of all global heads: what a sequence grows by
  int64_t local = 0;       // of all local heads once their windows are full
};
std::vector<TierBytes> BytesByTier(const KvShape& shape);

// Bytes of one token of all heads in f16 pages.
ByteCount ExactTokenBytes(const KvShape& shape);

inline constexpr double kFloorBitsDefault = 2;

// Mode `rdr`: whether tokens of a tenant's sequences are never dropped. A rate that T2 cannot give wins.
bool KeepsAll(const KvShape& shape, const Quota& quota);

// T8 tokens that leave together for the mode's tier, and how many T8 tokens of a head make them leave.
inline constexpr int32_t kDemoteTokens = 32;
inline constexpr int32_t kWholeTokensMax = kSinkTokens + kNewestTokens + kDemoteTokens;
// Tokens beyond its window that a local head may hold when it is sealed: what decodes while a sequence's heads are measured and sealed, and
// a page of f16.
inline constexpr int32_t kWindowSlack = kNewestTokens + kernels::kExactTokensPerPage;

// Pages of the pool that `tokens` tokens of one sequence can ever need, per layer and kv head:
//   exact      ceil(tokens / 16)
//   uniform:T  ceil(min(tokens, 100) / N(T8)) + ceil((tokens - 68) / N(T)): T8 holds at most 100, and demotion leaves 68 of them
//   rdr        ceil(min(tokens, 100) / N(T8)) + one open page for each of T8, T4, T3, T2 that tokens are left for
// and in rdr, for all heads together, the bytes of the tokens that may leave T8 at `floor_bits` per element, over what a page of the tier
// that fills pages worst can use. The floor is that of the mode where it has a rate. A sequence never needs more: the last rung is free.
// Local heads hold what is in the window and little more: kWindowSlack tokens (f16: a chunk of the prompt) and a page that the window has
// entered. In rdr their tokens can all go to T2, or to the tier that the floor takes.
// The one function that computes reservations: for admission, for sizing the pool and for tests.
PageCount ReservedPages(const KvShape& shape, TokenCount tokens, double floor_bits = kFloorBitsDefault);

// The most tokens whose reservation is at most `pages`.
TokenCount TokensWithin(const KvShape& shape, PageCount pages, double floor_bits = kFloorBitsDefault);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_BUDGET_RESERVATION_SIZE_H_
