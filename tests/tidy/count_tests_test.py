"""tests/count_tests.py: what a run is worth, from event files and reports as Bazel 4.2 writes them."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

COUNT_TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "count_tests.py")
CASES = {
    "passed": '<testcase name="a"/>',
    "failed": '<testcase name="b"><failure message="x"/></testcase>',
    "skipped": '<testcase name="c"><skipped message="no device"/></testcase>',
}


class CountTestsTest(unittest.TestCase):
    """Runs the script; looks at its last line and exit code."""

    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.events = []

    def report(self, *cases, log=""):
        """Writes a JUnit file; returns its path (with a blank in it: Bazel escapes it in the event file)."""
        path = os.path.join(self.folder, f"test {len(os.listdir(self.folder))}.xml")
        body = "".join(CASES[case] for case in cases)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"<testsuites><testsuite>{body}<system-out><![CDATA[{log}]]></system-out></testsuite></testsuites>")
        return path

    def ran(self, label, status, path=None, **key):
        """Adds a testResult event."""
        outputs = [{"name": "test.log", "uri": "file:///gone"}]
        if path:
            outputs.append({"name": "test.xml", "uri": "file://" + path.replace(" ", "%20")})
        self.events.append({"id": {"testResult": {"label": label, **key}}, "testResult": {"status": status, "testActionOutput": outputs}})

    def count(self, bazel_status, *reports):
        """Returns (last line, exit code)."""
        events = os.path.join(self.folder, "events.json")
        with open(events, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(event) + "\n" for event in [{"id": {"started": {}}}, *self.events])
        extra = [argument for report in reports for argument in ("--report", report)]
        run = subprocess.run([sys.executable, COUNT_TESTS, events, "--bazel-status", str(bazel_status), *extra],
                             capture_output=True, text=True, check=False)
        return run.stdout.splitlines()[-1], run.returncode

    def test_all_pass(self):
        self.ran("//a", "PASSED", self.report("passed", "passed"))
        self.ran("//b", "PASSED", self.report("passed"))
        self.assertEqual(self.count(0), ("3 passed, 0 failed", 0))

    def test_a_failing_case_fails_the_run(self):
        self.ran("//a", "FAILED", self.report("passed", "failed"))
        self.assertEqual(self.count(3), ("1 passed, 1 failed", 1))

    def test_a_failing_case_fails_the_run_whatever_bazel_says(self):
        self.ran("//a", "PASSED", self.report("passed", "failed"))
        self.assertEqual(self.count(0), ("1 passed, 1 failed", 1))

    def test_skips_are_counted_apart(self):
        self.ran("//a", "PASSED", self.report("passed", "skipped"))
        self.assertEqual(self.count(0), ("1 passed, 0 failed, 1 skipped", 0))

    def test_a_script_skips_by_its_log(self):
        self.ran("//a", "PASSED", self.report("passed", log="start\nSKIP: no device\n"))
        self.ran("//b", "PASSED", self.report("passed", log="never SKIP: here\n"))
        self.assertEqual(self.count(0), ("1 passed, 0 failed, 1 skipped", 0))

    def test_a_script_that_failed_did_not_skip(self):
        self.ran("//a", "FAILED", self.report("failed", log="SKIP: no device\n"))
        self.assertEqual(self.count(3), ("0 passed, 1 failed", 1))

    def test_a_crash_without_report_is_one_failure(self):
        self.ran("//a", "FAILED")
        self.ran("//b", "PASSED", self.report("passed"))
        self.assertEqual(self.count(3), ("1 passed, 1 failed", 1))

    def test_a_timeout_after_passing_cases_is_a_failure(self):
        self.ran("//a", "TIMEOUT", self.report("passed"))
        self.assertEqual(self.count(3), ("1 passed, 1 failed", 1))

    def test_a_test_that_does_not_build_is_one_failure(self):
        self.ran("//a", "PASSED", self.report("passed"))
        self.events.append({"id": {"testSummary": {"label": "//b"}}, "testSummary": {"overallStatus": "FAILED_TO_BUILD"}})
        self.assertEqual(self.count(1), ("1 passed, 1 failed", 1))

    def test_a_library_that_does_not_build_is_one_failure(self):
        self.ran("//a", "PASSED", self.report("passed"))
        self.assertEqual(self.count(1), ("1 passed, 1 failed", 1))

    def test_nothing_ran(self):
        self.assertEqual(self.count(4), ("0 passed, 1 failed", 1))
        self.assertEqual(self.count(0), ("0 passed, 0 failed", 1))

    def test_the_last_attempt_of_a_flaky_test_counts(self):
        self.ran("//a", "FAILED", self.report("failed"), run=1, shard=1, attempt=1)
        self.ran("//a", "FLAKY", self.report("passed"), run=1, shard=1, attempt=2)
        self.assertEqual(self.count(0), ("1 passed, 0 failed", 0))

    def test_every_shard_counts(self):
        self.ran("//a", "PASSED", self.report("passed"), shard=1)
        self.ran("//a", "PASSED", self.report("passed"), shard=2)
        self.assertEqual(self.count(0), ("2 passed, 0 failed", 0))

    def test_further_reports_add_up(self):
        self.ran("//a", "PASSED", self.report("passed"))
        self.assertEqual(self.count(0, self.report("passed", "failed")), ("2 passed, 1 failed", 1))

    def test_a_further_report_that_was_never_written_is_a_failure(self):
        self.ran("//a", "PASSED", self.report("passed"))
        self.assertEqual(self.count(0, os.path.join(self.folder, "gone.xml")), ("1 passed, 1 failed", 1))
