"""A benchmark side as a child process that takes turns: see worker.h for the commands."""
import contextlib
import json
import subprocess


class SideFailed(Exception):
    pass


class Side:
    def __init__(self, name, *command):
        self.name = name
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.load_s = self._answer()["load_s"]

    def ask(self, *command):
        """Sends one command and waits for its answer."""
        with contextlib.suppress(BrokenPipeError):  # no answer will come: that says it better
            self._process.stdin.write(" ".join(map(str, command)) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise SideFailed(f"{self.name} ended without an answer (exit code {self._process.wait()})")
        answer = json.loads(line)
        if "error" in answer:
            raise SideFailed(f"{self.name}: {answer['error']}")
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
