"""The tidy checks find what they are for: one violation at a time is planted in a clean tree."""
import os
import shutil
import tempfile
import unittest

import tidy

CLEAN = {
    "WORKSPACE": 'workspace(name = "spherical")\n',
    "BUILD": '"""Rooms."""\n',
    "README.md": "See [the engine](engine/kv) and [the paper](https://arxiv.org/abs/2605.18856#top).\n",
    "engine/kv/BUILD": 'cc_library(name = "pool", srcs = ["pool.cc"], hdrs = ["pool.h"])\n',
    "engine/kv/pool.h": "#ifndef SPHERICAL_ENGINE_KV_POOL_H_\n#define SPHERICAL_ENGINE_KV_POOL_H_\n#include \"engine/clock.h\"\n#endif\n",
    "engine/kv/pool.cc": '#include "kernels/base/units.h"\n// A comment may say new shared_ptr, and 1\'000 is a number.\n'
                         'const char* text = "std::cout << new int";\nconst char* raw = R"(assert(true) sleep(1))";\n',
    "server/BUILD": 'cc_binary(name = "main", srcs = ["main.cc"])\n',
    "server/main.cc": '#include "proto/spherical.pb.h"\n#include "engine/engine.h"\n#include "kernels/base/units.h"\n',
    "tests/run.sh": "#!/bin/bash\necho\n",
}

# name of the case: (path, text, words that the finding must hold)
PLANTED = {
    "kernels_including_engine": ("kernels/base/x.cc", '#include "engine/engine.h"\n', "kernels includes only kernels"),
    "kernels_including_absl": ("kernels/base/x.cc", "#include <absl/status/status.h>\n", "kernels does without"),
    "engine_including_server": ("engine/kv/pool.cc", '#include "server/wire.h"\n', "engine includes only"),
    "engine_including_proto": ("engine/kv/pool.cc", '#include "proto/spherical.pb.h"\n', "stop at the door"),
    "engine_including_json": ("engine/kv/pool.cc", "#include <nlohmann/json.hpp>\n", "engine does without"),
    "engine_stage_reaching_right": ("engine/kv/pool.cc", '#include "engine/batch/step_plan.h"\n', "to its left"),
    "engine_stage_seeing_the_engine": ("engine/kv/pool.cc", '#include "engine/engine.h"\n', "to its left"),
    "engine_folder_unknown": ("engine/odd/x.cc", '#include "engine/kv/pool.h"\n', "ENGINE_ORDER"),
    "attention_including_the_codec": ("kernels/attention/x.cc", '#include "kernels/spherical/codec.h"\n', "cannot rebuild keys"),
    "attention_including_the_map_of_keys": ("kernels/attention/x.cc", '#include "kernels/spherical/geometry.h"\n', "cannot rebuild keys"),
    "attention_linking_the_codec": ("kernels/attention/BUILD", 'D = ["//kernels/spherical:codec"]\n', "cannot rebuild keys"),
    "server_including_kernels": ("server/main.cc", '#include "kernels/dense/matmul.h"\n', "server includes only"),
    "server_including_tests": ("server/main.cc", '#include "tests/fakes/clock.h"\n', "server includes only"),
    "cout": ("engine/kv/pool.cc", "void F() { std::cout << 1; }\n", "std::cout"),
    "shared_ptr": ("engine/kv/pool.cc", "std::shared_ptr<int> p;\n", "one owner"),
    "naked_new": ("engine/kv/pool.cc", "int* p = new int(1);\n", "unique_ptr"),
    "malloc": ("engine/kv/pool.cc", "void* p = malloc(1);\n", "own memory"),
    "sleep": ("engine/kv/pool.cc", "void F() { absl::SleepFor(d); }\n", "wait for an event"),
    "rand": ("engine/kv/pool.cc", "int x = rand();\n", "take a seed"),
    "chrono": ("engine/kv/pool.cc", "#include <chrono>\n", "time is a seam"),
    "now": ("engine/kv/pool.cc", "auto t = absl::Now();\n", "time is a seam"),
    "assert": ("engine/kv/pool.cc", "void F() { assert(true); }\n", "SPH_CHECK"),
    "static_assert_is_fine_but_pragma_once_is_not": ("engine/kv/pool.cc", "static_assert(true);\n#pragma once\n", "include guard"),
    "using_namespace_in_header": ("engine/kv/pool.h", CLEAN["engine/kv/pool.h"] + "using namespace std;\n", "open a namespace"),
    "wrong_guard": ("engine/kv/pool.h", "#ifndef POOL_H\n#define POOL_H\n#endif\n", "SPHERICAL_ENGINE_KV_POOL_H_"),
    "todo": ("engine/kv/pool.cc", "// TODO: later\n", "do it"),
    "page_called_block": ("engine/kv/pool.cc", "// the block table of a sequence\n", "a KV page is a page"),
    "evict": ("engine/kv/pool.cc", "void Evict();\n// evict the page\n", "retain, demote or drop"),
    "sm89_called_ada": ("engine/kv/pool.cc", "// on an Ada GPU\n", "sm89"),
    "long_line": ("engine/kv/pool.cc", "// " + "x" * 140 + "\n", "143 characters"),
    "long_file": ("engine/kv/pool.cc", "int x;\n" * 700, "split it"),
    "blanks_at_the_end": ("engine/kv/pool.cc", "int x; \n", "blanks"),
    "tab": ("engine/kv/pool.cc", "\tint x;\n", "a tab"),
    "not_utf8": ("engine/kv/pool.cc", b"// \xff\n", "not UTF-8"),
    "no_newline": ("engine/kv/pool.cc", "int x;", "no newline"),
    "name_without_meaning": ("engine/kv/pool_utils.py", "\n", "names no thing"),
    "top_level_stranger": ("notes/x.md", "\n", "top level"),
    "nobody_builds_it": ("engine/kv/spare.cc", "int x;\n", "no target"),
    "no_build_file": ("engine/batch/spare.cc", "int x;\n", "no BUILD"),
    "public_target": ("engine/kv/BUILD", CLEAN["engine/kv/BUILD"] + 'V = ["//visibility:public"]\n', "name the rooms"),
    "glob": ("engine/kv/BUILD", CLEAN["engine/kv/BUILD"] + 'V = glob(["*.cc"])\n', "name the files"),
    "script_that_does_not_parse": ("tests/run.sh", "#!/bin/bash\nif\n", "syntax error"),
    "python_that_does_not_parse": ("tests/x.py", "def f(:\n", "x.py:1"),
    "dead_link": ("README.md", "[gone](engine/gone.md)\n", "not there"),
}


