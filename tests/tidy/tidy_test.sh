#!/bin/bash
# The tree as it is, not a copy of it: Bazel's link to WORKSPACE leads there. Tagged external, so it is never taken from a cache.
exec /usr/bin/python3 -B "$1" "$(dirname "$(readlink -f "$2")")"
