"""Tenants and quotas of a real daemon: the file, its reload, overrides, and what sphericalctl says of them."""
import json
import os
import pty
import re
import signal
import subprocess
import tempfile
import unittest

import grpc

import sphericald

QUOTAS = {"version": 1, "tenants": {"default": {"limit_bytes": "50%"}, "acme": {"guarantee_bytes": "25%", "weight": 2}}}
TENANT_KEY = "x-spherical-tenant"


def run(*command, code=0):
    """Runs sphericalctl without a server; what it printed on (stdout, stderr)."""
    done = subprocess.run([sphericald.CTL, *command], capture_output=True, text=True, timeout=sphericald.SECONDS_MAX, check=False)
    assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout, done.stderr


class QuotaFileTest(unittest.TestCase):
    """`quota check`, and what the daemon does with a file that is not good. No server."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(self.folder.cleanup)
        self.path = os.path.join(self.folder.name, "quotas.json")

    def write(self, quotas, path=None):
        with open(path or self.path, "w", encoding="utf-8") as file:
            file.write(quotas if isinstance(quotas, str) else json.dumps(quotas))

    def test_a_good_file_is_shown_with_asked_and_whole_pages(self):
        self.write(QUOTAS)
        out, _ = run("quota", "check", self.path, "--pool-bytes", "1000000")
        self.assertIn("pool 1000000 bytes (999296 in 211 whole pages); pages of 4736 bytes", out)
        [acme] = [line for line in out.splitlines() if line.startswith("acme")]
        self.assertEqual(acme.split()[:8], ["acme", "250000", "246272", "1000000", "999296", "2", "2..5", "yes"])
        out, _ = run("quota", "check", self.path, "--pool-bytes", "1GiB", "--page-bytes", "9088")
        self.assertIn("pages of 9088 bytes", out)

    def test_a_bad_file_is_1_with_file_and_pointer(self):
        self.write({"version": 1, "tenants": {"acme": {"weight": -1}}})
        _, error = run("quota", "check", self.path, code=1)
        self.assertEqual(error, f"sphericalctl: {self.path}: /tenants/acme/weight: "
                                "expected a number in [0.001, 1000]; got an integer -1\n")
        self.assertIn("cannot open", run("quota", "check", "/nonexistent", code=1)[1])

    def test_overrides_beside_it_count(self):
        self.write(QUOTAS)
        self.write({"version": 1, "tenants": {"default": {"guarantee_bytes": "90%"}}}, self.path + ".overrides.json")
        self.assertIn("/tenants/default/guarantee_bytes: the guarantee", run("quota", "check", self.path, code=1)[1])

    def test_wrong_use_is_2(self):
        self.write(QUOTAS)
        for args in (["quota"], ["quota", "check"], ["quota", "check", self.path, "--pool-bytes", "much"],
                     ["quota", "check", self.path, "--page-bytes", "0"], ["quota", "set", "acme"],
                     ["quota", "set", "acme", "--weight", "x"],
                     ["quota", "set", "acme", "--limit-bytes", "-1"], ["top", "--interval", "0"]):
            with self.subTest(args=args):
                run(*args, code=2)
        for command in ("check", "set", "clear"):
            self.assertIn("TENANT" if command != "check" else "FILE", run("quota", command, "--help")[0])

    def test_sphericald_refuses_it_before_it_listens(self):
        self.write({"version": 1, "tenants": {"acme": {"limit_bytes": "2GiB"}}})
        for flags in (["--check-config"], ["--grpc-listen", "127.0.0.1:0"]):
            done = subprocess.run([sphericald.PROGRAM, "--model", "m.gguf", "--quotas", self.path, *flags], capture_output=True, text=True,
                                  timeout=sphericald.SECONDS_MAX, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"{self.path}: /tenants/acme/limit_bytes: 2147483648 bytes is more than the pool", done.stderr)
            self.assertNotIn("listening", done.stderr)


class ServerTest(unittest.TestCase):
    """One daemon for all; each test leaves the file as it was."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(dir=os.environ.get("TEST_TMPDIR"))
        cls.path = os.path.join(cls.folder.name, "quotas.json")
        cls.write(QUOTAS)
        cls.daemon = sphericald.Daemon("--quotas", cls.path, "--tenant-trusted-metadata", "on")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.close()
        cls.folder.cleanup()

    @classmethod
    def write(cls, quotas):
        """As an editor does: a new file over the old."""
        with open(cls.path + ".new", "w", encoding="utf-8") as file:
            file.write(quotas if isinstance(quotas, str) else json.dumps(quotas))
        os.rename(cls.path + ".new", cls.path)

    def ctl(self, *args, code=0):
        return run("--server", self.daemon.address, *args, code=code)

    def tenants(self):
        return {tenant["name"]: tenant for tenant in json.loads(self.ctl("tenants", "--json")[0])["tenants"]}

    def test_tenants(self):
        tenants = self.tenants()
        self.assertEqual(list(tenants), ["default", "acme"])
        pool = self.daemon.stats().pool_bytes
        self.assertAlmostEqual(int(tenants["acme"]["quota"]["guarantee_bytes"]), pool / 4, delta=4736)
        self.assertRegex(self.ctl("tenants")[0], r"(?m)^acme +open +64\.0 +256\.0 ")

    def test_a_request_is_its_tenants(self):
        before = int(self.tenants()["acme"]["stats"]["admitted"])
        self.ctl("generate", "--prompt", "Once", "--max-tokens", "2", "--tenant", "acme")
        self.ctl("bench", "--requests", "2", "--prompt-tokens", "4", "--output-tokens", "2", "--tenant", "acme")
        self.ctl("generate", "--prompt", "Once", "--max-tokens", "2")
        self.assertEqual(int(self.tenants()["acme"]["stats"]["admitted"]), before + 3)
        with self.assertRaises(grpc.RpcError) as caught:
            Request, Response = self.daemon.message("GenerateRequest"), self.daemon.message("GenerateResponse")
            stream = self.daemon.channel.unary_stream("/spherical.v1.Inference/Generate", Request.SerializeToString, Response.FromString)
            list(stream(Request(text="Once"), metadata=[(TENANT_KEY, "acme"), ("x-gateway-inference-fairness-id", "zoo")]))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)

    def test_the_file_is_taken_when_it_changes_and_kept_out_when_it_is_bad(self):
        reloads, failures = self.daemon.stats().quota_reloads, self.daemon.stats().quota_reload_failures
        try:
            self.write({"version": 1, "tenants": {"default": {}, "acme": {"weight": 7}, "zoo": {"limit_bytes": "10MiB"}}})
            sphericald.wait_until(lambda: self.daemon.stats().quota_reloads == reloads + 1, "the quotas are reloaded")
            self.assertEqual(self.tenants()["acme"]["quota"]["weight"], 7)
            self.ctl("generate", "--prompt", "Once", "--max-tokens", "2", "--tenant", "zoo")
            os.remove(self.path)
            sphericald.wait_until(lambda: self.daemon.stats().quota_reload_failures == failures + 1, "a missing file is told")
            self.write('{"version": 1, "tenants": {"acme": {"weight": 0}}}')
            sphericald.wait_until(lambda: self.daemon.stats().quota_reload_failures == failures + 2, "a bad file is told")
            stats = self.daemon.stats()
            self.assertIn(f"{self.path}: /tenants/acme/weight: expected a number", stats.quota_error)
            self.assertTrue(self.daemon.event("quotas not reloaded, those before hold on: "))
            self.assertIn("quotas NOT reloaded", self.ctl("top", "--once")[0])
            self.assertEqual(self.tenants()["acme"]["quota"]["weight"], 7)
            self.ctl("generate", "--prompt", "Once", "--max-tokens", "2", "--tenant", "zoo")
        finally:
            self.write(QUOTAS)
        sphericald.wait_until(lambda: self.daemon.stats().quota_error == "", "the first quotas hold again")
        self.assertFalse(self.tenants()["zoo"]["open"])

    def test_quota_set_and_clear(self):
        out, _ = self.ctl("quota", "set", "default", "--limit-bytes", "10%", "--weight", "0.5", "--allow-drop", "false", "--priority", "-3",
                          "--rate-floor-bits", "3")
        self.assertRegex(out, r"^tenant default: guarantee 0 bytes, limit 268\d\d\d\d\d bytes, weight 0.5, 3 to 5 bits an element\n$")
        self.assertRegex(self.ctl("tenants")[0],
                         r"(?m)^default .* limit_bytes,weight,rate_floor_bits,allow_drop,priority$")
        with open(self.path + ".overrides.json", encoding="utf-8") as file:
            self.assertEqual(json.load(file)["tenants"]["default"]["weight"], 0.5)
        self.ctl("quota", "clear", "default")
        self.assertNotIn("weight", self.ctl("tenants")[0].splitlines()[1])
        self.assertIn("INVALID_ARGUMENT", self.ctl("quota", "set", "default", "--guarantee-bytes", "90%", code=1)[1])
        self.assertIn("NOT_FOUND", self.ctl("quota", "set", "nobody", "--weight", "1", code=1)[1])

    def test_top_piped_is_plain(self):
        out, _ = self.ctl("top", "--once")
        self.assertNotIn("\x1b", out)
        self.assertRegex(out, r"^sphericald 0\.1\.0, up ")
        self.assertRegex(out, r"(?m)^acme +\[\.{10}\] ")
        process = subprocess.Popen([sphericald.CTL, "--server", self.daemon.address, "top", "--interval", "0.1"], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        frames = 0
        while frames < 3:
            frames += process.stdout.readline().startswith("sphericald ")
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=sphericald.SECONDS_MAX)
        self.assertEqual((process.returncode, error), (0, ""))
        self.assertNotIn("\x1b", out)

    def test_top_on_a_terminal_fits_it_and_leaves_it_clean(self):
        leader, follower = pty.openpty()
        subprocess.run(["stty", "rows", "6", "cols", "40"], stdin=follower, check=True)
        process = subprocess.Popen([sphericald.CTL, "--server", self.daemon.address, "top", "--interval", "0.1"], stdout=follower)
        seen = ""
        while seen.count("\x1b[H") < 3:
            seen += os.read(leader, 65536).decode()
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(sphericald.SECONDS_MAX), 0)
        os.close(follower)
        os.close(leader)
        frame = seen.split("\x1b[H")[1]
        lines = re.sub(r"\x1b\[[KJ2]*", "", frame).replace("\r", "").rstrip("\n").split("\n")
        self.assertLessEqual(len(lines), 5)
        self.assertTrue(all(len(line) <= 40 for line in lines), lines)
        # Nothing that has to be undone: no alternate screen, no hidden cursor, no colours.
        self.assertNotIn("\x1b[?", seen)
        self.assertNotRegex(seen, r"\x1b\[[0-9;]*m")

    def test_watches_end_with_the_server(self):
        with sphericald.Daemon("--kv-geometry", "plain", ready=False) as daemon:
            process = subprocess.Popen([sphericald.CTL, "--server", daemon.address, "top", "--interval", "60"], stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, text=True)
            process.stdout.readline()
            daemon.terminate()
            self.assertEqual(daemon.exit_code(), 0)
            _, error = process.communicate(timeout=sphericald.SECONDS_MAX)
            self.assertEqual(process.returncode, 1)
            self.assertIn("UNAVAILABLE: the server is shutting down", error)


if __name__ == "__main__":
    unittest.main()
