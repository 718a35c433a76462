#include "server/tenant_book.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/log.h"
#include "server/text_file.h"

namespace spherical::server {
namespace {

constexpr char kSetting[] = "quotas (--quotas)";
constexpr int32_t kNamesInMessagesMax = 8;

// A name as a client sent it, fit for a message.
std::string Quoted(absl::string_view name) {
  if (name.size() <= static_cast<size_t>(kTenantNameBytesMax)) return absl::StrCat("\"", name, "\"");
  return absl::StrCat("\"", name.substr(0, kTenantNameBytesMax), "...\"");
}

std::string Described(const TenantQuota& tenant, const PoolSize& pool) {
  const engine::Quota& quota = tenant.quota;
  return absl::StrCat("tenant ", quota.tenant, ": guarantee ", SizeText(quota.guarantee, pool), ", limit ", SizeText(quota.limit, pool),
                      ", weight ", quota.weight, ", ", quota.rate_floor_bits, " to ", quota.rate_ceiling_bits, " bits an element");
}

void LogQuotas(const std::vector<TenantQuota>& quotas, const PoolSize& pool) {
  for (const TenantQuota& tenant : quotas) {
    Log(LogLevel::kInfo, Described(tenant, pool),
        {{"tenant", tenant.quota.tenant},
         {"guarantee_bytes", WholePages(tenant.quota.guarantee, pool).value()},
         {"limit_bytes", WholePages(tenant.quota.limit, pool).value()}});
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<TenantBook>> TenantBook::Open(const Config& config) {
  const int64_t pool = PoolBytesOf(config);
  std::unique_ptr<TenantBook> book(new TenantBook(config.quotas, {.bytes = ByteCount(pool > 0 ? pool : kPoolBytesMax)},
                                                  config.tenant_trusted_metadata == "on"));
  engine::MutexLock change(book->change_mutex_);
  book->pool_known_ = pool > 0;
  if (book->file_.empty()) {
    auto quotas = book->Check(book->sheet_, book->overrides_);
    if (!quotas.ok()) return quotas.status();
    book->Apply(*std::move(quotas));
    return book;
  }
  const auto text = ReadTextFile(kSetting, book->file_);
  if (!text.ok()) return text.status();
  if (absl::Status status = book->ReadOverrides(); !status.ok()) return status;
  if (const auto quotas = book->ReadFile(*text); !quotas.ok()) return quotas.status();
  book->last_seen_ = *text;
  const bool others = book->sheet_.tenants.size() > book->sheet_.tenants.count(kDefaultTenantName);
  if (others && !book->names_trusted_) {
    Log(LogLevel::kWarning, absl::StrCat(book->file_, " names more tenants than default, but every request is default's as long as ",
                                         "tenant.trusted_metadata (--tenant-trusted-metadata) is off"));
  }
  return book;
}

TenantBook::TenantBook(std::string file, PoolSize pool, bool names_trusted)
    : file_(std::move(file)), names_trusted_(names_trusted), pool_(pool) {
  sheet_ = {.file = file_.empty() ? "quotas" : file_, .tenants = {{kDefaultTenantName, {}}}};
  overrides_ = {.file = file_.empty() ? "overrides" : OverridesFileOf(file_), .tenants = {}};
  // The engine's tenant 0 is there even if nobody may be served as it.
  tenants_.push_back({.quota = {.quota = {.tenant = kDefaultTenantName, .guarantee = ByteCount(0), .limit = pool.bytes, .open = false}},
                      .overridden = {}});
  ids_.emplace(kDefaultTenantName, engine::kDefaultTenant);
}

absl::StatusOr<std::vector<TenantQuota>> TenantBook::Check(const QuotaSheet& sheet, const QuotaSheet& overrides) const {
  auto quotas = CheckQuotas(sheet, overrides, pool_);
  if (!quotas.ok()) return quotas.status();
  if (!names_trusted_ && !sheet.tenants.contains(kDefaultTenantName)) {
    return absl::InvalidArgumentError(
        absl::StrCat(sheet.file, ": /tenants: names no \"default\", and nobody else can be served as long as tenant.trusted_metadata ",
                     "(--tenant-trusted-metadata) is off; name it, or turn that on"));
  }
  engine::MutexLock lock(mutex_);
  const auto is_new = [&](const TenantQuota& tenant) { return !ids_.contains(tenant.quota.tenant); };
  const int64_t all = static_cast<int64_t>(tenants_.size()) + std::count_if(quotas->begin(), quotas->end(), is_new);
  if (all > engine::kTenantsMax) {
    return absl::InvalidArgumentError(absl::StrCat(sheet.file, ": /tenants: with those that were named since the start there are ", all,
                                                   " tenants; at most ", engine::kTenantsMax, "; name fewer, or restart the server"));
  }
  return quotas;
}

absl::StatusOr<std::vector<TenantQuota>> TenantBook::ReadFile(const std::string& text) {
  auto sheet = ParseQuotas(text, file_);
  if (!sheet.ok()) return sheet.status();
  auto quotas = Check(*sheet, overrides_);
  if (!quotas.ok()) return quotas.status();
  sheet_ = *std::move(sheet);
  Apply(*quotas);
  return *std::move(quotas);
}

absl::Status TenantBook::ReadOverrides() {
  if (access(overrides_.file.c_str(), F_OK) != 0) return absl::OkStatus();
  const auto text = ReadTextFile(kSetting, overrides_.file);
  if (!text.ok()) return text.status();
  auto sheet = ParseQuotas(*text, overrides_.file);
  if (!sheet.ok()) return sheet.status();
  overrides_ = *std::move(sheet);
  return absl::OkStatus();
}

// A tenant that is no longer named keeps its number; what it holds is nobody's guarantee any more.
void TenantBook::Apply(std::vector<TenantQuota> quotas) {
  engine::MutexLock lock(mutex_);
  for (Tenant& tenant : tenants_) {
    tenant.quota.quota.open = false;
    tenant.quota.quota.guarantee = ByteCount(0);
    tenant.overridden = {};
  }
  for (TenantQuota& quota : quotas) {
    const auto [at, is_new] = ids_.try_emplace(quota.quota.tenant, static_cast<engine::TenantId>(tenants_.size()));
    const auto over = overrides_.tenants.find(at->first);
    if (is_new) tenants_.emplace_back();
    tenants_[static_cast<size_t>(at->second)] = {.quota = std::move(quota),
                                                 .overridden = over == overrides_.tenants.end() ? QuotaFields() : over->second};
  }
  // Under the lock, so that a tenant's first request cannot overtake its quota, nor one table another.
  if (intake_ != nullptr) intake_->Push(engine::SetQuotas{.quotas = EngineQuotas()});
}

std::vector<engine::Quota> TenantBook::EngineQuotas() const {
  std::vector<engine::Quota> quotas;
  for (const Tenant& tenant : tenants_) quotas.push_back(tenant.quota.quota);
  return quotas;
}

absl::StatusOr<std::vector<engine::Quota>> TenantBook::Attach(engine::IntakeQueue& intake, ByteCount page, ByteCount pool) {
  engine::MutexLock change(change_mutex_);
  pool_.page = page;
  if (!pool_known_) pool_.bytes = pool;
  auto quotas = Check(sheet_, overrides_);
  if (!quotas.ok()) return quotas.status();
  if (!pool_known_) Apply(*quotas);
  pool_known_ = true;
  if (!file_.empty()) LogQuotas(*quotas, pool_);
  engine::MutexLock lock(mutex_);
  intake_ = &intake;
  return EngineQuotas();
}

absl::StatusOr<TenantBook::Served> TenantBook::Find(absl::string_view name) const {
  engine::MutexLock lock(mutex_);
  const auto found = ids_.find(std::string(name));
  const bool known = found != ids_.end() && tenants_[static_cast<size_t>(found->second)].quota.quota.open;
  const engine::TenantId id = known ? found->second : engine::kDefaultTenant;
  const TenantQuota& tenant = tenants_[static_cast<size_t>(id)].quota;
  if (!tenant.quota.open) {
    return absl::PermissionDeniedError(absl::StrCat(
        name.empty() ? "the request names no tenant" : absl::StrCat("tenant ", Quoted(name), " is not one of this server's"),
        ", and there is no \"default\" to serve it as; send metadata x-spherical-tenant with a name that the operator has given a quota"));
  }
  return Served{.id = id, .default_max_tokens = tenant.default_max_tokens, .priority = tenant.quota.priority};
}

void TenantBook::Reload() {
  engine::MutexLock change(change_mutex_);
  ReloadLocked();
}

void TenantBook::ReloadLocked() {
  if (file_.empty()) return;
  const auto text = ReadTextFile(kSetting, file_);
  std::string seen = text.ok() ? *text : std::string(text.status().message());
  if (seen == last_seen_) return;
  last_seen_ = std::move(seen);
  const auto quotas = text.ok() ? ReadFile(*text) : text.status();
  const std::string error(quotas.status().message());
  {
    engine::MutexLock lock(mutex_);
    ++(quotas.ok() ? reloads_.done : reloads_.failed);
    reloads_.error = error;
  }
  if (quotas.ok()) {
    const int64_t tenants = static_cast<int64_t>(sheet_.tenants.size());
    Log(LogLevel::kInfo, absl::StrCat("quotas reloaded: ", tenants, " tenants"), {{"file", file_}, {"tenants", tenants}});
    LogQuotas(*quotas, pool_);
  } else {
    Log(LogLevel::kError, absl::StrCat("quotas not reloaded, those before hold on: ", error), {{"file", file_}});
  }
}

TenantBook::Reloads TenantBook::reloads() const {
  engine::MutexLock lock(mutex_);
  return reloads_;
}

std::vector<TenantBook::Tenant> TenantBook::List() const {
  engine::MutexLock lock(mutex_);
  return tenants_;
}

std::optional<TenantBook::Tenant> TenantBook::Get(absl::string_view name) const {
  engine::MutexLock lock(mutex_);
  const auto found = ids_.find(std::string(name));
  return found != ids_.end() ? std::optional(tenants_[static_cast<size_t>(found->second)]) : std::nullopt;
}

absl::StatusOr<TenantBook::Changed> TenantBook::Override(const std::string& name, const Change& change) {
  if (absl::Status status = CheckRanges(change.fields, "quota"); !status.ok()) return status;
  if (!change.clear && NothingGiven(change.fields)) {
    return absl::InvalidArgumentError("quota: says nothing; set a field, or `clear`");
  }
  engine::MutexLock changing(change_mutex_);
  if (!sheet_.tenants.contains(name)) {
    std::string known;
    int32_t named = 0;
    for (const auto& [other, fields] : sheet_.tenants) {
      if (named++ < kNamesInMessagesMax) absl::StrAppend(&known, known.empty() ? "" : ", ", other);
    }
    return absl::NotFoundError(absl::StrCat("tenant: ", Quoted(name), " has no quota; there are ", known,
                                            named > kNamesInMessagesMax ? ", ..." : "", "; add it to the quota file first"));
  }
  QuotaSheet overrides = overrides_;
  QuotaFields& fields = overrides.tenants[name];
  if (change.clear) fields = {};
  Overlay(change.fields, fields);
  if (NothingGiven(fields)) overrides.tenants.erase(name);
  auto quotas = Check(sheet_, overrides);
  if (!quotas.ok()) return quotas.status();
  std::swap(overrides_, overrides);
  Apply(*std::move(quotas));
  Changed changed{.tenant = *Get(name), .not_kept = KeepOverrides()};
  Log(LogLevel::kInfo, absl::StrCat("quota overridden: ", Described(changed.tenant.quota, pool_)), {{"tenant", name}});
  // A file that was refused because of what was overridden may be good now.
  if (!reloads().error.empty()) {
    last_seen_.clear();
    ReloadLocked();
    changed.tenant = *Get(name);
  }
  return changed;
}

std::string TenantBook::KeepOverrides() const {
  if (file_.empty()) return "the server has no quota file (--quotas), so overrides are in memory only";
  const absl::Status status = WriteTextFile(overrides_.file, ToText(overrides_));
  if (!status.ok()) Log(LogLevel::kWarning, absl::StrCat("overrides are in memory only: ", status.message()));
  return std::string(status.message());
}

}  // namespace spherical::server
