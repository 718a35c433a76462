"""The benchmark's own parts: that our worker answers, that sums and verdicts are right, and that a table lands in its place."""
import array
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

import capacity
import codes
import long_context
import machine
import noisy_neighbour
import readme
import run
from side import Side, SideFailed, engine_command

HERE = pathlib.Path(os.path.abspath(__file__)).parent
WORKER = HERE / "engine_worker"
MODEL = HERE.parent.parent.parent / "models" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"  # in runfiles: @models


class WorkerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not MODEL.exists():
            raise FileNotFoundError(f"{MODEL}: deploy/fetch_model.sh fetches it")
        cls.folder = tempfile.TemporaryDirectory()
        cls.text = pathlib.Path(cls.folder.name) / "text.txt"
        cls.text.write_text("One ship after another came into the harbour. " * 60)
        cls.side = Side("ours", *engine_command(WORKER, MODEL, 2))

    @classmethod
    def tearDownClass(cls):
        cls.side.close()
        cls.folder.cleanup()

    def test_times_prefill_and_decoding(self):
        self.assertGreater(self.side.ask("text", self.text)["tokens"], 500)
        answers = [self.side.ask("prefill", 64)]
        self.side.ask("prepare", 2, 32)
        answers += [self.side.ask("decode", 2) for _ in range(2)]
        for answer in answers:
            self.assertGreater(answer["wall_s"], 0)
            self.assertGreater(answer["cpu_s"], 0)

    def test_writes_a_whole_distribution_for_every_position(self):
        self.side.ask("text", self.text)
        path = pathlib.Path(self.folder.name) / "logits.f32"
        self.side.ask("logits", 5, 3, path)  # a window of three, then one of two
        rows = array.array("f", path.read_bytes())
        width = len(rows) // 5
        self.assertEqual(width, 49152)
        for i in range(5):
            self.assertAlmostEqual(sum(map(math.exp, rows[i * width:(i + 1) * width])), 1, places=4)
        self.assertNotEqual(rows[:width], rows[width:2 * width])

    def test_is_the_same_after_other_work(self):
        self.side.ask("text", self.text)
        path = pathlib.Path(self.folder.name) / "logits.f32"
        answers = []
        for _ in range(2):
            self.side.ask("logits", 2, 2, path)
            answers.append(path.read_bytes())
            self.side.ask("prepare", 3, 20)
            self.side.ask("decode", 1)
        self.assertEqual(*answers)

    def test_computes_in_f32_too(self):
        with Side("ours", *engine_command(WORKER, MODEL, 1, "f32")) as side:
            side.ask("text", HERE / "README.md")
            self.assertGreater(side.ask("prefill", 16)["wall_s"], 0)

    def test_says_what_is_wrong_and_ends(self):
        for command, message in ((("prefill", 3), "has 0 tokens"), (("decode", 1), "nothing is prepared"), (("dance",), "unknown command")):
            with Side("ours", *engine_command(WORKER, MODEL, 1)) as side, self.assertRaisesRegex(SideFailed, message):
                side.ask(*command)


class ResultTest(unittest.TestCase):
    ROW = {"name": "decode", "threads": 2, "tokens_per_turn": 10,
           "turns": {"ours": {"wall_s": [1, 2, 9], "cpu_s": [2, 2, 2]},
                     "llama.cpp": {"wall_s": [4, 4, 4], "cpu_s": [8, 8, 8]},
                     "llama.cpp, flash attention": {"wall_s": [3, 3, 3], "cpu_s": [9, 9, 9]}}}

    def test_takes_medians_and_the_peers_better_setting(self):
        row = run.summarise(dict(self.ROW), bar=1.5)
        self.assertEqual(row["tokens_per_s"], {"ours": 5.0, "llama.cpp": 2.5, "llama.cpp, flash attention": 3.3})
        self.assertEqual(row["peer_best"], "llama.cpp, flash attention")
        self.assertEqual(row["ratio"], 1.5)
        self.assertEqual(row["ratio_cpu"], 4)  # against the setting that is better by that measure
        self.assertIs(row["pass"], True)
        self.assertIs(run.summarise(dict(self.ROW), bar=1.6)["pass"], False)
        self.assertIsNone(run.summarise(dict(self.ROW), bar=None)["pass"])

    def test_a_missed_bar_is_seen(self):
        result = {"rows": [run.summarise(dict(self.ROW), bar=1.5)], "load": None, "memory": None}
        self.assertTrue(run.all_pass(result))
        result["load"] = result["memory"] = {"pass": False}
        self.assertFalse(run.all_pass(result))

    def test_a_machine_without_git_has_an_unknown_commit(self):
        with unittest.mock.patch.dict(os.environ, PATH=""):
            self.assertEqual(machine.describe(__file__, "command")["commit"], "unknown")

    def test_prints_a_table(self):
        result = {"date": "today", "commit": "c", "cpu": "p", "cores": 2, "kernel": "k", "load_average": 0.0, "model": "m",
                  "model_sha256": "0" * 64, "command": "run", "rows": [run.summarise(dict(self.ROW), bar=1.6)],
                  "load": None, "memory": None}
        self.assertIn("| decode | 2 | 5 | 2 | 3 | **1.50** | 4.00 | >= 1.6: **missed** |", run.markdown(result))


