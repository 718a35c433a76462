// Catch2 v2 main for Bazel: honours XML_OUTPUT_FILE and --test_filter (TESTBRIDGE_TEST_ONLY),
// and ends stdout with "N passed, N failed".
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

namespace {
struct Case { std::string name; bool ok; double sec; std::string msg; };
std::vector<Case> g_cases;

struct Collect : Catch::TestEventListenerBase {
  using TestEventListenerBase::TestEventListenerBase;
  Catch::Timer t;
  std::string msg;
  void testCaseStarting(Catch::TestCaseInfo const& i) override { TestEventListenerBase::testCaseStarting(i); t.start(); msg.clear(); }
  bool assertionEnded(Catch::AssertionStats const& a) override {
    if (!a.assertionResult.isOk())
      msg += std::string(a.assertionResult.getSourceInfo().file) + ":" + std::to_string(a.assertionResult.getSourceInfo().line) +
             " " + a.assertionResult.getExpressionInMacro() + "\n";
    return true;
  }
  void testCaseEnded(Catch::TestCaseStats const& s) override {
    g_cases.push_back({s.testInfo.name, s.totals.assertions.allOk(), t.getElapsedSeconds(), msg});
  }
};
CATCH_REGISTER_LISTENER(Collect)

std::string Esc(const std::string& s) {
  std::string o;
  for (char c : s) switch (c) {
    case '&': o += "&amp;"; break;
    case '<': o += "&lt;"; break;
    case '>': o += "&gt;"; break;
    case '"': o += "&quot;"; break;
    default: o += c;
  }
  return o;
}
}  // namespace

int main(int argc, char** argv) {
  Catch::Session session;
  std::vector<const char*> args(argv, argv + argc);
  if (const char* f = std::getenv("TESTBRIDGE_TEST_ONLY"); f && *f) args.push_back(f);
  if (int rc = session.applyCommandLine(static_cast<int>(args.size()), args.data())) return rc;
  const int rc = session.run();
  int failed = 0;
  for (auto& c : g_cases) failed += !c.ok;
  if (const char* path = std::getenv("XML_OUTPUT_FILE")) {
    std::ofstream x(path);
    const char* suite = std::getenv("TEST_TARGET") ? std::getenv("TEST_TARGET") : "tests";
    x << "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites><testsuite name=\"" << Esc(suite) << "\" tests=\"" << g_cases.size()
      << "\" failures=\"" << failed << "\" errors=\"0\">\n";
    for (auto& c : g_cases) {
      x << "<testcase name=\"" << Esc(c.name) << "\" classname=\"" << Esc(suite) << "\" time=\"" << c.sec << "\">";
      if (!c.ok) x << "<failure message=\"" << Esc(c.msg) << "\"/>";
      x << "</testcase>\n";
    }
    x << "</testsuite></testsuites>\n";
  }
  std::printf("%zu passed, %d failed\n", g_cases.size() - failed, failed);
  return rc;
}
