"""cuda_library: .cu files -> one static archive of fatbin objects, wrapped as a cc_library."""

load("@local_cuda//:defs.bzl", "CUDA_HOME")

_ARCHS = ["80", "90a"]

def _cuda_archive_impl(ctx):
    if not CUDA_HOME:
        fail("no CUDA toolkit found: set CUDA_HOME, or build without --config=cuda")
    hdrs = depset(
        ctx.files.hdrs,
        transitive = [d[CcInfo].compilation_context.headers for d in ctx.attr.deps],
    )
    cc = [d[CcInfo].compilation_context for d in ctx.attr.deps]
    defines = depset(transitive = [c.defines for c in cc])
    incs = depset(transitive = [c.includes for c in cc])
    qincs = depset(transitive = [c.quote_includes for c in cc])
    sysincs = depset(transitive = [c.system_includes for c in cc])
    objs = []
    for src in ctx.files.srcs:
        obj = ctx.actions.declare_file("_cuda/%s/%s.o" % (ctx.label.name, src.basename))
        objs.append(obj)
        args = ctx.actions.args()
        args.add_all(["-c", src, "-o", obj])
        args.add_all(["-std=c++20", "-Xcompiler", "-fPIC", "-lineinfo"])
        args.add("--objdir-as-tempdir")  # sandboxes share /tmp and the numbers of their processes, by which nvcc names its files
        if ctx.var.get("cuda_archs") == "ptx80":  # --config=ptx80
            args.add_all(["-gencode", "arch=compute_80,code=compute_80"])
        else:
            for a in _ARCHS:
                args.add_all(["-gencode", "arch=compute_%s,code=sm_%s" % (a, a)])
        args.add("-O0" if ctx.var["COMPILATION_MODE"] == "dbg" else "-O3")
        args.add_all(["-I", ".", "-I", ctx.bin_dir.path])
        args.add_all(qincs, before_each = "-I")
        args.add_all(incs, before_each = "-I")
        args.add_all(sysincs, before_each = "-isystem")
        args.add_all(defines, before_each = "-D")
        args.add_all(ctx.attr.copts)
        ctx.actions.run(
            executable = CUDA_HOME + "/bin/nvcc",
            arguments = [args],
            inputs = depset([src], transitive = [hdrs]),
            outputs = [obj],
            env = {"PATH": CUDA_HOME + "/bin:/usr/bin:/bin"},
            mnemonic = "CudaCompile",
            progress_message = "nvcc " + src.short_path,
        )
    lib = ctx.actions.declare_file("lib%s.a" % ctx.label.name)
    ctx.actions.run_shell(
        command = "rm -f $1 && out=$1 && shift && /usr/bin/ar rcsD $out $@",
        arguments = [lib.path] + [o.path for o in objs],
        inputs = objs,
        outputs = [lib],
        mnemonic = "CudaArchive",
    )
    return [DefaultInfo(files = depset([lib]))]

_cuda_archive = rule(
    implementation = _cuda_archive_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cu"]),
        "hdrs": attr.label_list(allow_files = True),
        "deps": attr.label_list(providers = [CcInfo]),
        "copts": attr.string_list(),
    },
)

# For target_compatible_with: only in builds with --config=cuda.
CUDA_ONLY = select({
    "//third_party:cuda_on": [],
    "//conditions:default": ["//third_party:incompatible"],
})

def cuda_library(name, srcs, hdrs = [], deps = [], copts = [], **kwargs):
    _cuda_archive(
        name = name + "_cu",
        srcs = srcs,
        hdrs = hdrs,
        deps = deps,
        copts = copts,
        target_compatible_with = CUDA_ONLY,
    )
    native.cc_library(
        name = name,
        srcs = [name + "_cu"],
        hdrs = hdrs,
        linkstatic = True,
        target_compatible_with = CUDA_ONLY,
        deps = deps + ["@local_cuda//:cudart_static"],
        **kwargs
    )
