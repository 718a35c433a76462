#!/usr/bin/env python3
"""Writes compile_commands.json from `bazel aquery` (Bazel 4.2: --output=jsonproto).

Usage: tests/compile_commands.py [--config=cuda ...]; run `bazel build //...` first so that generated headers exist.
"""
import json, os, subprocess, sys

root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
bazel = os.environ.get("BAZEL", "bazel")
cfg = sys.argv[1:]

def run(*cmd):
    return subprocess.run([bazel, *cmd], cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout

out = run("aquery", *cfg, "--output=jsonproto", "--include_artifacts=false", "--ui_event_filters=-info",
          'mnemonic("CppCompile", //...)')
ext = run("info", "output_base").strip() + "/external/"
drop = {"-fno-canonical-system-headers", "-Wno-free-nonheap-object", "-Wunused-but-set-parameter"}  # gcc-only flags
db = []
for a in json.loads(out).get("actions", []):
    args = [x.replace("external/", ext, 1) if x.startswith(("external/", "-Iexternal/")) else x
            for x in a["arguments"] if x not in drop]
    src = args[args.index("-c") + 1]
    if src.startswith("bazel-out/"):
        continue  # generated .pb.cc
    db.append({"directory": root, "file": os.path.join(root, src), "arguments": args})
json.dump(db, open(os.path.join(root, "compile_commands.json"), "w"), indent=1)
print(len(db), "entries")
