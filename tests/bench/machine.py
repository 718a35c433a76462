"""Where and with what a measurement was made: for the header of every result."""
import datetime
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess


def describe(model, command):
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit() or "unknown",
        "command": command,
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
        "model": pathlib.Path(model).name,
        "model_bytes": os.path.getsize(model),
        "model_sha256": hashlib.sha256(pathlib.Path(model).read_bytes()).hexdigest(),
    }


def commit():
    """Empty where there is no git, or no repository: an unpacked archive, a container."""
    if shutil.which("git") is None:
        return ""
    return subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False).stdout.strip()


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
