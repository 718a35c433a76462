#include "server/admin_wire.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "server/version.h"
#include "server/wire.h"

namespace spherical::server {
namespace {

std::optional<PoolAmount> Bytes(bool given, int64_t bytes) { return given ? std::optional(PoolAmount{.bytes = bytes}) : std::nullopt; }

template <class To, class From>
std::optional<To> Maybe(bool given, From value) {
  return given ? std::optional<To>(value) : std::nullopt;
}

v1::Quota ToWire(const TenantQuota& from) {
  const engine::Quota& quota = from.quota;
  v1::Quota wire;
  wire.set_guarantee_bytes(quota.guarantee.value());
  wire.set_limit_bytes(quota.limit.value());
  wire.set_weight(quota.weight);
  wire.set_rate_floor_bits(quota.rate_floor_bits);
  wire.set_rate_ceiling_bits(quota.rate_ceiling_bits);
  wire.set_allow_drop(quota.allow_drop);
  wire.set_max_running(quota.max_running);
  wire.set_max_queued(quota.max_queued);
  wire.set_tokens_per_minute(quota.tokens_per_minute);
  wire.set_default_max_tokens(from.default_max_tokens);
  wire.set_priority(quota.priority);
  return wire;
}

// Of what holds, the fields that were overridden. A share of the pool, which only a file can say, is shown as the bytes it makes.
v1::Quota OnlyOverridden(v1::Quota holds, const QuotaFields& overridden) {
  for (const QuotaField& field : QuotaFieldTable()) {
    if (IsGiven(field, overridden)) continue;
    const auto* const of_wire = holds.GetDescriptor()->FindFieldByName(std::string(field.name));
    holds.GetReflection()->ClearField(&holds, of_wire);
  }
  return holds;
}

}  // namespace

absl::StatusOr<absl::Duration> IntervalOf(const v1::WatchStatsRequest& request) {
  if (!request.has_interval()) return absl::Seconds(1);
  const absl::Duration interval = absl::Seconds(request.interval().seconds()) + absl::Nanoseconds(request.interval().nanos());
  if (interval >= kWatchIntervalMin && interval <= kWatchIntervalMax) return interval;
  return absl::InvalidArgumentError(absl::StrCat("interval: ", absl::FormatDuration(interval), " is not in [",
                                                 absl::FormatDuration(kWatchIntervalMin), ", ", absl::FormatDuration(kWatchIntervalMax),
                                                 "]"));
}

TenantBook::Change FromWire(const v1::SetQuotaRequest& request) {
  const v1::Quota& quota = request.quota();
  TenantBook::Change change;
  change.clear = request.clear();
  QuotaFields& fields = change.fields;
  fields.guarantee_bytes = Bytes(quota.has_guarantee_bytes(), quota.guarantee_bytes());
  fields.limit_bytes = Bytes(quota.has_limit_bytes(), quota.limit_bytes());
  fields.weight = Maybe<double>(quota.has_weight(), quota.weight());
  fields.rate_floor_bits = Maybe<double>(quota.has_rate_floor_bits(), quota.rate_floor_bits());
  fields.rate_ceiling_bits = Maybe<double>(quota.has_rate_ceiling_bits(), quota.rate_ceiling_bits());
  fields.allow_drop = Maybe<bool>(quota.has_allow_drop(), quota.allow_drop());
  fields.max_running = Maybe<int64_t>(quota.has_max_running(), quota.max_running());
  fields.max_queued = Maybe<int64_t>(quota.has_max_queued(), quota.max_queued());
  fields.tokens_per_minute = Maybe<int64_t>(quota.has_tokens_per_minute(), quota.tokens_per_minute());
  fields.default_max_tokens = Maybe<int64_t>(quota.has_default_max_tokens(), quota.default_max_tokens());
  fields.priority = Maybe<int64_t>(quota.has_priority(), quota.priority());
  return change;
}

v1::Stats ToWire(const engine::EngineStats& stats, const TenantBook::Reloads& reloads, absl::Time now) {
  v1::Stats wire;
  wire.set_version(kVersion);
  SetDuration(now - stats.started, wire.mutable_uptime());
  wire.set_steps(stats.steps);
  wire.set_running(stats.running);
  wire.set_waiting(stats.waiting);
  wire.set_paused(stats.paused);
  wire.set_admitted(stats.admitted);
  wire.set_finished(stats.finished);
  wire.set_cancelled(stats.cancelled);
  wire.set_refused(stats.refused);
  wire.set_failed(stats.failed);
  wire.set_prompt_tokens(stats.prompt_tokens);
  wire.set_generated_tokens(stats.generated_tokens);
  wire.set_pool_bytes(stats.pool.value());
  wire.set_pool_reserved_bytes(stats.pool_reserved.value());
  wire.set_pool_held_bytes(stats.pool_held.value());
  wire.set_pool_held_peak_bytes(stats.pool_held_peak.value());
  wire.set_workspace_bytes(stats.workspace.value());
  wire.set_workspace_held_bytes(stats.workspace_held.value());
  wire.set_sealed_tokens(stats.sealed_tokens);
  wire.set_demoted_tokens(stats.demoted_tokens);
  SetDuration(stats.step_mean, wire.mutable_step_mean());
  SetDuration(stats.step_longest, wire.mutable_step_longest());
  SetDuration(stats.precision_total, wire.mutable_precision_total());
  for (const engine::TenantStats& tenant : stats.tenants) *wire.add_tenants() = ToWire(tenant);
  wire.set_quota_reloads(reloads.done);
  wire.set_quota_reload_failures(reloads.failed);
  wire.set_quota_error(reloads.error);
  return wire;
}

v1::TenantStats ToWire(const engine::TenantStats& stats) {
  v1::TenantStats wire;
  wire.set_name(stats.name);
  wire.set_guarantee_bytes(stats.guarantee.value());
  wire.set_limit_bytes(stats.limit.value());
  wire.set_budget_bytes(stats.budget.value());
  wire.set_reserved_bytes(stats.reserved.value());
  wire.set_held_bytes(stats.held.value());
  wire.set_weight(stats.weight);
  wire.set_running(stats.running);
  wire.set_waiting(stats.waiting);
  wire.set_admitted(stats.admitted);
  wire.set_refused(stats.refused);
  static_assert(engine::kRefusalReasons == 5, "a reason that the wire does not know");
  const auto refused = [&](engine::Refusal::Why why) { return stats.refused_by[static_cast<size_t>(why)]; };
  v1::RefusedBy* const by = wire.mutable_refused_by();
  by->set_never_fits(refused(engine::Refusal::Why::kNeverFits));
  by->set_queue_full(refused(engine::Refusal::Why::kQueueFull));
  by->set_draining(refused(engine::Refusal::Why::kDraining));
  by->set_token_rate(refused(engine::Refusal::Why::kTokenRate));
  by->set_closed(refused(engine::Refusal::Why::kClosed));
  wire.set_tokens(stats.tokens);
  v1::TierTokens* const tiers = wire.mutable_tier_tokens();
  tiers->set_t8(stats.tier_tokens[0]);
  tiers->set_t4(stats.tier_tokens[1]);
  tiers->set_t3(stats.tier_tokens[2]);
  tiers->set_t2(stats.tier_tokens[3]);
  tiers->set_t1(stats.tier_tokens[4]);
  tiers->set_exact(stats.exact_tokens);
  tiers->set_dropped(stats.dropped_tokens);
  wire.set_rate_bits(stats.rate_bits);
  wire.set_price_log2(stats.price_log2);
  wire.set_distortion(stats.distortion);
  wire.set_demoted_tokens(stats.demoted_tokens);
  return wire;
}

v1::Tenant ToWire(const TenantBook::Tenant& tenant, const engine::EngineStats& stats) {
  v1::Tenant wire;
  wire.set_name(tenant.quota.quota.tenant);
  wire.set_open(tenant.quota.quota.open);
  *wire.mutable_quota() = ToWire(tenant.quota);
  *wire.mutable_overridden() = OnlyOverridden(wire.quota(), tenant.overridden);
  const auto seen = std::find_if(stats.tenants.begin(), stats.tenants.end(),
                                 [&](const engine::TenantStats& of_tenant) { return of_tenant.name == wire.name(); });
  if (seen != stats.tenants.end()) *wire.mutable_stats() = ToWire(*seen);
  return wire;
}

}  // namespace spherical::server
