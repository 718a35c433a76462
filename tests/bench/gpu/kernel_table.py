#!/usr/bin/env python3
"""A decoding step kernel by kernel, from what kernel_trace.cc wrote: kernel_table.py STEPS < trace.tsv

Of the last STEPS steps (each begins with EmbedKernel) those that launched the same kernels: medians of when each began, how long it took,
and how long nothing ran before it (below zero: it began while another ran).
"""
import re
import statistics
import sys


def short(name):
    """What is left of a mangled name that a reader wants."""
    return "..." + name[-60:] if name.startswith("_Z") and len(name) > 63 else name


def main():
    if len(sys.argv) != 2 or not re.fullmatch(r"[1-9]\d*", sys.argv[1]):
        sys.exit("usage: kernel_table.py STEPS < trace.tsv    STEPS: how many of the last, 1 or more")
    rows = []
    for line in sys.stdin:
        fields = line.rstrip("\n").split("\t")
        if len(fields) == 6 and fields[2] == "K" and re.fullmatch(r"\d+", fields[0]):
            rows.append((int(fields[0]), int(fields[1]), fields[3], fields[4], fields[5]))
    rows.sort()
    begins = [i for i, row in enumerate(rows) if "EmbedKernel" in row[4]]
    steps = [rows[a:b] for a, b in zip(begins, begins[1:])][-int(sys.argv[1]):]
    if not steps:
        sys.exit("kernel_table: no whole step in what was read")
    kinds = [tuple((row[4], row[2]) for row in step) for step in steps]
    usual = max(set(kinds), key=kinds.count)
    same = [step for step, kind in zip(steps, kinds) if kind == usual]
    print(f"# {len(same)} of {len(steps)} steps launch these {len(usual)} kernels\n# begins us, takes us, idle before us, blocks, threads")
    total = {}
    for i, (name, blocks) in enumerate(usual):
        begin = statistics.median(step[i][0] - step[0][0] for step in same) / 1e3
        takes = statistics.median(step[i][1] - step[i][0] for step in same) / 1e3
        idle = statistics.median(step[i][0] - max(row[1] for row in step[:i]) for step in same) / 1e3 if i else 0
        print(f"{begin:9.1f} {takes:8.1f} {idle:7.1f} {blocks:>6} {same[0][i][3]:>5} {short(name)}")
        count, sum_takes, sum_idle = total.get(name, (0, 0, 0))
        total[name] = count + 1, sum_takes + takes, sum_idle + idle
    length = statistics.median(max(row[1] for row in step) - step[0][0] for step in same) / 1e3
    print(f"# a step {length:.1f} us\n# how many, take us, idle before us")
    for name, (count, takes, idle) in sorted(total.items(), key=lambda item: -item[1][1]):
        print(f"{count:4d} {takes:9.1f} {idle:8.1f} {short(name)}")


if __name__ == "__main__":
    main()
