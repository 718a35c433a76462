#!/bin/bash
# place_of.sh RESULT.json: what the name of its table's place in README.md has behind the benchmark's: nothing for SmolLM2, else the model.
set -euo pipefail
case "$(grep -o '"model": "[^"]*"' "$1" | head -n 1)" in
  *'"SmolLM2'*) ;;
  *'"gemma-3'*) echo _gemma ;;
  *) echo _other ;;
esac
