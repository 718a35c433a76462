"""How many long sequences decode at once in a pool that would hold a few of them in f16. Called by capacity.sh.

All prompts come at once; each sequence decodes until every one of them was running and has so many tokens since. Then all are cancelled:
none may end by itself before, so each asks for --max-tokens, more than it decodes until the last one joins.
"""
import itertools
import json
import os
import pathlib
import sys
import tempfile
import threading
import time

import grpc

import machine
import outcome
from client_process import Server
from sphericald import Daemon  # client_process.py has shown where it lies

TENANT = "default"
F16_BITS = 16
POLL_SECONDS = 0.5
TOKENIZE_CHARACTERS = 100_000  # a call: far below what a message may have


def main():
    args = parse_args()
    outcome.run(args, lambda: measure_all(args), markdown)


def measure_all(args):
    result = machine.describe(args.model, args.command) | run(args)
    result["bars"] = bars(result)
    return result


def parse_args():
    parser = outcome.ResultArguments(__doc__, "capacity.py")
    parser.add_argument("texts", nargs="*", help="text files")
    parser.add_argument("--daemon", help="server/sphericald")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--fit", type=int, default=8, help="sequences of prompts that the pool holds in f16")
    parser.add_argument("--prompt-tokens", type=int, default=6144)
    parser.add_argument("--tokens", type=int, default=256, help="that each decodes while all run")
    parser.add_argument("--max-tokens", type=int, default=1024,
                        help="that each asks for, and so has reserved, to decode until the last one joins; 0: what the context leaves")
    parser.add_argument("--floor", type=float, default=2.0)
    parser.add_argument("--target-step-ms", type=int, default=2000, help="long steps: the prompts are most of the work")
    parser.add_argument("--workspace", default="1GiB", help="--kv-prefill-workspace-bytes: prompts enter while others are sealed")
    parser.add_argument("--geometry", default="auto", help="of the daemon: --kv-geometry")
    parser.add_argument("--minutes", type=float, default=40, help="give up after so many")
    return parser.parse_with("daemon", "model", "texts")


class Sequence:
    """One request, in a thread: counts its tokens as they come."""

    def __init__(self, server, prompt, max_tokens, seconds_max):
        self.count, self.error, self.finished, self.first_at = 0, None, False, None
        self._call = server.start(seconds_max, token_ids={"ids": prompt}, max_tokens=max_tokens, ignore_eos=True, sampling={"seed": 1})
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        try:
            for response in self._call:
                if response.WhichOneof("event") == "chunk":
                    self.first_at = self.first_at or time.monotonic()
                    self.count += len(response.chunk.token_ids)
                elif response.WhichOneof("event") == "finished":
                    self.finished = True
        except grpc.RpcError as error:
            self.error = f"{error.code().name}: {error.details()}"

    def cancel(self):
        self._call.cancel()
        self.thread.join()


def run(args):
    with tempfile.TemporaryDirectory() as folder:
        quotas = pathlib.Path(folder) / "quotas.json"
        quotas.write_text(json.dumps({"version": 1, "tenants": {TENANT: {"rate_floor_bits": args.floor}}}))
        with Daemon("--kv-mode", "exact", program=args.daemon, model=args.model, pool="1MiB") as daemon:
            info = daemon.call("GetModelInfo")
            prompts = pieces(daemon, args)
        elements = 2 * info.layers * info.kv_heads * info.head_dim
        pool = args.fit * args.prompt_tokens * elements * F16_BITS // 8
        max_tokens = args.max_tokens or info.context_max - args.prompt_tokens
        flags = ["--kv-mode", "rdr", "--kv-geometry", args.geometry, "--quotas", str(quotas), "--limits-running", "256",
                 "--target-step-ms", str(args.target_step_ms), "--kv-prefill-workspace-bytes", args.workspace]
        with Daemon(*flags, pool=str(pool), program=args.daemon, model=args.model) as daemon:
            result = decode_together(args, daemon, prompts, max_tokens)
    return {"prompts": args.prompts, "prompt_tokens": args.prompt_tokens, "tokens": args.tokens, "max_tokens": max_tokens, "fit": args.fit,
            "floor_bits": args.floor, "pool_bytes": pool, "target_step_ms": args.target_step_ms} | result


def pieces(server, args):
    """Prompts: pieces of the texts, in turn, no token twice."""
    of_text = []
    for path in args.texts:
        text, ids = pathlib.Path(path).read_text(errors="replace"), []
        for at in range(0, len(text), TOKENIZE_CHARACTERS):
            part = text[at:at + TOKENIZE_CHARACTERS]
            ids += server.call("Tokenize", server.message("TokenizeRequest")(text=part)).token_ids
        size = args.prompt_tokens
        of_text.append([ids[at:at + size] for at in range(0, len(ids) - size + 1, size)])
    prompts = [piece for turn in itertools.zip_longest(*of_text) for piece in turn if piece is not None]
    if len(prompts) < args.prompts:
        raise SystemExit(f"the texts have {len(prompts)} pieces of {args.prompt_tokens} tokens; {args.prompts} are needed")
    return prompts[:args.prompts]


