"""sphericald as a process: flags, config file, exit codes, logs, signals."""
import json
import os
import signal
import subprocess
import tempfile
import unittest

import grpc
from grpc_health.v1 import health_pb2

import sphericald


def run(*flags):
    """Runs to the end; (exit code, what it printed)."""
    done = subprocess.run([sphericald.PROGRAM, *flags], capture_output=True, text=True, timeout=sphericald.SECONDS_MAX, check=False)
    return done.returncode, done.stdout + done.stderr


def config_file(text):
    file = tempfile.NamedTemporaryFile("w", dir=os.environ.get("TEST_TMPDIR"), suffix=".json", delete=False)
    with file:
        file.write(text if isinstance(text, str) else json.dumps(text))
    return file.name


class CommandLineTest(unittest.TestCase):
    def test_help_and_version(self):
        code, text = run("--help")
        self.assertEqual(code, 0)
        for flag in ("--model", "--grpc-listen", "--device", "--threads", "--kv-mode", "--kv-pool-bytes", "--config", "--check-config",
                     "--log-format", "--activations", "--target-step-ms"):
            self.assertIn(flag, text)
        self.assertEqual(run("--version"), (0, "sphericald 0.1.0\n"))

    def test_check_config(self):
        good = config_file({"model": "m.gguf", "grpc": {"listen": "127.0.0.1:0"}, "kv": {"mode": "exact", "pool_bytes": "64MiB"}})
        self.assertEqual(run("--config", good, "--check-config")[0], 0)
        for bad, message in (
                ({"model": "m", "kv": {"pool": 1}},
                 "/kv/pool: unknown key; known here: geometry, mode, pool_bytes, prefill_workspace_bytes"),
                ({"model": "m", "threads": "two"}, '/threads: expected an integer in [0, 1024]; got a string "two"'),
                ({"model": "m", "kv": {"pool_bytes": "60TiB"}}, "kv.pool_bytes (--kv-pool-bytes): 65970697666560 bytes"),
                ('{"model": "m", "model": "n"}', "/model: given twice"),
                ("{", "not JSON: parse error at line 1"),
                ({}, "no model")):
            with self.subTest(bad=bad):
                path = config_file(bad)
                code, text = run("--config", path, "--check-config")
                self.assertEqual(code, 1)
                self.assertIn(message, text)
                # Serving refuses what checking refuses.
                self.assertEqual(run("--config", path, "--grpc-listen", "127.0.0.1:0")[0], 1)

    def test_bad_flags(self):
        for flags, message in (
                (["--device", "cuda"], '--device: expected one of "cpu", "auto", or cuda:N with N from 0; got "cuda"'),
                (["--kv-mode", "rdr:0.1"], '--kv-mode: expected one of "exact", "uniform:T8", '),
                (["--grpc-listen", "nowhere"], "expected HOST:PORT"),
                (["--config", "/nonexistent.json"], "/nonexistent.json"),
                (["--kv-geometry", ""], "(--kv-geometry): expected auto, plain or a path"),
                (["--kv-prefill-workspace-bytes", "-1"], "--kv-prefill-workspace-bytes: expected bytes"),
                (["--kv-pool-bytes", "lots"], "--kv-pool-bytes: expected bytes"),
                (["--moddel", "x"], "--moddel")):
            with self.subTest(flags=flags):
                code, text = run("--model", "m.gguf", *flags)
                self.assertEqual(code, 1)
                self.assertIn(message, text)

    def test_device_that_is_not_there(self):
        code, text = run("--model", sphericald.model_path(), "--device", "cuda:1023", "--kv-mode", "exact", "--grpc-listen", "127.0.0.1:0")
        self.assertEqual(code, 1)
        self.assertIn("device (--device): cuda:1023: ", text)  # and then what is missing, which depends on build and machine

    def test_pool_larger_than_memory(self):
        code, text = run("--model", sphericald.model_path(), "--kv-pool-bytes", "60TiB", "--grpc-listen", "127.0.0.1:0")
        self.assertEqual(code, 1)
        self.assertIn("65970697666560 bytes (61440.00 GiB) asked, but this process can have", text)

    def test_bad_model(self):
        code, text = run("--model", "/nonexistent.gguf", "--grpc-listen", "127.0.0.1:0")
        self.assertEqual(code, 1)
        self.assertIn("/nonexistent.gguf", text)
        code, text = run("--model", config_file("not a model"), "--grpc-listen", "127.0.0.1:0")
        self.assertEqual(code, 1)
        self.assertIn("expected the magic 'GGUF'", text)

    def test_port_in_use(self):
        with sphericald.Daemon(ready=False) as first:
            code, text = run("--model", sphericald.model_path(), "--grpc-listen", first.address, "--kv-pool-bytes", "64MiB")
            self.assertEqual(code, 1)
            self.assertIn(f"cannot listen on {first.address}: the port is in use", text)


