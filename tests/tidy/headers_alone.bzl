"""Every header compiles alone: an aspect that checks each cc_library's headers by themselves, with the library's own deps and flags.

Bazel of Debian 12 has no parse_headers. .bazelrc asks for this aspect in `bazel test --config=opt`; a header that leans on
what its includer included, or on a target its library does not name, fails the build with the compiler's message. Being
ordinary actions, the checks run side by side and only again when a header changes.
"""

def _headers_alone_impl(target, ctx):
    if target.label.workspace_root or not hasattr(ctx.rule.files, "hdrs") or CcInfo not in target:
        return []
    context = target[CcInfo].compilation_context
    stamps = []
    for header in ctx.rule.files.hdrs:
        if header.extension != "h" or not header.is_source:
            continue
        stamp = ctx.actions.declare_file(target.label.name + ".alone/" + header.basename + ".ok")
        args = ctx.actions.args()
        args.add_all(["-x", "c++", "-std=c++20", "-Wall", "-Wextra", "-fsyntax-only"])
        args.add_all(context.quote_includes, before_each = "-iquote")
        args.add_all(context.includes, before_each = "-I")
        args.add_all(context.system_includes, before_each = "-isystem")
        args.add_all(context.defines, before_each = "-D")
        args.add_all(ctx.rule.attr.copts)
        args.add(header)
        ctx.actions.run_shell(
            command = "stamp=$1 && shift && /usr/bin/g++ \"$@\" && touch \"$stamp\"",
            arguments = [stamp.path, args],
            inputs = depset([header], transitive = [context.headers]),
            outputs = [stamp],
            mnemonic = "HeaderAlone",
            progress_message = "Compiling %s alone" % header.short_path,
            use_default_shell_env = True,
        )
        stamps.append(stamp)
    return [OutputGroupInfo(headers_alone = depset(stamps))]

headers_alone = aspect(implementation = _headers_alone_impl)
