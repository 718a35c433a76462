"""Results as Markdown, and in README.md."""
import pathlib
import re

README = pathlib.Path(__file__).with_name("README.md")

# The bars of SmolLM2-135M: mean KL at 6,144 tokens prefilled and 1,024 scored with f32 activations, by how the geometry was made.
BAR_MODEL = "SmolLM2-135M"
GEMMA = "gemma-3-270m"
BAR_PREFILL, BAR_SCORE = 6144, 1024
BARS = {
    "text": {"uniform:T8": 0.0001, "uniform:T4": 0.0022, "uniform:T3": 0.0055, "uniform:T2": 0.027, "uniform:T1": 0.15,
             "rdr:3.0": 0.0021, "rdr:2.5": 0.0034, "rdr:2.0": 0.0068, "rdr:1.5": 0.019},
    "self": {"uniform:T4": 0.0030, "uniform:T3": 0.0080, "uniform:T2": 0.035, "uniform:T1": 0.19,
             "rdr:3.0": 0.0034, "rdr:2.5": 0.0054, "rdr:2.0": 0.0109, "rdr:1.5": 0.0304},
}


def bar_of(result, mode):
    """The most that this mode's mean KL may be, or None where nothing was promised."""
    settings = result["settings"]
    promised = (result["model"].startswith(BAR_MODEL) and settings["activations"] == "f32" and settings.get("device", "cpu") == "cpu"
                and (settings["prefill"], settings["score"]) == (BAR_PREFILL, BAR_SCORE))
    return BARS.get(settings["geometry"], {}).get(mode) if promised else None


def missed(result):
    """Modes whose mean KL is over their bar."""
    return [row["mode"] for row in result["rows"] if (bar := bar_of(result, row["mode"])) is not None and row["mean_kl"] > bar]


def markdown(result):
    """The whole result: how it was made, quality over rate, retrieval."""
    return "\n".join(header(result) + [""] + quality(result) + retrieval(result)) + "\n"


def header(result):
    settings = result["settings"]
    texts = ", ".join(text["name"] for text in settings["texts"])
    starts = ", ".join(f"{start:,}" for start in settings["starts"])
    device = settings.get("device", "cpu")
    activations = f"{settings['activations']} activations" if device == "cpu" else f"on {device}, bf16 products"
    return [f"Measured {result['date']}, commit {result['commit']}, {result['cpu']}, {result['cores']} cores.",
            f"Model {result['model']} (sha256 {result['model_sha256'][:12]}...). {settings['prefill']:,} tokens prefilled, "
            f"{settings['score']:,} scored, windows of {texts} from tokens {starts}; {activations}; "
            f"geometry: {geometry(settings)}.",
            f"Command: `{result['command']}`."]


def geometry(settings):
    """How keys were coded, in words."""
    words = {"plain": "plain", "self": "calibrated on the model's own text", "text": "calibrated on text", "file": "from a file"}
    return words[settings["geometry"]]


def quality(result):
    lines = ["| mode | rate, bits | of pages held | mean KL, nats | worst window | change of NLL | same top-1 | bar |",
             "|---|---|---|---|---|---|---|---|"]
    for row in result["rows"]:
        bar = bar_of(result, row["mode"])
        verdict = "" if bar is None else f"<= {bar:g}: {'met' if row['mean_kl'] <= bar else '**missed**'}"
        worst = max(window["kl"] for window in row["windows"])
        lines.append(f"| `{row['mode']}` | {row['rate_bits']:.2f} | {row['rate_real_bits']:.2f} | {nats(row['mean_kl'])} | {nats(worst)} | "
                     f"{row['delta_nll']:+.4f} | {100 * row['top1']:.1f} % | {verdict} |")
    return lines


def nats(value):
    """Enough digits to compare: 0, 0.0000123, 0.00217, 0.217."""
    return "0" if value == 0 else f"{value:.{max(3, 2 - exponent(value))}f}"


def exponent(value):
    return int(f"{value:e}".split("e")[1])


def retrieval(result):
    """A row per mode, a column per depth: numbers found of those asked for, and how much likelier or less likely than in exact."""
    told = result.get("retrieval")
    if not told:
        return []
    depths = [f"{100 * depth:.0f} %" for depth in told["depths"]]
    lines = ["", f"Retrieval: {told['haystacks']} haystacks of {told['tokens']:,} tokens, {told['asked']} numbers asked for in each, seed "
             f"{told['seed']}. Found by greedy decoding, and the mean change of the right number's log-probability, by depth:", "",
             "| mode | " + " | ".join(depths) + " | all |", "|---" * (len(depths) + 2) + "|"]
    for mode in told["modes"]:
        cells = [f"{cell['found']}/{cell['asked']} ({cell['change']:+.2f})" for cell in mode["depths"] + [mode["all"]]]
        lines.append(f"| `{mode['mode']}` | " + " | ".join(cells) + " |")
    return lines


class NoPlace(Exception):
    pass


def kind_of(model, prefill, activations, geometry, modes):
    """Which of README.md's places a result belongs to."""
    if pathlib.Path(model).name.startswith(GEMMA):
        return f"gemma {prefill}"
    return f"{'rdr' if any(mode.startswith('rdr:') for mode in modes) else activations} {geometry}"


def put_into_readme(result, drawing):
    """The table between the marks of this kind of result, the plot beside README.md."""
    settings = result["settings"]
    kind = kind_of(result["model"], settings["prefill"], settings["activations"], settings["geometry"],
                   [row["mode"] for row in result["rows"]])
    README.write_text(place(README.read_text(), kind, markdown(result)))
    README.with_name(f"{kind.replace(' ', '_')}.svg").write_text(drawing)


def check_place(kind):
    """Raises NoPlace where README.md has none for that kind of result."""
    place(README.read_text(), kind, "")


def place(text, kind, table):
    """The text with the table between the marks of that kind."""
    begin, end = f"<!-- {kind} -->\n", f"<!-- end of {kind} -->\n"
    text, count = re.subn(f"(?s){begin}.*?{end}", lambda _: begin + table + end, text)
    if count != 1:
        raise NoPlace(f"{README} has no place marked {begin.strip()}")
    return text
