"""sphericalctl against a real daemon: what it prints, and its exit codes."""
import json
import os
import signal
import subprocess
import tempfile
import unittest

import sphericald

FRANCE = "The capital of France is"


class SphericalctlTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = sphericald.Daemon()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.close()

    def ctl(self, *args, code=0, **options):
        """Runs it; what it printed on (stdout, stderr)."""
        done = subprocess.run([sphericald.CTL, "--server", self.daemon.address, *args], capture_output=True, text=True,
                              timeout=sphericald.SECONDS_MAX, check=False, **options)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stdout, done.stderr

    def test_generate_json(self):
        out, _ = self.ctl("generate", "--prompt", FRANCE, "--max-tokens", "3", "--temperature", "0", "--seed", "1", "--logprobs", "5",
                          "--prompt-logprobs", "1", "--json")
        answer = json.loads(out)
        self.assertEqual(answer["token_ids"], [7042, 30, 198])
        self.assertEqual(answer["text"], " Paris.\n")
        self.assertEqual([step["id"] for step in answer["logprobs"]], answer["token_ids"])
        self.assertEqual([len(step["top"]) for step in answer["logprobs"]], [5, 5, 5])
        self.assertEqual(answer["logprobs"][0]["top"][0], {"id": 7042, "logprob": answer["logprobs"][0]["logprob"]})
        self.assertEqual(len(answer["prompt_logprobs"]), 4)
        self.assertEqual(answer["finish_reason"], "length")
        self.assertEqual((answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]), (5, 3))
        self.assertEqual(set(answer["timings"]), {"ttft_ms", "total_ms", "tokens_per_s"})
        self.assertGreaterEqual(answer["timings"]["total_ms"], answer["timings"]["ttft_ms"])

    def test_generate_streams_text(self):
        out, _ = self.ctl("generate", "--prompt", FRANCE, "--max-tokens", "2", "--temperature", "0")
        self.assertEqual(out, " Paris.\n")

    def test_generate_from_file_and_from_tokens(self):
        with tempfile.NamedTemporaryFile("w", dir=os.environ.get("TEST_TMPDIR")) as file:
            file.write(FRANCE)
            file.flush()
            from_file, _ = self.ctl("generate", "--prompt-file", file.name, "--max-tokens", "2", "--temperature", "0")
        from_tokens, _ = self.ctl("generate", "--token-ids", "504,3575,282,4649,314", "--max-tokens", "2", "--temperature", "0")
        self.assertEqual((from_file, from_tokens), (" Paris.\n", " Paris.\n"))

    def test_stop(self):
        out, _ = self.ctl("generate", "--prompt", FRANCE, "--max-tokens", "20", "--temperature", "0", "--stop", "zebra", "--stop", ".",
                          "--json")
        answer = json.loads(out)
        self.assertEqual((answer["text"], answer["finish_reason"], answer["stop_string"]), (" Paris", "stop", "."))

    def test_chat(self):
        question = "What is the capital of France?"
        for args, options in ((["chat", question], {}), (["chat", "--message", question], {}), (["chat"], {"input": question})):
            out, _ = self.ctl(*args, "--temperature", "0", "--max-tokens", "30", **options)
            self.assertIn("Paris", out)
            self.assertRegex(out, r"\[\d+ tokens, [\d.]+ tokens/s, first token after \d+ ms, \d+ bytes of KV \(\d+ reserved\)\]\n$")

    def test_model_show(self):
        out, _ = self.ctl("model", "show", sphericald.model_path())
        for line in ("architecture  llama, width 576, feed-forward 1536, vocabulary 49152", "layers        30, all global",
                     "attention     9 query heads and 3 kv heads of 64", "context       8192 positions", "chat          chatml"):
            self.assertIn(line + "\n", out)
        self.assertRegex(out, r"geometry      calibrated for 8192 positions on \d+ tokens of its own text \(")
        self.assertRegex(out, r"\nf16 +16\.00 +23040\nT8 ")
        card = json.loads(self.ctl("model", "show", sphericald.model_path(), "--json")[0])
        self.assertEqual([tier["tier"] for tier in card["tiers"]], ["f16", "T8", "T4", "T3", "T2", "T1"])
        self.assertEqual(card["tiers"][0]["bytes_per_token"], 30 * 3 * 64 * 4)
        self.assertEqual((card["local_layers"], card["geometry"]["state"]), (0, "calibrated"))

    def test_model_show_says_what_is_wrong(self):
        with tempfile.TemporaryDirectory() as folder:
            damaged = os.path.join(folder, "damaged.gguf")
            with open(damaged, "wb") as file:
                file.write(b"GGUF")
            for args, said in ((["/nowhere.gguf"], "/nowhere.gguf"), ([damaged], "damaged.gguf"), ([folder], "config.json"),
                               ([sphericald.model_path(), "--context", "9000"], "trained for")):
                _, err = self.ctl("model", "show", *args, code=2)
                self.assertIn(said, err)

    def test_model_show_prints_a_curve_of_this_very_model(self):
        with tempfile.TemporaryDirectory() as folder:
            model = os.path.join(folder, "model.gguf")
            os.symlink(os.path.abspath(sphericald.model_path()), model)
            self.assertIn("not measured yet", self.ctl("model", "show", model)[0])
            sha256 = json.loads(self.ctl("model", "show", model, "--json")[0])["sha256"]
            for told, shown in ((sha256, True), ("0" * 64, False)):
                with open(model + ".quality.json", "w", encoding="utf-8") as file:
                    json.dump({"model_sha256": told, "date": "2026-11-29",
                               "rows": [{"mode": "rdr:3.0", "rate_bits": 3.0, "mean_kl": 0.00077, "top1": 0.988}]}, file)
                self.assertEqual("rdr:3.0             3.00           0.00077      98.8 %" in self.ctl("model", "show", model)[0], shown)

    def test_model_get(self):
        with tempfile.TemporaryDirectory() as cache:
            os.symlink(os.path.abspath("../models"), os.path.join(cache, "spherical"))  # as if it had been fetched there
            out, _ = self.ctl("model", "get", "smollm2", env=os.environ | {"XDG_CACHE_HOME": cache})
            self.assertEqual(out.strip(), os.path.join(cache, "spherical", "models", os.path.basename(sphericald.model_path())))
        self.assertIn("smollm2", self.ctl("model", "get", "gpt4", code=2)[1])

    def test_tokenize(self):
        out, _ = self.ctl("tokenize", FRANCE, "--json")
        self.assertEqual(json.loads(out)["token_ids"], [504, 3575, 282, 4649, 314])
        self.assertEqual(len(self.ctl("tokenize", FRANCE)[0].splitlines()), 5)

    def test_stats(self):
        stats = json.loads(self.ctl("stats", "--json")[0])
        self.assertEqual(stats["version"], "0.1.0")
        self.assertEqual(stats["tenants"][0]["name"], "default")
        table = self.ctl("stats")[0]
        self.assertIn("KV pool", table)
        self.assertIn("exact workspace", table)
        self.assertGreater(stats["workspace_bytes"], 0)

    def test_health(self):
        self.assertEqual(self.ctl("health")[0], "SERVING\n")
        self.assertEqual(self.ctl("health", "--service", "")[0], "SERVING\n")
        self.assertIn("NOT_FOUND", self.ctl("health", "--service", "wizardry", code=1)[1])

    def test_bench(self):
        report = json.loads(self.ctl("bench", "--requests", "4", "--concurrency", "2", "--prompt-tokens", "20", "--output-tokens", "8",
                                     "--json")[0])
        self.assertEqual((report["finished"], report["errors"]), (4, {}))
        self.assertGreater(report["output_tokens_per_s"], 0)
        for name in ("ttft_ms", "between_tokens_ms"):
            self.assertLessEqual(report[name]["p50"], report[name]["p90"])
            self.assertLessEqual(report[name]["p90"], report[name]["p99"])
        self.assertIn("time to first token", self.ctl("bench", "--requests", "2", "--output-tokens", "2", "--temperature", "0.8",
                                                      "--top-p", "0.9")[0])

    def test_a_refusal_is_1_with_the_code(self):
        _, error = self.ctl("generate", "--prompt", "", code=1)
        self.assertEqual(error, "sphericalctl: INVALID_ARGUMENT: text: empty; a prompt needs at least one token\n")
        self.assertIn("DEADLINE_EXCEEDED", self.ctl("generate", "--prompt", "x", "--max-tokens", "4000", "--ignore-eos", "--timeout", "0.2",
                                                    code=1)[1])
        self.assertIn("INVALID_ARGUMENT", self.ctl("bench", "--prompt-tokens", "9000", "--requests", "1", code=1)[1])
        for flag, value, field in (("--temperature", "-1", "sampling.temperature"), ("--temperature", "101", "sampling.temperature"),
                                   ("--top-p", "0", "sampling.top_p"), ("--top-p", "1.5", "sampling.top_p")):
            with self.subTest(flag=flag, value=value):
                error = self.ctl("bench", "--requests", "1", "--output-tokens", "1", flag, value, code=1)[1]
                self.assertIn("INVALID_ARGUMENT: " + field, error)

    def test_no_server_is_1(self):
        done = subprocess.run([sphericald.CTL, "--server", "127.0.0.1:1", "stats"], capture_output=True, text=True,
                              timeout=sphericald.SECONDS_MAX, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("UNAVAILABLE", done.stderr)

    def test_wrong_use_is_2(self):
        for args in ([], ["conjure"], ["generate"], ["generate", "--prompt", "a", "--token-ids", "1"],
                     ["generate", "--prompt", "a", "--seed", "x"], ["generate", "--prompt-file", "/nonexistent"],
                     ["generate", "--prompt", "a", "--logit-bias", "x"],
                     ["bench", "--concurrency", "0"], ["bench", "--temperature", "hot"], ["bench", "--top-p", "most"]):
            with self.subTest(args=args):
                self.ctl(*args, code=2)
        self.assertIn("generate", self.ctl("--help")[0])

    def test_ctrl_c_cancels_the_call(self):
        process = subprocess.Popen([sphericald.CTL, "--server", self.daemon.address, "generate", "--prompt", "Once", "--max-tokens", "8000",
                                    "--ignore-eos"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=sphericald.SECONDS_MAX)
        self.assertEqual(process.returncode, 1)
        self.assertIn(b"CANCELLED", error)
        sphericald.wait_until(self.daemon.holds_nothing, "every page is given back")


class CalibrateTest(unittest.TestCase):
    """The real model, no daemon."""

    def test_ctrl_c_leaves_no_file(self):
        with tempfile.TemporaryDirectory(dir=os.environ.get("TEST_TMPDIR")) as folder:
            out = os.path.join(folder, "out")
            process = subprocess.Popen([sphericald.CTL, "calibrate", "--model", sphericald.model_path(), "--out", out],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.assertRegex(process.stderr.readline(), r"^calibrating: 10 %, \d+ s left$")
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=sphericald.SECONDS_MAX)
            self.assertEqual(process.returncode, 128 + signal.SIGINT)
            self.assertEqual(os.listdir(folder), [])


if __name__ == "__main__":
    unittest.main()
