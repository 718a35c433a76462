"""python_test: a unittest file as a Bazel test. (Debian's Bazel has no working py_test: it looks for a `python`.)"""

def python_test(name, src, data = [], clients = False, size = "small", **kwargs):
    """One unittest file.

    Args:
      name: of the target.
      src: the file with the unittest.TestCase classes.
      data: what it reads or runs, and the modules of ours that it imports.
      clients: run in the environment of tests/clients/requirements.txt instead of the plain Python of Debian.
      size: as of any test.
      **kwargs: as of any test.
    """
    interpreter = ["$(location @venv//:python3)"] if clients else ["/usr/bin/python3"]
    native.sh_test(
        name = name,
        size = size,
        srcs = ["//tests:python_test.sh"],
        args = interpreter + ["$(location //tests:python_main.py)", "$(location %s)" % src],
        data = [src, "//tests:python_main.py"] + (["@venv//:python3"] if clients else []) + data,
        **kwargs
    )