class LifeTest(unittest.TestCase):
    def test_alive_before_ready_and_the_log_is_json(self):
        with sphericald.Daemon("--threads", "1", ready=False) as daemon:
            self.assertEqual(daemon.status(""), health_pb2.HealthCheckResponse.SERVING)
            watch = daemon.health.Watch(health_pb2.HealthCheckRequest(service=sphericald.INFERENCE), timeout=sphericald.SECONDS_MAX)
            states = [next(watch).status]
            if states[0] == health_pb2.HealthCheckResponse.NOT_SERVING:  # as it will be, unless loading was quicker than we
                with self.assertRaises(grpc.RpcError) as caught:
                    daemon.generate(text="hi", max_tokens=1)
                self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
                states.append(next(watch).status)
            self.assertEqual(states[-1], health_pb2.HealthCheckResponse.SERVING)
            self.assertEqual(len(daemon.generate(text="hi", max_tokens=1).token_ids), 1)
            self.assertEqual(daemon.event("loaded")["threads"], 1)
            daemon.terminate()
            self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.NOT_SERVING)
            self.assertEqual(daemon.exit_code(), 0)
            self.assertEqual(daemon.events()[-1]["message"], "stopped")
            self.assertEqual(set(daemon.events()[0]), {"time", "level", "message", "address", "port"})

    def test_config_file_and_flags(self):
        path = config_file({"threads": 1, "context": {"max": 100}, "kv": {"pool_bytes": "8MiB"}})
        with sphericald.Daemon("--config", path, "--context-max", "200") as daemon:
            self.assertEqual(daemon.call("GetModelInfo").context_max, 200)
            self.assertEqual(daemon.event("loaded")["threads"], 1)
            self.assertGreater(daemon.stats().pool_bytes, 200 << 20)  # the flag of sphericald.Daemon

    def test_sigterm_lets_a_running_request_finish(self):
        with sphericald.Daemon() as daemon:
            call = daemon.start(text="Once", max_tokens=200, ignore_eos=True)
            next(call)
            daemon.terminate()
            sphericald.wait_until(lambda: daemon.event("draining"), "draining begins")
            self.assertEqual(daemon.status(), health_pb2.HealthCheckResponse.NOT_SERVING)
            with self.assertRaises(grpc.RpcError) as caught:
                daemon.generate(text="hi", max_tokens=1)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertIn("shutting down", caught.exception.details())
            self.assertEqual(1 + len(sphericald.Answer(call).token_ids), 200)
            self.assertEqual(daemon.exit_code(), 0)

    def test_a_second_signal_cuts_short(self):
        with sphericald.Daemon("--drain-grace-ms", "3600000") as daemon:
            call = daemon.start(text="Once", max_tokens=8000, ignore_eos=True)
            next(call)
            daemon.terminate()
            sphericald.wait_until(lambda: daemon.event("draining"), "draining begins")
            daemon.process.send_signal(signal.SIGINT)
            with self.assertRaises(grpc.RpcError) as caught:
                list(call)
            self.assertIn(caught.exception.code(), (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE))
            self.assertEqual(daemon.exit_code(), 0)

    def test_the_grace_ends(self):
        with sphericald.Daemon("--drain-grace-ms", "200") as daemon:
            call = daemon.start(text="Once", max_tokens=8000, ignore_eos=True)
            next(call)
            daemon.terminate()
            with self.assertRaises(grpc.RpcError):
                list(call)
            self.assertEqual(daemon.exit_code(), 0)


if __name__ == "__main__":
    unittest.main()
