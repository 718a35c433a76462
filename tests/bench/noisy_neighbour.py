"""A quiet tenant beside a flood, from outside: a daemon, two clients, each a process of its own. Called by noisy_neighbour.sh.

latency: the quiet tenant alone, beside the flood, and beside it without tenants (both are `default`), in turn, several times. Percentiles
are of all rounds together. control: the flood's limit is halved while it runs, once by SetQuota and once by writing the quota file.
The daemon's threads and the clients share the machine's cores and nothing is pinned; the flood's client and the one that watches are
niced, because they stand for other machines. The quiet client is not: its stamps are what is measured.
"""
import contextlib
import json
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time

import machine
import outcome
from client_process import Server
from side import Side
from sphericald import Daemon  # client_process.py has shown where it lies

STEP_MS = 40
WATCH_SECONDS = 0.1
NICE = 10
ALONE, BESIDE, UNFAIR = "alone", "beside the flood", "beside it, one tenant for both"
RISE_SECONDS_MAX = 180  # for a flood to fill what it may

# Sizes. The pool of `latency` holds two thirds of what the flood asks for at once: it waits, and what runs is pressed.
LATENCY = {"pool": 96 << 20, "flood": {"requests": 16, "prompt": 1024, "answer": 256}, "quiet": {"prompt": 96, "answer": 24},
           "quotas": {"quiet": {"weight": 4, "guarantee_bytes": "20%"}, "flood": {"weight": 1, "limit_bytes": "60%"}, "default": {}}}
CONTROL = {"pool": 384 << 20, "flood": {"requests": 6, "prompt": 4096, "answer": 1536}, "quiet": {"prompt": 96, "answer": 400},
           "quotas": {"quiet": {"weight": 4, "guarantee_bytes": "20%"},
                      "flood": {"weight": 1, "limit_bytes": 180 << 20, "rate_floor_bits": 1.5}, "default": {}}}
SHORT = {"rounds": 1, "seconds": 1.5, "warm": 1.0, "halvings": 1, "rise": 20,
         "latency": {**LATENCY, "pool": 24 << 20, "flood": {"requests": 4, "prompt": 256, "answer": 64}},
         "control": {**CONTROL, "pool": 64 << 20, "flood": {"requests": 3, "prompt": 1024, "answer": 256},
                     "quotas": {**CONTROL["quotas"], "flood": {"weight": 1, "limit_bytes": 23 << 20, "rate_floor_bits": 0.5}}}}


def main():
    args = parse_args()
    outcome.run(args, lambda: run(args), markdown)


def parse_args():
    parser = outcome.ResultArguments(__doc__, "noisy_neighbour.py")
    parser.add_argument("--daemon", help="server/sphericald")
    parser.add_argument("--text", help="English text of more than 10,000 tokens: prompts are pieces of it")
    parser.add_argument("--parts", nargs="+", choices=("latency", "control"), default=["latency", "control"])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30, help="of the quiet tenant in each phase")
    parser.add_argument("--warm", type=float, default=8, help="seconds of the flood before the quiet tenant begins")
    parser.add_argument("--halvings", type=int, default=2, help="of the flood's limit, by each way")
    parser.add_argument("--rise", type=float, default=RISE_SECONDS_MAX, help="seconds, at most, until the flood fills its limit")
    parser.add_argument("--geometry", default="auto", help="of the daemon: --kv-geometry")
    parser.add_argument("--short", action="store_true", help="a minute: shows that it works, measures nothing worth reading")
    args = parser.parse_with("daemon", "model", "text")
    args.sizes = {"latency": LATENCY, "control": CONTROL}
    if args.short:
        for key in ("rounds", "seconds", "warm", "halvings", "rise"):
            setattr(args, key, SHORT[key])
        args.sizes = {key: SHORT[key] for key in args.sizes}
    return args


def run(args):
    result = machine.describe(args.model, args.command)
    result |= {"target_step_ms": STEP_MS, "rounds": args.rounds, "seconds": args.seconds, "sizes": args.sizes, "bars": [],
               "placement": f"nothing pinned; flood's and watching client at nice {NICE}, daemon and quiet client at {os.nice(0)}"}
    for part in args.parts:
        result[part] = {"latency": latency, "control": control}[part](args)
        result["bars"] += {"latency": latency_bars, "control": control_bars}[part](result[part])
    result["load_average_after"] = os.getloadavg()[0]
    return result


