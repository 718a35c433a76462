"""deploy/install_packages.sh, with a pretended apt: it asks before it installs, and says what it could not do."""
import os
import shutil
import stat
import subprocess
import tempfile
import unittest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy", "install_packages.sh")


class InstallPackagesTest(unittest.TestCase):
    """Each test has programs of its own, and no others but the shell's."""

    def setUp(self):
        self.scratch = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.scratch)
        self.log = os.path.join(self.scratch, "log")
        for name in ("bash", "env", "awk"):
            os.symlink(shutil.which(name), os.path.join(self.scratch, name))
        self.program("apt-get", 'echo "$@" >>"$LOG"; [[ "$*" != *"$FAILING"* ]]')
        self.program("id", "echo 0")
        self.program("sudo", 'exec "$@"')

    def program(self, name, body):
        """A program on the script's PATH."""
        path = os.path.join(self.scratch, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/bash\n{body}\n")
        os.chmod(path, stat.S_IRWXU)

    def install(self, *arguments, missing="", failing="nothing fails"):
        """Runs the script on a machine that lacks `missing`."""
        self.program("dpkg-query", f'for last; do :; done; [[ " {missing} " == *" $last "* ]] && exit 1; echo -n installed')
        return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, check=False,
                              env={"PATH": self.scratch, "LOG": self.log, "FAILING": failing})

    def apt_calls(self):
        """What apt-get was asked."""
        if not os.path.exists(self.log):
            return []
        with open(self.log, encoding="utf-8") as log:
            return log.read().splitlines()

    def test_nothing_missing_needs_no_apt(self):
        run = self.install("tests")
        self.assertEqual((run.returncode, run.stdout, run.stderr), (0, "", ""))
        self.assertEqual(self.apt_calls(), [])

    def test_installs_only_what_is_missing(self):
        run = self.install(missing="libgrpc++-dev python3-pip catch2")
        self.assertEqual(run.returncode, 0, run.stderr)
        update, install = self.apt_calls()
        self.assertTrue(update.endswith("update"))
        self.assertTrue(install.endswith("--no-install-recommends libgrpc++-dev python3-pip"), install)

    def test_tests_need_more(self):
        run = self.install("tests", missing="catch2")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertTrue(self.apt_calls()[-1].endswith("catch2"))

    def test_old_lists_may_do(self):
        run = self.install(missing="libpcre2-dev", failing="update")
        self.assertEqual(run.returncode, 0)
        self.assertIn("lists at hand", run.stderr)

    def test_apt_that_fails(self):
        run = self.install(missing="libpcre2-dev", failing="install")
        self.assertEqual(run.returncode, 1)
        self.assertIn("could not install libpcre2-dev", run.stderr)

    def test_not_debian(self):
        self.install()
        os.remove(os.path.join(self.scratch, "dpkg-query"))
        run = subprocess.run(["bash", SCRIPT], capture_output=True, text=True, check=False, env={"PATH": self.scratch})
        self.assertEqual(run.returncode, 0)
        self.assertIn("not Debian", run.stderr)

    def test_unknown_argument(self):
        run = self.install("everything")
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("install_packages.sh tests", run.stdout)

    def test_a_user_goes_through_sudo(self):
        self.program("id", "echo 1000")
        self.program("sudo", 'echo "sudo $*" >>"$LOG"; exec "$@"')
        run = self.install(missing="libpcre2-dev")
        self.assertEqual(run.returncode, 0, run.stderr)
        # sudo drops the environment: the variable must come after it.
        self.assertTrue(self.apt_calls()[0].startswith("sudo env DEBIAN_FRONTEND=noninteractive apt-get"), self.apt_calls())

    def test_neither_root_nor_sudo(self):
        self.program("id", "echo 1000")
        os.remove(os.path.join(self.scratch, "sudo"))
        run = self.install(missing="libpcre2-dev")
        self.assertEqual(run.returncode, 1)
        self.assertIn("no sudo here", run.stderr)
        self.assertIn("apt-get install -y --no-install-recommends libpcre2-dev", run.stderr)
        self.assertEqual(self.apt_calls(), [])
