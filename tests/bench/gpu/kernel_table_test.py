"""What kernel_table.py makes of a trace, and what it says of what it cannot use."""
import pathlib
import subprocess
import sys
import unittest

TABLE = pathlib.Path(__file__).with_name("kernel_table.py")
STEP = 100_000  # ns


def trace(steps):
    """Lines of kernel_trace.cc: a copy and two kernels a step; the second begins 2 us after the first has ended."""
    lines = ["begin"]
    for step in range(steps):
        at = step * STEP
        lines.append(f"{at}\t{at + 500}\tC\t4096\t1\tcopy")
        lines.append(f"{at + 1000}\t{at + 4000}\tK\t64\t256\tEmbedKernel")
        lines.append(f"{at + 6000}\t{at + 16000}\tK\t132\t512\tReadPages")
    return "\n".join(lines) + "\n"


def run(*arguments, read=""):
    return subprocess.run([sys.executable, "-B", str(TABLE), *arguments], input=read, capture_output=True, text=True, check=False)


class KernelTable(unittest.TestCase):
    def test_steps_are_told_kernel_by_kernel(self):
        done = run("3", read=trace(6))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("# 3 of 3 steps launch these 2 kernels\n", done.stdout)
        self.assertIn("      5.0     10.0     2.0    132   512 ReadPages\n", done.stdout)
        self.assertIn("# a step 15.0 us\n", done.stdout)

    def test_what_cannot_be_used_is_said(self):
        for arguments in [(), ("0",), ("-1",), ("three",), ("1", "2")]:
            done = run(*arguments)
            self.assertEqual(done.returncode, 1)
            self.assertEqual(done.stderr, "usage: kernel_table.py STEPS < trace.tsv    STEPS: how many of the last, 1 or more\n")
        for read in ["", "no trace\n", trace(1)]:  # of one step nobody knows the end
            self.assertEqual(run("3", read=read).stderr, "kernel_table: no whole step in what was read\n")


if __name__ == "__main__":
    unittest.main()
