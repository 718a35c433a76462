#!/usr/bin/env python3
"""Runs every command of the README, in order, as a reader would; writes one JUnit entry per block.

Usage: check_readme.py REPORT.xml [README.md]

Before each code block an HTML comment, which readers do not see, says how it is checked:

    <!-- checked: runs -->         it is run, and must succeed
    <!-- checked: stays up -->     it serves until Ctrl-C: the blocks after it run against it, and at the end Ctrl-C must stop it
    <!-- checked: elsewhere, WHY -->   another test covers it
    <!-- checked: output -->       not a command: what a command prints

A block without one fails. `sh` blocks run in bash at the top of the tree, `python` blocks in the Python clients' environment.
Called by tests/run.sh, not by Bazel: the commands call Bazel themselves, and would wait for ever for the lock of the outer one.
"""
import os
import re
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BLOCK = re.compile(r"(?:<!-- checked: (?P<how>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
DEFAULT_ADDRESS = "127.0.0.1:50051"
READY_SECONDS_MAX = 1200  # the first build may be in it
RUN_SECONDS_MAX = 1200


class Failed(Exception):
    """A block that does not do what the README says; the message has its output."""


def blocks_of(readme):
    """(how, language, text, line number) of every code block."""
    return [(match["how"], match["language"], match["text"], readme[:match.start()].count("\n") + 1) for match in BLOCK.finditer(readme)]


class Server:
    """The block that stays up."""

    def __init__(self):
        self.process = None
        self.address = DEFAULT_ADDRESS
        self._said = []
        self._ready = threading.Event()

    def start(self, text):
        """Starts it and waits until it says how to stop it."""
        if self.process:
            raise Failed("only one block can stay up")
        self.process = subprocess.Popen(["bash", "-e", "-c", text], cwd=ROOT, text=True, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        threading.Thread(target=self._listen, daemon=True).start()
        self._ready.wait(READY_SECONDS_MAX)
        if self.process.poll() is not None:
            self.process = None
        if not self._ready.is_set() or not self.process:
            raise Failed("it did not come up:\n" + "".join(self._said))
        # The default port may have been taken; the README's other commands then go where the server is.
        address = re.search(r"stays up at (\S+:\d+)", "".join(self._said))
        self.address = address.group(1) if address else DEFAULT_ADDRESS

    def _listen(self):
        process = self.process
        for line in process.stdout:
            print(line, end="", flush=True)
            self._said.append(line)
            if "Ctrl-C" in line:
                self._ready.set()
        process.wait()
        self._ready.set()

    def stop(self):
        """Presses Ctrl-C: everything it started must be gone."""
        if not self.process:
            return
        if self.process.poll() is not None:
            raise Failed("it ended before Ctrl-C:\n" + "".join(self._said))
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise Failed("Ctrl-C did not stop it within a minute") from None
        if status:
            raise Failed(f"after Ctrl-C it ended with {status}")
        host, port = self.address.rsplit(":", 1)
        if subprocess.run(["bash", "-c", f"exec 3<>/dev/tcp/{host}/{port}"], stderr=subprocess.DEVNULL, check=False).returncode == 0:
            raise Failed(f"after Ctrl-C somebody still listens at {self.address}")


def run(command, text):
    """Runs one block to its end, its output passed through."""
    done = subprocess.run(command + [text], cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=RUN_SECONDS_MAX, check=False)
    print(done.stdout, end="", flush=True)
    if done.returncode:
        raise Failed(f"ended with {done.returncode}:\n{done.stdout}")


def check(how, language, text, server):
    """Checks one block."""
    if how is None:
        raise Failed("no <!-- checked: ... --> before this block")
    if how == "output" or how.startswith("elsewhere, "):
        return
    text = text.replace(DEFAULT_ADDRESS, server.address)
    if language == "python" and how == "runs":
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        run([os.path.join(cache, "spherical/venv/bin/python3"), "-c"], text)
    elif language == "sh" and how == "runs":
        run(["bash", "-e", "-c"], text)
    elif language == "sh" and how == "stays up":
        server.start(text)
    else:
        raise Failed(f"do not know how to check a block of '{language}' that '{how}'")


def main():
    report, readme = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else os.path.join(ROOT, "README.md")
    with open(readme, encoding="utf-8") as file:
        blocks = blocks_of(file.read())
    suite = ET.Element("testsuite", name="README.md")
    server = Server()
    steps = [(f"README.md:{line}", lambda b=(how, language, text): check(*b, server)) for how, language, text, line in blocks]
    failed = 0
    for name, step in steps + [("README.md: Ctrl-C", server.stop)]:
        began = time.monotonic()
        case = ET.SubElement(suite, "testcase", name=name)
        try:
            step()
            verdict = "PASSED"
        except (Failed, subprocess.TimeoutExpired) as error:
            ET.SubElement(case, "failure", message=re.sub(r"[^\x0a\x20-\x7e]", "?", str(error)))
            verdict = f"FAILED: {error}"
            failed += 1
        case.set("time", f"{time.monotonic() - began:.1f}")
        print(f"{name:50} {verdict} in {time.monotonic() - began:.1f}s", flush=True)
    ET.ElementTree(suite).write(report, encoding="utf-8")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    # Whoever starts us in the background has Ctrl-C ignored, which children inherit and bash cannot undo; a handler ends that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
