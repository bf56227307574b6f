"""Where the time went: every stage leaves its seconds, and `stprivacy times` sums them up."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TIMES = Path(".cache/stprivacy/times.jsonl")


@contextmanager
def timed(stage: str, path: Path = TIMES) -> Iterator[None]:
    """Append the seconds of the block, also when it fails, as a JSON line: stage, started (Unix time), seconds, finished."""
    started, finished = time.time(), False
    try:
        yield
        finished = True
    finally:
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"stage": stage, "started": round(started, 1), "seconds": round(time.time() - started, 1), "finished": finished}
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")


def latest(path: Path = TIMES) -> dict[str, float]:
    """Seconds of each stage's latest finished run, in the order in which they ran."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    seconds: dict[str, float] = {}
    for row in rows:
        if row["finished"]:
            seconds.pop(row["stage"], None)
            seconds[row["stage"]] = row["seconds"]
    return seconds
