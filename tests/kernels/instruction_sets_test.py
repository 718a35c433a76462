"""Code compiled for one instruction set stays there: the linker may pick any copy of a shared inline function, and the copy that
needs AVX-512 would end the process on a machine without it."""
import os
import re
import subprocess
import unittest

_ARCHIVE = re.compile(r"^lib(matmul|rows|exact_attention|ada_decode|codec)_(portable|avx2|avx512|avx512vnni)(\.pic)?\.a$")
_SANITIZER = re.compile(r"__(asan|ubsan|tsan)|^DW\.ref\.|^_GLOBAL_|^(asan|tsan)\.")


def archives():
    """(what, set, path) of every library of one set among this test's files."""
    for folder, _, files in os.walk("kernels"):
        for name in files:
            match = _ARCHIVE.match(name)
            if match:
                yield match.group(1), match.group(2), os.path.join(folder, name)


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class InstructionSetsTest(unittest.TestCase):

    def test_every_set_of_every_kernel_is_looked_at(self):
        found = {(what, set_) for what, set_, _ in archives()}
        expected = {(what, s) for what in ("matmul", "ada_decode") for s in ("portable", "avx2", "avx512vnni")}
        expected |= {(what, s) for what in ("rows", "exact_attention") for s in ("portable", "avx2", "avx512")}
        expected |= {("codec", s) for s in ("avx2", "avx512")}
        self.assertEqual(found, expected)

    def test_a_library_defines_only_symbols_of_its_own_namespace(self):
        for _, set_, path in archives():
            if set_ == "portable":
                continue  # runs anywhere, so anybody may use its copies
            for line in run("nm", "-C", "--defined-only", path).splitlines():
                parts = line.split(maxsplit=2)
                if len(parts) < 3 or parts[1].islower() and parts[1] not in "uvw" or _SANITIZER.search(parts[2]):
                    continue
                with self.subTest(library=path, symbol=parts[2]):
                    self.assertIn(parts[1], "TRDB", "a symbol that the linker may share")
                    self.assertRegex(parts[2], rf"\bspherical::kernels::{set_}::")

    def test_a_library_has_no_wider_registers_than_its_set(self):
        for _, set_, path in archives():
            code = run("objdump", "-d", "--no-show-raw-insn", path)
            with self.subTest(library=path):
                if not set_.startswith("avx512"):
                    self.assertNotIn("%zmm", code)
                if set_ == "portable":
                    self.assertNotIn("%ymm", code)
                else:
                    self.assertIn("%zmm" if set_.startswith("avx512") else "%ymm", code, "compiled without its flags")


if __name__ == "__main__":
    unittest.main()
