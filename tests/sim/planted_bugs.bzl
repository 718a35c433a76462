"""Bugs planted in the engine, each of which the simulation must find."""

def planted_bug(name, bugs, test):
    """A test that passes if a simulation of an engine with these bugs fails.

    The sources are copied, a piece of text is replaced, and the copies are linked before the engine's own libraries: the linker takes no
    object from an archive whose symbols are there already. So production code knows nothing of it, one file is compiled, and a bug whose
    place is gone fails the build.

    Args:
      name: what is wrong.
      bugs: a dict of (source file's label, list of (old, new) pieces of text).
      test: the test's source.
    """
    sources = sorted(bugs.keys())
    planted = [name + "/" + label.split(":")[1] for label in sources]
    replacements = {label.replace("//", "").replace(":", "/"): bugs[label] for label in sources}
    native.genrule(
        name = name + "_sources",
        testonly = True,
        srcs = sources,
        outs = planted,
        cmd = "python3 $(location plant.py) '" + json.encode(replacements).replace("$", "$$") + "' " +
              " ".join(["$(location %s)=$(location %s)" % (planted[i], sources[i]) for i in range(len(sources))]),
        tools = ["plant.py"],
    )
    native.cc_test(
        name = name + "_is_caught_test",
        size = "medium",
        srcs = [test] + planted,
        data = ["//tests:tsan.supp"],
        deps = [
            ":simulation",
            "//engine:precision",
            "//engine/batch:admission",
            "//engine/batch:planner",
            "//engine/budget:lender",
            "//engine/budget:tenant_ledger",
            "//engine/kv:head_notes",
            "//engine/kv:retier",
            "//engine/stream:reply",
            "//tests:catch_main",
            "//tests/engine:death",
            "//third_party:absl_strings",
        ],
    )
