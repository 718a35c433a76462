"""Counts test cases from a Bazel build-event file; prints 'N passed, N failed'."""
import json, sys, urllib.parse, xml.etree.ElementTree as ET

passed = failed = 0
seen_bad_build = False
results = {}
for line in open(sys.argv[1], encoding="utf-8"):
    e = json.loads(line)
    if "testResult" in e:
        i = e["id"]["testResult"]
        results[(i["label"], i.get("shard"), i.get("run"))] = e["testResult"]  # last attempt wins
    if "testSummary" in e and e["testSummary"].get("overallStatus") in ("FAILED_TO_BUILD", "NO_STATUS"):
        results[(e["id"]["testSummary"]["label"], 0, 0)] = {"status": "FAILED_TO_BUILD"}
for (label, *_), r in sorted(results.items(), key=str):
    ok, bad = 0, 0
    for f in r.get("testActionOutput", []):
        if f["name"] == "test.xml":
            try:
                for c in ET.parse(urllib.parse.unquote(urllib.parse.urlparse(f["uri"]).path)).iter("testcase"):
                    if c.find("failure") is not None or c.find("error") is not None:
                        bad += 1
                    elif c.find("skipped") is None:
                        ok += 1
            except (OSError, ET.ParseError):
                pass
    if r["status"] not in ("PASSED", "FLAKY") and not bad:
        bad = 1  # crashed, timed out or did not build: no report to read
    passed += ok
    failed += bad
rc = int(sys.argv[2])
if rc not in (0, 3) and not failed:
    failed = 1  # build or analysis error before any test ran
print(f"{passed} passed, {failed} failed")
sys.exit(rc)
