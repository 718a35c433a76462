"""Puts a table into README.md, between its two marks: readme.py speed|correctness TABLE_FILE."""
import pathlib
import re
import sys

README = pathlib.Path(__file__).with_name("README.md")


def main():
    name, table = sys.argv[1:]
    README.write_text(place(README.read_text(), name, pathlib.Path(table).read_text()))


def place(text, name, table):
    """The text with the table between the marks of that name."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    text, count = re.subn(f"(?s){begin}.*?{end}", lambda _: begin + table + end, text)
    if count != 1:
        sys.exit(f"{README} has no place marked {begin.strip()}")
    return text


if __name__ == "__main__":
    main()
