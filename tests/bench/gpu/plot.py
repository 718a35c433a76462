"""Attention's speed over the length of contexts as an SVG, written by hand: tokens of context read per second, eight sequences."""
import html
import math

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 72, 170, 44, 56
BATCH = 8
SERIES = {"rdr": ("codes, rdr at 3.0 bits", "#0b6e4f"), "T2": ("codes, T2", "#9467bd"), "T4": ("codes, T4", "#1f77b4"),
          "bf16": ("bf16, best of PyTorch", "#d62728")}


def points(measured):
    """{series: [(context, tokens per second)]} of a result of run.py --over-context."""
    found = {name: [] for name in SERIES}
    for row in measured["ours"]:
        if row["pages"] in found and row["workload"].startswith(f"{BATCH}x"):
            found[row["pages"]].append(_point(row["workload"], float(row["ms"])))
    for workload, ways in measured["bf16_ms"].items():
        if workload.startswith(f"{BATCH}x") and ways:
            found["bf16"].append(_point(workload, min(ways.values())))
    return {name: sorted(of) for name, of in found.items() if of}


def draw(measured):
    """The SVG of a result."""
    series = points(measured)
    contexts = sorted({context for of in series.values() for context, _ in of})
    speeds = [speed for of in series.values() for _, speed in of]
    low, high = (math.floor(math.log10(min(speeds))), math.ceil(math.log10(max(speeds)))) if speeds else (9, 10)
    place = _Axes(contexts or [1024, 2048], low, max(high, low + 1))
    about = f"Attention of one layer, {BATCH} sequences, 8 kv heads x 4 queries, head dim 128"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
             f'<text x="{LEFT}" y="18" font-size="14">{about}</text>',
             f'<text x="{LEFT}" y="34" font-size="10">{html.escape(measured.get("about", ""))}</text>']
    parts += place.grid()
    for index, (name, of) in enumerate(series.items()):
        label, colour = SERIES[name]
        at = [(place.x(context), place.y(speed), context, speed) for context, speed in of]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in at)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"><title>{html.escape(label)}, {context:,} tokens: '
                  f"{speed:.3g} tokens/s</title></circle>" for x, y, context, speed in at]
        x, y = WIDTH - RIGHT + 14, TOP + 14 + 20 * index
        parts.append(f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/><text x="{x + 10}" y="{y}">{html.escape(label)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _point(workload, ms):
    batch, context = map(int, workload.split("x"))
    return context, batch * context / (ms * 1e-3)


class _Axes:
    def __init__(self, contexts, low, high):
        self.contexts, self.low, self.high = contexts, low, high

    def x(self, context):
        first, last = math.log2(self.contexts[0]), math.log2(self.contexts[-1])
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log2(context) - first) / max(last - first, 1)

    def y(self, speed):
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - math.log10(speed)) / (self.high - self.low)

    def grid(self):
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = []
        for context in self.contexts:
            x = self.x(context)
            parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#eeeeee"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{context // 1024}k</text>')
        for exponent in range(self.low, self.high + 1):
            for digit in (1, 2, 5) if exponent < self.high else (1,):
                y = self.y(digit * 10.0 ** exponent)
                colour = "#cccccc" if digit == 1 else "#eeeeee"
                parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="{colour}"/>')
                parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{digit * 10.0 ** exponent / 1e9:g}</text>')
        parts.append(f'<rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}" fill="none" stroke="#888888"/>')
        parts.append(f'<text x="{(LEFT + right) / 2:.1f}" y="{HEIGHT - 14}" text-anchor="middle">context of a sequence, tokens</text>')
        middle = (TOP + bottom) / 2
        parts.append(f'<text x="20" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 20 {middle:.1f})">'
                     "billion tokens of context read per second</text>")
        return parts