class Stage:
    """A daemon with its quota file, both clients, and a watch over its stats."""

    def __init__(self, args, sizes):
        self._stack = contextlib.ExitStack()
        self.sizes = sizes
        with self._stack:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory())
            self.path = pathlib.Path(folder) / "quotas.json"
            self.write(sizes["quotas"])
            self.daemon = self._stack.enter_context(
                Daemon("--kv-mode", "rdr", "--kv-geometry", args.geometry, "--quotas", str(self.path), "--tenant-trusted-metadata", "on",
                       "--target-step-ms", str(STEP_MS), pool=str(sizes["pool"]), program=args.daemon, model=args.model))
            client = (sys.executable, "-B", str(pathlib.Path(__file__).with_name("client_process.py")), self.daemon.address, args.text)
            self._quiet = self._stack.enter_context(Side("quiet client", *client, "0"))
            self._flood = self._stack.enter_context(Side("flood's client", *client, str(NICE)))
            self.watch = self._stack.enter_context(Watch(self.daemon.address))
            self._stack = self._stack.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def write(self, tenants):
        """As an editor does: a new file over the old. When it was there."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"version": 1, "tenants": tenants}))
        now = time.monotonic()
        new.rename(self.path)
        return now

    def flood(self, tenant, seed):
        self._flood.ask("flood", tenant, *self.sizes["flood"].values(), seed)

    def stop(self):
        ended = self._flood.ask("stop")["ended"]
        while not self.daemon.holds_nothing():
            time.sleep(0.01)
        return ended

    def quiet(self, tenant, seconds, seed):
        return self._quiet.ask("quiet", tenant, seconds, *self.sizes["quiet"].values(), seed)["requests"]


class Watch:
    """WatchStats in a thread: every frame, with what it says of each tenant and what of that must not be."""

    def __init__(self, address):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)  # this process: it only watches
        self._server = Server(address)
        self._call = self._server.watch(WATCH_SECONDS)
        self.frames = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        with contextlib.suppress(Exception):  # cancelled, or the daemon ended
            for stats in self._call:
                self.frames.append(frame_of(stats))

    def since(self, moment):
        return [frame for frame in self.frames if frame["at"] >= moment]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._call.cancel()
        self._thread.join()


def frame_of(stats):
    tenants = {}
    for t in stats.tenants:
        tenants[t.name] = {"limit": t.limit_bytes, "guarantee": t.guarantee_bytes, "reserved": t.reserved_bytes, "held": t.held_bytes,
                           "budget": t.budget_bytes, "rate_bits": t.rate_bits, "pressed": t.price_log2 != float("-inf"),
                           "demoted": t.demoted_tokens, "running": t.running, "waiting": t.waiting, "tokens": t.tokens,
                           "refused": t.refused}
    return {"at": time.monotonic(), "steps": stats.steps, "pool": stats.pool_bytes, "held": stats.pool_held_bytes,
            "workspace": stats.workspace_held_bytes, "step_sum_s": stats.steps * stats.step_mean.ToNanoseconds() / 1e9, "tenants": tenants}


def over_limit(frame):
    """Bytes that a tenant holds beyond its limit, the worst."""
    return max(max(t["held"] - t["limit"] for t in frame["tenants"].values()), frame["held"] - frame["pool"], 0)


def below_guarantee(frame, name="quiet"):
    """Bytes that a tenant was told to give up though it holds no more than its guarantee."""
    t = frame["tenants"][name]
    return max(0, min(t["held"], t["guarantee"]) - t["budget"])


def summary_of(frames):
    """What each tenant held while it ran something."""
    summary = {"frames": len(frames), "over_limit_bytes": max(map(over_limit, frames)),
               "below_guarantee_bytes": max(map(below_guarantee, frames)), "tenants": {}}
    for name in frames[-1]["tenants"]:
        busy = [frame["tenants"][name] for frame in frames if name in frame["tenants"] and frame["tenants"][name]["running"]]
        if not busy:
            continue
        rates = [t["rate_bits"] for t in busy if t["rate_bits"] > 0]
        summary["tenants"][name] = {
            "frames": len(busy), "held_max": max(t["held"] for t in busy), "held_mean": statistics.fmean(t["held"] for t in busy),
            "limit": busy[-1]["limit"], "guarantee": busy[-1]["guarantee"], "running_mean": statistics.fmean(t["running"] for t in busy),
            "waiting_mean": statistics.fmean(t["waiting"] for t in busy), "rate_bits_mean": statistics.fmean(rates) if rates else 0,
            "rate_bits_min": min(rates, default=0), "pressed": statistics.fmean(t["pressed"] for t in busy),
            "demoted": busy[-1]["demoted"] - busy[0]["demoted"], "tokens": busy[-1]["tokens"] - busy[0]["tokens"]}
    return summary


# ---- latency


def latency(args):
    phases = {name: {"requests": [], "frames": [], "flood_ended": []} for name in (ALONE, BESIDE, UNFAIR)}
    with Stage(args, args.sizes["latency"]) as stage:
        stage.quiet("quiet", 1, 0)  # costs are learned, pages are touched; not counted
        names = list(phases)
        for i in range(args.rounds):
            for name in names[i % 3:] + names[:i % 3]:
                print(f"bench: {name}, round {i + 1}", file=sys.stderr, flush=True)
                if name != ALONE:
                    stage.flood("flood" if name == BESIDE else "default", i + 1)
                    time.sleep(args.warm)
                start = time.monotonic()
                requests = stage.quiet("quiet" if name != UNFAIR else "default", args.seconds, 100 * i + names.index(name))
                frames = stage.watch.since(start)
                if name != ALONE:
                    phases[name]["flood_ended"].append(stage.stop())
                phases[name]["requests"] += requests
                phases[name]["frames"] += frames
    return {name: phase_of(phase) for name, phase in phases.items()}


def phase_of(phase):
    requests = phase["requests"]
    first = [r["tokens"][0] - r["sent"] for r in requests if r["tokens"]]
    between = [b - a for r in requests for a, b in zip(r["tokens"], r["tokens"][1:])]
    errors = [r["error"] for r in requests if r["error"]]
    return {"requests": len(requests), "errors": errors, "rate_bits": statistics.fmean(r.get("rate_bits", 0) for r in requests),
            "ttft_s": spread(first), "itl_s": spread(between), "stats": summary_of(phase["frames"]), "flood_ended": phase["flood_ended"],
            "raw": {"ttft_s": first, "itl_s": between}}


def spread(values):
    return {"p50": percentile(values, 50), "p90": percentile(values, 90), "p99": percentile(values, 99), "max": max(values),
            "mean": statistics.fmean(values), "count": len(values)}


def percentile(values, percent):
    """The least value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def bar(name, value, at_most, unit):
    return {"name": name, "value": value, "at_most": at_most, "unit": unit, "pass": value <= at_most}


