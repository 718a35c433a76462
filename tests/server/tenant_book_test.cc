#include "server/tenant_book.h"

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace spherical::server {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPool = 1 << 20;

std::string Read(const fs::path& path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// A quota file in a folder of its own.
struct QuotaFileOnDisk {
  explicit QuotaFileOnDisk(const std::string& tenants) {
    static std::atomic<int> number{0};
    folder = fs::path(std::getenv("TEST_TMPDIR")) / ("book" + std::to_string(number++));
    fs::create_directories(folder);
    path = (folder / "quotas.json").string();
    Write(tenants);
  }
  void Write(const std::string& tenants) const { WriteText(R"({"version": 1, "tenants": {)" + tenants + "}}"); }
  void WriteText(const std::string& text) const { std::ofstream(path, std::ios::trunc) << text; }
  std::string overrides() const { return path + ".overrides.json"; }

  fs::path folder;
  std::string path;
};

Config ConfigFor(const std::string& quotas, bool trusted = true) {
  Config config;
  config.quotas = quotas;
  config.kv_pool_bytes = kPool;
  config.tenant_trusted_metadata = trusted ? "on" : "off";
  return config;
}

std::unique_ptr<TenantBook> Open(const QuotaFileOnDisk& file, bool trusted = true) {
  auto book = TenantBook::Open(ConfigFor(file.path, trusted));
  REQUIRE(book.ok());
  return *std::move(book);
}

std::string OpenError(const Config& config) { return std::string(TenantBook::Open(config).status().message()); }

std::string OverrideError(TenantBook& book, const std::string& name, const TenantBook::Change& change) {
  return std::string(book.Override(name, change).status().message());
}

// The newest table that went to the engine.
std::optional<std::vector<engine::Quota>> Newest(engine::IntakeQueue& intake) {
  std::optional<std::vector<engine::Quota>> newest;
  for (engine::Intake& one : intake.Drain()) newest = std::get<engine::SetQuotas>(one).quotas;
  return newest;
}

TEST_CASE("Without a file there is only default, with the whole pool") {
  const auto book = TenantBook::Open(ConfigFor(""));
  REQUIRE(book.ok());
  CHECK((*book)->Find("")->id == engine::kDefaultTenant);
  CHECK((*book)->Find("anybody")->id == engine::kDefaultTenant);
  CHECK((*book)->List().size() == 1);
  engine::IntakeQueue intake;
  const auto quotas = (*book)->Attach(intake, ByteCount(4736));
  REQUIRE(quotas.ok());
  CHECK(quotas->front().limit == ByteCount(kPool));
  (*book)->Reload();
  CHECK((*book)->reloads().done == 0);
}

TEST_CASE("Names are numbers from the first on, default's is 0, and who is unknown is served as it") {
  QuotaFileOnDisk file(R"("acme": {"default_max_tokens": 7, "priority": 5}, "default": {}, "zoo": {})");
  const auto book = Open(file);
  CHECK(book->Find("")->id == 0);
  CHECK(book->Find("acme")->id == 1);
  CHECK(book->Find("acme")->default_max_tokens == 7);
  CHECK(book->Find("acme")->priority == 5);
  CHECK(book->Find("zoo")->id == 2);
  CHECK(book->Find("unknown")->id == 0);
  CHECK(book->Find(std::string(5000, 'x'))->id == 0);
}

TEST_CASE("Without default in the file, who is unknown or says nothing is refused, by name") {
  QuotaFileOnDisk file(R"("acme": {})");
  const auto book = Open(file);
  CHECK(book->Find("acme")->id == 1);
  const absl::Status unknown = book->Find("evil").status(), missing = book->Find("").status();
  CHECK(unknown.code() == absl::StatusCode::kPermissionDenied);
  CHECK(std::string(unknown.message()).find("tenant \"evil\" is not one of this server's, and there is no \"default\"") == 0);
  CHECK(missing.code() == absl::StatusCode::kPermissionDenied);
  CHECK(std::string(missing.message()).find("the request names no tenant") == 0);
  CHECK(std::string(book->Find(std::string(5000, 'x')).status().message()).size() < 400);
  CHECK(OpenError(ConfigFor(file.path, false)).find("/tenants: names no \"default\", and nobody else can be served") != std::string::npos);
}

TEST_CASE("What is wrong at the start is said with the file") {
  CHECK(OpenError(ConfigFor("/nonexistent/q.json")) == "quotas (--quotas): cannot open /nonexistent/q.json: No such file or directory");
  CHECK(OpenError(ConfigFor("/tmp")) == "quotas (--quotas): cannot read /tmp: not a file");
  QuotaFileOnDisk file(R"("a": {"limit_bytes": "2MiB"})");
  CHECK(OpenError(ConfigFor(file.path)).find(file.path + ": /tenants/a/limit_bytes: 2097152 bytes is more than the pool") == 0);
  file.WriteText(std::string((1 << 20) + 1, ' '));
  CHECK(OpenError(ConfigFor(file.path)).find("is longer than 1048576 bytes") != std::string::npos);
  const fs::path pipe = file.folder / "pipe";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(OpenError(ConfigFor(pipe.string())).find("not a file") != std::string::npos);  // and does not wait for a writer
  file.Write(R"("a": {})");
  std::ofstream(file.overrides()) << "{";
  CHECK(OpenError(ConfigFor(file.path)).find(file.overrides() + ": not JSON") == 0);
}

TEST_CASE("A limit of less than a page shows once the model is known") {
  QuotaFileOnDisk file(R"("a": {"limit_bytes": 4000})");
  const auto book = Open(file);
  engine::IntakeQueue intake;
  CHECK(std::string(book->Attach(intake, ByteCount(4736)).status().message()).find("/tenants/a/limit_bytes: 4000 bytes hold no page") !=
        std::string::npos);
}

TEST_CASE("A pool that a device has yet to tell counts from loading on: shares are of it, and too much is found out then") {
  QuotaFileOnDisk file(R"("a": {"guarantee_bytes": 100000, "limit_bytes": "25%"}, "default": {})");
  Config config = ConfigFor(file.path);
  config.device = "cuda:0";
  config.kv_pool_bytes = 0;
  auto book = TenantBook::Open(config);
  REQUIRE(book.ok());
  engine::IntakeQueue intake;
  const auto quotas = (*book)->Attach(intake, ByteCount(4736), ByteCount(800'000));
  REQUIRE(quotas.ok());
  REQUIRE(quotas->size() == 2);
  for (const engine::Quota& quota : *quotas) CHECK(quota.limit == ByteCount(quota.tenant == "a" ? 200'000 : 800'000));
  CHECK((*book)->Get("a")->quota.quota.limit == ByteCount(200'000));

  auto small = TenantBook::Open(config);
  REQUIRE(small.ok());
  const auto refused = (*small)->Attach(intake, ByteCount(4736), ByteCount(80'000));
  REQUIRE_FALSE(refused.ok());
  CHECK(std::string(refused.status().message()).find("/tenants/a/limit_bytes") != std::string::npos);
}

TEST_CASE("A reload gives the engine a whole table; who is gone is closed, keeps its number, and may come back") {
  QuotaFileOnDisk file(R"("default": {}, "a": {"guarantee_bytes": 1000}, "b": {"weight": 2})");
  const auto book = Open(file);
  engine::IntakeQueue intake;
  REQUIRE(book->Attach(intake, ByteCount(1)).ok());
  file.Write(R"("default": {}, "b": {"weight": 3}, "c": {})");
  book->Reload();
  CHECK(book->reloads().done == 1);
  auto quotas = Newest(intake);
  REQUIRE(quotas);
  REQUIRE(quotas->size() == 4);
  CHECK((*quotas)[1].tenant == "a");
  CHECK_FALSE((*quotas)[1].open);
  CHECK((*quotas)[1].guarantee == ByteCount(0));
  CHECK((*quotas)[2].weight == 3);
  CHECK((*quotas)[3].tenant == "c");
  CHECK(book->Find("a")->id == 0);
  CHECK(book->Find("c")->id == 3);
  file.Write(R"("a": {})");
  book->Reload();
  quotas = Newest(intake);
  REQUIRE(quotas);
  CHECK(quotas->size() == 4);
  CHECK((*quotas)[1].open);
  CHECK_FALSE((*quotas)[0].open);
  CHECK(book->Find("a")->id == 1);
  CHECK_FALSE(book->Find("").ok());
}

TEST_CASE("The same text again is no reload") {
  QuotaFileOnDisk file(R"("default": {})");
  const auto book = Open(file);
  engine::IntakeQueue intake;
  REQUIRE(book->Attach(intake, ByteCount(1)).ok());
  file.Write(R"("default": {})");
  book->Reload();
  book->Reload();
  CHECK(book->reloads().done == 0);
  CHECK_FALSE(Newest(intake));
}

TEST_CASE("A bad, cut or missing file keeps the quotas, and is counted once, with the reason") {
  QuotaFileOnDisk file(R"("default": {}, "a": {"weight": 2})");
  const auto book = Open(file);
  engine::IntakeQueue intake;
  REQUIRE(book->Attach(intake, ByteCount(1)).ok());
  const std::string good = Read(file.path);
  const auto refused = [&](const std::string& why) {
    const int64_t before = book->reloads().failed;
    book->Reload();
    book->Reload();
    CHECK(book->reloads().failed == before + 1);
    CHECK(book->reloads().error.find(why) != std::string::npos);
    CHECK_FALSE(Newest(intake));
    CHECK(book->Find("a")->id == 1);
    CHECK(book->Get("a")->quota.quota.weight == 2);
  };
  file.Write(R"("default": {}, "a": {"weight": -2})");
  refused(": /tenants/a/weight: expected a number");
  file.WriteText("");
  refused("not JSON");
  file.WriteText(good.substr(0, good.size() / 2));
  refused("not JSON");
  fs::remove(file.path);
  refused("cannot open " + file.path);
  fs::create_directory(file.path);
  refused("not a file");
  fs::remove(file.path);
  file.Write(R"("default": {"guarantee_bytes": "60%"}, "a": {"guarantee_bytes": "60%"})");
  refused("the guarantees add up to");
  file.WriteText(good);
  book->Reload();
  CHECK(book->reloads().done == 1);
  CHECK(book->reloads().error.empty());
}

TEST_CASE("Names that come and go are bounded over the life of the process") {
  QuotaFileOnDisk file(R"("default": {})");
  const auto book = Open(file);
  const auto many = [](const std::string& prefix, int count) {
    std::string tenants = R"("default": {})";
    for (int i = 0; i < count; ++i) tenants += ", \"" + prefix + std::to_string(i) + "\": {}";
    return tenants;
  };
  file.Write(many("a", 1000));
  book->Reload();
  CHECK(book->reloads().done == 1);
  file.Write(many("b", 24));
  book->Reload();
  CHECK(book->reloads().error.find("with those that were named since the start there are 1025 tenants; at most 1024") != std::string::npos);
  file.Write(many("b", 23));
  book->Reload();
  CHECK(book->reloads().done == 2);
}

TEST_CASE("An override holds over reloads and restarts, until it is cleared") {
  QuotaFileOnDisk file(R"("default": {}, "a": {"limit_bytes": "50%", "weight": 2})");
  engine::IntakeQueue intake;
  {
    const auto book = Open(file);
    REQUIRE(book->Attach(intake, ByteCount(1)).ok());
    const auto changed = book->Override("a", {.fields = {.limit_bytes = PoolAmount{.bytes = 9000}}});
    REQUIRE(changed.ok());
    CHECK(changed->not_kept.empty());
    CHECK(changed->tenant.quota.quota.limit == ByteCount(9000));
    CHECK(changed->tenant.quota.quota.weight == 2);
    CHECK(Newest(intake)->at(1).limit == ByteCount(9000));
    file.Write(R"("default": {}, "a": {"limit_bytes": "60%", "weight": 4})");
    book->Reload();
    CHECK(Newest(intake)->at(1).limit == ByteCount(9000));
    CHECK(book->Get("a")->quota.quota.weight == 4);
    REQUIRE(book->Override("a", {.fields = {.weight = 8}}).ok());  // the earlier one stays
  }
  const auto book = Open(file);
  CHECK(book->Get("a")->quota.quota.limit == ByteCount(9000));
  CHECK(book->Get("a")->quota.quota.weight == 8);
  CHECK(book->Get("a")->overridden.weight == 8);
  CHECK_FALSE(book->Get("a")->overridden.priority);
  const auto cleared = book->Override("a", {.fields = {}, .clear = true});
  REQUIRE(cleared.ok());
  CHECK(cleared->tenant.quota.quota.weight == 4);
  CHECK(NothingGiven(cleared->tenant.overridden));
  CHECK(Read(file.overrides()).find("\"a\"") == std::string::npos);
}

TEST_CASE("An override is checked like the file, against all tenants, and changes nothing when it is not good") {
  QuotaFileOnDisk file(R"("a": {"guarantee_bytes": "60%"}, "b": {"limit_bytes": 5000})");
  const auto book = Open(file);
  engine::IntakeQueue intake;
  REQUIRE(book->Attach(intake, ByteCount(1)).ok());
  CHECK(OverrideError(*book, "b", {.fields = {.weight = -1}}) == "quota/weight: expected a number in [0.001, 1000]; got -1");
  CHECK(OverrideError(*book, "b", {.fields = {.weight = std::nan("")}}).find("quota/weight: expected a number") == 0);
  CHECK(OverrideError(*book, "b", {.fields = {.limit_bytes = PoolAmount{.bytes = INT64_MIN}}}).find("quota/limit_bytes: expected") == 0);
  CHECK(OverrideError(*book, "b", {.fields = {.guarantee_bytes = PoolAmount{.bytes = 6000}}}).find("/tenants/b/guarantee_bytes: the ") !=
        std::string::npos);
  CHECK(OverrideError(*book, "b", {.fields = {.guarantee_bytes = PoolAmount{.bytes = 500'000}, .limit_bytes = PoolAmount{.bytes = kPool}}})
            .find("the guarantees add up to 1129145 bytes") != std::string::npos);
  CHECK(OverrideError(*book, "b", {.fields = {.rate_floor_bits = 6}}).find("is above the ceiling") != std::string::npos);
  CHECK(OverrideError(*book, "b", {}) == "quota: says nothing; set a field, or `clear`");
  const auto nobody = book->Override("nobody", {.fields = {.weight = 1}});
  CHECK(nobody.status().code() == absl::StatusCode::kNotFound);
  CHECK(std::string(nobody.status().message()) == "tenant: \"nobody\" has no quota; there are a, b; add it to the quota file first");
  CHECK_FALSE(Newest(intake));
  CHECK_FALSE(fs::exists(file.overrides()));
}

TEST_CASE("An override that cannot be kept holds, and says why it will not last") {
  const auto in_memory = TenantBook::Open(ConfigFor(""));
  REQUIRE(in_memory.ok());
  const auto changed = (*in_memory)->Override("default", {.fields = {.weight = 3}});
  REQUIRE(changed.ok());
  CHECK(changed->not_kept == "the server has no quota file (--quotas), so overrides are in memory only");
  CHECK((*in_memory)->Get("default")->quota.quota.weight == 3);
  QuotaFileOnDisk file(R"("a": {})");
  const auto book = Open(file);
  // Root may write anywhere, so a folder stands where the file would go.
  fs::create_directories(file.overrides() + "/full");
  const auto kept = book->Override("a", {.fields = {.weight = 3}});
  REQUIRE(kept.ok());
  CHECK(kept->not_kept.find("cannot write " + file.overrides()) == 0);
  CHECK(book->Get("a")->quota.quota.weight == 3);
}

TEST_CASE("A file that an override stood in the way of is taken once that is cleared") {
  QuotaFileOnDisk file(R"("a": {}, "b": {})");
  const auto book = Open(file);
  REQUIRE(book->Override("a", {.fields = {.guarantee_bytes = PoolAmount{.bytes = kPool}}}).ok());
  file.Write(R"("a": {}, "b": {"guarantee_bytes": 1000})");
  book->Reload();
  CHECK(book->reloads().failed == 1);
  REQUIRE(book->Override("a", {.fields = {}, .clear = true}).ok());
  CHECK(book->reloads().done == 1);
  CHECK(book->Get("b")->quota.quota.guarantee == ByteCount(1000));
}

// Writers that replace, cut and remove the file while it is read, overrides in between, requests all the while.
TEST_CASE("Reloads, overrides and requests at the same time leave a table that is one of those that were written") {
  QuotaFileOnDisk file(R"("default": {}, "a": {"weight": 1}, "b": {"weight": 1})");
  const auto book = Open(file);
  engine::IntakeQueue intake;
  REQUIRE(book->Attach(intake, ByteCount(1)).ok());
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  std::thread writer([&] {
    for (int i = 1; i <= 200; ++i) {
      const std::string weight = std::to_string(i);
      const std::string text =
          R"({"version": 1, "tenants": {"default": {}, "a": {"weight": )" + weight + R"(}, "b": {"weight": )" + weight + "}}}";
      if (i % 3 == 0) fs::remove(file.path);
      if (i % 3 == 1) {
        file.WriteText(text.substr(0, text.size() / 2));
        file.WriteText(text);
      } else {
        std::ofstream(file.path + ".new") << text;
        fs::rename(file.path + ".new", file.path);
      }
    }
    done = true;
  });
  std::thread reloader([&] {
    while (!done) book->Reload();
  });
  std::thread overrider([&] {
    while (!done) wrong += !book->Override("default", {.fields = {.priority = 3}}).ok();
  });
  std::thread requests([&] {
    while (!done) wrong += book->Find("a")->id != 1 || book->Find("")->id != 0;
  });
  for (std::thread* thread : {&writer, &reloader, &overrider, &requests}) thread->join();
  book->Reload();
  CHECK(wrong == 0);
  CHECK(book->Get("a")->quota.quota.weight == 200);
  CHECK(book->Get("b")->quota.quota.weight == 200);
  for (engine::Intake& one : intake.Drain()) {
    const auto& quotas = std::get<engine::SetQuotas>(one).quotas;
    CHECK(quotas.size() == 3);
    CHECK(quotas[1].weight == quotas[2].weight);  // never half of one file and half of another
  }
}

}  // namespace
}  // namespace spherical::server
