// top: who holds the pool, live. No alternate screen and no hidden cursor: however it ends, the terminal is as it was.
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/ctl/commands.h"

namespace spherical::ctl {
namespace {

constexpr char kHome[] = "\x1b[H";         // the cursor to the top left
constexpr char kRestOfLine[] = "\x1b[K";   // erased
constexpr char kRestBelow[] = "\x1b[J";    // erased
constexpr char kWholeScreen[] = "\x1b[2J";  // erased
constexpr int kBarWidth = 10;

struct Flags {
  double interval_s = 1;
  bool once = false;
};

// Per second between two snapshots; "-" without an earlier one.
class Pace {
 public:
  Pace(const v1::Stats& now, const std::optional<v1::Stats>& before) {
    if (!before) return;
    seconds_ = Seconds(now.uptime()) - Seconds(before->uptime());
    for (const v1::TenantStats& tenant : before->tenants()) tokens_[tenant.name()] = tenant.tokens();
  }
  std::string Of(int64_t now, int64_t before) const {
    return seconds_ > 0 ? absl::StrFormat("%.0f", static_cast<double>(now - before) / seconds_) : "-";
  }
  std::string Of(const v1::TenantStats& tenant) const {
    const auto before = tokens_.find(tenant.name());
    return Of(tenant.tokens(), before == tokens_.end() ? 0 : before->second);
  }

 private:
  double seconds_ = 0;
  std::map<std::string, int64_t> tokens_;
};

// "###.......", of the limit.
std::string Bar(const v1::TenantStats& tenant) {
  const double share = tenant.limit_bytes() > 0 ? static_cast<double>(tenant.held_bytes()) / static_cast<double>(tenant.limit_bytes()) : 0;
  const int full = static_cast<int>(std::ceil(std::clamp(share, 0.0, 1.0) * kBarWidth));
  return std::string(static_cast<size_t>(full), '#') + std::string(static_cast<size_t>(kBarWidth - full), '.');
}

// The shares of a tenant's tokens: " 12 30 40 10  8", T8 to T2 and dropped.
std::string Shares(const v1::TierTokens& tiers) {
  const int64_t parts[] = {tiers.t8() + tiers.exact(), tiers.t4(), tiers.t3(), tiers.t2() + tiers.t1(), tiers.dropped()};
  int64_t all = 0;
  for (const int64_t part : parts) all += part;
  std::string text;
  for (const int64_t part : parts) {
    text += all > 0 ? absl::StrFormat(" %3.0f", 100.0 * static_cast<double>(part) / static_cast<double>(all)) : "   -";
  }
  return text;
}

std::string Row(const v1::TenantStats& tenant, const Pace& pace) {
  return absl::StrFormat("%-16.16s [%s] %8.1f %8.1f %8.1f %8.1f %4d %4d %7s %5.2f %7s%s %8d", tenant.name(), Bar(tenant),
                         Mib(tenant.held_bytes()), Mib(tenant.budget_bytes()), Mib(tenant.guarantee_bytes()), Mib(tenant.limit_bytes()),
                         tenant.running(), tenant.waiting(), pace.Of(tenant), tenant.rate_bits(),
                         std::isfinite(tenant.price_log2()) ? absl::StrFormat("%.1f", tenant.price_log2()) : "-",
                         Shares(tenant.tier_tokens()), tenant.refused());
}

std::vector<std::string> Frame(const v1::Stats& now, const std::optional<v1::Stats>& before) {
  const Pace pace(now, before);
  const v1::Stats& old = before ? *before : now;
  std::vector<std::string> lines;
  lines.push_back(absl::StrFormat("sphericald %s, up %.0f s    KV pool %.1f MiB: %.1f held, %.1f reserved", now.version(),
                                  Seconds(now.uptime()), Mib(now.pool_bytes()), Mib(now.pool_held_bytes()),
                                  Mib(now.pool_reserved_bytes())));
  lines.push_back(absl::StrFormat("%d running, %d waiting, %d paused    tokens/s: %s prompt, %s generated    steps/s: %s, mean %.1f ms",
                                  now.running(), now.waiting(), now.paused(), pace.Of(now.prompt_tokens(), old.prompt_tokens()),
                                  pace.Of(now.generated_tokens(), old.generated_tokens()), pace.Of(now.steps(), old.steps()),
                                  Seconds(now.step_mean()) * 1e3));
  if (!now.quota_error().empty()) lines.push_back("quotas NOT reloaded: " + now.quota_error());
  lines.emplace_back();
  lines.push_back(absl::StrFormat("%-16s %-12s %8s %8s %8s %8s %4s %4s %7s %5s %7s %3s %3s %3s %3s %3s %8s", "tenant", "of limit", "held",
                                  "budget", "guarant.", "limit", "run", "wait", "tok/s", "bits", "price", "T8%", "T4", "T3", "T2", "dr",
                                  "refused"));
  std::vector<v1::TenantStats> tenants(now.tenants().begin(), now.tenants().end());
  std::stable_sort(tenants.begin(), tenants.end(),
                   [](const v1::TenantStats& a, const v1::TenantStats& b) { return a.held_bytes() > b.held_bytes(); });
  for (const v1::TenantStats& tenant : tenants) lines.push_back(Row(tenant, pace));
  return lines;
}

void Print(const std::vector<std::string>& lines, bool terminal) {
  std::string text;
  winsize size = {};
  // Asked for every frame, so a resized window is right with the next one.
  if (terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 1 && size.ws_col > 0) {
    text = kHome;
    for (size_t i = 0; i < lines.size() && i + 1 < size.ws_row; ++i) text += lines[i].substr(0, size.ws_col) + kRestOfLine + "\n";
    text += kRestBelow;
  } else {
    text = absl::StrJoin(lines, "\n") + "\n\n";
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

int Top(const Flags& flags, Client& client) {
  v1::WatchStatsRequest request;
  const auto nanos = static_cast<int64_t>(flags.interval_s * 1e9);
  request.mutable_interval()->set_seconds(nanos / 1'000'000'000);
  request.mutable_interval()->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
  const bool terminal = isatty(STDOUT_FILENO) != 0 && !flags.once;
  Call call;
  const auto reader = client.admin().WatchStats(call.context(), request);
  std::optional<v1::Stats> before;
  for (v1::Stats now; reader->Read(&now);) {
    if (terminal && !before) std::fputs(kWholeScreen, stdout);
    Print(Frame(now, before), terminal);
    before = now;
    if (!flags.once) continue;
    call.context()->TryCancel();
    break;
  }
  while (flags.once && before) {  // what was on its way
    v1::Stats rest;
    if (!reader->Read(&rest)) break;
  }
  const grpc::Status status = reader->Finish();
  // Only we cancel: after the one frame, or by Ctrl-C.
  return status.error_code() == grpc::StatusCode::CANCELLED ? kDone : Report(status);
}

}  // namespace

Command AddTop(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  app.add_option("--interval", flags->interval_s, "seconds between frames")->capture_default_str()->check(CLI::Range(0.1, 60.0));
  app.add_flag("--once", flags->once, "one frame, without rates, and end");
  app.footer("Sizes are MiB. bits: per element of keys and values, now. price: log2 of what a byte costs in distortion; -: nothing is\n"
             "pressed. T8% to dr: shares of the tenant's tokens that are kept in each tier, exact ones with T8, and that were dropped.");
  return [flags](Client& client) { return Top(*flags, client); };
}

}  // namespace spherical::ctl
