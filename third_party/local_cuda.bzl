"""Repository rule: wraps an installed CUDA toolkit, or an empty stand-in."""

_BUILD = """
package(default_visibility = ["//visibility:public"])

# CUDA itself, and CUB: sorts and scans of a thread block.
cc_library(
    name = "headers",
    hdrs = glob(["include/**"], allow_empty = True),
    includes = ["include"],
)

cc_library(
    name = "cudart_static",
    srcs = glob(["lib64/libcudart_static.a"], allow_empty = True),
    linkopts = ["-ldl", "-lrt", "-lpthread"],
    deps = [":headers"],
)

# Products of weights with many rows, tuned by the vendor for each of its devices. Shared: the static one is 700 MB.
cc_library(
    name = "cublaslt",
    linkopts = ["-L{home}/lib64", "-Wl,-rpath,{home}/lib64", "-lcublasLt"],
    deps = [":headers"],
)
"""

def _impl(ctx):
    home = ctx.os.environ.get("CUDA_HOME", "")
    if not home and ctx.path("/usr/local/cuda/bin/nvcc").exists:
        home = "/usr/local/cuda"
    if not home:
        nvcc = ctx.which("nvcc")
        home = str(nvcc.realpath.dirname.dirname) if nvcc else ""
    if home and not ctx.path(home + "/bin/nvcc").exists:
        home = ""
    if home:
        ctx.symlink(home + "/include", "include")
        ctx.symlink(home + "/lib64", "lib64")
    ctx.file("BUILD", _BUILD.replace("{home}", home))
    ctx.file("defs.bzl", "CUDA_HOME = %r\n" % home)

local_cuda = repository_rule(
    implementation = _impl,
    environ = ["CUDA_HOME", "PATH"],
    local = True,
)
