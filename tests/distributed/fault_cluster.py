"""A Ray cluster of several nodes on this machine, and training runs on it that a test may disturb. Everything started is ended by id."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd

from stprivacy.training.ray_folder import make_ray_folder
from tests.distributed.fault_driver import RUNS
from tests.services.s3 import free_port

MARK = "STPRIVACY_TEST_FAULTS"
"""An environment variable that every process of the cluster and its runs inherits, by which those left over are known."""
ROOT = Path(__file__).resolve().parents[2]


def marked_processes(mark: str) -> dict[int, str]:
    """Command lines of all living processes that have the mark in their environment, by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                if command:  # none for a zombie
                    found[int(folder.name)] = command
        except OSError:  # it ended meanwhile
            continue
    return found


def parent_of(pid: int) -> int | None:
    """None of a process that has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


class Nodes:
    """A head without CPUs, and nodes of one logical CPU with addresses of their own: Ray Train counts nodes by address."""

    def __init__(self, mark: str, folder: Path):
        """`folder`: for Ray's sockets and logs."""
        from ray.cluster_utils import Cluster

        self.mark, self.count = mark, 0
        for tries_left in reversed(range(3)):
            dashboard = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": free_port()}
            head = {"num_cpus": 0, "temp_dir": str(folder), **dashboard}
            try:
                self.cluster = Cluster(initialize_head=True, head_node_args=head)
                break
            except Exception:  # noqa: BLE001 (as in `grow`)
                assert tries_left, "Ray's head does not start"
                for pid in marked_processes(mark):
                    kill(pid)
        self.nodes: list[Any] = []

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def grow(self, num_nodes: int) -> None:
        """Start nodes until there are so many."""
        tries_left = 3
        while len(self.nodes) < num_nodes:
            self.count += 1
            try:
                self.nodes.append(self.cluster.add_node(num_cpus=1, node_ip_address=f"127.0.0.{1 + self.count}"))
            except Exception:  # noqa: BLE001 (Ray raises a plain one when a raylet takes more than 30 s, on a machine that is busy)
                tries_left -= 1
                assert tries_left, "Ray's nodes do not start"
                for pid in self._half_started():
                    kill(pid)

    def _half_started(self) -> list[int]:
        """Raylets of this process that belong to no node."""
        known = {node.all_processes["raylet"][0].process.pid for node in [self.cluster.head_node, *self.nodes]}
        raylets = [pid for pid, command in marked_processes(self.mark).items() if command.split()[0].endswith("/raylet")]
        return [pid for pid in raylets if pid not in known and parent_of(pid) == os.getpid()]

    def kill(self, node: Any) -> None:
        """Its raylet and all that hangs on it, at once."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def worker_pids(self) -> list[int]:
        return [pid for pid, command in marked_processes(self.mark).items() if "RayTrainWorker" in command]

    def node_of(self, pid: int) -> Any:
        raylet = parent_of(pid)
        return next(node for node in self.nodes if node.all_processes["raylet"][0].process.pid == raylet)


@contextmanager
def nodes(folder: Path, **environment: str) -> Iterator[Nodes]:
    """A cluster whose processes have `environment`; what is left of it at the end is killed by id."""
    mark = f"{os.getpid()}-{folder.name}"
    ours = environment | {MARK: mark, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in [*ours, "RAY_ADDRESS"]}
    os.environ.pop("RAY_ADDRESS", None)  # whoever runs the tests may have a cluster
    os.environ.update(ours)
    started, private = None, make_ray_folder()
    try:
        started = Nodes(mark, private)
        yield started
        logs = Path(started.cluster.head_node.get_logs_dir_path()).glob("dashboard*.log")
        assert not [log for log in logs if "Usage reporting is enabled" in log.read_text(errors="replace")], "Ray talks to its makers"
    finally:
        if started:
            started.cluster.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        until = time.monotonic() + 10
        while (left := marked_processes(mark)) and time.monotonic() < until:
            time.sleep(0.2)
        for pid in left:
            kill(pid)
        shutil.rmtree(private.parent, ignore_errors=True)


def kill(pid: int) -> None:
    """At once; it may have ended already."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Run:
    """`fault_driver` on a cluster, followed by what it prints."""

    def __init__(self, cluster: Nodes, folder: Path, name: str, num_workers: int | tuple[int, int], log: str = "", **settings: Any):
        self.folder, self.name, self.log = folder, name, folder / f"{name}{log}.log"
        environment = os.environ | {"RAY_ADDRESS": cluster.address, "MLFLOW_TRACKING_URI": "sqlite:///none.db", "PYTHONUNBUFFERED": "1"}
        settings |= {"name": name, "num_workers": num_workers}
        command = [sys.executable, "-m", "tests.distributed.fault_driver", str(folder), json.dumps(settings)]
        with open(self.log, "w") as log_file:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log_file, stderr=subprocess.STDOUT)

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")  # a letter may be half written

    def wait_for(self, said: str | Callable[[], bool], seconds: float = 200) -> None:
        """Until the run has printed `said`, or the condition holds."""
        until = time.monotonic() + seconds
        while not (said in self.text if isinstance(said, str) else said()):
            assert self.process.poll() is None, f"the run ended early:\n{self.text[-4000:]}"
            assert time.monotonic() < until, f"not in {seconds} s: {said}\n{self.text[-4000:]}"
            time.sleep(0.05)

    def end(self, seconds: float = 200) -> int:
        """Its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.text[-4000:]}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """The driver alone, at once."""
        self.process.kill()
        self.process.wait()

    @property
    def checkpoints(self) -> Path:
        return self.folder / RUNS / self.name

    def history(self) -> pd.DataFrame:
        """Losses of every step of the finished run."""
        found = sorted((self.checkpoints / "last").glob("*/history.csv"))
        return pd.read_csv(found[-1]).drop(columns="time/step_s")


@contextmanager
def running(*arguments: Any, **settings: Any) -> Iterator[Run]:
    run = Run(*arguments, **settings)
    try:
        yield run
    finally:
        run.kill()