def latency_bars(phases):
    alone, beside, step = phases[ALONE], phases[BESIDE], STEP_MS / 1e3
    return [bar("p99 between tokens", beside["itl_s"]["p99"] * 1e3, max(1.3 * alone["itl_s"]["p99"], step) * 1e3, "ms"),
            bar("p99 to the first token", beside["ttft_s"]["p99"] * 1e3, (1.3 * alone["ttft_s"]["p99"] + step) * 1e3, "ms"),
            bar("bytes over a limit, any frame", max(p["stats"]["over_limit_bytes"] for p in phases.values()), 0, "bytes"),
            bar("bytes taken below the guarantee, any frame", beside["stats"]["below_guarantee_bytes"], 0, "bytes"),
            bar("quiet requests that failed", len(alone["errors"]) + len(beside["errors"]), 0, "")]


# ---- control


def control(args):
    sizes = args.sizes["control"]
    halvings = []
    with Stage(args, sizes) as stage:
        for i in range(2 * args.halvings):
            way = ("SetQuota", "the quota file")[i % 2]
            print(f"bench: the flood's limit is halved by {way}", file=sys.stderr, flush=True)
            stage.flood("flood", 50 + i)
            filled = rise(stage, sizes["quotas"]["flood"]["limit_bytes"], args.rise)
            seconds = 1.5 if args.short else 6.0
            halvings.append({"way": way, "filled": filled} | halve(stage, way, sizes["quotas"], 500 + i, seconds, seconds))
            stage.stop()
            lift(stage, way, sizes["quotas"])
    return halvings


def rise(stage, limit, seconds_max):
    """Until the flood holds nearly what it may. Whether it did."""
    deadline = time.monotonic() + seconds_max
    while held_by(stage.daemon, "flood")[0] < 0.9 * limit:
        if time.monotonic() > deadline:
            print("bench: the flood does not fill its limit", file=sys.stderr, flush=True)
            return False
        time.sleep(0.05)
    return True


