"""sphericald on folders as Hugging Face saves them: a tiny model of every family, beside the GGUF file of the same weights."""
import os
import subprocess
import tempfile
import unittest

import sphericald

WRITER = "tests/golden/write_family_case"
FLAGS = ("--kv-mode", "exact", "--activations", "f32", "--threads", "1")


def greedy(model):
    """(what the server says of the model, the tokens it answers with)"""
    with sphericald.Daemon(*FLAGS, model=model, pool="64MiB") as daemon:
        answer = daemon.generate(text="hello there", max_tokens=6, ignore_eos=True, sampling={"temperature": 0})
        return daemon.call("GetModelInfo"), answer.token_ids


class ModelFolderTest(unittest.TestCase):
    def test_every_family_is_served_and_answers_as_its_gguf_does(self):
        folder = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        cases = subprocess.run([WRITER, folder], check=True, capture_output=True, text=True).stdout.split()
        self.assertGreaterEqual(len(cases), 5)
        for case in cases:
            with self.subTest(case):
                info, tokens = greedy(os.path.join(folder, case) + "/")
                self.assertEqual(info.name, case)
                self.assertEqual(info.chat_template, "chatml")
                self.assertEqual(len(tokens), 6)
                of_gguf, tokens_of_gguf = greedy(os.path.join(folder, case, "model.gguf"))
                self.assertEqual(tokens, tokens_of_gguf)
                self.assertEqual(info.context_max, of_gguf.context_max)
                self.assertEqual(info.weight_bytes, of_gguf.weight_bytes)

    def test_a_folder_that_is_not_whole_ends_the_start_with_what_is_missing(self):
        folder = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        done = subprocess.run([sphericald.PROGRAM, "--model", folder, "--grpc-listen", "127.0.0.1:0", "--kv-pool-bytes", "64MiB"],
                              capture_output=True, text=True, timeout=sphericald.SECONDS_MAX, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"{folder}/config.json: cannot open: No such file or directory", done.stdout + done.stderr)
