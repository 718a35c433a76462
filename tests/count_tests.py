#!/usr/bin/env python3
"""Counts test cases; prints 'N passed, N failed[, N skipped]' and exits with 0 only if nothing failed.

Usage: count_tests.py BUILD_EVENTS.json --bazel-status N [--report JUNIT.xml ...]

BUILD_EVENTS.json is what `bazel test --build_event_json_file` writes. It knows cached results too, and where each target's
test.xml lies. A target that crashed, timed out or did not build counts as one failed case, because it has no report to read.
"""
import argparse
import json
import re
import sys
import urllib.parse
import xml.etree.ElementTree as ET

NOT_RUN = ("FAILED_TO_BUILD", "NO_STATUS", "INCOMPLETE")


class Counts:
    """Passed, failed and skipped cases."""

    def __init__(self, passed=0, failed=0, skipped=0):
        self.passed, self.failed, self.skipped = passed, failed, skipped

    def __add__(self, other):
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self):
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def count_report(path):
    """Counts a JUnit file; None if it cannot be read."""
    counts = Counts()
    try:
        suites = list(ET.parse(path).iter("testsuite"))
    except (OSError, ET.ParseError):
        return None
    for suite in suites:
        # A script's report is written by Bazel: one case, and the log beside it. There a skip is a line of the log.
        log = "".join(out.text or "" for out in suite.iter("system-out"))
        script_skipped = re.search(r"^SKIP: ", log, re.MULTILINE) is not None
        cases = suite.findall("testcase")
        for case in cases:
            if case.find("failure") is not None or case.find("error") is not None:
                counts.failed += 1
            elif case.find("skipped") is not None or (script_skipped and len(cases) == 1):
                counts.skipped += 1
            else:
                counts.passed += 1
    return counts


def read_results(events_path):
    """The last result of every (target, shard, run)."""
    results = {}
    with open(events_path, encoding="utf-8") as events:
        for line in events:
            event = json.loads(line)
            if "testResult" in event:
                key = event["id"]["testResult"]
                results[(key["label"], key.get("shard", 0), key.get("run", 0))] = event["testResult"]
            elif event.get("testSummary", {}).get("overallStatus") in NOT_RUN:
                results[(event["id"]["testSummary"]["label"], 0, 0)] = {"status": "FAILED_TO_BUILD"}
    return results


def count_target(result):
    """Counts one testResult event."""
    counts = Counts()
    for output in result.get("testActionOutput", []):
        if output["name"] == "test.xml":
            counts += count_report(urllib.parse.unquote(urllib.parse.urlparse(output["uri"]).path)) or Counts()
    if result["status"] not in ("PASSED", "FLAKY") and not counts.failed:
        counts.failed = 1
    return counts


def count_run(events_path, bazel_status, reports):
    """Counts a whole run."""
    counts = sum((count_target(result) for result in read_results(events_path).values()), Counts())
    if bazel_status != 0 and not counts.failed:
        counts.failed = 1  # something did not build or load, but no test target can be blamed
    return sum((count_report(report) or Counts(failed=1) for report in reports), counts)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("events")
    arguments.add_argument("--bazel-status", type=int, required=True)
    arguments.add_argument("--report", action="append", default=[], help="a further JUnit file to count")
    parsed = arguments.parse_args()
    counts = count_run(parsed.events, parsed.bazel_status, parsed.report)
    print(counts, flush=True)
    sys.exit(1 if counts.failed or not counts.passed else 0)


if __name__ == "__main__":
    main()