def held_by(daemon, name):
    """Bytes that a tenant holds, tokens of it that were demoted, seconds that the daemon spent on changing precision."""
    stats = daemon.stats()
    [tenant] = [t for t in stats.tenants if t.name == name]
    return tenant.held_bytes, tenant.demoted_tokens, stats.precision_total.ToTimedelta().total_seconds()


def halve(stage, way, quotas, seed, before, after):
    """The quiet tenant decodes through it, for so many seconds before and after."""
    half = quotas["flood"]["limit_bytes"] // 2
    requests, polls = [], []
    quiet = threading.Thread(target=lambda: requests.extend(stage.quiet("quiet", before + after, seed)))
    start = time.monotonic()
    quiet.start()
    time.sleep(before)
    held_before, demoted_before, _ = held_by(stage.daemon, "flood")
    if way == "SetQuota":
        request = stage.daemon.message("SetQuotaRequest")(tenant="flood", quota={"limit_bytes": half})
        set_at = time.monotonic()
        stage.daemon.call("SetQuota", request, service="spherical.v1.Admin")
    else:
        set_at = stage.write({**quotas, "flood": {**quotas["flood"], "limit_bytes": half}})
    answered = time.monotonic()
    while not polls or (polls[-1]["held"] > half and time.monotonic() < set_at + 60):
        held, demoted, changing = held_by(stage.daemon, "flood")
        polls.append({"at": time.monotonic() - set_at, "held": held, "demoted": demoted - demoted_before, "changing": changing})
        time.sleep(0.002)
    fits_at = set_at + polls[-1]["at"]
    quiet.join()
    end = time.monotonic()
    frames = stage.watch.since(start)
    return {"limit_before": quotas["flood"]["limit_bytes"], "limit_after": half, "held_before": held_before, "polls": polls,
            "answered_s": answered - set_at, **drop_of(polls, half),
            **growth_of(requests, frames, start + before / 4, set_at, fits_at, end),
            "below_guarantee_bytes": max(map(below_guarantee, frames)),
            "quiet_held_max": max(f["tenants"]["quiet"]["held"] for f in frames),
            "quiet_errors": [r["error"] for r in requests if r["error"]],
            "frames": [{"at": f["at"] - set_at, "step_sum_s": f["step_sum_s"], "steps": f["steps"],
                        **{name: {key: t[key] for key in ("held", "limit", "reserved", "budget", "demoted", "rate_bits")}
                           for name, t in f["tenants"].items() if name != "default"}} for f in frames]}


def drop_of(polls, half):
    """From the first poll that still held too much and the last: bytes, seconds, and how fast."""
    left = polls[0]["held"] - polls[-1]["held"]
    seconds = polls[-1]["at"]
    # It begins when the first byte leaves: before that the change is on its way (a file is read, a step ends).
    begins = max((p["at"] for p in polls if p["held"] >= polls[0]["held"]), default=0)
    moving = max(seconds - begins, 1e-3)
    cores = len(os.sched_getaffinity(0))
    changing = max(polls[-1]["changing"] - polls[0]["changing"], 1e-4)  # sealing of the flood's next prompts is in it
    return {"fits": polls[-1]["held"] <= half, "seconds": seconds, "begins_s": begins, "bytes_left": left,
            "demoted_tokens": polls[-1]["demoted"], "gb_per_s": left / moving / 1e9, "changing_s": changing,
            "gb_per_s_core": left / changing / 1e9 / cores}


def growth_of(requests, frames, start, set_at, fits_at, end):
    """The quiet tenant's time between tokens and the daemon's steps: before, while bytes leave, and after."""
    spans = {"before": (start, set_at), "meanwhile": (set_at, fits_at), "after": (fits_at, end)}
    gaps = [(b, b - a) for r in requests for a, b in zip(r["tokens"], r["tokens"][1:])]
    result = {}
    for name, (begin, stop) in spans.items():
        of_span = [gap for at, gap in gaps if at >= begin and (at - gap if name == "meanwhile" else at) <= stop]
        result[f"itl_{name}_s"] = spread(of_span) if of_span else None
        inside = [f for f in frames if begin - WATCH_SECONDS <= f["at"] <= stop + WATCH_SECONDS]
        steps = inside[-1]["steps"] - inside[0]["steps"] if inside else 0
        result[f"step_{name}_s"] = (inside[-1]["step_sum_s"] - inside[0]["step_sum_s"]) / steps if steps else None
    if result["itl_meanwhile_s"] and result["itl_before_s"]:
        result["itl_growth"] = result["itl_meanwhile_s"]["mean"] / result["itl_before_s"]["mean"] - 1
    if result["step_meanwhile_s"] and result["step_before_s"]:
        result["step_growth"] = result["step_meanwhile_s"] / result["step_before_s"] - 1
    return result


