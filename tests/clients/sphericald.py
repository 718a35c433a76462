"""A real sphericald with the real model, for tests: starts it, finds its port in its log, speaks to it as any Python client would.

Messages are built from what the server says of itself (reflection): nothing is generated beforehand.
"""
import glob
import json
import os
import signal
import subprocess
import tempfile
import time

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

PROGRAM = "server/sphericald"
CTL = "server/ctl/sphericalctl"
INFERENCE = "spherical.v1.Inference"
TENANT_KEY = "x-spherical-tenant"
SECONDS_MAX = 60  # for what takes one on an idle machine


def model_path():
    found = glob.glob("../models/models/SmolLM2-135M-Instruct.Q4_1.gguf")
    if not found:
        raise AssertionError("no model: run deploy/fetch_model.sh")
    return found[0]


def wait_until(condition, what):
    """Polls; fails after SECONDS_MAX."""
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"it never happened: {what}")
        time.sleep(0.01)


class Server:
    """What can be asked of a server by who knows its address."""

    def __init__(self, address):
        self.address = address
        self.channel = grpc.insecure_channel(address)
        self.health = health_pb2_grpc.HealthStub(self.channel)
        self._pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))

    # ---- calls

    def status(self, service=INFERENCE):
        return self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS_MAX).status

    def ready(self):
        try:
            return self.status() == health_pb2.HealthCheckResponse.SERVING
        except grpc.RpcError:
            return False

    def message(self, name):
        """A class of spherical.v1."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName("spherical.v1." + name))

    def watch(self, seconds):
        """A WatchStats call, under way: the stats now and then every so many seconds."""
        Request, Response = self.message("WatchStatsRequest"), self.message("Stats")
        stream = self.channel.unary_stream("/spherical.v1.Admin/WatchStats", Request.SerializeToString, Response.FromString)
        request = Request()
        request.interval.FromNanoseconds(int(seconds * 1e9))
        return stream(request)

    def call(self, method, request=None, timeout=SECONDS_MAX, service=INFERENCE):
        """A unary method, by name."""
        descriptor = self._pool.FindServiceByName(service).FindMethodByName(method)
        Request, Response = (message_factory.GetMessageClass(t) for t in (descriptor.input_type, descriptor.output_type))
        unary = self.channel.unary_unary(f"/{service}/{method}", Request.SerializeToString, Response.FromString)
        return unary(request if request is not None else Request(), timeout=timeout)

    def stats(self):
        return self.call("GetStats", service="spherical.v1.Admin")

    def start(self, timeout=SECONDS_MAX, tenant=None, **fields):
        """A Generate call, under way."""
        Request, Response = self.message("GenerateRequest"), self.message("GenerateResponse")
        stream = self.channel.unary_stream(f"/{INFERENCE}/Generate", Request.SerializeToString, Response.FromString)
        return stream(Request(**fields), timeout=timeout, metadata=[(TENANT_KEY, tenant)] if tenant else None)

    def generate(self, **fields):
        """A Generate call, done."""
        return Answer(self.start(**fields))

    def holds_nothing(self):
        stats = self.stats()
        return stats.running == stats.waiting == stats.pool_held_bytes == stats.pool_reserved_bytes == 0


class Daemon(Server):
    """A process. Use as a context: it is ended, and its log printed if the test failed inside."""

    def __init__(self, *flags, pool="256MiB", ready=True, program=PROGRAM, model=None):
        self._log = tempfile.NamedTemporaryFile(dir=os.environ.get("TEST_TMPDIR"), suffix=".log")
        command = [program, "--model", model or model_path(), "--grpc-listen", "127.0.0.1:0", "--kv-pool-bytes", pool,
                   "--log-format", "json", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self._log)
        wait_until(lambda: self.process.poll() is not None or self.event("listening on"), "sphericald listens")
        listening = self.event("listening on")
        if not listening:
            raise AssertionError("sphericald did not start:\n" + self.log())
        super().__init__(f"{listening['address']}:{listening['port']}")
        if ready:
            wait_until(lambda: self.process.poll() is not None or self.ready(), "sphericald is ready")

    def __enter__(self):
        return self

    def __exit__(self, error_type, *_):
        if error_type:
            print(self.log())
            print(f"sphericald: exit code {self.process.poll()}")
        self.close()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.channel.close()

    def log(self):
        with open(self._log.name, encoding="utf-8") as log:
            return log.read()

    def events(self):
        """The log's lines. Each must be an object: that is what --log-format json promises."""
        lines = self.log().split("\n")[:-1]  # the last may be half written
        return [json.loads(line) for line in lines]

    def event(self, message):
        """The first line whose message starts so, or None."""
        return next((event for event in self.events() if event["message"].startswith(message)), None)

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self):
        return self.process.wait(SECONDS_MAX)


class Answer:
    """All that came of a Generate call."""

    def __init__(self, call):
        self.text, self.token_ids, self.logprobs, self.prompt_logprobs, self.finished, self.events = "", [], [], [], None, 0
        for response in call:
            self.events += 1
            kind = response.WhichOneof("event")
            if kind == "prompt_scored":
                self.prompt_logprobs += response.prompt_scored.tokens
            elif kind == "chunk":
                self.text += response.chunk.text
                self.token_ids += response.chunk.token_ids
                self.logprobs += response.chunk.logprobs
            else:
                self.text += response.finished.text
                self.finished = response.finished
