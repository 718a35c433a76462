"""Puts a table into README.md, between its two marks: readme.py speed|correctness TABLE_FILE."""
import pathlib
import re
import sys

README = pathlib.Path(__file__).with_name("README.md")


def main():
    name, table = sys.argv[1], pathlib.Path(sys.argv[2]).read_text()
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    text, count = re.subn(f"(?s){begin}.*?{end}", lambda _: begin + table + end, README.read_text())
    if count != 1:
        sys.exit(f"{README} has no place marked {begin.strip()}")
    README.write_text(text)


if __name__ == "__main__":
    main()
