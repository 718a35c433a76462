// The commands that ask one question: tokenize, stats, health.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_format.h"
#include "server/ctl/commands.h"

namespace spherical::ctl {
namespace {

using Json = nlohmann::ordered_json;

int Print(const Json& json) {
  std::puts(json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  return kDone;
}

struct TokenizeFlags {
  std::string text;
  bool parse_special = false;
  bool json = false;
};

int Tokenize(const TokenizeFlags& flags, Client& client) {
  v1::TokenizeRequest request;
  request.set_text(flags.text);
  request.set_parse_special(flags.parse_special);
  v1::TokenizeResponse response;
  Call call;
  const grpc::Status status = client.inference().Tokenize(call.context(), request, &response);
  if (!status.ok()) return Report(status);
  if (flags.json) {
    Json json;
    json["token_ids"] = std::vector<int32_t>(response.token_ids().begin(), response.token_ids().end());
    json["pieces"] = std::vector<std::string>(response.pieces().begin(), response.pieces().end());
    return Print(json);
  }
  for (int i = 0; i < response.token_ids_size(); ++i) absl::PrintF("%8d  %s\n", response.token_ids(i), response.pieces(i));
  return kDone;
}

Json StatsToJson(const v1::Stats& stats) {
  Json tenants = Json::array();
  for (const v1::TenantStats& tenant : stats.tenants()) {
    tenants.push_back({{"name", tenant.name()},
                       {"guarantee_bytes", tenant.guarantee_bytes()},
                       {"limit_bytes", tenant.limit_bytes()},
                       {"budget_bytes", tenant.budget_bytes()},
                       {"reserved_bytes", tenant.reserved_bytes()},
                       {"held_bytes", tenant.held_bytes()},
                       {"running", tenant.running()},
                       {"waiting", tenant.waiting()},
                       {"tokens", tenant.tokens()},
                       {"rate_bits", tenant.rate_bits()},
                       {"admitted", tenant.admitted()},
                       {"refused", tenant.refused()}});
  }
  return {{"version", stats.version()},
          {"uptime_s", Seconds(stats.uptime())},
          {"steps", stats.steps()},
          {"running", stats.running()},
          {"waiting", stats.waiting()},
          {"paused", stats.paused()},
          {"admitted", stats.admitted()},
          {"finished", stats.finished()},
          {"cancelled", stats.cancelled()},
          {"refused", stats.refused()},
          {"failed", stats.failed()},
          {"prompt_tokens", stats.prompt_tokens()},
          {"generated_tokens", stats.generated_tokens()},
          {"pool_bytes", stats.pool_bytes()},
          {"pool_reserved_bytes", stats.pool_reserved_bytes()},
          {"pool_held_bytes", stats.pool_held_bytes()},
          {"pool_held_peak_bytes", stats.pool_held_peak_bytes()},
          {"workspace_bytes", stats.workspace_bytes()},
          {"workspace_held_bytes", stats.workspace_held_bytes()},
          {"sealed_tokens", stats.sealed_tokens()},
          {"demoted_tokens", stats.demoted_tokens()},
          {"step_mean_ms", Seconds(stats.step_mean()) * 1e3},
          {"step_longest_ms", Seconds(stats.step_longest()) * 1e3},
          {"precision_total_ms", Seconds(stats.precision_total()) * 1e3},
          {"quota_reloads", stats.quota_reloads()},
          {"quota_reload_failures", stats.quota_reload_failures()},
          {"quota_error", stats.quota_error()},
          {"tenants", std::move(tenants)}};
}

void PrintTable(const v1::Stats& stats) {
  const auto mib = [](int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  absl::PrintF("sphericald %s, up %.0f s\n\n", stats.version(), Seconds(stats.uptime()));
  absl::PrintF("now      %d running, %d waiting, %d paused\n", stats.running(), stats.waiting(), stats.paused());
  absl::PrintF("ever     %d admitted, %d finished, %d cancelled, %d refused, %d failed\n", stats.admitted(), stats.finished(),
               stats.cancelled(), stats.refused(), stats.failed());
  absl::PrintF("tokens   %d of prompts, %d generated\n", stats.prompt_tokens(), stats.generated_tokens());
  absl::PrintF("steps    %d, mean %.1f ms, longest %.1f ms; %.1f s of them to change precision\n", stats.steps(),
               Seconds(stats.step_mean()) * 1e3, Seconds(stats.step_longest()) * 1e3, Seconds(stats.precision_total()));
  absl::PrintF("KV pool  %.1f MiB: %.1f reserved, %.1f held, %.1f held at most\n", mib(stats.pool_bytes()),
               mib(stats.pool_reserved_bytes()), mib(stats.pool_held_bytes()), mib(stats.pool_held_peak_bytes()));
  if (stats.workspace_bytes() > 0) {
    absl::PrintF("prompts  %.1f MiB of exact workspace: %.1f held; tokens x heads: %d sealed, %d demoted\n", mib(stats.workspace_bytes()),
                 mib(stats.workspace_held_bytes()), stats.sealed_tokens(), stats.demoted_tokens());
  }
  absl::PrintF("\n");
  absl::PrintF("%-16s %10s %10s %10s %10s %10s\n", "tenant", "limit MiB", "reserved", "held", "admitted", "refused");
  for (const v1::TenantStats& tenant : stats.tenants()) {
    absl::PrintF("%-16s %10.1f %10.1f %10.1f %10d %10d\n", tenant.name(), mib(tenant.limit_bytes()), mib(tenant.reserved_bytes()),
                 mib(tenant.held_bytes()), tenant.admitted(), tenant.refused());
  }
}

int Stats(bool json, Client& client) {
  v1::Stats stats;
  Call call;
  const grpc::Status status = client.admin().GetStats(call.context(), {}, &stats);
  if (!status.ok()) return Report(status);
  if (json) return Print(StatsToJson(stats));
  PrintTable(stats);
  return kDone;
}

int Health(const std::string& service, Client& client) {
  using grpc::health::v1::HealthCheckResponse;
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  HealthCheckResponse response;
  Call call(5.0);
  const grpc::Status status = client.health().Check(call.context(), request, &response);
  if (!status.ok()) return Report(status);
  std::puts(HealthCheckResponse::ServingStatus_Name(response.status()).c_str());
  return response.status() == HealthCheckResponse::SERVING ? kDone : kServerSaidNo;
}

}  // namespace

Command AddTokenize(CLI::App& app) {
  auto flags = std::make_shared<TokenizeFlags>();
  app.add_option("text,--text", flags->text, "what to tokenise")->required();
  app.add_flag("--parse-special", flags->parse_special, "<|im_start|> and the like become their token");
  app.add_flag("--json", flags->json, "one JSON object");
  return [flags](Client& client) { return Tokenize(*flags, client); };
}

Command AddStats(CLI::App& app) {
  auto json = std::make_shared<bool>(false);
  app.add_flag("--json", *json, "one JSON object");
  return [json](Client& client) { return Stats(*json, client); };
}

Command AddHealth(CLI::App& app) {
  auto service = std::make_shared<std::string>("spherical.v1.Inference");
  app.add_option("--service", *service, "whose health; \"\" is the process's")->capture_default_str();
  return [service](Client& client) { return Health(*service, client); };
}

}  // namespace spherical::ctl
