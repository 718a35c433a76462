"""check_readme.py on READMEs that keep their word, and on some that do not."""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "check_readme.py")
COUNT_TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "count_tests.py")
SERVER = """trap 'exit 0' INT
echo "it stays up at 127.0.0.1:34568. Ctrl-C stops it."
while :; do sleep 0.05; done
"""


def block(how, text, language="sh"):
    """A code block of a README."""
    mark = f"<!-- checked: {how} -->\n" if how else ""
    return f"Some words.\n\n{mark}```{language}\n{text}\n```\n\n"


class CheckReadmeTest(unittest.TestCase):
    """Checks small READMEs; a block is one case, and stopping the server is one more."""

    def setUp(self):
        self.scratch = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.scratch)

    def path(self, name):
        """A file of this test."""
        return os.path.join(self.scratch, name)

    def check(self, *blocks):
        """Returns (what count_tests makes of the report, output)."""
        with open(self.path("README.md"), "w", encoding="utf-8") as file:
            file.write("# Title\n\n" + "".join(blocks))
        run = subprocess.run([sys.executable, SCRIPT, self.path("report.xml"), self.path("README.md")], capture_output=True, text=True,
                             timeout=60, check=False)
        with open(self.path("events"), "w", encoding="utf-8"):
            pass
        counted = subprocess.run([sys.executable, COUNT_TESTS, self.path("events"), "--bazel-status", "0", "--report",
                                  self.path("report.xml")], capture_output=True, text=True, check=False)
        self.assertEqual(run.returncode, counted.returncode, run.stdout + run.stderr)
        return counted.stdout.strip(), run.stdout

    def test_blocks_that_run(self):
        self.assertEqual(self.check(block("runs", "true"), block("runs", "test -d tests"))[0], "3 passed, 0 failed")

    def test_a_command_that_fails(self):
        counted, output = self.check(block("runs", "echo before\nfalse\necho after"))
        self.assertEqual(counted, "1 passed, 1 failed")
        self.assertIn("before", output)
        self.assertNotIn("after", output)

    def test_a_block_nobody_checks(self):
        counted, output = self.check(block(None, "true"))
        self.assertEqual(counted, "1 passed, 1 failed")
        self.assertIn("no <!-- checked", output)

    def test_a_word_nobody_knows(self):
        self.assertEqual(self.check(block("perhaps", "true"))[0], "1 passed, 1 failed")

    def test_output_and_what_is_covered_elsewhere_are_not_run(self):
        counted, _ = self.check(block("output", "false", language=""), block("elsewhere, it runs this", "false"))
        self.assertEqual(counted, "3 passed, 0 failed")

    def test_blocks_after_the_server_go_where_it_is(self):
        counted, output = self.check(block("stays up", SERVER), block("runs", "echo calls 127.0.0.1:50051"))
        self.assertEqual(counted, "3 passed, 0 failed")
        self.assertIn("calls 127.0.0.1:34568", output)

    def test_a_server_that_ends_by_itself(self):
        self.assertEqual(self.check(block("stays up", "echo no model"))[0], "1 passed, 1 failed")

    def test_a_server_that_does_not_end_well(self):
        self.assertEqual(self.check(block("stays up", SERVER.replace("exit 0", "exit 3")))[0], "1 passed, 1 failed")
