#include "tests/quality/kv_store.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/budget/pricing.h"
#include "engine/kv/head_notes.h"
#include "engine/kv/retier.h"
#include "engine/step/retier_run.h"
#include "kernels/base/check.h"
#include "kernels/base/float16.h"

namespace spherical::quality {
namespace {

using engine::HeadPages;
using kernels::Tier;

constexpr int32_t kExactTokens = kernels::kExactTokensPerPage;
constexpr int64_t kExactSequences = 3, kCodedSequences = 2;

float ReadHalf(const uint8_t* bytes) {
  uint16_t half;
  std::memcpy(&half, bytes, sizeof(half));
  return kernels::F16ToF32(half);
}

void WriteHalf(float value, uint8_t* bytes) {
  const uint16_t half = kernels::F32ToF16(value);
  std::memcpy(bytes, &half, sizeof(half));
}

// Where a token's numbers are in an f16 page (kernels/spherical/page_layout.h).
uint8_t* KeyAt(uint8_t* page, int32_t slot, int32_t i) { return page + 2 * (int64_t{i} * kExactTokens + slot); }
uint8_t* ValueAt(uint8_t* page, int32_t head_dim, int32_t slot, int32_t i) {
  return page + kernels::ExactValueOffset(head_dim) + 2 * (int64_t{slot} * head_dim + i);
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvStore>> KvStore::Make(const engine::KvShape& shape, TokenCount tokens_max, engine::ThreadPool& threads) {
  auto store = std::make_unique<KvStore>(shape, threads);
  const int64_t heads = int64_t{shape.layers} * shape.kv_heads;
  // All of it, in local heads too: a prefix is read again and again.
  const PageCount exact(heads * kExactSequences * CeilDiv(tokens_max.value(), kExactTokens));
  // At most as many as T8 takes, and an open page per tier.
  const PageCount coded(heads * kCodedSequences * (CeilDiv(tokens_max.value(), store->TokensPerPage(Tier::kT8)) + kernels::kTierCount));
  for (const auto& [pages, arena] : {std::pair(exact, &store->exact_), std::pair(coded, &store->coded_)}) {
    if (absl::Status status = Allocate(pages, shape.page_bytes, *arena); !status.ok()) return status;
  }
  return store;
}

absl::Status KvStore::Allocate(PageCount pages, ByteCount page_bytes, Arena& arena) {
  absl::StatusOr<engine::HostMemory> memory =
      engine::HostMemory::Allocate(page_bytes * pages.value(), "the keys and values", "lower --prefill or --score");
  if (!memory.ok()) return memory.status();
  arena.memory = *std::move(memory);
  arena.pool = std::make_unique<engine::KvPool>(pages, page_bytes);
  arena.room = *arena.pool->Reserve(pages);
  return absl::OkStatus();
}

KvStore::~KvStore() {
  for (Arena* arena : {&exact_, &coded_}) {
    if (arena->pool != nullptr) arena->pool->Cancel(std::move(arena->room));
  }
}

KvStore::Handle KvStore::Begin(engine::QuerySampling sampling, int32_t group) {
  Handle result = MakeKv(sampling);
  result->energy.resize(static_cast<size_t>(shape_.layers));
  const int32_t pages = sampling.stride == 0 ? 0 : engine::SamplePages(engine::kSampledPositions, group);
  for (int32_t i = 0; i < result->pages.heads(); ++i) {
    for (int32_t page = 0; page < pages; ++page) result->pages.head(i).samples.push_back(exact_.pool->Acquire(exact_.room));
  }
  return result;
}

KvStore::Handle KvStore::Share(const Kv& kv) {
  SPH_CHECK(kv.geometry == nullptr);
  Handle result = MakeKv();
  const int32_t full = kv.tokens / kExactTokens;
  for (int32_t i = 0; i < kv.pages.heads(); ++i) {
    const std::vector<PageId>& from = kv.pages.head(i).exact;
    result->pages.head(i).exact.assign(from.begin(), from.begin() + full);
  }
  result->borrowed = full;
  Lend(*result, kv.tokens);  // the open page, if there is one
  for (int32_t i = 0; i < kv.pages.heads() && kv.tokens % kExactTokens > 0; ++i) {
    const size_t open = static_cast<size_t>(full);
    CopyPage(kv.pages.head(i).exact[open], result->pages.head(i).exact[open]);
  }
  result->tokens = kv.tokens;
  return result;
}

void KvStore::CopyPage(PageId from, PageId to) {
  if (device_ != nullptr) {
    device_->CopyExactPage(from, to);
  } else {
    std::memcpy(ExactPage(to), ExactPage(from), static_cast<size_t>(shape_.page_bytes.value()));
  }
}

KvStore::Handle KvStore::Copy(const Kv& kv) {
  SPH_CHECK(kv.geometry == nullptr && device_ == nullptr);
  Handle result = MakeKv();
  Lend(*result, kv.tokens);
  result->tokens = kv.tokens;
  for (int32_t i = 0; i < kv.pages.heads(); ++i) {
    const std::vector<PageId>&from = kv.pages.head(i).exact, &to = result->pages.head(i).exact;
    for (size_t page = 0; page < to.size(); ++page) CopyPage(from[page], to[page]);
  }
  return result;
}

KvStore::Handle KvStore::Seal(const Kv& kv, const engine::ModelGeometry& geometry, Tier tier) {
  SPH_CHECK(kv.geometry == nullptr);
  Handle result = MakeKv();
  std::vector<engine::RetierItem> items;
  for (int32_t i = 0; i < kv.pages.heads(); ++i) {
    HeadPages& head = result->pages.head(i);
    Borrow(kv, i, head);  // until the codes are made
    items.push_back({.kind = engine::RetierItem::Kind::kSeal,
                     .sequence = result->sequence,
                     .pages = &head,
                     .head = i,
                     .tier = tier,
                     .end = kv.tokens,
                     .newest = kv.tokens - engine::kNewestTokens,
                     .last = true});
  }
  return SealAs(kv, geometry, items, std::move(result));
}

KvStore::Handle KvStore::SealPriced(const Kv& kv, const engine::MeasureContext& context, double rate) {
  SPH_CHECK(kv.geometry == nullptr && kv.energy_rows > 0);
  Handle result = MakeKv();
  std::vector<engine::MeasureItem> questions;
  const int32_t notes = engine::NotePages(kv.tokens, shape_.head_dim);
  for (int32_t i = 0; i < kv.pages.heads(); ++i) {
    HeadPages& head = result->pages.head(i);
    Borrow(kv, i, head);  // until the codes are made, as are the samples
    head.samples = kv.pages.head(i).samples;
    for (int32_t page = 0; page < notes; ++page) head.notes.push_back(exact_.pool->Acquire(exact_.room));
    const engine::QuerySampling::Slots asked = kv.pages.sampling().SlotsFrom(head.exact_begin, kv.tokens);
    questions.push_back({.sequence = result->sequence,
                         .pages = &head,
                         .head = i,
                         .end = kv.tokens,
                         .newest = kv.tokens - engine::kNewestTokens,
                         .samples = asked.count,
                         .first_sample = asked.first,
                         .sample_position = asked.position,
                         .sample_stride = head.local() ? kv.pages.sampling().stride : 0,
                         .residual = static_cast<float>(kv.energy[static_cast<size_t>(i / shape_.kv_heads)] /
                                                        static_cast<double>(kv.energy_rows))});
  }
  const std::vector<engine::RateCurve> curves = Measure(context, questions);
  const std::vector<int32_t> prices = engine::PricesFor(curves, shape_.head_dim, /*keeps_all=*/false, BytesFor(kv, rate));
  std::vector<engine::RetierItem> items;
  for (int32_t i = 0; i < kv.pages.heads(); ++i) {
    items.push_back({.sequence = result->sequence,
                     .pages = &result->pages.head(i),
                     .head = i,
                     .end = kv.tokens,
                     .newest = kv.tokens - engine::kNewestTokens,
                     .last = true,
                     .priced = true,
                     .noted = kv.tokens,
                     .price = prices[static_cast<size_t>(i)],
                     .rungs = curves[static_cast<size_t>(i)].CountsAt(prices[static_cast<size_t>(i)])});
  }
  result = SealAs(kv, context.geometry, items, std::move(result));
  result->price = *std::ranges::max_element(prices);
  for (const double energy : kv.energy) result->residuals.push_back(static_cast<float>(energy / static_cast<double>(kv.energy_rows)));
  for (int32_t i = 0; i < kv.pages.heads(); ++i) {
    HeadPages& head = result->pages.head(i);
    for (const PageId page : head.notes) exact_.pool->Release(page, exact_.room);
    head.notes.clear();
    head.samples.clear();
  }
  return result;
}

void KvStore::Borrow(const Kv& kv, int32_t head, HeadPages& to) {
  const std::vector<PageId>& from = kv.pages.head(head).exact;
  const int32_t gone = to.oldest_seen(kv.tokens) / kExactTokens;
  to.exact.assign(from.begin() + gone, from.end());
  to.exact_begin = gone * kExactTokens;
}

int64_t KvStore::BytesFor(const Kv& kv, double rate) const {
  int64_t bytes = 0;
  for (int32_t i = 0; i < kv.pages.heads(); ++i) {
    const HeadPages& head = kv.pages.head(i);
    bytes += static_cast<int64_t>(rate / 8 * 2 * shape_.head_dim * head.in_reach(kv.tokens));
    bytes -= int64_t{head.sinks() + engine::kNewestTokens} * kernels::TokenBytes(Tier::kT8, shape_.head_dim);
  }
  return bytes;
}

void KvStore::Settle(Kv& kv, const engine::MeasureContext& context) {
  std::vector<engine::MeasureItem> questions;
  for (int32_t i = 0; i < kv.pages.heads(); ++i) {
    HeadPages& head = kv.pages.head(i);
    if (head.of(Tier::kT8).tokens - head.settled < engine::kWholeTokensMax) continue;
    head.settled += engine::kDemoteTokens;
    questions.push_back({.kind = engine::MeasureItem::Kind::kWhole, .pages = &head, .head = i, .price = kv.price});
  }
  if (questions.empty()) return;
  const std::vector<engine::RateCurve> curves = Measure(context, questions);
  std::vector<engine::RetierItem> items;
  for (size_t i = 0; i < questions.size(); ++i) {
    const engine::RungCounts rungs = engine::SettledRungs(curves[i].CountsAt(kv.price), *questions[i].pages);
    items.push_back({.kind = engine::RetierItem::Kind::kReprice, .sequence = kv.sequence, .pages = questions[i].pages,
                     .head = questions[i].head, .priced = true, .price = kv.price, .rungs = rungs, .whole_only = true});
  }
  RunReprice(kv, context, items);
}

std::vector<engine::RateCurve> KvStore::Look(const Kv& kv, const engine::MeasureContext& context) {
  std::vector<engine::MeasureItem> questions;
  for (int32_t i = 0; i < kv.pages.heads(); ++i) {
    questions.push_back({.kind = engine::MeasureItem::Kind::kCoded, .pages = &kv.pages.head(i), .head = i});
  }
  return Measure(context, questions);
}

void KvStore::Reprice(Kv& kv, const engine::MeasureContext& context, double rate) {
  const std::vector<engine::RateCurve> curves = Look(kv, context);
  const std::vector<int32_t> prices = engine::PricesFor(curves, shape_.head_dim, /*keeps_all=*/false, BytesFor(kv, rate));
  std::vector<engine::RetierItem> items;
  for (int32_t i = 0; i < kv.pages.heads(); ++i) {
    const size_t at = static_cast<size_t>(i);
    items.push_back({.kind = engine::RetierItem::Kind::kReprice, .sequence = kv.sequence, .pages = &kv.pages.head(i), .head = i,
                     .priced = true, .price = prices[at], .rungs = curves[at].CountsAt(prices[at])});
  }
  RunReprice(kv, context, items);
}

void KvStore::RunReprice(Kv& kv, const engine::MeasureContext& context, std::span<engine::RetierItem> items) {
  for (engine::RetierItem& item : items) {
    engine::AssignLists(item, shape_.head_dim, [&] { return coded_.pool->Acquire(coded_.room); });
  }
  Retier(context.geometry, context.spec.attention_scale, items);
  for (const engine::RetierItem& item : items) {
    engine::RecordRetier(item, kv.pages.head(item.head));
    for (const PageId page : item.emptied) coded_.pool->Release(page, coded_.room);
  }
}

std::vector<engine::RateCurve> KvStore::Measure(const engine::MeasureContext& context, std::span<const engine::MeasureItem> questions) {
  return device_ != nullptr ? device_->Measure(questions) : engine::RunMeasure(context, arenas(), questions, threads_);
}

void KvStore::Retier(const engine::ModelGeometry& geometry, float attention_scale, std::span<const engine::RetierItem> items) {
  if (device_ != nullptr) {
    device_->Retier(items);
  } else {
    engine::RunRetier(geometry, attention_scale, arenas(), items, threads_);
  }
}

KvStore::Handle KvStore::SealAs(const Kv& kv, const engine::ModelGeometry& geometry, std::span<engine::RetierItem> items, Handle result) {
  for (const engine::RetierItem& item : items) {
    const engine::TierCounts counts = engine::CountsAfter(item);
    for (size_t t = 0; t < counts.size(); ++t) LendTier(result->pages.head(item.head), static_cast<Tier>(t), counts[t]);
  }
  Retier(geometry, /*attention_scale=*/1, items);
  for (const engine::RetierItem& item : items) {
    HeadPages& head = result->pages.head(item.head);
    engine::RecordRetier(item, head);
    head.exact.clear();
  }
  result->tokens = kv.tokens;
  result->geometry = &geometry;
  return result;
}

void KvStore::LendTier(HeadPages& head, Tier tier, int32_t tokens) {
  std::vector<PageId>& pages = head.of(tier).pages;
  while (static_cast<int64_t>(pages.size()) * TokensPerPage(tier) < tokens) pages.push_back(coded_.pool->Acquire(coded_.room));
}

void KvStore::Lend(Kv& kv, int32_t tokens) {
  const size_t needed = static_cast<size_t>(CeilDiv(kv.tokens + tokens, kExactTokens));
  for (int32_t i = 0; i < kv.pages.heads(); ++i) {
    HeadPages& head = kv.pages.head(i);
    if (head.sealed) {
      LendTier(head, Tier::kT8, head.of(Tier::kT8).tokens + tokens);
    } else {
      while (head.exact.size() < needed) head.exact.push_back(exact_.pool->Acquire(exact_.room));
    }
  }
}

void KvStore::Record(Kv& kv, int32_t tokens) {
  engine::RecordEntry(tokens, kv.pages);
  kv.tokens += tokens;
}

// Tokens that entered a sealed head are the last of T8's list.
void KvStore::Rewind(Kv& kv, int32_t tokens) {
  SPH_CHECK(tokens >= kv.borrowed * kExactTokens && tokens <= kv.tokens);
  for (int32_t i = 0; i < kv.pages.heads(); ++i) {
    HeadPages& head = kv.pages.head(i);
    if (head.sealed) {
      HeadPages::Coded& whole = head.of(Tier::kT8);
      whole.tokens -= kv.tokens - tokens;
      SPH_CHECK(whole.tokens >= 0);
      const size_t kept = static_cast<size_t>(CeilDiv(whole.tokens, TokensPerPage(Tier::kT8)));
      for (; whole.pages.size() > kept; whole.pages.pop_back()) coded_.pool->Release(whole.pages.back(), coded_.room);
    } else {
      const size_t kept = static_cast<size_t>(CeilDiv(tokens, kExactTokens));
      for (; head.exact.size() > kept; head.exact.pop_back()) exact_.pool->Release(head.exact.back(), exact_.room);
    }
  }
  kv.tokens = tokens;
}

void KvStore::End(Kv* kv) {
  const std::unique_ptr<Kv> owned(kv);
  for (int32_t i = 0; i < kv->pages.heads(); ++i) {
    HeadPages& head = kv->pages.head(i);
    for (const PageId page : head.samples) exact_.pool->Release(page, exact_.room);
    for (size_t page = static_cast<size_t>(kv->borrowed); page < head.exact.size(); ++page) {
      exact_.pool->Release(head.exact[page], exact_.room);
    }
    for (const HeadPages::Coded& tier : head.tiers) {
      for (const PageId page : tier.pages) coded_.pool->Release(page, coded_.room);
    }
  }
}

void KvStore::Rewrite(Kv& kv, Rewriter rewrite) {
  SPH_CHECK(kv.geometry == nullptr && kv.borrowed == 0);
  const int32_t d = shape_.head_dim;
  threads_.Run(kv.pages.heads(), [&](Shard shard) {
    std::vector<float> key(static_cast<size_t>(d)), value(static_cast<size_t>(d));
    for (int32_t position = 0; position < kv.tokens; ++position) {
      uint8_t* const page = ExactPage(kv.pages.head(shard.index).exact[static_cast<size_t>(position / kExactTokens)]);
      const int32_t slot = position % kExactTokens;
      for (int32_t i = 0; i < d; ++i) {
        key[static_cast<size_t>(i)] = ReadHalf(KeyAt(page, slot, i));
        value[static_cast<size_t>(i)] = ReadHalf(ValueAt(page, d, slot, i));
      }
      rewrite(shard.index, position, key, value);
      for (int32_t i = 0; i < d; ++i) {
        WriteHalf(key[static_cast<size_t>(i)], KeyAt(page, slot, i));
        WriteHalf(value[static_cast<size_t>(i)], ValueAt(page, d, slot, i));
      }
    }
  });
}

KvRate KvStore::RateOf(const Kv& kv) const {
  int64_t pages = 0, in_reach = 0;
  for (int32_t i = 0; i < kv.pages.heads(); ++i) {
    const HeadPages& head = kv.pages.head(i);
    in_reach += head.in_reach(kv.tokens);
    pages += static_cast<int64_t>(head.exact.size());
    for (const HeadPages::Coded& tier : head.tiers) pages += static_cast<int64_t>(tier.pages.size());
  }
  const double elements = 2.0 * shape_.head_dim * static_cast<double>(in_reach);
  return {.bits = engine::RateBits(kv.pages, shape_.head_dim, kv.tokens),
          .real_bits = 8.0 * static_cast<double>(pages * shape_.page_bytes.value()) / elements};
}

engine::KvArenas KvStore::arenas() {
  const int64_t page_bytes = shape_.page_bytes.value();
  return {.exact = exact_.memory.data(), .exact_page_bytes = page_bytes, .coded = coded_.memory.data(), .coded_page_bytes = page_bytes};
}

}  // namespace spherical::quality
