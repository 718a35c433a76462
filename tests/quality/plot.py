"""Quality over rate as an SVG, written by hand: mean KL on a logarithmic scale over rate_bits, a line per family of modes."""
import html
import math

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 72, 200, 44, 56
# Name, which modes are its points, colour. A mode that nobody claims is drawn as a point of its own name.
SERIES = [
    ("sphericald, rate-distortion", lambda mode: mode.startswith("rdr:") and mode.count(":") == 1, "#0b6e4f"),
    ("sphericald, one tier", lambda mode: mode.startswith("uniform:"), "#1f77b4"),
    ("plain sphere, one tier", lambda mode: mode.startswith("sphere:"), "#9467bd"),
    ("q8_0 / q4_0 blocks", lambda mode: mode in ("q8_0", "q4_0"), "#d62728"),
    ("the same, rotated", lambda mode: mode in ("q8_0:rotated", "q4_0:rotated"), "#ff7f0e"),
]
OTHER_COLOUR = "#555555"


def draw(rows, title):
    """The SVG of result rows. Modes without loss have no place on a logarithmic scale and are left out."""
    points = [(row["mode"], row["rate_bits"], row["mean_kl"]) for row in rows if row["mean_kl"] > 0 and not row["mode"].startswith("exact")]
    low, high = decades([kl for _, _, kl in points])
    bits_max = max([9.0] + [math.ceil(bits) for _, bits, _ in points])
    place = _Axes(bits_max, low, high)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
             f'<text x="{LEFT}" y="24" font-size="14">{html.escape(title)}</text>']
    parts += place.grid()
    for index, (name, members, colour) in enumerate(series_of(points)):
        parts += _line(place, members, colour) + _legend(index, name, colour)
    return "\n".join(parts + ["</svg>"]) + "\n"


def series_of(points):
    """[(name, points by rate, colour)] of the families that have points."""
    series = []
    for name, claims, colour in SERIES:
        series.append((name, sorted((p for p in points if claims(p[0])), key=lambda p: p[1]), colour))
    claimed = {p[0] for _, members, _ in series for p in members}
    series += [(p[0], [p], OTHER_COLOUR) for p in points if p[0] not in claimed]
    return [one for one in series if one[1]]


def decades(values):
    """The powers of ten around the values, as exponents."""
    if not values:
        return -4, 0
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


class _Axes:
    def __init__(self, bits_max, low, high):
        self.bits_max, self.low, self.high = bits_max, low, high

    def x(self, bits):
        return LEFT + (WIDTH - LEFT - RIGHT) * bits / self.bits_max

    def y(self, kl):
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - math.log10(kl)) / (self.high - self.low)

    def grid(self):
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = []
        for bits in range(int(self.bits_max) + 1):
            x = self.x(bits)
            parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#eeeeee"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{bits}</text>')
        for exponent in range(self.low, self.high + 1):
            y = self.y(10.0 ** exponent)
            parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#cccccc"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0 ** exponent:g}</text>')
        parts.append(f'<rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}" fill="none" stroke="#888888"/>')
        parts.append(f'<text x="{(LEFT + right) / 2:.1f}" y="{HEIGHT - 14}" text-anchor="middle">rate, bits per element of K and V</text>')
        middle = (TOP + bottom) / 2
        parts.append(f'<text x="18" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 18 {middle:.1f})">'
                     'mean KL divergence from exact, nats</text>')
        return parts


def _line(place, members, colour):
    at = [(place.x(bits), place.y(kl)) for _, bits, kl in members]
    parts = [f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in at)}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for (mode, bits, kl), (x, y) in zip(members, at):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">'
                     f"<title>{html.escape(mode)}: {bits:.2f} bits, {kl:.3g} nats</title></circle>")
        parts.append(f'<text x="{x + 6:.1f}" y="{y - 6:.1f}" font-size="10" fill="{colour}">{html.escape(mode.split(":")[-1])}</text>'
                     if ":" in mode and "rotated" not in mode else "")
    return [part for part in parts if part]


def _legend(index, name, colour):
    x, y = WIDTH - RIGHT + 16, TOP + 14 + 20 * index
    return [f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/>', f'<text x="{x + 10}" y="{y}">{html.escape(name)}</text>']
