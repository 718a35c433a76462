"""Side by side with llama.cpp: who is how fast, taking turns in one run. Called by run.sh, which builds both sides.

Every row is measured in rounds; in a round each side takes one turn (ours, the peer without and with flash attention, in an order
that changes from round to round). A row shows the median of each side's turns and compares ours with the peer's better setting. Wall
time counts; processor time is kept beside it, because it says nearly the same on a busy machine.
"""
import pathlib
import statistics
import sys
import tempfile

import daemon
import machine
import outcome
from side import Arguments, Side, engine_command, load_same_tokens, take_turns

# name, what is prepared (sequences, depth), turn, tokens of a turn per sequence, bar: at least this many times the peer, with 2 threads
ROWS = [
    ("prefill, 512 tokens", None, "prefill", 512, 3.0),
    ("decode, depth 0", (1, 0), "decode", 32, 1.2),
    ("decode, depth 4096", (1, 4096), "decode", 16, 1.5),
    ("decode, 8 sequences, depth 2048", (8, 2048), "decode", 8, 2.0),
]
BAR_THREADS = 2
LOAD_SECONDS_MAX = 2.0
RESIDENT_PER_FILE_MAX = 1.4
POOL_BYTES = 256 << 20


def main():
    args = parse_args()
    outcome.run(args, lambda: measure_all(args), markdown, all_pass)


def measure_all(args):
    result = machine.describe(args.model, args.command)
    with tempfile.TemporaryDirectory() as folder:
        result["load"], result["memory"] = measure_daemon(args) if args.daemon else (None, None)
        result["rows"] = [row for threads in args.threads for row in measure_rows(args, threads, pathlib.Path(folder) / "tokens.i32")]
    return result


def parse_args():
    parser = Arguments(__doc__, "run.py")
    parser.add_argument("--daemon", help="sphericald: measures loading and memory too")
    parser.add_argument("--text", help="English text of at least 4,200 tokens")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    return parser.parse()


def measure_rows(args, threads, tokens):
    ours = Side("ours", *engine_command(args.engine, args.model, threads))
    plain = Side("llama.cpp", args.peer, args.model, str(threads), "off")
    flash = Side("llama.cpp, flash attention", args.peer, args.model, str(threads), "on")
    with ours, plain, flash:
        sides = [ours, plain, flash]
        load_same_tokens(sides, plain, args.text, tokens)
        return [measure_row(sides, row, threads, args.rounds) for row in ROWS if args.rows in row[0]]


def measure_row(sides, row, threads, rounds):
    name, prepared, turn, count, bar = row
    say(f"{name}, {threads} threads")
    turns = take_turns(sides, prepared, turn, count, rounds)
    tokens = count * (prepared[0] if prepared else 1)
    return summarise({"name": name, "threads": threads, "tokens_per_turn": tokens, "turns": turns}, bar if threads == BAR_THREADS else None)


def summarise(row, bar):
    rates = {kind: {side: row["tokens_per_turn"] / statistics.median(turns[kind]) for side, turns in row["turns"].items()}
             for kind in ("wall_s", "cpu_s")}
    peers = [side for side in row["turns"] if side != "ours"]
    best = max(peers, key=lambda side: rates["wall_s"][side])
    best_cpu = max(peers, key=lambda side: rates["cpu_s"][side])
    row["tokens_per_s"] = {side: round(rate, 1) for side, rate in rates["wall_s"].items()}
    row["tokens_per_cpu_s"] = {side: round(rate, 1) for side, rate in rates["cpu_s"].items()}
    row["peer_best"] = best
    row["ratio"] = round(rates["wall_s"]["ours"] / rates["wall_s"][best], 3)
    row["ratio_cpu"] = round(rates["cpu_s"]["ours"] / rates["cpu_s"][best_cpu], 3)
    row["bar"] = bar
    row["pass"] = None if bar is None else row["ratio"] >= bar
    return row


def measure_daemon(args):
    """Loading and memory of the daemon itself, started three times; the first start warms the file and does not count for the time."""
    starts = [daemon.start_once(args.daemon, args.model, POOL_BYTES) for _ in range(3)]
    load = statistics.median(seconds for seconds, _ in starts[1:])
    resident = max(resident for _, resident in starts)
    per_file = (resident - POOL_BYTES) / pathlib.Path(args.model).stat().st_size
    return ({"seconds": round(load, 3), "bar": LOAD_SECONDS_MAX, "pass": load <= LOAD_SECONDS_MAX},
            {"resident_bytes": resident, "pool_bytes": POOL_BYTES, "per_file": round(per_file, 3), "bar": RESIDENT_PER_FILE_MAX,
             "pass": per_file <= RESIDENT_PER_FILE_MAX})


def all_pass(result):
    verdicts = [row["pass"] for row in result["rows"]] + [result[key]["pass"] for key in ("load", "memory") if result[key]]
    return all(v is not False for v in verdicts)


def markdown(result):
    lines = [f"Measured {result['date']}, commit {result['commit']}, {result['cpu']}, {result['cores']} cores, Linux {result['kernel']}, "
             f"load average {result['load_average']:.1f} at the start.",
             f"Model {result['model']} (sha256 {result['model_sha256'][:12]}...). Command: `{result['command']}`.", "",
             "| tokens/s | threads | sphericald | llama.cpp | llama.cpp, flash attention | ratio | ratio of processor time | bar |",
             "|---|---|---|---|---|---|---|---|"]
    for row in result["rows"]:
        rates = row["tokens_per_s"]
        bar = "" if row["bar"] is None else f">= {row['bar']}: {verdict(row)}"
        lines.append(f"| {row['name']} | {row['threads']} | {rates['ours']:.0f} | {rates['llama.cpp']:.0f} | "
                     f"{rates['llama.cpp, flash attention']:.0f} | **{row['ratio']:.2f}** | {row['ratio_cpu']:.2f} | {bar} |")
    lines.append("")
    if result["load"]:
        load, memory = result["load"], result["memory"]
        lines += [f"Loads in {load['seconds']:.2f} s, warm (bar {load['bar']} s: {verdict(load)}). "
                  f"Resident {memory['resident_bytes'] / 1e6:.0f} MB = {memory['per_file']:.2f} x the file + the pool of "
                  f"{memory['pool_bytes'] / 1e6:.0f} MB (bar {memory['bar']}: {verdict(memory)})."]
    return "\n".join(lines) + "\n"


def verdict(row):
    return "met" if row["pass"] else "**missed**"


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
