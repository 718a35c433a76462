"""cc_grpc_library: C++ messages and gRPC stubs from .proto files with the system protoc."""

def _gen_impl(ctx):
    outs = []
    srcs = ctx.files.srcs
    imports = depset(srcs, transitive = [d[_ProtoSrcs].files for d in ctx.attr.deps])
    for f in srcs:
        stem = f.basename[:-len(".proto")]
        for ext in [".pb.h", ".pb.cc", ".grpc.pb.h", ".grpc.pb.cc"]:
            outs.append(ctx.actions.declare_file(stem + ext, sibling = f))
    args = ctx.actions.args()
    args.add("--proto_path=.")
    args.add("--cpp_out=" + ctx.bin_dir.path)
    args.add("--grpc_out=" + ctx.bin_dir.path)
    args.add("--plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin")
    args.add_all(srcs)
    ctx.actions.run(
        executable = "/usr/bin/protoc",
        arguments = [args],
        inputs = imports,
        outputs = outs,
        mnemonic = "ProtocGrpcCpp",
    )
    return [
        DefaultInfo(files = depset(outs)),
        OutputGroupInfo(
            hdrs = depset([o for o in outs if o.extension == "h"]),
            srcs = depset([o for o in outs if o.extension == "cc"]),
        ),
        _ProtoSrcs(files = imports),
    ]

_ProtoSrcs = provider(fields = ["files"])

_proto_gen = rule(
    implementation = _gen_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".proto"]),
        "deps": attr.label_list(providers = [_ProtoSrcs]),
    },
)

def cc_grpc_library(name, srcs, deps = [], **kwargs):
    _proto_gen(name = name + "_gen", srcs = srcs, deps = [d + "_gen" for d in deps])
    native.filegroup(name = name + "_hdrs", srcs = [name + "_gen"], output_group = "hdrs")
    native.filegroup(name = name + "_srcs", srcs = [name + "_gen"], output_group = "srcs")
    native.cc_library(
        name = name,
        srcs = [name + "_srcs"],
        hdrs = [name + "_hdrs"],
        copts = ["-w"],
        deps = deps + ["//third_party:grpcxx"],
        **kwargs
    )
