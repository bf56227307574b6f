"""A service as a process: started apart from the terminal, known by pid and start time, waited for, ended with all that it started."""

import contextlib
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from pwd import struct_passwd
from typing import Any

import psutil

from stprivacy.errors import RunError

MARK = "STPRIVACY_SERVICE"
"""The variable by which children are found whose parent is gone: `<the folder's mark>:<the service>`."""
LINES_OF_LOG = 15
POLL_S = 0.2


@dataclass(frozen=True)
class Process:
    """Which process it is: a pid alone may be somebody else's by now."""

    pid: int
    created: float
    """Seconds since 1970."""

    def find(self) -> psutil.Process | None:
        """The process, if it runs still."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.created) < 0.01 and found.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return None
        return found if same else None


def spawn(command: list[str], environment: dict[str, str], log: Path, cwd: Path, owner: struct_passwd | None = None) -> Process:
    """Start a program in a session of its own, its output appended to `log`; `owner`: whose it becomes, if not ours."""
    with open(log, "ab") as output:
        started = subprocess.Popen(
            command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            **run_as(owner),
        )  # fmt: skip
    started.returncode = 0  # it is to outlive this process: no warning about that from Popen
    return Process(started.pid, psutil.Process(started.pid).create_time())


def run_as(owner: struct_passwd | None) -> dict[str, Any]:
    """Arguments for `subprocess`, with which a program runs as another user and in none of our groups."""
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}


def wait_until(answers: Callable[[], bool], name: str, process: Process, log: Path, seconds: float) -> None:
    """Wait until a service answers. Raises RunError, after the end of its log on stderr, when it ends before or takes too long."""
    deadline = time.monotonic() + seconds
    while not answers():
        ended = process.find() is None
        if ended or time.monotonic() > deadline:
            print("\n".join(f"  {line}" for line in tail(log)), file=sys.stderr)
            why = "ended" if ended else f"didn't answer within {seconds:.0f} s"
            raise RunError(f"services: {name} {why} before it was ready; the last lines of {log} are above")
        time.sleep(POLL_S)


def tail(log: Path) -> list[str]:
    """The last lines of a log."""
    if not log.exists():
        return []
    with open(log, errors="replace") as lines:
        return [line.rstrip() for line in deque(lines, LINES_OF_LOG)]


def belonging(mark: str, name: str, process: Process | None) -> list[psutil.Process]:
    """What runs of a service: the process that was started, what descends from it, and orphans that carry its mark."""
    found: dict[int, psutil.Process] = {}
    main = process.find() if process else None
    if main:
        with contextlib.suppress(psutil.Error):
            found = {each.pid: each for each in [main, *main.children(recursive=True)]}
    for each in psutil.process_iter():
        try:
            if each.status() != psutil.STATUS_ZOMBIE and each.environ().get(MARK) == f"{mark}:{name}":
                found.setdefault(each.pid, each)
        except psutil.Error:
            continue  # it ended meanwhile, or it is another user's
    return list(found.values())


def end(processes: Iterable[psutil.Process], politely: signal.Signals, first: Process | None, seconds: float = 30) -> None:
    """End processes: a polite signal to `first` (to all where there is none), time to finish, then SIGKILL for what is left."""
    processes = list(processes)
    leaders = [process for process in processes if first and process.pid == first.pid] or processes
    for process in leaders:
        with contextlib.suppress(psutil.Error):
            process.send_signal(politely)
    _, left = psutil.wait_procs(processes, timeout=seconds)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=10)
