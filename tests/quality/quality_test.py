"""The harness with a real model on a short text of our own: exact against itself, the order of tiers, and numbers as they were before.

Numbers that moved on purpose: QUALITY_TEST_PRINT=1 in the environment of a hand-run prints the new ones for expected.json.
"""
import contextlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

import run
from worker import Worker, WorkerFailed

HERE = pathlib.Path(os.path.abspath(__file__)).parent
PASSAGE = HERE / "passage.txt"
WORKER = HERE / "quality_worker"
MODEL = HERE.parent.parent.parent / "models" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"  # in runfiles: @models
EXPECTED = json.loads((HERE / "expected.json").read_text())

# Under a sanitizer everything takes ten times as long; what is left walks the same code.
SANITIZED = "ASAN_OPTIONS" in os.environ or "TSAN_OPTIONS" in os.environ
MODES = ["exact", "uniform:T4", "q4_0"] if SANITIZED else list(EXPECTED["mean_kl"])
WINDOW = ("--prefill", "512", "--score", "240", "--start", "0")
PLAIN = ("--geometry", "plain", "--haystacks", "0")
# Another instruction set rounds otherwise, and a code that falls to the other side of an edge moves a divergence a little.
TOLERANCE = 0.15
TIERS = ("T8", "T4", "T3", "T2", "T1")


def arguments(*more, text=PASSAGE):
    return run.parse_args(["--worker", str(WORKER), "--model", str(MODEL), "--text", str(text), "--threads", "2", *WINDOW, *more])


def measure(*more, **which):
    with contextlib.redirect_stderr(io.StringIO()):
        return run.measure(arguments(*more, **which))


class QualityTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not MODEL.exists():
            raise FileNotFoundError(f"{MODEL}: deploy/fetch_model.sh fetches it")
        result = measure("--modes", ",".join(MODES), "--haystacks", "0", "--calibrate-text", str(PASSAGE))
        cls.rows = {row["mode"]: row for row in result["rows"]}
        if os.environ.get("QUALITY_TEST_PRINT"):
            print(json.dumps({mode: float(f"{row['mean_kl']:.4g}") for mode, row in cls.rows.items()}, indent=2))

    def test_exact_is_exactly_itself(self):
        exact = self.rows["exact"]
        self.assertEqual((exact["mean_kl"], exact["delta_nll"], exact["top1"], exact["rate_bits"]), (0, 0, 1, 16))

    def test_fewer_bits_cost_more(self):
        if SANITIZED:
            self.skipTest("one mode of a kind is measured under a sanitizer")
        for geometry in ("uniform", "sphere"):
            divergences = [self.rows[f"{geometry}:{tier}"]["mean_kl"] for tier in TIERS]
            self.assertEqual(divergences, sorted(divergences))
        for tier in ("T3", "T2"):
            self.assertLess(self.rows[f"uniform:{tier}"]["mean_kl"], self.rows[f"sphere:{tier}"]["mean_kl"])
        # The controller leaves less of the divergence than one tier for all does, in fewer bits.
        for priced, tier in (("rdr:4.0", "uniform:T3"), ("rdr:3.3", "uniform:T2"), ("rdr:3.3:live", "uniform:T2")):
            self.assertLess(self.rows[priced]["mean_kl"], self.rows[tier]["mean_kl"])
            self.assertLess(self.rows[priced]["rate_bits"], self.rows[tier]["rate_bits"])
        self.assertLess(self.rows["q8_0"]["mean_kl"], self.rows["q4_0:rotated"]["mean_kl"])
        self.assertLess(self.rows["q4_0:rotated"]["mean_kl"], self.rows["q4_0"]["mean_kl"])

    def test_a_change_of_no_importance_costs_nearly_nothing(self):
        if SANITIZED:
            self.skipTest("one mode of a kind is measured under a sanitizer")
        self.assertLess(self.rows["exact:nudged"]["mean_kl"], 5e-6)
        self.assertGreater(self.rows["exact:nudged"]["mean_kl"], 0)

    def test_numbers_are_those_that_were_stored(self):
        for mode in MODES:
            expected = EXPECTED["mean_kl"][mode]
            # Rounding alone, whatever it does.
            tolerance = 1 if mode == "exact:nudged" else TOLERANCE
            with self.subTest(mode=mode):
                self.assertAlmostEqual(self.rows[mode]["mean_kl"], expected, delta=tolerance * expected)

    def test_rates_are_what_the_pages_hold(self):
        # 444 of 512 tokens leave T8: 73 bytes at T4, 64 to a page; 68 stay, at 133 bytes and 32 to a page of 4,736 bytes. 2 x 64 elements
        # a token.
        row = self.rows["uniform:T4"]
        self.assertAlmostEqual(row["rate_bits"], (444 * 73 + 68 * 133) * 8 / (512 * 128))
        self.assertAlmostEqual(row["rate_real_bits"], (7 + 3) * 4736 * 8 / (512 * 128))
        self.assertEqual(self.rows["q4_0"]["rate_bits"], 4.5)

    def test_exact_finds_most_of_what_was_hidden(self):
        modes = ("--modes", "sphere:T4,sphere:T1,q8_0")  # exact is asked whether named or not
        result = measure(*modes, "--score", "2", "--haystacks", "1", "--geometry", "plain")
        told = {mode["mode"]: mode for mode in result["retrieval"]["modes"]}
        self.assertEqual(told["exact"]["all"]["asked"], 12)
        self.assertGreaterEqual(told["exact"]["all"]["found"], 8)
        self.assertEqual(told["exact"]["all"]["change"], 0)
        self.assertLess(told["sphere:T1"]["all"]["change"], told["sphere:T4"]["all"]["change"])
        self.assertGreaterEqual(told["q8_0"]["all"]["found"], told["exact"]["all"]["found"] - 1)