class TidyTest(unittest.TestCase):
    """Findings of small trees."""

    def setUp(self):
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)
        for path, text in CLEAN.items():
            self.write(path, text)

    def write(self, path, text):
        """Puts a file into the tree."""
        full = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
        if path.endswith(".sh"):
            os.chmod(full, 0o755)

    def test_clean_tree_has_no_findings(self):
        self.assertEqual(tidy.findings_of(self.root), [])

    def test_script_that_cannot_be_run(self):
        os.chmod(os.path.join(self.root, "tests/run.sh"), 0o644)
        self.assertEqual(len(tidy.findings_of(self.root)), 1)

    def test_sources_named_by_a_list(self):
        self.write("kernels/dense/BUILD", '[cc_library(name = isa, srcs = ["rows_" + isa + ".cc"]) for isa in ["avx2", "avx512"]]\n')
        for isa in ("avx2", "avx512", "vsx"):
            self.write(f"kernels/dense/rows_{isa}.cc", "int x;\n")
        self.assertEqual(tidy.findings_of(self.root), ["kernels/dense/rows_vsx.cc: no target of kernels/dense/BUILD names it"])

    def test_bazel_links_are_not_walked(self):
        outside = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, outside)
        with open(os.path.join(outside, "x.cc"), "w", encoding="utf-8") as file:
            file.write("// TODO\n")
        os.symlink(outside, os.path.join(self.root, "bazel-bin"))
        self.assertEqual(tidy.findings_of(self.root), [])


def _planted_test(path, text, words):
    def test(self):
        self.write(path, text)
        findings = tidy.findings_of(self.root)
        self.assertTrue(any(words in finding and path in finding for finding in findings), f"{words!r} not found in {findings}")
    return test


for _name, _planted in PLANTED.items():
    setattr(TidyTest, f"test_finds_{_name}", _planted_test(*_planted))
