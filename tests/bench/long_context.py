"""A long prompt side by side with llama.cpp: entering it, and decoding after it at the controller's rate. Called by long_context.sh.

Rounds and turns as in run.py. What a token costs in attention is the difference of a deep and an empty sequence, each the median of its
turns; the peer's best is the setting with the least time. By processor time: one thread decodes, and the machine is shared.
"""
import pathlib
import statistics
import tempfile

import machine
import outcome
from side import Arguments, Side, engine_command, load_same_tokens, seconds_per_token

PRICED, EXACT = "rdr:3.0", "exact"
PLAIN, FLASH = "llama.cpp f16", "llama.cpp f16, flash attention"
SHALLOW, DEEP, PREFILL = "decode, empty", "decode, deep", "prefill"


def main():
    args = parse_args()
    outcome.run(args, lambda: measure_all(args), markdown)


def measure_all(args):
    result = machine.describe(args.model, args.command)
    result["threads"], result["depth"] = args.threads, args.depth
    with tempfile.TemporaryDirectory() as folder:
        result["turns"] = measure(args, pathlib.Path(folder) / "tokens.i32")
    result["bars"] = bars(result["turns"])
    return result


def parse_args():
    parser = Arguments(__doc__, "long_context.py")
    parser.add_argument("--text", help="English text of more tokens than --depth")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--prefills", type=int, default=3, help="rounds of entering the whole prompt, some seconds to minutes each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--depth", type=int, default=24_000)
    return parser.parse()


def measure(args, tokens):
    """{row: {side: {"wall_s": [per token of each turn], "cpu_s": [...]}}}"""
    threads = str(args.threads)
    ours = {mode: Side(mode, *engine_command(args.engine, args.model, threads, mode=mode)) for mode in (PRICED, EXACT)}
    peers = {name: Side(name, args.peer, args.model, threads, kind) for name, kind in ((PLAIN, "off"), (FLASH, "on"))}
    sides = {**ours, **peers}
    try:
        load_same_tokens(sides.values(), peers[PLAIN], args.text, tokens)
        return {SHALLOW: seconds_per_token(sides.values(), (1, 0), "decode", 32, args.rounds, SHALLOW),
                DEEP: seconds_per_token(sides.values(), (1, args.depth), "decode", 16, args.rounds, DEEP),
                PREFILL: seconds_per_token([ours[EXACT], *peers.values()], None, "prefill", args.depth, args.prefills, PREFILL)}
    finally:
        for side in sides.values():
            side.close()


def bars(turns):
    median = {row: {side: statistics.median(kinds["cpu_s"]) for side, kinds in sides.items()} for row, sides in turns.items()}
    deep, shallow, prefill = median[DEEP], median[SHALLOW], median[PREFILL]
    best = min((PLAIN, FLASH), key=lambda side: deep[side])
    attention = {side: deep[side] - shallow[side] for side in deep}
    return [outcome.bar(f"{PRICED}, time per token / {best}", deep[PRICED] / deep[best], at_most=0.65),
            outcome.bar(f"{PRICED}, attention / {best}", attention[PRICED] / attention[best], at_most=1 / 8),
            outcome.bar("prefill, tokens per second / llama.cpp's better", min(prefill[PLAIN], prefill[FLASH]) / prefill[EXACT],
                        at_least=2.0)]


def markdown(result):
    lines = [f"Measured {result['date']}, commit {result['commit']}, {result['cpu']}, {result['cores']} cores, Linux {result['kernel']}, "
             f"load average {result['load_average']:.1f} at the start.",
             f"Model {result['model']} (sha256 {result['model_sha256'][:12]}...), {result['depth']:,} tokens deep, {result['threads']} "
             f"thread(s). Command: `{result['command']}`.", "",
             "Milliseconds of processor time per token, medians:", ""]
    rows = list(result["turns"])
    lines += ["| | " + " | ".join(rows) + " | attention |", "|---" * (len(rows) + 2) + "|"]
    for side in result["turns"][SHALLOW]:
        times = {row: statistics.median(sides[side]["cpu_s"]) * 1e3 for row, sides in result["turns"].items() if side in sides}
        cells = [f"{times[row]:.2f}" if row in times else "" for row in rows]
        lines.append(f"| {side} | " + " | ".join(cells) + f" | {times[DEEP] - times[SHALLOW]:.2f} |")
    return "\n".join(lines + outcome.bar_lines(result["bars"])) + "\n"


if __name__ == "__main__":
    main()
