"""Repository rule: the Python environment that tests/clients/make_venv.sh makes, as a launcher that tests can name.

A test takes data = ["@venv//:python3"] and runs ../venv/python3 in its runfiles. The environment stays where it is (a copy
would lose its packages); the launcher carries the hash of its requirements, so that tests rerun when they change.
"""

_LAUNCHER = """#!/bin/bash
# requirements: {stamp}
python={venv}/bin/python3
[[ -x "$python" ]] || {{ echo "FAIL: no $python: run tests/clients/make_venv.sh" >&2; exit 1; }}
exec "$python" "$@"
"""

def _impl(ctx):
    cache = ctx.os.environ.get("XDG_CACHE_HOME", "") or ctx.os.environ.get("HOME", "/root") + "/.cache"
    venv = cache + "/spherical/venv"
    stamp = ctx.path(venv + "/requirements.sha256")
    ctx.file(
        "python3",
        _LAUNCHER.format(stamp = ctx.read(stamp).strip() if stamp.exists else "none", venv = venv),
        executable = True,
    )
    ctx.file("BUILD", 'exports_files(["python3"])\n')

local_venv = repository_rule(
    implementation = _impl,
    environ = ["XDG_CACHE_HOME", "HOME"],
    local = True,
)