class CodesTest(unittest.TestCase):
    @staticmethod
    def turns(seconds):
        return {"wall_s": [seconds] * 3, "cpu_s": [seconds / 2, seconds, 9 * seconds]}

    def test_a_coded_worker_seals_answers_and_rewinds(self):
        with Side("ours", *engine_command(WORKER, MODEL, 2, mode="uniform:T4")) as side:
            side.ask("text", HERE / "README.md")
            side.ask("prepare", 2, 300)
            for _ in range(3):
                self.assertGreater(side.ask("decode", 8)["wall_s"], 0)

    def test_bars_are_of_medians_and_the_peers_better_setting(self):
        shallow = {side: self.turns(1) for side in (codes.OURS, codes.LOWER, codes.EXACT, codes.PLAIN, codes.FLASH, codes.Q4)}
        deep = {codes.OURS: self.turns(2), codes.LOWER: self.turns(3), codes.EXACT: self.turns(3), codes.PLAIN: self.turns(7),
                codes.FLASH: self.turns(10), codes.Q4: self.turns(16)}
        many = {codes.OURS: self.turns(1), codes.PLAIN: self.turns(4), codes.FLASH: self.turns(2)}
        result = {"turns": {codes.SHALLOW: shallow, "depth 50": deep, codes.MANY: many}, "threads": 1, "date": "", "commit": "", "cpu": "",
                  "cores": 2, "kernel": "", "load_average": 0.0, "model": "", "model_sha256": "0" * 64, "command": ""}
        result["bars"] = codes.bars(result["turns"], 50)
        self.assertEqual([bar["value"] for bar in result["bars"]], [round(2 / 7, 4), 0.125, round(1 / 6, 4), 1.5, 2.0])
        self.assertEqual([bar["pass"] for bar in result["bars"]], [True, True, True, False, False])
        table = codes.markdown(result)
        self.assertIn("| uniform:T4 | 1000.00 | 2000.00 | 1000.00 | 1000.00 |", table)
        self.assertIn("| T2 / T4, time per token | 1.5 | <= 1 | **missed** |", table)


