// What tenants may hold: quota check, set, clear; tenants.
#include <unistd.h>

#include <google/protobuf/util/json_util.h>

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "server/config.h"
#include "server/ctl/commands.h"
#include "server/quota_file.h"
#include "server/text_file.h"

namespace spherical::ctl {
namespace {

using server::PoolAmount;
using server::QuotaField;
using server::QuotaFields;
using server::QuotaSheet;

// ---- check ----

struct CheckFlags {
  std::string file, pool = "1GiB";
  int64_t page_bytes = 4736;
};

absl::StatusOr<QuotaSheet> Read(const std::string& file) {
  const auto text = server::ReadTextFile("quota check", file);
  if (!text.ok()) return text.status();
  return server::ParseQuotas(*text, file);
}

absl::StatusOr<std::vector<server::TenantQuota>> ReadAndCheck(const CheckFlags& flags, const server::PoolSize& pool) {
  const auto sheet = Read(flags.file);
  if (!sheet.ok()) return sheet.status();
  QuotaSheet overrides{.file = server::OverridesFileOf(flags.file), .tenants = {}};
  if (access(overrides.file.c_str(), F_OK) == 0) {
    auto read = Read(overrides.file);
    if (!read.ok()) return read.status();
    overrides = *std::move(read);
    absl::PrintF("with %s\n", overrides.file);
  }
  return server::CheckQuotas(*sheet, overrides, pool);
}

// An error of the file is what it was asked for: 1, as when a server says no.
int Failed(const absl::Status& status) {
  absl::FPrintF(stderr, "sphericalctl: %s\n", std::string(status.message()));
  return kServerSaidNo;
}

int Check(const CheckFlags& flags) {
  const auto pool_bytes = server::ParseBytes(flags.pool);
  if (!pool_bytes.ok()) return WrongUse("--pool-bytes: " + std::string(pool_bytes.status().message()));
  const server::PoolSize pool{.bytes = ByteCount(*pool_bytes), .page = ByteCount(flags.page_bytes)};
  const auto quotas = ReadAndCheck(flags, pool);
  if (!quotas.ok()) return Failed(quotas.status());
  absl::PrintF("pool %s; pages of %d bytes\n\n", SizeText(pool.bytes, pool), flags.page_bytes);
  absl::PrintF("%-20s %15s %15s %15s %15s %7s %11s %5s %7s %7s %11s %6s %4s\n", "tenant", "guarantee", "in pages", "limit", "in pages",
               "weight", "rate bits", "drop", "running", "queued", "tokens/min", "tokens", "prio");
  for (const server::TenantQuota& tenant : *quotas) {
    const engine::Quota& quota = tenant.quota;
    absl::PrintF("%-20s %15d %15d %15d %15d %7g %11s %5s %7d %7d %11d %6d %4d\n", quota.tenant, quota.guarantee.value(),
                 WholePages(quota.guarantee, pool).value(), quota.limit.value(), WholePages(quota.limit, pool).value(), quota.weight,
                 absl::StrFormat("%g..%g", quota.rate_floor_bits, quota.rate_ceiling_bits), quota.allow_drop ? "yes" : "no",
                 quota.max_running, quota.max_queued, quota.tokens_per_minute, tenant.default_max_tokens, quota.priority);
  }
  return kDone;
}

// ---- set and clear ----

struct SetFlags {
  std::string tenant;
  std::map<absl::string_view, std::string> texts;  // by field
};

std::string FlagOf(const QuotaField& field) { return "--" + absl::StrReplaceAll(field.name, {{"_", "-"}}); }

// A flag's text as the file would have it.
nlohmann::json ValueOf(const QuotaField& field, const std::string& text) {
  if (std::holds_alternative<QuotaField::Amount>(field.type)) return text;
  nlohmann::json value = nlohmann::json::parse(text, nullptr, false);
  return value.is_discarded() ? nlohmann::json(text) : value;
}

// The wire knows bytes only.
grpc::Status ResolveShares(QuotaFields& fields, Client& client) {
  std::optional<int64_t> pool;
  for (auto* const amount : {&fields.guarantee_bytes, &fields.limit_bytes}) {
    if (!*amount || !(*amount)->percent) continue;
    if (!pool) {
      v1::Stats stats;
      Call call;
      const grpc::Status status = client.admin().GetStats(call.context(), {}, &stats);
      if (!status.ok()) return status;
      if (stats.pool_bytes() == 0) return {grpc::StatusCode::UNAVAILABLE, "the model is still loading; say bytes, not a share"};
      pool = stats.pool_bytes();
    }
    *amount = PoolAmount{.bytes = static_cast<int64_t>(static_cast<double>(*pool) * *(*amount)->percent / 100)};
  }
  return grpc::Status::OK;
}

void SetField(absl::string_view name, const nlohmann::json& value, v1::Quota& quota) {
  using google::protobuf::FieldDescriptor;
  const FieldDescriptor* const field = quota.GetDescriptor()->FindFieldByName(std::string(name));
  const google::protobuf::Reflection* const reflection = quota.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64: return reflection->SetInt64(&quota, field, value.get<int64_t>());
    case FieldDescriptor::CPPTYPE_INT32: return reflection->SetInt32(&quota, field, value.get<int32_t>());
    case FieldDescriptor::CPPTYPE_DOUBLE: return reflection->SetDouble(&quota, field, value.get<double>());
    case FieldDescriptor::CPPTYPE_BOOL: return reflection->SetBool(&quota, field, value.get<bool>());
    default: return;
  }
}

int Ask(const v1::SetQuotaRequest& request, Client& client) {
  v1::SetQuotaResponse response;
  Call call;
  const grpc::Status status = client.admin().SetQuota(call.context(), request, &response);
  if (!status.ok()) return Report(status);
  const v1::Quota& quota = response.tenant().quota();
  absl::PrintF("tenant %s: guarantee %d bytes, limit %d bytes, weight %g, %g to %g bits an element\n", response.tenant().name(),
               quota.guarantee_bytes(), quota.limit_bytes(), quota.weight(), quota.rate_floor_bits(), quota.rate_ceiling_bits());
  if (!response.kept()) absl::PrintF("until the server restarts: %s\n", response.not_kept_why());
  return kDone;
}

int Set(const SetFlags& flags, Client& client) {
  nlohmann::json object = nlohmann::json::object();
  for (const QuotaField& field : server::QuotaFieldTable()) {
    const auto given = flags.texts.find(field.name);
    if (given != flags.texts.end() && !given->second.empty()) object[std::string(field.name)] = ValueOf(field, given->second);
  }
  if (object.empty()) return WrongUse("quota set: nothing to set; see sphericalctl quota set --help");
  auto fields = server::FieldsFromJson(object, "quota set: ");
  if (!fields.ok()) return WrongUse(std::string(fields.status().message()));
  if (const grpc::Status status = ResolveShares(*fields, client); !status.ok()) return Report(status);
  v1::SetQuotaRequest request;
  request.set_tenant(flags.tenant);
  const nlohmann::json values = ToJson(*fields);
  for (const auto& [name, value] : values.items()) SetField(name, value, *request.mutable_quota());
  return Ask(request, client);
}

int Clear(const std::string& tenant, Client& client) {
  v1::SetQuotaRequest request;
  request.set_tenant(tenant);
  request.set_clear(true);
  return Ask(request, client);
}

// ---- tenants ----

std::string OverriddenIn(const v1::Tenant& tenant) {
  std::vector<const google::protobuf::FieldDescriptor*> given;
  tenant.overridden().GetReflection()->ListFields(tenant.overridden(), &given);
  std::string names;
  for (const auto* field : given) names += (names.empty() ? "" : ",") + field->name();
  return names.empty() ? "-" : names;
}

int Tenants(bool json, Client& client) {
  v1::ListTenantsResponse response;
  Call call;
  const grpc::Status status = client.admin().ListTenants(call.context(), {}, &response);
  if (!status.ok()) return Report(status);
  if (json) {
    google::protobuf::util::JsonPrintOptions options;
    options.always_print_primitive_fields = options.preserve_proto_field_names = true;
    std::string text;
    const bool shown = google::protobuf::util::MessageToJsonString(response, &text, options).ok();
    std::puts(text.c_str());
    return shown ? kDone : kServerSaidNo;
  }
  absl::PrintF("%-20s %-6s %10s %10s %10s %10s %10s %7s %7s %7s %9s %9s  %s\n", "tenant", "state", "guarantee", "limit MiB",
               "budget", "reserved", "held", "weight", "running", "waiting", "admitted", "refused", "overridden");
  for (const v1::Tenant& tenant : response.tenants()) {
    const v1::TenantStats& stats = tenant.stats();
    absl::PrintF("%-20s %-6s %10.1f %10.1f %10.1f %10.1f %10.1f %7g %7d %7d %9d %9d  %s\n", tenant.name(),
                 tenant.open() ? "open" : "closed", Mib(tenant.quota().guarantee_bytes()), Mib(tenant.quota().limit_bytes()),
                 Mib(stats.budget_bytes()), Mib(stats.reserved_bytes()), Mib(stats.held_bytes()), tenant.quota().weight(),
                 stats.running(), stats.waiting(), stats.admitted(), stats.refused(), OverriddenIn(tenant));
  }
  return kDone;
}

}  // namespace

