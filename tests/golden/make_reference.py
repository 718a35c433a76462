"""The float32 reference: what a plain numpy forward pass of a model's dequantised weights says. Needs numpy.

    make_reference.py --model M fixtures
        writes greedy.json, distributions.json and weight_formats.json beside this file, from prompts.json: what golden_test compares with.
    make_reference.py --model GEMMA passage --tokens IDS.i32
        writes gemma.json: distributions after some of the first 640 of these tokens, from both sides of a local layer's window.
    make_reference.py --model M logits --tokens IDS.i32 --window 1024 --out LOGITS.f32
        teacher-forced logits of every token, in windows that each start an empty sequence: what correctness.py compares with.
"""
import argparse
import datetime
import hashlib
import json
import pathlib
import sys

import numpy as np

from gguf import FORMATS, Gguf
from reference_forward import ReferenceForward, log_softmax

HERE = pathlib.Path(__file__).resolve().parent
GREEDY_TOKENS = 48
TOP = 64
# Of the passage: positions whose distributions are kept, the first and some with tokens that have left a window of 512; as many outcomes.
PASSAGE_TOKENS, PASSAGE_POSITIONS, PASSAGE_TOP = 640, [*range(0, 32), *range(500, 640, 3)], 32

# Name -> (GGML's type number, where a block keeps its f16 factors).
FACTORS = {"F32": (0, []), "F16": (1, []), "BF16": (30, []), "Q4_0": (2, [0]), "Q4_1": (3, [0, 2]), "Q5_0": (6, [0]), "Q5_1": (7, [0, 2]),
           "Q8_0": (8, [0]), "Q4_K": (12, [0, 2]), "Q5_K": (13, [0, 2]), "Q6_K": (14, [208])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fixtures")
    passage = commands.add_parser("passage")
    passage.add_argument("--tokens", required=True, help="int32 token ids")
    logits = commands.add_parser("logits")
    logits.add_argument("--tokens", required=True, help="int32 token ids")
    logits.add_argument("--window", type=int, required=True, help="positions after which a new sequence starts")
    logits.add_argument("--out", required=True, help="float32 [tokens, vocabulary]")
    args = parser.parse_args()
    model = ReferenceForward(Gguf(args.model))
    if args.command == "logits":
        write_logits(model, args)
    elif args.command == "passage":
        write_passage(model, args)
    else:
        write_fixtures(model, args.model)


def write_logits(model, args):
    tokens = np.fromfile(args.tokens, np.int32)
    with open(args.out, "wb") as out:
        for start in range(0, len(tokens), args.window):
            model.logits(tokens[start:start + args.window]).tofile(out)
            print(f"reference: {min(start + args.window, len(tokens))} of {len(tokens)} positions", file=sys.stderr)


def header_of(path, command):
    return {
        "made_by": "tests/golden/make_reference.py --model " + pathlib.Path(path).name + " " + command,
        "date": datetime.date.today().isoformat(),
        "numpy": np.__version__,
        "model_sha256": hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest(),
        "arithmetic": "float32, float32 keys and values, of the dequantised weights",
    }


def write_passage(model, args):
    tokens = np.fromfile(args.tokens, np.int32)[:PASSAGE_TOKENS].tolist()
    rows = distributions(model, {"name": "passage", "token_ids": tokens}, PASSAGE_TOP)
    header = header_of(args.model, "passage --tokens IDS.i32") | {
        "tokens": tokens, "top": PASSAGE_TOP,
        "logprobs": "natural logarithms of the likeliest, best first; tail is the probability of all others"}
    write_rows(HERE / "gemma.json", header, "positions", [{"at": at} | rows[at] for at in PASSAGE_POSITIONS])


def write_fixtures(model, path):
    inputs = json.loads((HERE / "prompts.json").read_text(encoding="utf-8"))
    header = header_of(path, "fixtures")
    greedy = [{"name": p["name"], "prompt": p["token_ids"], **continuation(model, p["token_ids"])} for p in inputs["prompts"]]
    write_rows(HERE / "greedy.json",
               header | {"gaps": "the reference's best logit minus its second best, at each step"}, "continuations", greedy)
    windows = [distributions(model, w) for w in inputs["windows"]]
    write_rows(HERE / "distributions.json",
               header | {"top": TOP, "logprobs": "natural logarithms of the likeliest, best first; tail is the probability of all others"},
               "positions", [row for window in windows for row in window])
    header.pop("model_sha256")
    write_rows(HERE / "weight_formats.json", header | {"values": "little-endian float32, as hexadecimal bytes"},
               "formats", [decoded_blocks(*f) for f in FACTORS.items()])


def continuation(model, prompt):
    """Greedy, past end-of-sequence too."""
    model.begin()
    tokens, gaps = [], []
    entering = prompt
    for _ in range(GREEDY_TOKENS):
        logits = model.extend(entering)
        second, best = np.argpartition(logits, -2)[-2:]
        if logits[second] > logits[best]:
            second, best = best, second
        tokens.append(int(best))
        gaps.append(round(float(logits[best] - logits[second]), 4))
        entering = [tokens[-1]]
    return {"tokens": tokens, "gaps": gaps}


def distributions(model, window, top_count=TOP):
    """After each token of the window: the likeliest next tokens and the mass of the rest."""
    rows = []
    for token, logprobs in zip(window["token_ids"], log_softmax(model.logits(window["token_ids"]))):
        top = np.argsort(-logprobs, kind="stable")[:top_count]
        tail = 1 - np.exp(logprobs[top]).sum()
        rows.append({"window": window["name"], "token": token, "ids": top.tolist(),
                     "logprobs": [round(float(x), 4) for x in logprobs[top]], "tail": float(f"{tail:.4e}")})
    return rows


def decoded_blocks(name, factors):
    """Random blocks of a format, their f16 factors made finite, and what they mean."""
    kind, places = factors
    elements, size, decode = FORMATS[kind]
    count = max(2, 64 // elements)
    random = np.random.default_rng(kind)
    blocks = random.integers(0, 256, (count, size), np.uint8)
    if elements == 1:
        blocks = random.standard_normal((count, 1)).astype(np.float32).view(np.uint8)[:, 4 - size:]
        if name == "F16":
            blocks = random.standard_normal((count, 1)).astype(np.float16).view(np.uint8)
    for place in places:
        blocks[:, place:place + 2] = random.standard_normal((count, 1)).astype(np.float16).view(np.uint8)
    values = np.ascontiguousarray(decode(blocks), np.float32)
    return {"type": name, "elements": count * elements, "blocks": blocks.tobytes().hex(), "values": values.tobytes().hex()}


def write_rows(path, header, name, rows):
    """JSON with one row a line, so that a change shows as the rows that changed."""
    compact = {"ensure_ascii": False, "separators": (",", ":")}
    with open(path, "w", encoding="utf-8") as out:
        out.write("{\n")
        for key, value in header.items():
            out.write(f"{json.dumps(key)}: {json.dumps(value, **compact)},\n")
        out.write(f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(row, **compact) for row in rows) + "\n]\n}\n")


if __name__ == "__main__":
    main()
