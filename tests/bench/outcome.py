"""What every benchmark does with its result: keeps it, shows it as a table, says whether bars were met; and what it is told about that."""
import argparse
import json
import pathlib
import sys


class ResultArguments(argparse.ArgumentParser):
    """Of a benchmark of one model; each adds its own."""

    def __init__(self, about, program):
        super().__init__(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.add_argument("--model")
        self.add_argument("--command", default=f"tests/bench/{program}", help="what the result says it was made by")
        self.add_argument("--json", help="write the result here")
        self.add_argument("--markdown", help="measure nothing: print this result as a table")
        self.add_argument("--check", action="store_true", help="exit code 1 when a bar is missed")

    def parse_with(self, *needed):
        """The arguments; an end with a message if there is something to measure and one of those is missing."""
        args = self.parse_args()
        missing = [name for name in needed if not getattr(args, name)]
        if missing and not args.markdown:
            self.error(f"{', '.join(name if name == 'texts' else f'--{name}' for name in missing)}: needed to measure")
        return args


def bar(name, value, at_most=None, at_least=None):
    """What was measured against what is wanted."""
    met = value <= at_most if at_most is not None else value >= at_least
    return {"name": name, "value": round(value, 4), "at_most": at_most, "at_least": at_least, "pass": met}


def bar_lines(bars):
    """Bars as a Markdown table."""
    lines = ["", "| bar | measured | wanted | |", "|---|---|---|---|"]
    for one in bars:
        wanted = f"<= {one['at_most']:.3g}" if one["at_most"] is not None else f">= {one['at_least']:.3g}"
        lines.append(f"| {one['name']} | {one['value']:.3g} | {wanted} | {'met' if one['pass'] else '**missed**'} |")
    return lines


def bars_met(result):
    return all(bar["pass"] for bar in result["bars"])


def run(args, measure, markdown, met=bars_met):
    """A benchmark's whole life. measure() -> result, which is told as markdown(result)."""
    if args.markdown:
        print(markdown(json.loads(pathlib.Path(args.markdown).read_text())), end="")
        return
    result = measure()
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(result), end="")
    sys.exit(0 if not args.check or met(result) else 1)
