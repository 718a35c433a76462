"""What ways of keeping keys and values cost in quality, against the rate they take. Called by run.sh, which builds the worker.

A window is a stretch of a text: its first --prefill tokens enter exactly; every mode keeps a copy of them in its own way, frozen; then the
next --score tokens are entered after it, and the distributions of the tokens after each are compared with those that exact keys and
values give.
"""
import argparse
import hashlib
import json
import os
import pathlib
import statistics
import sys
import time

HERE = pathlib.Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parent / "bench"))
import machine  # noqa: E402

import plot  # noqa: E402
import retrieval  # noqa: E402
import table  # noqa: E402
from worker import Worker, WorkerFailed  # noqa: E402

MODES = ("exact,exact:nudged,uniform:T8,uniform:T4,uniform:T3,uniform:T2,uniform:T1,sphere:T8,sphere:T4,sphere:T3,sphere:T2,sphere:T1,"
         "q8_0,q4_0,q8_0:rotated,q4_0:rotated")
GEOMETRIES = ("auto", "plain")
WITHOUT_GEOMETRY = ("exact", "sphere:", "q8_0", "q4_0")
MEANS = {"rate_bits": "rate_bits", "rate_real_bits": "rate_real_bits", "mean_kl": "kl", "delta_nll": "delta_nll", "top1": "top1"}
PREFILL_STEP = 512         # tokens between two words of progress
QUESTION_TOKENS_MAX = 128  # room for a question and its answer after a haystack
NEEDLES, DEPTHS = 12, 6
SEED = 1
# What a step costs, in units of a prefilled token: for the time that is left.
COST_SCORED, COST_QUESTION = 1.6, 60
COST_SELF = 8000  # calibration on the model's own text


class Wrong(Exception):
    """What was asked for cannot be measured."""


def main():
    args = parse_args(sys.argv[1:])
    try:
        result = stored(args.from_result) if args.from_result else measure(args)
        publish(args, result)
    except (Wrong, WorkerFailed, OSError, table.NoPlace) as error:
        sys.exit(f"quality: {error}")
    except KeyboardInterrupt:
        print("\nquality: stopped; nothing was written", file=sys.stderr)
        sys.exit(130)
    over = table.missed(result)
    if args.check and over:
        sys.exit(f"quality: over the bar: {', '.join(over)}")


def stored(path):
    """An earlier result."""
    try:
        result = json.loads(pathlib.Path(path).read_text())
        if {"rows", "settings", "model"} <= result.keys():
            return result
    except (ValueError, AttributeError):
        pass
    raise Wrong(f"{path} is no result of --json")


