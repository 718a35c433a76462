"""Words and names that this project does without, each with the reason or with what to write instead."""
import re

from source_tree import CPP

LINE_LENGTH_MAX = 140
FILE_LINES_MAX = 600
HERE = "tests/tidy/"  # names the words it bans

# (pattern, why, where it is allowed). Matched against C++ code with comments and literals blanked out.
BANNED_CODE = [
    (r"\bstd::(cout|cerr|clog)\b", "log at the door, or print with absl::PrintF in a tool", ()),
    (r"\bstd::endl\b", "a flush nobody asked for", ()),
    (r"\b(shared_ptr|make_shared)\b", "one owner; only a token stream has two ends that may outlive each other",
     ("engine/intake/submission.h", "engine/stream/", "server/", "tests/")),
    (r"\bnew\s+[A-Za-z_:(]", "own with unique_ptr or a container; only gRPC reactors own themselves", ("server/",)),
    (r"\b(malloc|calloc|realloc|free)\s*\(", "own memory with a container, or a type that frees it",
     ("kernels/dense/packed_matrix.cc",)),  # that type: aligned rows
    (r"\b(usleep|nanosleep|sleep|sleep_for|sleep_until|SleepFor)\s*\(", "wait for an event, with a deadline; never for a while",
     ("server/ctl/", "tests/bench/", "tests/engine/thread_pool_test.cc")),  # the last measures what idling costs
    (r"\bs?rand\s*\(|\brandom_device\b", "randomness is a seam: take a seed", ()),
    (r"#\s*include\s*<chrono>|\b(system|steady|high_resolution)_clock\b", "time is a seam: engine/clock.h, and absl::Duration",
     ("engine/clock", "server/", "tests/bench/")),
    (r"\babsl::Now\s*\(", "time is a seam: engine/clock.h", ("engine/clock", "server/ctl/", "tests/")),
    (r"(?<![_A-Za-z])assert\s*\(", "SPH_CHECK: it holds in optimised builds too", ()),
    (r"#\s*pragma\s+once", "an include guard named after the path", ()),
    (r"(?<!asm )\bvolatile\b", "std::atomic, if threads meet here",
     ("tests/bench/", "engine/host_memory.cc")),  # stores that must happen though nobody reads them
]
BANNED_IN_HEADERS = [
    (r"^\s*using\s+namespace\b", "a header must not open a namespace for all who include it", ()),
]
# Matched against the lines as written, in every text file.
BANNED_TEXT = [
    (r"\b(TODO|FIXME|XXX|HACK)\b", "do it, or file an issue", (HERE,)),
    (r"(?i)\b(kv[ _]?blocks?|block[ _]?tables?)\b", "a KV page is a page; a block is a CUDA thread block or a block of weights",
     (HERE,)),
    (r"(?i)\bevict(s|ed|ion|ing)?\b", "retain, demote or drop", (HERE,)),
    (r"\bAda (GPU|Lovelace|generation)", "ADA is angle-domain attention; write sm89", (HERE,)),
]
BANNED_NAMES = re.compile(r"(^|[_.-])(utils?|common|misc|helpers?|managers?|stuff|fast|optimi[sz]ed)([_.-]|$)", re.IGNORECASE)
_TEXT = CPP + (".py", ".sh", ".bzl", ".proto", ".md", ".yaml", ".supp", "BUILD", "WORKSPACE", ".bazelrc", ".ci/run")
_ANY_WIDTH = (".md",)


def _banned(rules, path, lines):
    for pattern, why, allowed in rules:
        if path.startswith(tuple(allowed)):
            continue
        for number, line in lines:
            match = re.search(pattern, line)
            if match:
                yield f"{path}:{number}: '{match.group().strip()}': {why}"


def expected_guard(path):
    """SPHERICAL_ENGINE_KV_KV_POOL_H_ for engine/kv/kv_pool.h."""
    return "SPHERICAL_" + re.sub(r"[^A-Z0-9]", "_", path.upper()) + "_"


def check_cpp(tree):
    """Banned code, include guards, length of files."""
    for path in tree.with_suffix(*CPP):
        code = tree.code_lines(path)
        yield from _banned(BANNED_CODE, path, code)
        if len(code) > FILE_LINES_MAX:
            yield f"{path}: {len(code)} lines, at most {FILE_LINES_MAX}: split it by what it does"
        if path.endswith((".h", ".cuh")):
            yield from _banned(BANNED_IN_HEADERS, path, code)
            guard = expected_guard(path)
            if f"#ifndef {guard}\n#define {guard}\n" not in tree.read(path):
                yield f"{path}:1: the include guard is {guard}"


def check_text(tree):
    """What holds for every line anybody writes."""
    for path in tree.with_suffix(*_TEXT):
        lines = tree.lines(path)
        yield from _banned(BANNED_TEXT, path, lines)
        for number, line in lines:
            if len(line) > LINE_LENGTH_MAX and not path.endswith(_ANY_WIDTH):
                yield f"{path}:{number}: {len(line)} characters, at most {LINE_LENGTH_MAX}"
            if line != line.rstrip():
                yield f"{path}:{number}: blanks at the end of the line"
            if "\t" in line:
                yield f"{path}:{number}: a tab"
            if "\ufffd" in line:
                yield f"{path}:{number}: not UTF-8"
        if lines[-1][1]:
            yield f"{path}:{lines[-1][0]}: no newline at the end"


def check_names(tree):
    """Files and folders are named after what they hold."""
    for path in tree.paths:
        for part in path.split("/"):
            if BANNED_NAMES.search(part):
                yield f"{path}: '{part}' names no thing: name it after what it does"


def check(tree):
    """Findings of the whole tree."""
    yield from check_cpp(tree)
    yield from check_text(tree)
    yield from check_names(tree)
