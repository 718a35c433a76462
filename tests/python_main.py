"""The main of every Python test: runs a unittest file and writes one JUnit entry per test, as tests/catch_main.cc does for C++.

Honours --test_filter (TESTBRIDGE_TEST_ONLY: patterns as of unittest -k), $XML_OUTPUT_FILE, and unittest's own skips; the last
line of stdout is "N passed, N failed[, N skipped]".
"""
import importlib.util
import os
import re
import sys
import time
import unittest
import xml.etree.ElementTree as ET


class Report(unittest.TextTestResult):
    """Collects (test, outcome, message, seconds)."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.entries = []
        self._started = time.monotonic()

    def startTest(self, test):
        super().startTest(test)
        self._started = time.monotonic()

    def _add(self, test, outcome, message=""):
        self.entries.append((test, outcome, message, time.monotonic() - self._started))

    def addSuccess(self, test):
        super().addSuccess(test)
        self._add(test, "passed")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._add(test, "failure", self._exc_info_to_string(err, test))

    def addError(self, test, err):
        super().addError(test, err)
        self._add(test, "failure", self._exc_info_to_string(err, test))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._add(test, "skipped", reason)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err:
            self._add(subtest, "failure", self._exc_info_to_string(err, subtest))

    def count(self, outcome):
        """How many entries ended so."""
        return sum(entry[1] == outcome for entry in self.entries)


def write_report(report, path):
    """The JUnit file that Bazel and tests/count_tests.py read."""
    name = os.environ.get("TEST_TARGET", "tests")
    root = ET.Element("testsuites")
    suite = ET.SubElement(root, "testsuite", name=name, tests=str(len(report.entries)), failures=str(report.count("failure")))
    for test, outcome, message, seconds in report.entries:
        case = ET.SubElement(suite, "testcase", name=str(test), classname=name, time=f"{seconds:.3f}")
        if outcome != "passed":
            ET.SubElement(case, outcome, message=re.sub(r"[^\x09\x0a\x20-\x7e]", "?", message))
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def main():
    path = sys.argv[1]
    sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    spec = importlib.util.spec_from_file_location("test_under_bazel", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    loader = unittest.TestLoader()
    only = os.environ.get("TESTBRIDGE_TEST_ONLY")
    if only:
        loader.testNamePatterns = [only if "*" in only else f"*{only}*"]
    runner = unittest.TextTestRunner(stream=sys.stdout, verbosity=2, resultclass=Report)
    report = runner.run(loader.loadTestsFromModule(module))
    if os.environ.get("XML_OUTPUT_FILE"):
        write_report(report, os.environ["XML_OUTPUT_FILE"])
    skipped = f", {report.count('skipped')} skipped" if report.count("skipped") else ""
    print(f"{report.count('passed')} passed, {report.count('failure')} failed{skipped}")
    sys.exit(0 if report.wasSuccessful() and (report.entries or only) else 1)


if __name__ == "__main__":
    main()