def parse_args(argv):
    parser = argparse.ArgumentParser(prog="tests/quality/run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--command", default="tests/quality/run.py", help=argparse.SUPPRESS)
    parser.add_argument("--model", metavar="FILE", help="a GGUF file; the one that deploy/fetch_model.sh fetches if left out")
    parser.add_argument("--text", metavar="FILE", nargs="+", default=[], help="UTF-8 texts to measure on")
    parser.add_argument("--start", type=numbers(0), default=[10000, 40000], metavar="N,N...",
                        help="tokens of each text where windows start")
    parser.add_argument("--prefill", type=number(1), default=6144, metavar="N", help="tokens that the modes keep")
    parser.add_argument("--score", type=number(2), default=1024, metavar="N", help="tokens entered after them")
    parser.add_argument("--modes", type=names, default=names(MODES), metavar="MODE,MODE...",
                        help=f"the default: {MODES.replace(',', ', ')}")
    parser.add_argument("--geometry", default="auto", metavar="auto|plain|FILE",
                        help="how keys of uniform modes are coded; auto: calibrated, on --calibrate-text or on the model's own text")
    parser.add_argument("--calibrate-text", metavar="FILE", nargs="+", default=[],
                        help="texts for --geometry auto: the first --prefill tokens of each")
    parser.add_argument("--activations", choices=("f32", "int8"), default="f32",
                        help="int8 is what serving does; its noise drowns small differences")
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda:N",
                        help="what runs the model once the geometry is found; on CUDA exact and uniform:T, no haystacks")
    parser.add_argument("--haystacks", type=number(0), default=2, metavar="N", help="texts for retrieval; 0: none")
    parser.add_argument("--threads", type=number(1), default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--from", dest="from_result", metavar="RESULT", help="measure nothing: take this result for what follows")
    parser.add_argument("--json", metavar="OUT", help="write the result here")
    parser.add_argument("--svg", metavar="OUT", help="draw mean KL over rate here")
    parser.add_argument("--keep", action="store_true", help="write MODEL.quality.json, which sphericalctl model show prints")
    parser.add_argument("--readme", action="store_true", help="put table and plot into tests/quality/README.md")
    parser.add_argument("--check", action="store_true", help="exit code 1 when a mode is over its bar")
    parser.add_argument("--invoked-in", default=".", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    take_paths_from(args)
    if not args.from_result:
        check_inputs(parser, args)
    check_outputs(parser, args)
    if args.keep and not args.model:
        parser.error("--keep: whose curve it is, --model says")
    return args


def take_paths_from(args):
    """Paths are meant from where the caller stands, not from where run.sh went."""
    def here(path):
        return path and os.path.join(args.invoked_in, path)
    for name in ("model", "from_result", "json", "svg"):
        setattr(args, name, here(getattr(args, name)))
    args.text, args.calibrate_text = [here(path) for path in args.text], [here(path) for path in args.calibrate_text]
    if args.geometry not in GEOMETRIES:
        args.geometry = here(args.geometry)


def check_inputs(parser, args):
    """What can be said before a model is loaded."""
    if not args.text:
        parser.error("--text: at least one text is needed")
    if not args.model:
        parser.error("--model is needed")
    geometry = [] if args.geometry in GEOMETRIES else [args.geometry]
    for path in [args.model] + args.text + args.calibrate_text + geometry:
        if not pathlib.Path(path).is_file():
            parser.error(f"{path}: there is no such file")
    if args.device != "cpu" and args.haystacks:
        parser.error("--haystacks: none on a device (--haystacks 0)")
    if args.calibrate_text and args.geometry != "auto":
        parser.error(f"--calibrate-text makes a geometry, and --geometry {args.geometry} names another one: leave one of them out")
    stems = [pathlib.Path(text).stem for text in args.text]
    if len(set(stems)) < len(stems):
        parser.error("--text: two texts have the same name")


def check_outputs(parser, args):
    """A measurement takes long: what cannot be written should be known before."""
    for path in filter(None, (args.json, args.svg)):
        place = path if os.path.exists(path) else os.path.dirname(path) or "."
        if os.path.isdir(path) or not os.access(place, os.W_OK):
            parser.error(f"{path}: cannot be written")


def number(least):
    """A whole number of at least that, for argparse."""
    def parse(text):
        try:
            value = int(text.replace(",", "").replace("_", ""))
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too small: at least {least}")
        return value
    return parse


def numbers(least):
    """Several of them."""
    def parse(text):
        values = [number(least)(part) for part in text.split(",") if part]
        if not values:
            raise argparse.ArgumentTypeError("no number in it")
        return values
    return parse


def names(text):
    """Modes, in order, each once."""
    values = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not values:
        raise argparse.ArgumentTypeError("no mode in it")
    return values


def measure(args):
    geometry = geometry_command(args)
    if args.readme:
        table.check_place(table.kind_of(args.model, args.prefill, args.activations, geometry["source"], args.modes))
    result = machine.describe(args.model, args.command)
    tokens_max = args.prefill + args.score + QUESTION_TOKENS_MAX
    with Worker(args.worker, args.model, args.threads, args.activations, tokens_max, args.device) as worker:
        worker.ask("check", modes=args.modes)
        if args.prefill + args.score > worker.model["context_max"]:
            raise Wrong(f"--prefill {args.prefill} and --score {args.score} are more than the {worker.model['context_max']} positions of "
                        "this model")
        texts = [describe_text(worker, path, args) for path in args.text]
        haystacks = args.haystacks if haystack_fits(worker, args) else 0
        result["settings"] = {"prefill": args.prefill, "score": args.score, "starts": args.start, "texts": texts, "modes": args.modes,
                              "activations": args.activations, "threads": args.threads, "device": args.device,
                              "geometry": geometry["source"],
                              "calibrate_texts": [pathlib.Path(path).name for path in args.calibrate_text]}
        calibration = {"self": COST_SELF, "text": len(args.calibrate_text) * args.prefill}.get(geometry["source"], 0)
        progress = Progress(calibration + total_cost(args, haystacks))
        with progress.step("geometry", calibration):
            worker.ask("geometry", **geometry)
        windows = [measure_window(worker, path, start, args, progress) for path in args.text for start in args.start]
        result["rows"] = rows_of(args.modes, windows)
        result["retrieval"] = measure_retrieval(worker, args, haystacks, progress) if haystacks else None
    return result


def describe_text(worker, path, args):
    """Its name, and that it is long enough."""
    tokens = worker.ask("tokenize", file=path)["tokens"]
    needed = max(args.start) + args.prefill + args.score
    if tokens < needed:
        raise Wrong(f"{path} has {tokens} tokens; a window from {max(args.start)} needs {needed} (--start + --prefill + --score)")
    return {"name": pathlib.Path(path).stem, "tokens": tokens, "sha256": hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()}


def haystack_fits(worker, args):
    """Whether the numbers to hide, without a word of filler, are at most as long as what the modes keep."""
    needed = max((worker.ask("tokenize", text=retrieval.Haystack(SEED + i, NEEDLES).text(0))["tokens"] for i in range(args.haystacks)),
                 default=0)
    if needed > args.prefill:
        print(f"quality: no retrieval: its numbers alone are {needed} tokens, --prefill is {args.prefill}", file=sys.stderr)
    return needed <= args.prefill


def geometry_command(args):
    """How keys of uniform modes are coded, as the worker takes it. Where no mode asks for it, none is made."""
    if args.geometry == "plain" or all(mode.startswith(WITHOUT_GEOMETRY) for mode in args.modes):
        return {"source": "plain"}
    if args.geometry != "auto":
        return {"source": "file", "file": args.geometry}
    if args.calibrate_text:
        return {"source": "text", "texts": args.calibrate_text, "tokens": args.prefill}
    return {"source": "self"}


def total_cost(args, haystacks):
    """Of windows and haystacks."""
    modes = len(args.modes)
    window = args.prefill + COST_SCORED * args.score * (1 + modes)
    haystack = args.prefill + COST_QUESTION * NEEDLES * (modes if "exact" in args.modes else modes + 1)
    return len(args.text) * len(args.start) * window + haystacks * haystack


def prefill(worker, first, tokens, what, progress):
    worker.ask("begin", tokens=tokens)
    for at in range(0, tokens, PREFILL_STEP):
        step = min(PREFILL_STEP, tokens - at)
        with progress.step(f"{what}: prefill", step):
            worker.ask("prefill", first=first + at, tokens=step)


def measure_window(worker, path, start, args, progress):
    """{mode: what it cost}"""
    text = pathlib.Path(path).stem
    what = f"{text} from token {start}"
    worker.ask("tokenize", file=path)
    prefill(worker, start, args.prefill, what, progress)
    cost = COST_SCORED * args.score
    with progress.step(f"{what}: exact", cost):
        worker.ask("exact", first=start + args.prefill, tokens=args.score)
    window = {}
    for mode in args.modes:
        with progress.step(f"{what}: {mode}", cost):
            told = worker.ask("mode", name=mode)
        window[mode] = {"text": text, "start": start, "kl": told.pop("mean_kl")} | told
    return window


def rows_of(modes, windows):
    """A row per mode: means over the windows, each of which counts the same."""
    rows = []
    for mode in modes:
        of_mode = [window[mode] for window in windows]
        mean = {name: statistics.fmean(window[key] for window in of_mode) for name, key in MEANS.items()}
        rows.append({"mode": mode} | mean | {"windows": of_mode})
    return rows


def measure_retrieval(worker, args, haystacks, progress):
    """What of a haystack each mode finds, beside exact."""
    modes = args.modes if "exact" in args.modes else ["exact"] + args.modes
    answers = {mode: [] for mode in modes}
    for number_of in range(haystacks):
        haystack = retrieval.Haystack(SEED + number_of, NEEDLES)
        sentences = retrieval.sentences_for(args.prefill, lambda n, h=haystack: worker.ask("tokenize", text=h.text(n))["tokens"])
        tokens = worker.ask("tokenize", text=haystack.text(sentences))["tokens"]
        what = f"haystack {number_of + 1}"
        prefill(worker, 0, tokens, what, progress)
        for mode in modes:
            with progress.step(f"{what}: {mode}", COST_QUESTION * NEEDLES):
                answers[mode].append(worker.ask("ask", name=mode, questions=haystack.questions())["answers"])
    return {"haystacks": haystacks, "tokens": args.prefill, "asked": NEEDLES, "seed": SEED} | retrieval.summarise(answers, DEPTHS)


class Progress:
    """Says on standard error what is done and how long the rest takes."""

    def __init__(self, total, out=None, clock=time.monotonic):
        self._total, self._done, self._out, self._clock = total, 0, out or sys.stderr, clock
        self._begin = clock()
        self._label, self._cost = "", 0

    def step(self, label, cost):
        """To be used in a with statement around the work."""
        self._label, self._cost = label, cost
        self._say()
        return self

    def left(self):
        """Seconds, or None while nothing is known."""
        return (self._clock() - self._begin) * (self._total - self._done) / self._done if self._done else None

    def _say(self):
        left = self.left()
        time_left = "" if left is None else f", {int(left) // 60}:{int(left) % 60:02d} left"
        terminal = self._out.isatty()
        line = f"quality: {100 * self._done / self._total:3.0f} %{time_left}, {self._label}"
        print(f"\r\033[K{line}" if terminal else line, end="" if terminal else "\n", file=self._out, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self._done += self._cost
        if self._out.isatty() and (kind or self._done >= self._total):
            print(file=self._out)


def keep(model, result):
    """The measured curve beside the model: what its card shows."""
    curve = {name: result[name] for name in ("date", "commit", "model_sha256", "command")}
    curve |= {name: result["settings"][name] for name in ("prefill", "score", "activations", "geometry")}
    curve["rows"] = [{name: row[name] for name in ("mode", "rate_bits", "rate_real_bits", "mean_kl", "top1")} for row in result["rows"]]
    if hashlib.sha256(pathlib.Path(model).read_bytes()).hexdigest() != curve["model_sha256"]:
        raise Wrong(f"{model} is not the model that was measured (sha256 {curve['model_sha256'][:12]}...)")
    pathlib.Path(f"{model}.quality.json").write_text(json.dumps(curve, indent=1) + "\n", encoding="utf-8")


def publish(args, result):
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
    drawing = plot.draw(result["rows"], f"{result['model']}: KL over rate, {result['settings']['activations']} activations")
    if args.svg:
        pathlib.Path(args.svg).write_text(drawing)
    if args.keep:
        keep(args.model, result)
    if args.readme:
        table.put_into_readme(result, drawing)
    print(table.markdown(result), end="")


if __name__ == "__main__":
    main()
