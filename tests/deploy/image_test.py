"""deploy/Dockerfile without building it: its run stage has the libraries that this build's programs need, and agrees with the manifests."""
import functools
import os
import re
import shutil
import subprocess
import unittest

import check_manifests
import kustomization

PROGRAMS = ("server/sphericald", "server/ctl/sphericalctl")
# Of a sanitized build; an image has none.
SANITIZERS = re.compile(r"lib(asan|ubsan|tsan)\.so")
# In debian:bookworm-slim, which keeps only Debian's required packages.
BASE = {"libc6", "libgcc-s1"}


def run_stage():
    """The instructions of the last stage: (name, rest of the line), continuations joined."""
    with open("deploy/Dockerfile", encoding="utf-8") as file:
        text = re.sub(r"(?m)^#.*\n", "", file.read()).replace("\\\n", " ")
    lines = [line.strip().split(None, 1) for line in text.splitlines() if line.strip()]
    return lines[max(index for index, line in enumerate(lines) if line[0] == "FROM"):]


def value_of(instruction):
    """Of the one instruction with this name."""
    [value] = [rest for name, rest in run_stage() if name == instruction]
    return value


def installed_in_image():
    """The packages that the run stage names."""
    run = value_of("RUN")
    return set(re.search(r"--no-install-recommends\s+(.*?)\s+&&", run)[1].split())


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}).stdout


def packages_of(libraries):
    """The packages that files on this machine are from. /lib is /usr/lib, but dpkg remembers only one of the two."""
    names = {path: {path, os.path.realpath(path), os.path.realpath(path).removeprefix("/usr")} for path in libraries}
    said = output_of("dpkg", "-S", *sorted(set.union(*names.values())))
    owners = {path: owner.split(":")[0] for owner, path in re.findall(r"(?m)^([a-z0-9][^ ,]*): (/.*)$", said)}
    return {next((owners[name] for name in names[path] if name in owners), f"nobody has {path}") for path in libraries}


@functools.lru_cache(maxsize=None)
def dependencies():
    """What apt installs along with each package that this machine has."""
    said = output_of("dpkg-query", "-W", "-f", "${Package};${Depends},${Pre-Depends}\n")
    packages = dict(line.split(";", 1) for line in said.splitlines())
    return {name: {re.sub(r"[ :(|].*", "", one.strip()) for one in depends.split(",")} - {""} for name, depends in packages.items()}


def with_dependencies(packages):
    """These, and all that apt installs along."""
    found, todo = set(), list(packages)
    while todo:
        package = todo.pop()
        if package not in found:
            found.add(package)
            todo += dependencies().get(package, ())
    return found


@unittest.skipUnless(shutil.which("dpkg") and os.path.exists("/etc/debian_version"), "which package has a library, only Debian knows")
class LibrariesTest(unittest.TestCase):
    """ldd and readelf of this build against the packages of the run stage."""

    def libraries(self):
        """Every shared library that the programs would load."""
        found = set()
        for program in PROGRAMS:
            said = output_of("ldd", program)
            self.assertNotIn("not found", said)
            found |= {path for path in re.findall(r"(?:=> |^\s*)(/\S+) \(0x", said, re.MULTILINE) if not SANITIZERS.search(path)}
        self.assertGreater(len(found), 20, "ldd said too little")
        return found

    def test_all_that_is_needed_is_installed(self):
        needed = packages_of(self.libraries())
        self.assertEqual(needed - with_dependencies(installed_in_image()) - BASE, set())

    def test_a_package_that_is_missing_would_be_noticed(self):
        needed = packages_of(self.libraries())
        for package in ("libspdlog1.10", "libgrpc++1.51"):
            self.assertIn(package, needed - with_dependencies(installed_in_image() - {package}) - BASE)

    def test_all_that_is_installed_is_needed(self):
        needed = packages_of(self.libraries())
        self.assertEqual(installed_in_image() - needed, set())


class AgreementTest(unittest.TestCase):
    """The image and the manifests that start it."""

    def setUp(self):
        self.served = check_manifests.Rendering(kustomization.render("deploy/kubernetes/base"))

    def test_the_user_is_the_same_number(self):
        context = self.served.pod["securityContext"]
        self.assertEqual(value_of("USER"), f"{context['runAsUser']}:{context['runAsGroup']}")
        self.assertIn(f"install -d -o {context['runAsUser']} -g {context['runAsGroup']} /models /cache", value_of("RUN"))

    def test_the_port_is_the_same(self):
        self.assertEqual(value_of("EXPOSE"), str(self.served.port))

    def test_the_cache_is_a_volume(self):
        name, path = value_of("ENV").split("=")
        self.assertEqual(name, "XDG_CACHE_HOME")
        self.assertIsNotNone(self.served.mount(path)[0])
        self.assertIn(path, value_of("VOLUME"))

    def test_signals_reach_the_daemon(self):
        self.assertEqual(value_of("ENTRYPOINT"), '["/usr/local/bin/sphericald"]')  # a list: no shell in between
        self.assertNotIn("command", self.served.container)
