"""How near to the float32 reference are we, and how near is llama.cpp? Called by correctness.sh, which builds both sides. Needs numpy.

Teacher-forced next-token distributions of an English text, against those of a float32 forward pass of the same dequantised weights
(tests/golden/make_reference.py): mean KL divergence from the reference in nats, and how often both have the same likeliest token.
"""
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

import machine
import outcome
from side import Arguments, Side, engine_command

HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = HERE.parent / "golden"
sys.path.insert(0, str(GOLDEN))
from reference_forward import log_softmax  # noqa: E402

F32_KL_MAX = 1e-5
INT8_KL_MAX = 0.005
INT8_TOP1_MIN = 0.965
INT8_KL_PER_PEER_MAX = 1.1
ROWS_AT_ONCE = 64


def main():
    args = parse_args()
    outcome.run(args, lambda: measure_all(args), markdown)


def measure_all(args):
    result = machine.describe(args.model, args.command) | {"positions": args.positions, "window": args.window}
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        folder = pathlib.Path(folder)
        tokens = folder / "tokens.i32"
        reference = folder / "reference.f32"
        make_tokens(args, tokens)
        subprocess.run([sys.executable, GOLDEN / "make_reference.py", "--model", args.model, "logits", "--tokens", tokens,
                        "--window", str(args.window), "--out", reference], check=True)
        result["sides"] = {}
        for name, command in sides(args).items():
            print(f"correctness: {name}", file=sys.stderr, flush=True)
            logits = folder / "side.f32"
            with Side(name, *command) as side:
                side.ask("load_tokens", tokens)
                side.ask("logits", args.positions, args.window, logits)
            result["sides"][name] = compare(reference, logits, args.positions)
    result["bars"] = bars(result["sides"])
    return result


def parse_args():
    parser = Arguments(__doc__, "correctness.py")
    parser.add_argument("--text", help="English text")
    parser.add_argument("--positions", type=int, default=2048)
    parser.add_argument("--window", type=int, default=1024, help="positions of one sequence")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", help="folder for about 1 GB of logits")
    return parser.parse()


def sides(args):
    threads = str(args.threads)
    return {
        "ours, f32 activations": engine_command(args.engine, args.model, threads, "f32"),
        "ours, int8 activations": engine_command(args.engine, args.model, threads),
        "llama.cpp": (args.peer, args.model, threads, "off"),
        "llama.cpp, flash attention": (args.peer, args.model, threads, "on"),
    }


def make_tokens(args, path):
    """The text's first tokens, by our tokenizer; the peer's must say the same of the whole text."""
    everything = []
    for command in (sides(args)["ours, int8 activations"], sides(args)["llama.cpp"]):
        with Side("tokenizer", *command) as side:
            side.ask("text", args.text)
            side.ask("save_tokens", path)
        everything.append(np.fromfile(path, np.int32))
    ours, peers = everything
    if not np.array_equal(ours, peers):
        same = min(len(ours), len(peers))
        differ = np.flatnonzero(ours[:same] != peers[:same])
        sys.exit(f"the tokenizers differ at token {differ[0] if len(differ) else same}: ours {len(ours)} tokens, llama.cpp {len(peers)}")
    if len(ours) < args.positions:
        sys.exit(f"{args.text} has {len(ours)} tokens; --positions asks for {args.positions}")
    ours[:args.positions].tofile(path)


def compare(reference, logits, positions):
    """Of the distributions after every position: KL divergence (reference from side), and agreement on the likeliest."""
    p_file = np.memmap(reference, np.float32, "r").reshape(positions, -1)
    q_file = np.memmap(logits, np.float32, "r").reshape(positions, -1)
    kl, same = [], []
    for at in range(0, positions, ROWS_AT_ONCE):
        p, q = p_file[at:at + ROWS_AT_ONCE], q_file[at:at + ROWS_AT_ONCE]
        log_p, log_q = log_softmax(p), log_softmax(q)
        kl.extend((np.exp(log_p) * (log_p - log_q)).sum(axis=1))
        same.extend(p.argmax(axis=1) == q.argmax(axis=1))
    return {"kl_mean": float(np.mean(kl)), "kl_99_percent": float(np.quantile(kl, 0.99)), "kl_max": float(np.max(kl)),
            "top1": float(np.mean(same))}


def bars(sides_result):
    f32, int8 = sides_result["ours, f32 activations"], sides_result["ours, int8 activations"]
    peer = min(sides_result["llama.cpp"]["kl_mean"], sides_result["llama.cpp, flash attention"]["kl_mean"])
    wanted = [
        ("f32 activations: mean KL", f32["kl_mean"], "<=", F32_KL_MAX),
        ("int8 activations: mean KL", int8["kl_mean"], "<=", INT8_KL_MAX),
        ("int8 activations: same top-1", int8["top1"], ">=", INT8_TOP1_MIN),
        ("int8 activations: mean KL / llama.cpp's better", int8["kl_mean"] / peer, "<=", INT8_KL_PER_PEER_MAX),
    ]
    return [{"name": name, "value": value, "sense": sense, "bar": bar, "pass": value <= bar if sense == "<=" else value >= bar}
            for name, value, sense, bar in wanted]


def markdown(result):
    lines = [f"Measured {result['date']}, commit {result['commit']}, {result['cpu']}. Model {result['model']} "
             f"(sha256 {result['model_sha256'][:12]}...). {result['positions']} positions in windows of {result['window']}. "
             f"Command: `{result['command']}`.", "",
             "| against the float32 reference | mean KL, nats | 99 % | max | same top-1 |", "|---|---|---|---|---|"]
    for name, row in result["sides"].items():
        lines.append(f"| {name} | {row['kl_mean']:.2e} | {row['kl_99_percent']:.2e} | {row['kl_max']:.2e} | {100 * row['top1']:.2f} % |")
    lines += ["", "| bar | measured | wanted | |", "|---|---|---|---|"]
    for bar in result["bars"]:
        lines.append(f"| {bar['name']} | {bar['value']:.3g} | {bar['sense']} {bar['bar']:g} | {'met' if bar['pass'] else '**missed**'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
