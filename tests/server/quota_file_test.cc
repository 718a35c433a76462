#include "server/quota_file.h"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

namespace spherical::server {
namespace {

constexpr PoolSize kPool = {.bytes = ByteCount(1'000'000), .page = ByteCount(4736)};

std::string Sheet(const std::string& tenants) { return R"({"version": 1, "tenants": {)" + tenants + "}}"; }

absl::StatusOr<std::vector<TenantQuota>> Check(const std::string& text, const std::string& overrides = "", const PoolSize& pool = kPool) {
  const auto sheet = ParseQuotas(text, "q.json");
  if (!sheet.ok()) return sheet.status();
  QuotaSheet over;
  if (!overrides.empty()) over = *ParseQuotas(Sheet(overrides), "o.json");
  return CheckQuotas(*sheet, over, pool);
}

std::string Error(const std::string& text, const std::string& overrides = "") {
  const auto quotas = Check(text, overrides);
  if (quotas.ok()) return "";
  CHECK(quotas.status().code() == absl::StatusCode::kInvalidArgument);
  return std::string(quotas.status().message());
}

// Of one tenant "a" with these fields.
std::string ErrorOf(const std::string& fields) { return Error(Sheet(R"("a": {)" + fields + "}")); }

TEST_CASE("What is left out has its default") {
  const auto quotas = Check(Sheet(R"("default": {})"));
  REQUIRE(quotas.ok());
  REQUIRE(quotas->size() == 1);
  const engine::Quota& quota = quotas->front().quota;
  CHECK(quota.tenant == "default");
  CHECK(quota.guarantee == ByteCount(0));
  CHECK(quota.limit == kPool.bytes);
  CHECK(quota.weight == 1);
  CHECK(quota.rate_floor_bits == 2);
  CHECK(quota.rate_ceiling_bits == 5);
  CHECK(quota.allow_drop);
  CHECK(quota.max_running == 0);
  CHECK(quota.max_queued == 0);
  CHECK(quota.tokens_per_minute == 0);
  CHECK(quota.priority == 0);
  CHECK(quota.open);
  CHECK(quotas->front().default_max_tokens == 512);
}

TEST_CASE("What is said arrives, in bytes, units and shares of the pool") {
  const auto quotas = Check(Sheet(R"("a": {"guarantee_bytes": "25%", "limit_bytes": "500KB", "weight": 2.5, "rate_floor_bits": 3,
      "rate_ceiling_bits": 16, "allow_drop": false, "max_running": 3, "max_queued": 4, "tokens_per_minute": 5, "default_max_tokens": 6,
      "priority": -7}, "b": {"guarantee_bytes": 100, "limit_bytes": "100%"})"));
  REQUIRE(quotas.ok());
  REQUIRE(quotas->size() == 2);
  const engine::Quota& quota = quotas->front().quota;
  CHECK(quota.guarantee == ByteCount(250'000));
  CHECK(quota.limit == ByteCount(500'000));
  CHECK(quota.weight == 2.5);
  CHECK(quota.rate_floor_bits == 3);
  CHECK(quota.rate_ceiling_bits == 16);
  CHECK_FALSE(quota.allow_drop);
  CHECK(quota.max_running == 3);
  CHECK(quota.max_queued == 4);
  CHECK(quota.tokens_per_minute == 5);
  CHECK(quotas->front().default_max_tokens == 6);
  CHECK(quota.priority == -7);
  CHECK((*quotas)[1].quota.guarantee == ByteCount(100));
  CHECK((*quotas)[1].quota.limit == kPool.bytes);
}

TEST_CASE("Every field has a range, named with its place") {
  const std::string size = "bytes in [0, 70368744177664], as an integer or like \"2GiB\" or \"500MB\", or \"0%\" to \"100%\" of the pool";
  CHECK(ErrorOf(R"("guarantee_bytes": -1)") == "q.json: /tenants/a/guarantee_bytes: expected " + size + "; got an integer -1");
  CHECK(ErrorOf(R"("limit_bytes": "101%")") == "q.json: /tenants/a/limit_bytes: expected " + size + "; got a string \"101%\"");
  for (const char* bad : {R"("-1%")", R"("nan%")", R"("inf%")", R"("%")", R"("1e99%")", R"("2 potatoes")", R"("-1GiB")", R"("9999TiB")",
                          "18446744073709551615", "1.5", "true", "null", "[]", "{}"}) {
    INFO(bad);
    CHECK(ErrorOf(R"("limit_bytes": )" + std::string(bad)).find("q.json: /tenants/a/limit_bytes: expected bytes in [") == 0);
  }
  for (const auto& [field, range, bads] : std::vector<std::tuple<std::string, std::string, std::vector<std::string>>>{
           {"weight", "a number in [0.001, 1000]", {"0", "-1", "1001", "1e300", "\"1\"", "null", "true"}},
           {"rate_floor_bits", "a number in [0.5, 16]", {"0.4", "0", "-2", "17", "\"2\""}},
           {"rate_ceiling_bits", "a number in [0.5, 16]", {"0.4", "16.1", "false"}},
           {"allow_drop", "true or false", {"0", "1", "\"true\"", "null"}},
           {"max_running", "an integer in [0, 256]", {"-1", "257", "1.5", "\"1\"", "18446744073709551615"}},
           {"max_queued", "an integer in [0, 1048576]", {"-1", "1048577", "true"}},
           {"tokens_per_minute", "an integer in [0, 1000000000000]", {"-1", "1000000000001", "1e3"}},
           {"default_max_tokens", "an integer in [1, 16777216]", {"0", "-5", "16777217"}},
           {"priority", "an integer in [-100, 100]", {"101", "-101", "0.5"}}}) {
    for (const std::string& bad : bads) {
      INFO(field << " " << bad);
      CHECK(ErrorOf("\"" + field + "\": " + bad).find("q.json: /tenants/a/" + field + ": expected " + range + "; got ") == 0);
    }
  }
}

TEST_CASE("Numbers that JSON does not have are syntax errors") {
  CHECK(ErrorOf(R"("weight": NaN)").find("q.json: not JSON: parse error at line 1") == 0);
  CHECK(ErrorOf(R"("weight": 1e999)").find("q.json: not JSON: ") == 0);
  CHECK(ErrorOf(R"("weight": -Infinity)").find("q.json: not JSON: ") == 0);
}

TEST_CASE("The file's own mistakes are named with their place") {
  CHECK(Error("").find("q.json: not JSON: ") == 0);
  CHECK(Error("{\"version\": 1,").find("q.json: not JSON: ") == 0);
  CHECK(Error("[]") == "q.json: expected an object; got an array []");
  CHECK(Error("{}") == "q.json: /version: left out; expected 1");
  CHECK(Error(R"({"version": 2, "tenants": {}})") == "q.json: /version: expected 1, the only one there is; got an integer 2");
  CHECK(Error(R"({"version": "1", "tenants": {}})").find("q.json: /version: expected 1") == 0);
  CHECK(Error(R"({"version": 1})") == "q.json: /tenants: left out; expected an object with a tenant a key");
  CHECK(Error(R"({"version": 1, "tenants": []})") == "q.json: /tenants: expected an object; got an array []");
  CHECK(Error(Sheet("")) == "q.json: /tenants: names no tenant, so nobody could be served; name \"default\" or another");
  CHECK(Error(R"({"version": 1, "tennants": {}})") == "q.json: /tennants: unknown key; known here: version, tenants, $schema");
  CHECK(ErrorOf(R"("limit": 5)").find("q.json: /tenants/a/limit: unknown key; known here: guarantee_bytes, limit_bytes, weight, ") == 0);
  CHECK(Error(Sheet(R"("a": {}, "a": {})")) == "q.json: /tenants/a: given twice; expected once");
  CHECK(ErrorOf(R"("weight": 1, "weight": 1)") == "q.json: /tenants/a/weight: given twice; expected once");
  CHECK(Error(Sheet(R"("a": 5)")) == "q.json: /tenants/a: expected an object; got an integer 5");
  CHECK(Error(R"({"$schema": "x", "version": 1, "tenants": {"a": {}}})").empty());
}

TEST_CASE("Names are 1 to 63 letters, digits, dots, underscores and dashes") {
  for (const std::string& good : {std::string("a"), std::string("A.b_c-9"), std::string(63, 'x')}) {
    CHECK(IsTenantName(good));
    CHECK(Error(Sheet("\"" + good + "\": {}")).empty());
  }
  const std::string what = ": expected a name of 1 to 63 letters, digits, '.', '_' or '-'";
  CHECK(Error(Sheet(R"("": {})")) == "q.json: /tenants/" + what);
  CHECK(Error(Sheet(R"("a/b~": {})")) == "q.json: /tenants/a~1b~0" + what);
  for (const std::string& bad : {std::string("a b"), std::string("\xc3\xa9"), std::string(64, 'x')}) {
    CHECK_FALSE(IsTenantName(bad));
    CHECK(Error(Sheet("\"" + bad + "\": {}")).find(what) != std::string::npos);
  }
}

TEST_CASE("Too many tenants are counted") {
  std::string tenants;
  for (int i = 0; i < engine::kTenantsMax; ++i) tenants += (i > 0 ? ",\"t" : "\"t") + std::to_string(i) + "\": {}";
  CHECK(Error(Sheet(tenants)).empty());
  CHECK(Error(Sheet(tenants + R"(, "more": {})")) == "q.json: /tenants: 1025 tenants; at most 1024");
}

TEST_CASE("Guarantees must fit the pool together, and the largest are named") {
  CHECK(Error(Sheet(R"("a": {"guarantee_bytes": "50%"}, "b": {"guarantee_bytes": "50%"})")).empty());
  CHECK(Error(Sheet(R"("a": {"guarantee_bytes": "60%"}, "b": {"guarantee_bytes": 400001})")) ==
        "q.json: /tenants: the guarantees add up to 1000001 bytes (999296 in 211 whole pages) (a 600000, b 400001), more than the pool, "
        "1000000 bytes (999296 in 211 whole pages); lower some guarantee_bytes, or raise kv.pool_bytes (--kv-pool-bytes)");
  std::string many;
  for (int i = 0; i < 9; ++i) many += std::string(i > 0 ? "," : "") + "\"t" + std::to_string(i) + R"(": {"guarantee_bytes": "90%"})";
  CHECK(Error(Sheet(many)).find("(t0 900000, t1 900000, t2 900000, t3 900000, t4 900000, ...)") != std::string::npos);
}

TEST_CASE("A limit is at least its guarantee and a page, and at most the pool") {
  CHECK(ErrorOf(R"("guarantee_bytes": 94720, "limit_bytes": 90000)") ==
        "q.json: /tenants/a/limit_bytes: the guarantee, 94720 bytes, is more than the limit, 90000 bytes (89984 in 19 whole pages); raise "
        "limit_bytes or lower guarantee_bytes");
  CHECK(ErrorOf(R"("limit_bytes": 1000001)").find("q.json: /tenants/a/limit_bytes: 1000001 bytes (999296 in 211 whole pages) is more than "
                                                  "the pool, 1000000 bytes") == 0);
  CHECK(ErrorOf(R"("guarantee_bytes": "2MB")").find("q.json: /tenants/a/guarantee_bytes: the guarantee, 2000000 bytes (") == 0);
  CHECK(ErrorOf(R"("limit_bytes": 4735)") ==
        "q.json: /tenants/a/limit_bytes: 4735 bytes hold no page of 4736 bytes; raise it, or leave the tenant out of the file to serve it "
        "nothing");
  CHECK(ErrorOf(R"("limit_bytes": 4736)").empty());
  CHECK(Check(Sheet(R"("a": {"limit_bytes": 1})"), "", {.bytes = ByteCount(10)}).ok());  // no page is known yet
  CHECK_FALSE(Check(Sheet(R"("a": {"limit_bytes": 0})"), "", {.bytes = ByteCount(10)}).ok());
}

TEST_CASE("A floor is at most its ceiling, and can be had") {
  CHECK(ErrorOf(R"("rate_floor_bits": 4, "rate_ceiling_bits": 3)") ==
        "q.json: /tenants/a/rate_ceiling_bits: the floor, 4 bits, is above the ceiling, 3 bits; raise rate_ceiling_bits or lower "
        "rate_floor_bits");
  CHECK(ErrorOf(R"("rate_floor_bits": 6)").find("q.json: /tenants/a/rate_floor_bits: the floor, 6 bits, is above the ceiling, 5") == 0);
  CHECK(ErrorOf(R"("rate_ceiling_bits": 1)").find("q.json: /tenants/a/rate_ceiling_bits: the floor, 2 bits") == 0);
  CHECK(ErrorOf(R"("rate_floor_bits": 2.5, "allow_drop": false)") ==
        "q.json: /tenants/a/rate_floor_bits: 2.5 bits cannot be had where allow_drop is false: tier T2, the lowest, takes 2.6; raise it, "
        "or allow dropping");
  const auto quotas = Check(Sheet(R"("a": {"allow_drop": false})"));
  REQUIRE(quotas.ok());
  CHECK(quotas->front().quota.rate_floor_bits == kNoDropRateFloorBits);
  CHECK(ErrorOf(R"("allow_drop": false, "rate_ceiling_bits": 2)").find("q.json: /tenants/a/rate_ceiling_bits: the floor, 2.6 bits") == 0);
}

TEST_CASE("Overrides go over the file, field by field, and are named when they are wrong") {
  const std::string file = Sheet(R"("a": {"weight": 2, "limit_bytes": "50%"}, "b": {"guarantee_bytes": "60%"})");
  const auto quotas = Check(file, R"("a": {"limit_bytes": 300000, "priority": 3}, "gone": {"guarantee_bytes": "100%"})");
  REQUIRE(quotas.ok());
  REQUIRE(quotas->size() == 2);
  CHECK(quotas->front().quota.limit == ByteCount(300'000));
  CHECK(quotas->front().quota.weight == 2);
  CHECK(quotas->front().quota.priority == 3);
  CHECK(Error(file, R"("a": {"guarantee_bytes": "55%"})").find("o.json: /tenants/a/guarantee_bytes: the guarantee, 550000 bytes") == 0);
  CHECK(Error(file, R"("a": {"guarantee_bytes": "45%"})").find("those of o.json included, more than the pool") != std::string::npos);
  CHECK(Error(file, R"("b": {"limit_bytes": "10%"})").find("o.json: /tenants/b/limit_bytes: the guarantee, 600000 bytes") == 0);
}

TEST_CASE("A sheet that is written reads as it was") {
  QuotaSheet sheet{.file = "q.json", .tenants = {}};
  QuotaFields fields;
  fields.limit_bytes = PoolAmount{.bytes = 5000};
  fields.guarantee_bytes = PoolAmount{.percent = 12.5};
  fields.weight = 0.25;
  fields.allow_drop = false;
  fields.priority = -9;
  sheet.tenants.emplace("a", fields);
  const auto read = ParseQuotas(ToText(sheet), "q.json");
  REQUIRE(read.ok());
  CHECK(read->tenants == sheet.tenants);
}

}  // namespace
}  // namespace spherical::server