def lift(stage, way, quotas):
    """As it was before."""
    if way == "SetQuota":
        stage.daemon.call("SetQuota", stage.daemon.message("SetQuotaRequest")(tenant="flood", clear=True), service="spherical.v1.Admin")
    stage.write(quotas)
    limit = quotas["flood"]["limit_bytes"]
    while max(t.limit_bytes for t in stage.daemon.stats().tenants if t.name == "flood") < limit - (1 << 16):
        time.sleep(0.01)


def control_bars(halvings):
    growth = [h["itl_growth"] for h in halvings if h.get("itl_growth") is not None]
    speeds = [h["gb_per_s_core"] for h in halvings if h["bytes_left"] > 0]
    worse = statistics.median(growth) * 100 if growth else 1e3
    slowness = 1 / statistics.median(speeds) if speeds else 1e3
    return [bar("the quiet tenant's time between tokens while bytes leave, growth", worse, 5, "%"),
            bar("seconds on each core per GB that left, of the time spent on changing precision", slowness, 1, "s"),
            bar("halvings that did not end, or found nothing to take", sum(not (h["fits"] and h["bytes_left"]) for h in halvings), 0, ""),
            bar("bytes taken below the guarantee, any frame of these", max(h["below_guarantee_bytes"] for h in halvings), 0, "bytes")]


# ---- table


def markdown(result):
    lines = [f"Measured {result['date']}, commit {result['commit']}, {result['cpu']}, {result['cores']} cores, Linux {result['kernel']}, "
             f"load average {result['load_average']:.1f} at the start.",
             f"Model {result['model']} (sha256 {result['model_sha256'][:12]}...), target step {result['target_step_ms']} ms; "
             f"{result['placement']}. Command: `{result['command']}`.", ""]
    if "latency" in result:
        lines += ["| the quiet tenant | requests | first token p50 | p99 | between tokens p50 | p99 | bits | flood holds at most "
                  "| its limit | flood's bits |", "|---" * 10 + "|"]
        for name, phase in result["latency"].items():
            flood = phase["stats"]["tenants"].get("flood" if name == BESIDE else "default" if name == UNFAIR else "", {})
            cells = ([f"{flood['held_max'] / 1e6:.1f} MB", f"{flood['limit'] / 1e6:.1f} MB", f"{flood['rate_bits_mean']:.2f}"]
                     if flood else ["", "", ""])
            times = [phase[kind][p] * 1e3 for kind in ("ttft_s", "itl_s") for p in ("p50", "p99")]
            lines.append(f"| {name} | {phase['requests']} | " + " | ".join(f"{t:.1f} ms" for t in times) +
                         f" | {phase['rate_bits']:.2f} | " + " | ".join(cells) + " |")
        lines.append("")
    if "control" in result:
        lines += ["| limit halved by | held before | limit then | fits after | first byte left after | bytes left | GB/s "
                  "| changing precision took | GB/s per core of that time | time between tokens, growth | step, growth |",
                  "|---" * 11 + "|"]
        for h in result["control"]:
            growth = [f"{h[key] * 100:+.1f} %" if h.get(key) is not None else "" for key in ("itl_growth", "step_growth")]
            lines.append(f"| {h['way']} | {h['held_before'] / 1e6:.1f} MB | {h['limit_after'] / 1e6:.1f} MB | {h['seconds'] * 1e3:.0f} ms "
                         f"| {h['begins_s'] * 1e3:.0f} ms | {h['bytes_left'] / 1e6:.1f} MB | {h['gb_per_s']:.3f} "
                         f"| {h['changing_s'] * 1e3:.0f} ms | {h['gb_per_s_core']:.3f} | "
                         + " | ".join(growth) + " |")
        lines.append("")
    lines += ["| bar | measured | wanted | |", "|---|---|---|---|"]
    for b in result["bars"]:
        lines.append(f"| {b['name']} | {b['value']:.4g} {b['unit']} | <= {b['at_most']:.4g} {b['unit']} "
                     f"| {'met' if b['pass'] else '**missed**'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
