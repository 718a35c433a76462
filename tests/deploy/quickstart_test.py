"""deploy/quickstart.sh around a pretended build and daemon: what it starts, says, and above all stops."""
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import unittest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy", "quickstart.sh")

BAZEL = """[[ "$1" != info ]] || { echo "$FAKE_ROOT/bin"; exit; }
echo "bazel $*"
"""
# Listens nowhere, but says so; ends when asked to, or at once with $DAEMON_FAILS.
DAEMON = """echo $$ >"$FAKE_ROOT/daemon.pid"
[[ -z "${DAEMON_FAILS:-}" ]] || { echo "error $DAEMON_FAILS"; exit 1; }
while [[ "$1" != --grpc-listen ]]; do shift; done
port=${2##*:}
(( port )) || port=34567
echo "2026-01-31 12:00:00.123 info listening on 127.0.0.1:$port"
[[ -z "${CALIBRATES:-}" ]] || { sleep 0.3; echo "... info calibrating: 40 %, 15 s left"; sleep 0.3; }
touch "$FAKE_ROOT/ready"
trap 'echo drained >"$FAKE_ROOT/drained"; exit 0' TERM
while :; do sleep 0.05; done
"""
CTL = """echo "ctl $*" >>"$FAKE_ROOT/ctl.log"
[[ "$*" != *health* || -e "$FAKE_ROOT/ready" ]] || exit 1
[[ "$*" != *chat* ]] || { [[ -z "${CHAT_FAILS:-}" ]] || exit 1; echo "an answer to: ${!#}"; }
"""


class QuickstartTest(unittest.TestCase):
    """Each test has a tree of its own with the real script in it."""

    def setUp(self):
        self.root = os.path.realpath(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        os.makedirs(os.path.join(self.root, "deploy"))
        shutil.copy(SCRIPT, os.path.join(self.root, "deploy/quickstart.sh"))
        self.program("deploy/install_packages.sh", "")
        self.program("deploy/fetch_model.sh", "echo /models/tiny.gguf")
        self.program("bazel", BAZEL)
        self.program("bin/server/sphericald", DAEMON)
        self.program("bin/server/ctl/sphericalctl", CTL)

    def program(self, path, body):
        """A program in the tree."""
        full = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/bash\n{body}")
        os.chmod(full, stat.S_IRWXU)

    def start(self, *arguments, **environment):
        """Starts the script from another folder."""
        return subprocess.Popen(
            ["bash", os.path.join(self.root, "deploy/quickstart.sh"), *arguments], cwd="/", text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"PATH": "/usr/bin:/bin", "BAZEL": os.path.join(self.root, "bazel"), "FAKE_ROOT": self.root, "TMPDIR": self.root,
                 **environment})

    def run_script(self, *arguments, **environment):
        """Runs the script to its end."""
        process = self.start(*arguments, **environment)
        output, _ = process.communicate(timeout=30)
        return process.returncode, output

    def assert_daemon_gone(self, drained=True):
        """The daemon was asked to stop, and did."""
        with open(os.path.join(self.root, "daemon.pid"), encoding="utf-8") as file:
            pid = int(file.read())
        with self.assertRaises(ProcessLookupError):
            os.kill(pid, 0)
        self.assertEqual(os.path.exists(os.path.join(self.root, "drained")), drained)

    def test_once(self):
        code, output = self.run_script("--once", "--listen", "127.0.0.1:23456", "--prompt", "Who are you?")
        self.assertEqual(code, 0, output)
        self.assertIn("bazel build --config=opt //server:sphericald //server/ctl:sphericalctl", output)
        self.assertIn("at 127.0.0.1:23456", output)
        self.assertIn("an answer to: Who are you?", output)
        self.assert_daemon_gone()

    def test_stays_up_until_interrupted(self):
        process = self.start("--listen", "127.0.0.1:0")
        said = ""
        for line in process.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        self.assertIsNone(process.poll())
        self.assertIn("--server 127.0.0.1:34567 stats", said)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 0, output)
        self.assert_daemon_gone()

    def test_a_first_start_says_what_it_waits_for(self):
        code, output = self.run_script("--once", CALIBRATES="1")
        self.assertEqual(code, 0, output)
        self.assertIn("\ncalibrating: 40 %, 15 s left\n", output)

    def test_a_taken_port_is_left_alone(self):
        with socket.socket() as taken:
            try:
                taken.bind(("127.0.0.1", 50051))
                taken.listen()
            except OSError:
                pass  # taken by somebody else: as good
            code, output = self.run_script("--once")
        self.assertEqual(code, 0, output)
        self.assertIn("at 127.0.0.1:34567", output)

    def test_a_daemon_that_cannot_start(self):
        code, output = self.run_script("--once", DAEMON_FAILS="the pool is larger than this machine's memory")
        self.assertEqual(code, 1)
        self.assertIn("larger than this machine's memory", output)
        self.assert_daemon_gone(drained=False)

    def test_an_answer_that_fails(self):
        code, output = self.run_script("--once", CHAT_FAILS="1")
        self.assertNotEqual(code, 0, output)
        self.assert_daemon_gone()

    def test_a_build_that_fails(self):
        self.program("bazel", "echo 'ERROR: no such target' >&2; exit 1\n")
        code, output = self.run_script("--once")
        self.assertNotEqual(code, 0)
        self.assertIn("no such target", output)
        self.assertFalse(os.path.exists(os.path.join(self.root, "daemon.pid")))

    def test_help_and_unknown_arguments(self):
        code, output = self.run_script("--help")
        self.assertEqual(code, 0)
        self.assertIn("--once", output)
        code, output = self.run_script("--twice")
        self.assertEqual(code, 2)
        self.assertIn("unknown argument --twice", output)
