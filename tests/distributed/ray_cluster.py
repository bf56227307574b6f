"""Two Ray nodes on loopback that share no disk: a head whose dashboard takes jobs, and a node that does the work, as in infra/.

A bucket is beside them, and a store for what is tracked.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.services.s3 import S3Server, free_ports

MARK = "STPRIVACY_TEST_CLUSTER"
HEAD, NODE = "127.0.0.2", "127.0.0.3"
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
    """Of the head."""
    disks: tuple[Path, Path]
    """Where the sessions of the head and of the other node can be seen from here."""
    apart: bool
    """Is the other node's disk all that it can see at the head's path? Where a user may not mount, it sees the head's, too."""


def plain_environment() -> dict[str, str]:
    """This process's, less whatever would lead a stage or a node elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FROM_OUTSIDE)}
    return kept | {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@contextmanager
def ray_cluster(folder: Path, s3: S3Server, num_cpus: int) -> Iterator[RayCluster]:
    """A head without CPUs, on which the drivers of jobs are, and a node with `num_cpus` for their tasks and workers.

    They know storage and tracking store by their own environment, as they would in a cloud.
    """
    disks = head_disk, node_disk = Path(tempfile.mkdtemp(prefix="ray-")), Path(tempfile.mkdtemp(prefix="ray-"))
    (node_disk / "tmp").mkdir()
    common = plain_environment() | s3.environ() | {
        "HOME": str(folder), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", MARK: str(folder),
        "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",  # a head of `ray start` reports even that it reports nothing
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "STPRIVACY_STORAGE": s3.url("project"),
        "STPRIVACY_NODE_CACHE": str(folder / "node-cache"), "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    }  # fmt: skip
    of_the_node = common | {"STPRIVACY_NODE_CACHE": str(node_disk / "node-cache"), "TMPDIR": str(node_disk / "tmp")}
    log, node_log, apart = folder / "ray.log", folder / "ray-node.log", _with_a_disk(head_disk, node_disk)
    started = []
    try:
        for _ in range(STARTS):
            address, gcs, command = _head(head_disk)  # other ports each time: somebody may have taken one meanwhile
            started.append(_started(command, folder, common, log))
            if _answers(address, started[-1], log):
                command = [*apart, *_node(gcs, head_disk if apart else node_disk, num_cpus)]
                started.append(_started(command, folder, of_the_node, node_log))
                if _runs(started[-1], node_log):
                    break
            _end(folder, started)
        else:
            raise AssertionError(f"Ray did not start: {[path.read_text()[-3000:] for path in (log, node_log) if path.exists()]}")
        yield RayCluster(address, common | {"RAY_ADDRESS": address}, log, disks, bool(apart))
    finally:
        _end(folder, started)
        for disk in disks:
            shutil.rmtree(disk, ignore_errors=True)


def _with_a_disk(there: Path, own: Path) -> list[str]:
    """How a command begins that finds `own` at the path `there`, as on another machine: folders of jobs have the same path on every node.

    Nothing where a user may not have a mount of their own.
    """
    for unshare in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        begins = [*unshare, "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', str(own), str(there)]
        if shutil.which("unshare") and subprocess.run([*begins, "true"], capture_output=True, check=False).returncode == 0:
            return begins
    return []


def _head(disk: Path) -> tuple[str, str, list[str]]:
    """Where jobs can be submitted, where a node comes to it, and the command of a head that does both."""
    port, dashboard = free_ports(2)
    here = ["--head", f"--node-ip-address={HEAD}", f"--port={port}", "--num-cpus=0"]
    here += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    return f"http://127.0.0.1:{dashboard}", f"{HEAD}:{port}", [*_start(disk), *here]


def _node(gcs: str, disk: Path, num_cpus: int) -> list[str]:
    return [*_start(disk), f"--address={gcs}", f"--node-ip-address={NODE}", f"--num-cpus={num_cpus}"]


def _start(disk: Path) -> list[str]:
    agents = (f"--{name}-port={port}" for name, port in zip(AGENTS, free_ports(len(AGENTS)), strict=True))
    return [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--block", f"--temp-dir={disk / 'r'}", *agents]


def _started(command: list[str], folder: Path, environment: dict[str, str], log: Path) -> subprocess.Popen:
    with open(log, "wb") as file:
        return subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def _answers(address: str, head: subprocess.Popen, log: Path) -> bool:
    """Wait until jobs can be submitted; False when the head gave up before."""

    def dashboard() -> bool:
        try:
            with urllib.request.urlopen(f"{address}/api/jobs/", timeout=5):
                return True
        except OSError:
            return False

    return _runs(head, log) and _until(dashboard, head)


def _runs(process: subprocess.Popen, log: Path) -> bool:
    """Wait until a node says so; False when it gave up before."""
    return _until(lambda: "Ray runtime started" in log.read_text(), process)


def _until(condition: Callable[[], bool], process: subprocess.Popen) -> bool:
    until = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.5)
    return False


def _end(folder: Path, started: list[subprocess.Popen]) -> None:
    for node in started:
        node.send_signal(signal.SIGTERM)
    time.sleep(1)
    for process in marked(folder):
        with contextlib.suppress(psutil.Error):
            process.kill()
    for node in started:
        node.wait()


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
