"""Checkpoints of a run in the storage: a folder an epoch, written by all workers together, proven whole before it is taken up.

    <run>/game-0003/progress.json, model/…, replay-<worker>.pt, …   each file by one worker
    <run>/game-0003/seal-<worker>.json                              bytes and SHA-256 of that worker's files, written last

A folder without the seals of all its workers was not finished, and is nothing. One whose files are not what a seal says is damaged: the
one before is taken. Nothing else tells how far a run is: whatever was killed, whenever, the same run finds its place again.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from stprivacy.data.storage import file_sha256, open_storage
from stprivacy.errors import RunError, UserError

KEPT = 2
"""The last one may be damaged, or be so on its way to the storage."""
NAME = re.compile(r"(init|game)-(\d{4,})")
LONGEST_PAUSE_S = 15.0
Result = TypeVar("Result")
Exchange = Callable[[Any], list[Any]]
"""exchange(mine): what every worker handed in, in their order. All workers must come to it."""


class GivenUp(RunError):
    """A verdict that all workers have reached together: no use in starting them again."""


def checkpoint_name(phase: str, epochs: int) -> str:
    """Of the checkpoint after so many epochs of a phase."""
    return f"{phase}-{epochs:04d}"


@dataclass(frozen=True)
class Checkpoints:
    """A run's checkpoints: the folder `key` of the storage at `url`. A storage that is away is waited for, `patience_s` at most."""

    url: str
    key: str
    patience_s: float = 600.0

    @property
    def where(self) -> str:
        """For people."""
        return f"{self.url}/{self.key}"

    def names(self) -> list[str]:
        """Of all checkpoints, finished or not, the furthest first."""
        found = {key.removeprefix(f"{self.key}/").split("/")[0] for key in open_storage(self.url).list(self.key)}
        return sorted((name for name in found if NAME.fullmatch(name)), key=_distance, reverse=True)

    def put(self, name: str, folder: Path, worker: int, num_workers: int) -> None:
        """Send a worker's files, then its seal."""
        storage, top = open_storage(self.url), f"{self.key}/{name}"
        files = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            relative = path.relative_to(folder).as_posix()
            files[relative] = {"bytes": path.stat().st_size, "sha256": storage.put(path, f"{top}/{relative}")}
        seal = {"num_workers": num_workers, "files": files}
        storage.put_bytes(f"{top}/{_seal(worker)}", json.dumps(seal, indent=1).encode())

    def fetch(self, name: str, folder: Path) -> str | None:
        """Bring a checkpoint into a folder, and compare it with its seals; gives what is wrong with it, None for a whole one.

        "" is said of one that was not finished.
        """
        storage, top = open_storage(self.url), f"{self.key}/{name}"
        there = {key.removeprefix(f"{top}/"): size for key, size in storage.list(top).items()}
        files: dict[str, dict[str, Any]] = {}
        worker, num_workers = 0, 1
        while worker < num_workers:
            if _seal(worker) not in there:
                return ""
            try:
                seal = json.loads(storage.get_bytes(f"{top}/{_seal(worker)}"))
                if worker and seal["num_workers"] != num_workers:
                    return ""  # of an earlier attempt, by other workers
                files |= seal["files"]
                worker, num_workers = worker + 1, seal["num_workers"]
            except (ValueError, KeyError, TypeError):
                return f"{_seal(worker)} is not readable"
        for relative, entry in files.items():
            if there.get(relative) != entry["bytes"]:
                return f"{relative} has {there.get(relative, 0)} bytes of {entry['bytes']}"
        for relative, entry in files.items():
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            storage.get(f"{top}/{relative}", target)
            if file_sha256(target) != entry["sha256"]:
                return f"{relative} has other bytes than were written"
        return None

    def tidy(self, newest: str) -> None:
        """Remove all but the newest and the one before it."""
        names = [name for name in self.names() if _distance(name) <= _distance(newest)]
        for name in set(self.names()) - set(names[:KEPT]):
            open_storage(self.url).delete(f"{self.key}/{name}")

    def take_up(self, folder: Path, exchange: Exchange, say: Callable[[str], None]) -> Path | None:
        """The furthest checkpoint that is whole, in a folder below `folder`; None where no epoch was finished. `say` tells of damage.

        Every worker fetches, and all take the same. Raises GivenUp when the storage is away for good, or every checkpoint is damaged.
        """
        damaged = ""
        for name in self.together(self.names, exchange)[0]:
            here = folder / name
            flaws = [flaw for flaw in self.together(partial(self.fetch, name, here), exchange) if flaw is not None]
            if not flaws:
                return here
            if flaw := max(flaws):
                damaged = f"checkpoint {name} is damaged: {flaw}"
                say(f"{damaged}; taking the one before")
        if damaged:
            raise GivenUp(f"{damaged}, and there is no whole one before it; remove {self.where} to start the run again")
        return None

    def together(self, action: Callable[[], Result], exchange: Exchange) -> list[Result]:
        """What `action` gave each worker. Where it failed for one, all raise GivenUp, so that none waits for another."""
        outcome: tuple[Result | None, str]
        try:
            outcome = self.patiently(action), ""
        except (RunError, UserError) as error:
            outcome = None, str(error)
        outcomes = exchange(outcome)
        if errors := [error for _, error in outcomes if error]:
            raise GivenUp(errors[0])
        return [result for result, _ in outcomes]

    def patiently(self, action: Callable[[], Result]) -> Result:
        """`action()`, again and again while the storage is away. Raises RunError when it still is after `patience_s`."""
        began, pause = time.monotonic(), 0.5
        while True:
            try:
                return action()
            except RunError as error:
                waited = time.monotonic() - began
                if waited >= self.patience_s:
                    raise RunError(
                        f"{error} (tried for {waited:.0f} s; finished epochs are kept in {self.where}: start the same command again)"
                    ) from error
                if pause < 1:
                    print(f"the storage of the checkpoints is away, trying for {self.patience_s:.0f} s: {error}", flush=True)
            pause = min(2 * pause, LONGEST_PAUSE_S)
            time.sleep(min(pause, max(0.1, self.patience_s - waited)))


def _distance(name: str) -> tuple[bool, int]:
    phase, epochs = name.split("-")
    return phase == "game", int(epochs)


def _seal(worker: int) -> str:
    return f"seal-{worker}.json"