def decode_together(args, daemon, prompts, max_tokens):
    start = time.monotonic()
    sequences = [Sequence(Server(daemon.address), prompt, max_tokens, args.minutes * 60) for prompt in prompts]
    over_time, together_at, counts, reached_at = [], None, None, None
    while time.monotonic() - start < args.minutes * 60 and reached_at is None and daemon.process.poll() is None:
        time.sleep(POLL_SECONDS)
        stats = daemon.stats()
        [tenant] = [t for t in stats.tenants if t.name == TENANT]
        now = time.monotonic() - start
        decoding = sum(s.count > 0 for s in sequences)
        over_time.append({"at": now, "running": stats.running, "decoding": decoding, "waiting": stats.waiting,
                          "held": stats.pool_held_bytes, "reserved": stats.pool_reserved_bytes, "workspace": stats.workspace_held_bytes,
                          "rate_bits": tenant.rate_bits,
                          "budget": tenant.budget_bytes, "demoted": stats.demoted_tokens, "dropped": tenant.tier_tokens.dropped,
                          "steps": stats.steps, "prompt_tokens": stats.prompt_tokens, "generated": stats.generated_tokens})
        if len(over_time) % 40 == 0:
            print(f"bench: {now:.0f} s, {stats.running} running, {decoding} decoding, {stats.waiting} waiting, "
                  f"{stats.pool_held_bytes / 1e6:.0f} MB held, {tenant.rate_bits:.2f} bits", file=sys.stderr, flush=True)
        if any(s.error or s.finished for s in sequences):
            break
        if together_at is None and decoding == len(sequences):
            together_at, counts = now, [s.count for s in sequences]
        if together_at is not None and all(s.count - before >= args.tokens for s, before in zip(sequences, counts)):
            reached_at = now
    # One that was never admitted, or is still a prompt, has no tokens.
    since = [s.count - before for s, before in zip(sequences, counts)] if counts else [0] * len(sequences)
    early = [s.error or "finished" for s in sequences if s.error or s.finished]
    stats = daemon.stats()
    for s in sequences:
        s.cancel()
    return {"wall_s": time.monotonic() - start, "together_at_s": together_at, "reached_at_s": reached_at, "tokens_together": since,
            "tokens_each": [s.count for s in sequences], "first_token_s": [s.first_at and s.first_at - start for s in sequences],
            "ended_early": early, "refused": stats.refused, "failed": stats.failed, "held_peak": stats.pool_held_peak_bytes,
            "workspace_bytes": stats.workspace_bytes, "over_time": over_time, "load_average_after": os.getloadavg()[0]}


def bars(result):
    last = result["over_time"][-1]
    least = min(result["tokens_together"])

    def bar(name, value, limit, good):
        return {"name": name, "value": value, "wanted": limit, "pass": good}

    return [bar("sequences in the same steps", last["decoding"], f">= {result['prompts']}", last["decoding"] >= result["prompts"]),
            bar("tokens that each decoded while all did", least, f">= {result['tokens']}", least >= result["tokens"]),
            bar("ended early, refused, failed", len(result["ended_early"]) + result["refused"] + result["failed"], "<= 0",
                not result["ended_early"] and not result["refused"] and not result["failed"]),
            bar("pool held at most, MB", round(result["held_peak"] / 1e6, 1), f"<= {result['pool_bytes'] / 1e6:.1f}",
                result["held_peak"] <= result["pool_bytes"]),
            bar("bits at the end", round(last["rate_bits"], 2), f">= {result['floor_bits']}", last["rate_bits"] >= result["floor_bits"])]


def markdown(result):
    lines = [f"Measured {result['date']}, commit {result['commit']}, {result['cpu']}, {result['cores']} cores, Linux {result['kernel']}, "
             f"load average {result['load_average']:.1f} at the start.",
             f"Model {result['model']} (sha256 {result['model_sha256'][:12]}...). Command: `{result['command']}`.", "",
             f"{result['prompts']} prompts of {result['prompt_tokens']} tokens, {result['max_tokens']} asked for; a pool of "
             f"{result['pool_bytes'] / 1e6:.0f} MB, which holds {result['fit']} of them in f16; floor {result['floor_bits']} bits. "
             f"All decoded together after {result['together_at_s'] or float('nan'):.0f} s; {result['wall_s']:.0f} s in all.", "",
             "| seconds | running | decoding | pool held | bits |", "|---|---|---|---|---|"]
    rows = result["over_time"]
    for row in rows[::max(1, len(rows) // 10)] + rows[-1:]:
        lines.append(f"| {row['at']:.0f} | {row['running']} | {row['decoding']} | {row['held'] / 1e6:.0f} MB | {row['rate_bits']:.2f} |")
    lines += ["", "| bar | measured | wanted | |", "|---|---|---|---|"]
    lines += [f"| {b['name']} | {b['value']} | {b['wanted']} | {'met' if b['pass'] else '**missed**'} |" for b in result["bars"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
