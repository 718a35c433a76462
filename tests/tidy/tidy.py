#!/usr/bin/env python3
"""Taste that can be checked. Prints what is out of place in a tree, and exits with 1 if anything is.

Usage: tidy.py [ROOT]   (default: the tree this file lies in)
"""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import check_files
import check_layers
import check_words
from source_tree import SourceTree


def findings_of(root):
    """All findings, sorted by file."""
    tree = SourceTree(root)
    return sorted([*check_layers.check(tree), *check_words.check(tree), *check_files.check(tree)])


def main():
    here = os.path.dirname(os.path.realpath(__file__))
    root = os.path.realpath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "..", ".."))
    findings = findings_of(root)
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings in {root}")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
