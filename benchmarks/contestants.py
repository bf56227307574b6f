"""How two programs are measured beside one another: each in a process of its own, a turn at a time, in alternation.

A machine that is busy for a while then slows down both alike. Nothing here may import `stprivacy`: the authors' module has that
name, too, and the process that runs theirs imports this file.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ANSWER = "seconds "


class Contestant:
    """A child process `python -m benchmarks.<module> <arguments>` that ends in `serve`."""

    def __init__(self, module: str, *arguments: str):
        self.name = " ".join([module, *arguments])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        environment |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}  # DeepSpeed asks for them, as Ray Train sets them
        command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def turn(self) -> float:
        """Let it work once; gives its own count of seconds. Raises RuntimeError with its last words when it ended instead."""
        assert self._process.stdin and self._process.stdout and self._process.stderr
        try:
            print("go", file=self._process.stdin, flush=True)
            for line in self._process.stdout:
                if line.startswith(ANSWER):
                    return float(line.removeprefix(ANSWER))
        except BrokenPipeError:
            pass  # it ended before it was asked; what it said is read below
        words = self._process.stderr.read().strip().splitlines() or ["without a word"]
        raise RuntimeError(f"benchmarks.{self.name} ended: {words[-1]}")

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream:
                stream.close()


def alternate(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, float]:
    """Median seconds of each over `rounds` rounds in which every one has a turn, after a turn that is not counted. Ends them all."""
    try:
        for contestant in contestants.values():
            contestant.turn()
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, contestant in contestants.items():
                seconds[name].append(contestant.turn())
        return {name: statistics.median(values) for name, values in seconds.items()}
    finally:
        for contestant in contestants.values():
            contestant.close()


def serve(work: Callable[[], None], wait: Callable[[], None] = lambda: None) -> None:
    """The child's side: a turn for every line on stdin. `wait` returns when the device has done what `work` asked for."""
    for _ in sys.stdin:
        start = time.perf_counter()
        work()
        wait()
        print(f"{ANSWER}{time.perf_counter() - start}", flush=True)
