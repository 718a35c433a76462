#!/bin/bash
# Runs INTERPRETER -B MAIN TEST: what tests/python_test.bzl puts into its arguments. -B: write no bytecode beside the sources.
interpreter=$1
shift
exec "$interpreter" -B "$@"
