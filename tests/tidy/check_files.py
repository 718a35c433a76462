"""Files in their places: the top level, BUILD files that name everything and open little, scripts that run, links that lead somewhere."""
import os
import re
import subprocess

from source_tree import CPP, ROOMS

TOP_FILES = ("WORKSPACE", "BUILD", "README.md")
# "rows_" + isa + ".cc", or isa + ".cc", in a list comprehension of a BUILD file.
_NAME_IN_LIST = re.compile(r'(?:"([^"]*)" \+ )?\w+ \+ "([^"]*)"')
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def check_top_level(tree):
    """The top level holds the rooms and three files; dot files are free."""
    for path in tree.paths:
        top = path.split("/")[0]
        if not top.startswith(".") and top not in ROOMS and path not in TOP_FILES:
            yield f"{path}: the top level holds only {' '.join(TOP_FILES + ROOMS)} and dot files"


def _names(build, name):
    """Whether the text of a BUILD file names this file, outright or by a list comprehension over its stem."""
    if f'"{name}"' in build:
        return True
    for prefix, suffix in _NAME_IN_LIST.findall(build):
        if name.startswith(prefix) and name.endswith(suffix) and f'"{name[len(prefix):len(name) - len(suffix)]}"' in build:
            return True
    return False


def check_built(tree):
    """Every source is named by the BUILD file of its own folder: what nobody builds, nobody tests."""
    builds = {os.path.dirname(path): tree.read(path) for path in tree.paths if os.path.basename(path) == "BUILD"}
    for path in tree.with_suffix(*CPP, ".proto"):
        folder, name = os.path.split(path)
        if folder not in builds:
            yield f"{path}: its folder has no BUILD file"
            continue
        if not _names(builds[folder], name):
            yield f"{path}: no target of {folder}/BUILD names it"


def check_visibility(tree):
    """Targets are private unless they name who may use them. Wrappers of system libraries are for everyone."""
    for path in tree.paths:
        if os.path.basename(path) != "BUILD" or path.startswith("third_party/"):
            continue
        for number, line in tree.lines(path):
            code = line.split("#")[0]
            if "//visibility:public" in code:
                yield f"{path}:{number}: public: name the rooms that may use it"
            if "glob(" in code:
                yield f"{path}:{number}: glob: name the files, so that a forgotten one is noticed"


def check_scripts(tree):
    """Scripts parse, and can be run."""
    for path in tree.with_suffix(".sh", ".py", ".ci/run"):
        text = tree.read(path)
        full = os.path.join(tree.root, path)
        if text.startswith("#!") and not os.access(full, os.X_OK):
            yield f"{path}: starts with #! but cannot be run: chmod +x"
        if path.endswith(".py"):
            try:
                compile(text, path, "exec")
            except SyntaxError as error:
                yield f"{path}:{error.lineno}: {error.msg}"
        else:
            parsed = subprocess.run(["bash", "-n", full], capture_output=True, text=True, check=False)
            if parsed.returncode:
                yield f"{path}: {parsed.stderr.strip()}"


def check_links(tree):
    """Links in Markdown to files of ours lead somewhere."""
    for path in tree.with_suffix(".md"):
        for number, line in tree.lines(path):
            for link in _LINK.findall(line):
                target = link.split("#")[0]
                if target and "://" not in target and not tree.exists(os.path.join(os.path.dirname(path), target)):
                    yield f"{path}:{number}: links to {target}, which is not there"


def check(tree):
    """Findings of the whole tree."""
    yield from check_top_level(tree)
    yield from check_built(tree)
    yield from check_visibility(tree)
    yield from check_scripts(tree)
    yield from check_links(tree)
