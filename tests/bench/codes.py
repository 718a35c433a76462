"""Decoding straight from codes, side by side with llama.cpp. Called by codes.sh, which builds both sides.

Rounds and turns as in run.py. What a token costs in attention is the difference of a deep and an empty sequence, each the median of its
turns; the peer's best is the setting with the least time per token at that depth.
"""
import pathlib
import statistics
import tempfile

import machine
import outcome
from side import Arguments, Side, engine_command, load_same_tokens, seconds_per_token

SHALLOW, MANY = "depth 0", "8 sequences"
OURS, EXACT, LOWER = "uniform:T4", "exact", "uniform:T2"
PLAIN, FLASH, Q4 = "llama.cpp f16", "llama.cpp f16, flash attention", "llama.cpp q4_0"
MANY_DEPTH = 2048


def main():
    args = parse_args()
    outcome.run(args, lambda: measure_all(args), markdown)


def measure_all(args):
    result = machine.describe(args.model, args.command)
    result["threads"], result["depth"] = args.threads, args.depth
    with tempfile.TemporaryDirectory() as folder:
        result["turns"] = measure(args, pathlib.Path(folder) / "tokens.i32")
    result["bars"] = bars(result["turns"], args.depth)
    return result


def parse_args():
    parser = Arguments(__doc__, "codes.py")
    parser.add_argument("--text", help="English text of more tokens than --depth")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--depth", type=int, default=7680)
    return parser.parse()


def measure(args, tokens):
    """{row: {side: {"wall_s": [per token of each turn], "cpu_s": [...]}}}"""
    threads = str(args.threads)
    ours = {mode: Side(mode, *engine_command(args.engine, args.model, threads, mode=mode)) for mode in (OURS, LOWER, EXACT)}
    peers = {name: Side(name, args.peer, args.model, threads, kind) for name, kind in ((PLAIN, "off"), (FLASH, "on"), (Q4, "q4_0"))}
    sides = {**ours, **peers}
    try:
        load_same_tokens(sides.values(), peers[PLAIN], args.text, tokens)
        deep = f"depth {args.depth}"
        return {SHALLOW: seconds_per_token(sides.values(), (1, 0), "decode", 32, args.rounds, SHALLOW),
                deep: seconds_per_token(sides.values(), (1, args.depth), "decode", 8, args.rounds, deep),
                MANY: seconds_per_token([sides[name] for name in (OURS, PLAIN, FLASH)], (8, MANY_DEPTH), "decode", 8, args.rounds, MANY)}
    finally:
        for side in sides.values():
            side.close()


def bars(turns, depth):
    """What is asked of decoding from codes, by processor time: one thread computes, and the machine is shared."""
    median = {row: {side: statistics.median(kinds["cpu_s"]) for side, kinds in sides.items()} for row, sides in turns.items()}
    deep, shallow = median[f"depth {depth}"], median[SHALLOW]
    best = min((PLAIN, FLASH), key=lambda side: deep[side])
    attention = {side: deep[side] - shallow[side] for side in deep}
    many_best = min(median[MANY][PLAIN], median[MANY][FLASH])
    return [outcome.bar(f"T4, time per token / {best}", deep[OURS] / deep[best], at_most=0.38),
            outcome.bar(f"T4, time per token / {Q4}", deep[OURS] / deep[Q4], at_most=1 / 8),
            outcome.bar(f"T4, attention / {best}", attention[OURS] / attention[best], at_most=1 / 6),
            outcome.bar("T2 / T4, time per token", deep[LOWER] / deep[OURS], at_most=1.0),
            outcome.bar(f"{MANY}, depth {MANY_DEPTH}: tokens/s at T4 / llama.cpp's better", many_best / median[MANY][OURS], at_least=3.0)]


def markdown(result):
    lines = [f"Measured {result['date']}, commit {result['commit']}, {result['cpu']}, {result['cores']} cores, Linux {result['kernel']}, "
             f"load average {result['load_average']:.1f} at the start.",
             f"Model {result['model']} (sha256 {result['model_sha256'][:12]}...), {result['threads']} thread(s). "
             f"Command: `{result['command']}`.", "",
             "Milliseconds of processor time per token, medians:", ""]
    rows = list(result["turns"])
    lines += ["| | " + " | ".join(rows) + " | attention |", "|---" * (len(rows) + 2) + "|"]
    for side in result["turns"][SHALLOW]:
        times = [statistics.median(result["turns"][row][side]["cpu_s"]) * 1e3 if side in result["turns"][row] else None for row in rows]
        cells = ["" if t is None else f"{t:.2f}" for t in times]
        lines.append(f"| {side} | " + " | ".join(cells) + f" | {times[1] - times[0]:.2f} |")
    return "\n".join(lines + outcome.bar_lines(result["bars"])) + "\n"


if __name__ == "__main__":
    main()
