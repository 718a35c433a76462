// The main of every C++ test: Catch2 v2, taught to speak with Bazel.
//
// --test_filter (TESTBRIDGE_TEST_ONLY) selects cases, $XML_OUTPUT_FILE gets a JUnit report with one entry per TEST_CASE, tests
// may skip (tests/skip.h), and the last line of stdout is "N passed, N failed[, N skipped]".
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CATCH_CONFIG_NO_POSIX_SIGNALS  // the sanitizer reports a crash better
#endif
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tests/skip.h"

namespace spherical::tests {
namespace {

enum class Outcome { kPassed, kFailed, kSkipped };

struct CaseResult {
  std::string name;
  Outcome outcome;
  double seconds;
  std::string message;  // what failed, or why it was skipped
};

std::vector<CaseResult> g_results;
std::string g_skip_reason;  // of the running case; empty: not skipped

int Count(Outcome outcome) {
  int count = 0;
  for (const CaseResult& result : g_results) count += result.outcome == outcome;
  return count;
}

// XML 1.0 has no way to write most control characters, and a failing test may well print some.
std::string XmlEscaped(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&': escaped += "&amp;"; break;
      case '<': escaped += "&lt;"; break;
      case '>': escaped += "&gt;"; break;
      case '"': escaped += "&quot;"; break;
      case '\n': escaped += "&#10;"; break;
      default: escaped += static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e ? '?' : c;
    }
  }
  return escaped;
}

void WriteReport(const char* path) {
  const char* target = std::getenv("TEST_TARGET");
  const std::string suite = XmlEscaped(target ? target : "tests");
  std::ofstream xml(path);
  xml << "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites><testsuite name=\"" << suite << "\" tests=\"" << g_results.size()
      << "\" failures=\"" << Count(Outcome::kFailed) << "\" skipped=\"" << Count(Outcome::kSkipped) << "\" errors=\"0\">\n";
  for (const CaseResult& result : g_results) {
    xml << "<testcase name=\"" << XmlEscaped(result.name) << "\" classname=\"" << suite << "\" time=\"" << result.seconds << "\">";
    if (result.outcome == Outcome::kFailed) xml << "<failure message=\"" << XmlEscaped(result.message) << "\"/>";
    if (result.outcome == Outcome::kSkipped) xml << "<skipped message=\"" << XmlEscaped(result.message) << "\"/>";
    xml << "</testcase>\n";
  }
  xml << "</testsuite></testsuites>\n";
}

class ResultListener : public Catch::TestEventListenerBase {
 public:
  using TestEventListenerBase::TestEventListenerBase;

  void testCaseStarting(const Catch::TestCaseInfo& info) override {
    TestEventListenerBase::testCaseStarting(info);
    timer_.start();
    failures_.clear();
    g_skip_reason.clear();
  }

  bool assertionEnded(const Catch::AssertionStats& stats) override {
    const Catch::AssertionResult& result = stats.assertionResult;
    if (!result.isOk()) {
      std::ostringstream line;
      line << result.getSourceInfo().file << ":" << result.getSourceInfo().line << " " << result.getExpressionInMacro();
      if (result.hasExpandedExpression()) line << " with " << result.getExpandedExpression();
      if (result.hasMessage()) line << ": " << result.getMessage();
      failures_ += line.str() + "\n";
    }
    return true;
  }

  void testCaseEnded(const Catch::TestCaseStats& stats) override {
    TestEventListenerBase::testCaseEnded(stats);
    const bool failed = stats.totals.testCases.failed > 0;
    const bool skipped = !failed && !g_skip_reason.empty();
    g_results.push_back({.name = stats.testInfo.name,
                         .outcome = failed ? Outcome::kFailed : skipped ? Outcome::kSkipped : Outcome::kPassed,
                         .seconds = timer_.getElapsedSeconds(),
                         .message = skipped ? g_skip_reason : failures_});
  }

  // Here rather than in main: after a crash Catch2 still calls this, but never returns to main.
  void testRunEnded(const Catch::TestRunStats& stats) override {
    TestEventListenerBase::testRunEnded(stats);
    if (const char* path = std::getenv("XML_OUTPUT_FILE")) WriteReport(path);
  }

 private:
  Catch::Timer timer_;
  std::string failures_;
};
CATCH_REGISTER_LISTENER(ResultListener)

}  // namespace

void Skip(const char* reason) {
  std::printf("SKIP: %s\n", reason);
  g_skip_reason = reason;
}

}  // namespace spherical::tests

int main(int argc, char** argv) {
  using spherical::tests::Count;
  using spherical::tests::Outcome;
  Catch::Session session;
  std::vector<const char*> arguments(argv, argv + argc);
  const char* filter = std::getenv("TESTBRIDGE_TEST_ONLY");
  if (filter && *filter) arguments.push_back(filter);
  if (const int status = session.applyCommandLine(static_cast<int>(arguments.size()), arguments.data())) return status;
  const int status = session.run();
  std::printf("%d passed, %d failed", Count(Outcome::kPassed), Count(Outcome::kFailed));
  if (const int skipped = Count(Outcome::kSkipped)) std::printf(", %d skipped", skipped);
  std::printf("\n");
  return status;
}