Command AddQuota(CLI::App& app) {
  app.require_subcommand(1);
  auto check_flags = std::make_shared<CheckFlags>();
  CLI::App* const check = app.add_subcommand("check", "say what a quota file means, or what is wrong with it; needs no server");
  check->add_option("file", check_flags->file, "the quota file; overrides beside it count too")->required()->type_name("FILE");
  check->add_option("--pool-bytes", check_flags->pool, "kv.pool_bytes of the server: bytes, or like 2GiB")->capture_default_str();
  check->add_option("--page-bytes", check_flags->page_bytes, "of the model's pages, which the server logs; 9088 at head dim 128")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));

  auto set_flags = std::make_shared<SetFlags>();
  CLI::App* const set = app.add_subcommand("set", "override a tenant's quota while the server runs");
  set->add_option("tenant", set_flags->tenant, "its name, as in the quota file")->required()->type_name("TENANT");
  for (const QuotaField& field : server::QuotaFieldTable()) {
    set->add_option(FlagOf(field), set_flags->texts[field.name], ExpectedBy(field))->type_name("VALUE");
  }

  auto clear_tenant = std::make_shared<std::string>();
  CLI::App* const clear = app.add_subcommand("clear", "forget what was overridden: the quota file's word holds again");
  clear->add_option("tenant", *clear_tenant, "its name")->required()->type_name("TENANT");

  return [=](Client& client) {
    if (check->parsed()) return Check(*check_flags);
    return set->parsed() ? Set(*set_flags, client) : Clear(*clear_tenant, client);
  };
}

Command AddTenants(CLI::App& app) {
  auto json = std::make_shared<bool>(false);
  app.add_flag("--json", *json, "one JSON object, with everything that is known of each");
  return [json](Client& client) { return Tenants(*json, client); };
}

}  // namespace spherical::ctl
