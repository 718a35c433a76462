"""Which room may include which. Bazel's visibility stops targets, this stops #include lines.

    server -> engine, proto      engine -> kernels      kernels -> nothing of ours      proto -> nothing      tests -> all

Inside engine a folder includes only itself and what stands to its left in ENGINE_ORDER; engine.{h,cc} see everything. So a
stage never calls the stage after it, and a change in one stage cannot reach back.
"""
import re

from source_tree import CPP, ROOMS

ALLOWED = {
    "kernels": {"kernels"},
    "engine": {"engine", "kernels"},
    "server": {"server", "engine", "proto"},
    "tests": {"tests", "server", "engine", "kernels", "proto"},
}
# Units reach the door too: bytes and counts are the words of its messages.
SERVER_SEES_OF_KERNELS = "kernels/base/units.h"
ENGINE_ORDER = ("intake", "kv", "budget", "batch", "model", "step", "calibrate", "stream")
# Include nothing of ours but units; every stage may use them.
ENGINE_SEAMS = ("engine/clock.h", "engine/file_bytes.h", "engine/host_memory.h", "engine/mapped_file.h", "engine/mutex.h")

# Decoding attends from codes: it sees neither the map of keys nor the codec, so it cannot rebuild keys. Files by the start of their path.
DECODE_FILES = ("kernels/attention/", "kernels/spherical/query_geometry.h", "kernels/spherical/page_layout.h")
DECODE_SEES_OF_SPHERICAL = ("kernels/spherical/page_layout.h", "kernels/spherical/query_geometry.h")

# Foreign headers a room does without: kernels speak std and intrinsics; the engine knows no wire, no JSON, no flags.
FORBIDDEN_FOREIGN = {
    "kernels": re.compile(r"^(absl|spdlog|fmt|grpc|grpcpp|google|nlohmann|CLI|pcre2|utf8proc)\b"),
    "engine": re.compile(r"^(grpc|grpcpp|google|nlohmann|CLI)\b"),
}
_SPHERICAL_LABEL = re.compile(r'"(//kernels/spherical\b[^"]*)"')
_INCLUDE = re.compile(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]')


def _engine_rank(path):
    """Where an engine file stands; None for a folder that ENGINE_ORDER does not know."""
    parts = path.split("/")
    if len(parts) == 2:
        return len(ENGINE_ORDER)  # engine.{h,cc}: the far right
    return ENGINE_ORDER.index(parts[1]) if parts[1] in ENGINE_ORDER else None


def _check_engine_edge(path, included):
    if included in ENGINE_SEAMS:
        return None
    rank, included_rank = _engine_rank(path), _engine_rank(included)
    if rank is None or included_rank is None:
        return "unknown engine folder: give it its place in ENGINE_ORDER of tests/tidy/check_layers.py"
    if included_rank > rank:
        return f"a stage includes only what stands to its left in: {' '.join(ENGINE_ORDER)} engine.h"
    return None


def check_edge(path, included):
    """Why the file `path` may not include `included`, or None."""
    room, target = path.split("/")[0], included.split("/")[0]
    if room in FORBIDDEN_FOREIGN and FORBIDDEN_FOREIGN[room].match(included):
        return f"{room} does without it"
    if included.endswith(".pb.h") and room not in ("server", "tests"):
        return "wire types stop at the door: only server includes *.pb.h"
    if target not in ROOMS or room not in ALLOWED:
        return None
    if path.startswith(DECODE_FILES) and included.startswith("kernels/spherical/") and included not in DECODE_SEES_OF_SPHERICAL:
        return f"attention cannot rebuild keys: of the codec it sees only {', '.join(DECODE_SEES_OF_SPHERICAL)}"
    if room == "server" and included == SERVER_SEES_OF_KERNELS:
        return None
    if target not in ALLOWED[room]:
        return f"{room} includes only {', '.join(sorted(ALLOWED[room]))}"
    if room == target == "engine":
        return _check_engine_edge(path, included)
    return None


def _check_decode_targets(tree):
    """What attention links: a target it does not name cannot reach it, since those it names name no other of the codec."""
    allowed = ["//" + header[:-2].replace("spherical/", "spherical:") for header in DECODE_SEES_OF_SPHERICAL]
    for number, line in tree.lines("kernels/attention/BUILD") if tree.exists("kernels/attention/BUILD") else ():
        for label in _SPHERICAL_LABEL.findall(line):
            if label not in allowed:
                yield f"kernels/attention/BUILD:{number}: names {label}: attention cannot rebuild keys, it links only {', '.join(allowed)}"


def check(tree):
    """Findings of the whole tree."""
    yield from _check_decode_targets(tree)
    for path in tree.with_suffix(*CPP):
        for number, line in tree.lines(path):
            match = _INCLUDE.match(line)
            why = check_edge(path, match.group(1)) if match else None
            if why:
                yield f"{path}:{number}: includes {match.group(1)}: {why}"
