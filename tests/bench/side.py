"""A benchmark side as a child process that takes turns: see worker.h for the commands."""
import contextlib
import json
import subprocess
import sys
import time

from outcome import ResultArguments

PAUSE_SECONDS = 0.05  # between turns: threads of the side before stop spinning


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


def engine_command(program, model, threads, activations="int8", mode="exact"):
    """What starts our side: the one place that knows the worker's arguments."""
    return (program, model, str(threads), activations, mode)


def load_same_tokens(sides, tokenizer, text, path):
    """The tokens of one side's tokenizer for all of them: the same work on both sides."""
    tokenizer.ask("text", text)
    tokenizer.ask("save_tokens", path)
    for side in sides:
        side.ask("load_tokens", path)


def take_turns(sides, prepared, turn, count, rounds):
    """{side: {"wall_s": [of each turn], "cpu_s": [...]}}. In a round each side takes one turn, in an order that changes."""
    for side in sides:
        if prepared:
            side.ask("prepare", *prepared)
        side.ask(turn, count)  # warms caches and pages; not counted
    turns = {side.name: {"wall_s": [], "cpu_s": []} for side in sides}
    for i in range(rounds):
        for side in sides[i % len(sides):] + sides[:i % len(sides)]:
            time.sleep(PAUSE_SECONDS)
            for kind, seconds in side.ask(turn, count).items():
                turns[side.name][kind].append(seconds)
    return turns


def seconds_per_token(sides, prepared, turn, count, rounds, name):
    """take_turns, each turn's seconds divided by the tokens of all its sequences."""
    print(f"bench: {name}", file=sys.stderr, flush=True)
    tokens = count * (prepared[0] if prepared else 1)
    turns = take_turns(list(sides), prepared, turn, count, rounds)
    return {side: {kind: [s / tokens for s in seconds] for kind, seconds in kinds.items()} for side, kinds in turns.items()}


class Arguments(ResultArguments):
    """What every comparison beside the peer is told; each adds its own."""

    def __init__(self, about, program):
        super().__init__(about, program)
        self.add_argument("--engine", help="tests/bench/engine_worker")
        self.add_argument("--peer", help="llama_worker of build_peer.sh")

    def parse(self):
        return self.parse_with("engine", "peer", "model", "text")
