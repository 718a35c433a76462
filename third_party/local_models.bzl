"""Repository rule: the folder where deploy/fetch_model.sh keeps models, with their geometries, seen by tests as @models//:all.

Notices absent, added, removed and changed files; a test whose model is missing fails and names the fetch command.
"""

def _impl(ctx):
    cache = ctx.os.environ.get("XDG_CACHE_HOME", "") or ctx.os.environ.get("HOME", "/root") + "/.cache"
    ctx.symlink(cache + "/spherical/models", "models")
    ctx.file("BUILD", 'package(default_visibility = ["//visibility:public"])\n' +
                      'filegroup(name = "all", srcs = glob(["models/*.gguf", "models/*.geometry"], allow_empty = True))\n')

local_models = repository_rule(
    implementation = _impl,
    environ = ["XDG_CACHE_HOME", "HOME"],
    local = True,
)