class LongContextTest(unittest.TestCase):
    def test_a_priced_worker_seals_answers_and_rewinds(self):
        with Side("ours", *engine_command(WORKER, MODEL, 2, mode="rdr:3.0")) as side:
            side.ask("text", HERE / "README.md")
            for depth in (0, 400):  # nothing to seal; some
                side.ask("prepare", 1, depth)
                for _ in range(3):
                    self.assertGreater(side.ask("decode", 8)["wall_s"], 0)
            self.assertGreater(side.ask("prefill", 64)["wall_s"], 0)

    def test_a_priced_worker_needs_a_rate(self):
        with self.assertRaisesRegex(SideFailed, "rdr:RATE"), Side("ours", *engine_command(WORKER, MODEL, 2, mode="rdr")):
            pass

    def test_bars_are_of_medians_and_the_peers_better_setting(self):
        turns = CodesTest.turns
        result = {"turns": {long_context.SHALLOW: {side: turns(1) for side in (long_context.PRICED, long_context.EXACT, long_context.PLAIN,
                                                                               long_context.FLASH)},
                            long_context.DEEP: {long_context.PRICED: turns(2), long_context.EXACT: turns(3), long_context.PLAIN: turns(11),
                                                long_context.FLASH: turns(5)},
                            long_context.PREFILL: {long_context.EXACT: turns(2), long_context.PLAIN: turns(3),
                                                   long_context.FLASH: turns(5)}},
                  "threads": 1, "depth": 24_000, "date": "", "commit": "", "cpu": "", "cores": 2, "kernel": "", "load_average": 0.0,
                  "model": "", "model_sha256": "0" * 64, "command": ""}
        result["bars"] = long_context.bars(result["turns"])
        self.assertEqual([bar["value"] for bar in result["bars"]], [0.4, 0.25, 1.5])
        self.assertEqual([bar["pass"] for bar in result["bars"]], [True, False, False])
        self.assertIn("| rdr:3.0 | 1000.00 | 2000.00 |  | 1000.00 |", long_context.markdown(result))


class ServingTest(unittest.TestCase):
    """The benches of a whole daemon, short: that they work, that what must hold on any machine does. Plain geometry: no calibration."""
    DAEMON = HERE.parent.parent / "server" / "sphericald"

    def run_bench(self, name, *args):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "result.json"
            text = pathlib.Path(folder) / "text.txt"
            text.write_text("".join(f"Ship number {i} came into the harbour at {i * 37 % 24} o'clock. " for i in range(1000)))
            command = [sys.executable, "-B", str(HERE / name), "--daemon", str(self.DAEMON), "--model", str(MODEL), "--json", str(path),
                       *[str(text) if arg == "TEXT" else arg for arg in args]]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            return json.loads(path.read_text())

    def test_noisy_neighbour(self):
        result = self.run_bench("noisy_neighbour.py", "--short", "--geometry", "plain", "--text", "TEXT")
        bars = {bar["name"]: bar for bar in result["bars"]}
        for name in ("bytes over a limit, any frame", "bytes taken below the guarantee, any frame", "quiet requests that failed"):
            self.assertTrue(bars[name]["pass"], bars[name])
        for phase in result["latency"].values():
            self.assertGreater(phase["itl_s"]["count"], 0)
        self.assertEqual([h["fits"] for h in result["control"]], [True, True])
        self.assertIn("| beside the flood | ", noisy_neighbour.markdown(result))

    def test_capacity(self):
        result = self.run_bench("capacity.py", "--prompts", "4", "--fit", "2", "--prompt-tokens", "512", "--tokens", "8",
                                "--max-tokens", "96", "--geometry", "plain", "TEXT")
        self.assertEqual([bar["name"] for bar in result["bars"] if not bar["pass"]], [])
        self.assertIn("| sequences in the same steps | 4 | >= 4 | met |", capacity.markdown(result))

    def test_percentiles_are_of_what_was_seen(self):
        self.assertEqual([noisy_neighbour.percentile(range(1, 201), p) for p in (50, 99)], [100, 198])
        self.assertEqual(noisy_neighbour.percentile([7], 99), 7)

    def test_bytes_over_and_below(self):
        flood = {"limit": 10, "guarantee": 0, "held": 12, "budget": 10}
        quiet = {"limit": 20, "guarantee": 8, "held": 9, "budget": 7}
        frame = {"tenants": {"flood": flood, "quiet": quiet}, "held": 21, "pool": 30}
        self.assertEqual(noisy_neighbour.over_limit(frame), 2)
        self.assertEqual(noisy_neighbour.below_guarantee(frame), 1)


class ReadmeTest(unittest.TestCase):
    def test_all_tables_have_a_place(self):
        text = (HERE / "README.md").read_text()
        for name in ("speed", "correctness", "codes", "noisy_neighbour", "capacity"):
            once = readme.place(text, name, "A TABLE\n")
            self.assertIn("A TABLE\n", once)
            self.assertEqual(readme.place(once, name, "A TABLE\n"), once)

    def test_a_name_without_a_place_is_an_error(self):
        with self.assertRaises(SystemExit):
            readme.place("no marks\n", "speed", "A TABLE\n")
