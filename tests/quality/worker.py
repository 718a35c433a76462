"""The process that does the measuring: see quality_worker.cc for its commands."""
import contextlib
import json
import signal
import subprocess


class WorkerFailed(Exception):
    pass


class Worker:
    """Loads a model; answers commands until closed."""

    def __init__(self, program, model, threads, activations, tokens_max, device="cpu"):
        self._process = subprocess.Popen([program, model, str(threads), activations, str(tokens_max), device],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.model = self._answer()

    def ask(self, do, **command):
        """Sends one command and waits for its answer."""
        with contextlib.suppress(BrokenPipeError):  # no answer will come: that says it better
            self._process.stdin.write(json.dumps({"do": do} | command) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.terminate()  # perhaps in the middle of something that nobody waits for any more
        self._process.wait()
        self._process.stdout.close()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise WorkerFailed(f"the worker ended without an answer ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
