"""A Ray head of its own on loopback, with a dashboard that takes jobs, a bucket beside it, and a store for what is tracked."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.services.s3 import S3Server, free_ports

MARK = "STPRIVACY_TEST_CLUSTER"
STARTS = 3
"""Ray gives a node thirty seconds to start, too few on a machine that is busy with something else, and no setting for more."""
AGENTS = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "metrics-export")
FROM_OUTSIDE = ("RAY_", "AWS_", "STPRIVACY_", "MLFLOW_", "DVC_STAGE", "PYTHONPATH")


@dataclass
class RayCluster:
    """Where it is, and what its jobs' submitters have in their environment."""

    address: str
    environment: dict[str, str]
    log: Path


def plain_environment() -> dict[str, str]:
    """This process's, less whatever would lead a stage or a node elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FROM_OUTSIDE)}
    return kept | {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@contextmanager
def ray_cluster(folder: Path, s3: S3Server, num_cpus: int) -> Iterator[RayCluster]:
    """One node. Nodes know storage and tracking store by their own environment, as they would in a cloud."""
    ray_folder = Path(tempfile.mkdtemp(prefix="ray-"))  # a short path: the name of a socket file has at most a hundred characters
    common = plain_environment() | s3.environ() | {
        "HOME": str(folder), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", MARK: str(folder),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "STPRIVACY_STORAGE": s3.url("project"),
        "STPRIVACY_NODE_CACHE": str(folder / "node-cache"), "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    }  # fmt: skip
    log = folder / "ray.log"
    try:
        for _ in range(STARTS):
            address, command = _head(ray_folder, num_cpus)  # other ports each time: somebody may have taken one meanwhile
            with open(log, "wb") as file:
                head = subprocess.Popen(command, cwd=folder, env=common, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
            if _answers(address, head, log):
                break
            _end(folder, head)
        else:
            raise AssertionError(f"Ray did not start: {log.read_text()[-3000:]}")
        yield RayCluster(address, common | {"RAY_ADDRESS": address}, log)
    finally:
        _end(folder, head)
        shutil.rmtree(ray_folder, ignore_errors=True)


def _head(ray_folder: Path, num_cpus: int) -> tuple[str, list[str]]:
    """Where jobs can be submitted, and the command of a head that takes them."""
    names = ("port", *(f"{of}-port" for of in ("dashboard", *AGENTS)))
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    return f"http://127.0.0.1:{ports['dashboard-port']}", [
        sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.2",
        f"--temp-dir={ray_folder}", f"--num-cpus={num_cpus}", "--include-dashboard=true", "--dashboard-host=127.0.0.1",
        *(f"--{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip


def _answers(address: str, head: subprocess.Popen, log: Path) -> bool:
    """Wait until jobs can be submitted; False when the head gave up before."""
    until = time.monotonic() + 300
    while head.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{address}/api/jobs/", timeout=5):
                if "Ray runtime started" in log.read_text():  # the dashboard answers some time before
                    return True
        except OSError:
            pass
        time.sleep(0.5)
    return False


def _end(folder: Path, head: subprocess.Popen) -> None:
    head.send_signal(signal.SIGTERM)
    time.sleep(1)
    for process in marked(folder):
        with contextlib.suppress(psutil.Error):
            process.kill()
    head.wait()


def marked(folder: Path) -> list[psutil.Process]:
    """What was started in a cluster's or its submitters' environment and runs still."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
