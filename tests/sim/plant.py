"""Plants a bug: copies source files with a piece of text replaced. Fails if the piece is not there exactly once.

Usage: plant.py REPLACEMENTS_JSON OUT=SOURCE...     REPLACEMENTS_JSON: {SOURCE: [[old, new]...]}
"""
import json
import sys


def main():
    replacements = json.loads(sys.argv[1])
    for pair in sys.argv[2:]:
        out, source = pair.split("=")
        with open(source, encoding="utf-8") as file:
            text = file.read()
        for old, new in replacements[source]:
            if text.count(old) != 1:
                sys.exit(f"{source}: found {text.count(old)} times, and a bug is planted in one place: {old}")
            text = text.replace(old, new)
        with open(out, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
