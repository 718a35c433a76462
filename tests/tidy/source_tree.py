"""The files that people write: what the tidy checks look at."""
import os
import re

CPP = (".h", ".cc", ".cu", ".cuh", ".inc")
ROOMS = ("proto", "kernels", "engine", "server", "tests", "deploy", "third_party")

_SKIPPED_FOLDERS = ("__pycache__", ".git")
_SKIPPED_FILES = ("compile_commands.json",)
# What is not code: a comment, a raw string, a string, a character (but not the mark in 1'000).
_NOT_CODE = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<mark>[^(\s]*)\(.*?\)(?P=mark)"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-zA-Z_])\'(?:\\.|[^\'\\\n])+\'',
    re.DOTALL,
)


class SourceTree:
    """Every file below root, by its path from root. Bazel's links and what git ignores are left out."""

    def __init__(self, root):
        self.root = root
        self.paths = []
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(f for f in folders if f not in _SKIPPED_FOLDERS and not os.path.islink(os.path.join(folder, f)))
            for name in sorted(files):
                # .git is a file, not a folder, in a worktree.
                if name not in _SKIPPED_FILES + (".git",) and not os.path.islink(os.path.join(folder, name)):
                    self.paths.append(os.path.relpath(os.path.join(folder, name), root))

    def with_suffix(self, *suffixes):
        """Paths that end in one of the suffixes."""
        return [path for path in self.paths if path.endswith(suffixes)]

    def exists(self, path):
        """Whether root holds this file or folder."""
        return os.path.exists(os.path.join(self.root, path))

    def read(self, path):
        """The file's text. Bytes that are not UTF-8 become marks, so that every check can go on."""
        with open(os.path.join(self.root, path), encoding="utf-8", errors="replace") as source:
            return source.read()

    def lines(self, path):
        """The lines as written, numbered from 1."""
        return list(enumerate(self.read(path).split("\n"), 1))

    def code_lines(self, path):
        """The lines of a C++ file with comments and literals blanked out; numbers and columns stay."""
        blanked = _NOT_CODE.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), self.read(path))
        return list(enumerate(blanked.split("\n"), 1))
