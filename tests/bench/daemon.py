"""Starts sphericald and watches it become ready. Needs grpcio (tests/clients/make_venv.sh)."""
import pathlib
import socket
import subprocess
import tempfile
import time

import grpc

START_SECONDS_MAX = 120
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
SERVICE = b"spherical.v1.Inference"
REQUEST = b"\x0a" + bytes([len(SERVICE)]) + SERVICE  # HealthCheckRequest{service}
SERVING = b"\x08\x01"                                # HealthCheckResponse{status: SERVING}
RECONNECT_SOON = [("grpc.initial_reconnect_backoff_ms", 10), ("grpc.min_reconnect_backoff_ms", 10), ("grpc.max_reconnect_backoff_ms", 20)]


def start_once(program, model, pool_bytes):
    """Seconds from start to SERVING, and resident bytes then, in mode exact: the coded modes take a workspace beside the pool."""
    port = free_port()
    command = [program, "--model", model, "--grpc-listen", f"127.0.0.1:{port}", "--kv-mode", "exact",
               "--kv-pool-bytes", str(pool_bytes)]
    with tempfile.TemporaryFile() as log, grpc.insecure_channel(f"127.0.0.1:{port}", RECONNECT_SOON) as channel:
        check = channel.unary_unary(HEALTH_CHECK, request_serializer=None, response_deserializer=None)
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            while not serving(check):
                if process.poll() is not None or time.monotonic() - start > START_SECONDS_MAX:
                    log.seek(0)
                    raise RuntimeError(f"{' '.join(command)} did not start:\n{log.read().decode()}")
                time.sleep(0.005)
            return time.monotonic() - start, resident_bytes(process.pid)
        finally:
            process.terminate()
            process.wait()


def serving(check):
    try:
        return check(REQUEST, timeout=1) == SERVING
    except grpc.RpcError:
        return False


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def resident_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} says nothing about its memory")