class EdgesTest(unittest.TestCase):
    def test_a_single_token_can_be_kept(self):
        [exact, coded] = measure("--modes", "exact,sphere:T2", "--prefill", "1", "--score", "2", *PLAIN)["rows"]
        self.assertEqual(exact["mean_kl"], 0)
        self.assertGreaterEqual(coded["mean_kl"], 0)
        self.assertLess(coded["mean_kl"], 0.01)  # it is T8

    def test_a_prompt_too_short_to_hide_something_is_measured_without(self):
        result = measure("--modes", "exact", "--prefill", "100", "--score", "2", "--geometry", "plain")
        self.assertIsNone(result["retrieval"])
        self.assertEqual(len(result["rows"]), 1)

    def test_windows_that_begin_elsewhere_are_other_windows(self):
        [row] = measure("--modes", "q4_0", "--prefill", "80", "--score", "8", "--start", "0,100", *PLAIN)["rows"]
        self.assertEqual([window["start"] for window in row["windows"]], [0, 100])
        self.assertNotEqual(*(window["kl"] for window in row["windows"]))

    def test_says_what_cannot_be_measured(self):
        for argv, message in ((("--start", "100000"), r"passage.txt has \d+ tokens; a window from 100000 needs 100752"),
                              (("--modes", "exact,uniform:T5"), "unknown mode 'uniform:T5'; the modes are exact .*q4_0:rotated"),
                              (("--prefill", "8000"), "more than the 8192 positions")):
            with self.subTest(argv=argv), self.assertRaisesRegex((run.Wrong, WorkerFailed), message):
                measure("--geometry", "plain", *argv)

    def test_a_text_that_is_none_is_an_error(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "binary.txt")
            path.write_bytes(b"\xff\xfe\x00")
            with self.assertRaisesRegex(WorkerFailed, "UTF-8"):
                measure("--geometry", "plain", text=path)
            path.write_text("")
            with self.assertRaisesRegex(run.Wrong, "has 0 tokens"):
                measure("--geometry", "plain", text=path)

    def test_a_geometry_that_is_none_is_an_error(self):
        with self.assertRaisesRegex(WorkerFailed, "passage.txt"):
            measure("--geometry", str(PASSAGE))
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "short.txt")
            path.write_text("A few words.")
            with self.assertRaisesRegex(WorkerFailed, r"short.txt has \d+ tokens; calibration needs at least 512"):
                measure("--calibrate-text", str(path))

    def test_a_model_that_is_none_is_an_error(self):
        with self.assertRaises(WorkerFailed):
            Worker(str(WORKER), str(PASSAGE), 1, "f32", 100)


class StoppingTest(unittest.TestCase):
    def test_control_c_stops_and_leaves_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder, "out.json")
            command = [sys.executable, "-B", str(HERE / "run.py"), "--worker", str(WORKER), "--model", str(MODEL), "--text", str(PASSAGE),
                       *WINDOW, *PLAIN, "--json", str(out)]
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
                while "prefill" not in process.stderr.readline():
                    self.assertIsNone(process.poll())
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does
                said = process.stderr.read()  # ends when the worker too has gone
                self.assertEqual(process.wait(), 130)
            self.assertIn("stopped", said)
            self.assertNotIn("Traceback", said)
            self.assertFalse(out.exists())
