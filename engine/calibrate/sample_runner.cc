#include "engine/calibrate/sample_runner.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "kernels/base/check.h"
#include "kernels/dense/rows.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

int64_t PagesPerHead(int32_t tokens_max) { return CeilDiv(tokens_max, kernels::kExactTokensPerPage); }

}  // namespace

ByteCount SampleRunner::SlotBytes(const TransformerSpec& spec, int32_t tokens_max) {
  return ByteCount(PagesPerHead(tokens_max) * spec.layers * spec.kv_heads * kernels::PageBytes(spec.head_dim));
}

absl::StatusOr<std::unique_ptr<SampleRunner>> SampleRunner::Make(const TransformerSpec& spec, const Weights& weights, ThreadPool& pool,
                                                                 Room room) {
  const ByteCount bytes = SlotBytes(spec, room.tokens_max) * room.slots;
  auto arena = HostMemory::Allocate(bytes, "calibration", "calibrate on fewer tokens, or elsewhere");
  if (!arena.ok()) return arena.status();
  return std::make_unique<SampleRunner>(spec, weights, pool, room, *std::move(arena));
}

SampleRunner::SampleRunner(const TransformerSpec& spec, const Weights& weights, ThreadPool& pool, Room room, HostMemory arena)
    : spec_(spec),
      pool_(pool),
      arena_(std::move(arena)),
      slots_(static_cast<size_t>(room.slots), {.pages = PageTable(spec.layers, spec.kv_heads, {}, spec.windows)}),
      statistics_({.layers = spec.layers, .heads = spec.heads, .kv_heads = spec.kv_heads, .head_dim = spec.head_dim}),
      forward_(spec, weights, nullptr, pool, kernels::ActivationType::kInt8),
      logits_(static_cast<size_t>(Forward::kLogitsRowsMax) * static_cast<size_t>(spec.vocabulary)),
      scratch_(static_cast<size_t>(pool.threads())) {
  PageId next = 0;
  for (Slot& slot : slots_) {
    for (int32_t head = 0; head < slot.pages.heads(); ++head) {
      for (int64_t i = 0; i < PagesPerHead(room.tokens_max); ++i) slot.pages.head(head).exact.push_back(next++);
    }
  }
  forward_.Observe([this](const Forward::AttentionInput& input) {
    statistics_.Add(input.layer, {.positions = positions_, .query = input.query, .key = input.key}, pool_);
  });
}

void SampleRunner::Enter(std::span<const Entry> entries) {
  StepPlan plan;
  positions_.clear();
  for (const Entry& entry : entries) {
    Slot& slot = slots_[static_cast<size_t>(entry.slot)];
    StepItem& item = plan.items.emplace_back();
    item.sequence = static_cast<SequenceId>(entry.slot);
    item.tokens = entry.tokens;
    item.position = slot.position;
    item.pages = &slot.pages;
    for (size_t i = 0; i < entry.tokens.size(); ++i) positions_.push_back(slot.position++);
    SPH_CHECK(slot.position <= static_cast<int32_t>(slot.pages.head(0).exact.size()) * kernels::kExactTokensPerPage);
  }
  plan.rows = static_cast<int32_t>(positions_.size());
  forward_.RunLayers(plan, {.exact = arena_.data(), .exact_page_bytes = kernels::PageBytes(spec_.head_dim)});
}

bool SampleRunner::Draw(std::span<const Wish> wishes, float temperature, std::span<TokenId> drawn) {
  std::atomic<bool> finite{true};
  const size_t vocabulary = static_cast<size_t>(spec_.vocabulary);
  for (size_t first = 0; first < wishes.size(); first += Forward::kLogitsRowsMax) {
    const std::span<const Wish> some = wishes.subspan(first, std::min<size_t>(Forward::kLogitsRowsMax, wishes.size() - first));
    std::vector<int32_t> rows;
    for (const Wish& wish : some) rows.push_back(wish.row);
    forward_.Logits(rows, logits_.data());
    pool_.RunWithWorker(static_cast<int32_t>(some.size()), [&](Shard shard, int32_t worker) {
      const size_t i = static_cast<size_t>(shard.index);
      const std::span<const float> logits(&logits_[i * vocabulary], vocabulary);
      if (!kernels::AllFinite(logits.data(), spec_.vocabulary)) {
        finite.store(false);
        return;
      }
      SamplingParams params;
      params.temperature = temperature;
      params.seed = some[i].seed;
      drawn[first + i] = Sample(logits, params, some[i].index, {}, {}, -1, scratch_[static_cast<size_t>(worker)]).id;
    });
  }
  return finite.load();
}

}  // namespace spherical::engine
