"""Where the services keep their data, their passwords and the list of what runs."""

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stprivacy.errors import UserError
from stprivacy.services.processes import Process

DEFAULT = Path(".cache/stprivacy/services")
SECRETS = ("postgres", "database", "admin", "cookies", "s3_key", "s3_secret", "ray")
"""Superuser and MLflow's role in Postgres, MLflow's admin, its signed cookies, S3's key pair, Ray's token."""


@dataclass
class State:
    """What was started and where it listens; it outlives a crash of all."""

    mark: str
    """In the environment of everything that was started, and of nothing else."""
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)
    """Folders outside of the services' own, by what they are for."""


class Folder:
    """The services' folder: `Folder.open` makes it or takes it up."""

    def __init__(self, path: Path, state: State, passwords: dict[str, str]):
        self.path, self.state, self.passwords = path, state, passwords

    @classmethod
    def open(cls, path: Path) -> "Folder":
        """Make the folder with new passwords, or read what is there. Others may pass through (Postgres isn't root) but not look."""
        path = path.absolute()
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o711)
        for name in ("s3", "logs"):
            (path / name).mkdir(mode=0o700, exist_ok=True)
        if not (path / "state.json").exists():
            with _locked(path):  # two first starts at once agree on one set of passwords
                cls._make(path)
        return cls(path, _read_state(path / "state.json"), json.loads((path / "secrets.json").read_text()))

    @classmethod
    def _make(cls, path: Path) -> None:
        """What is missing: passwords, then an empty state."""
        if not (path / "secrets.json").exists():
            write_private(path / "secrets.json", json.dumps({name: secrets.token_urlsafe(24) for name in SECRETS}, indent=2) + "\n")
        if not (path / "state.json").exists():
            cls(path, State(secrets.token_hex(8)), {}).save()

    @classmethod
    def existing(cls, path: Path) -> "Folder":
        """Raises UserError where nothing was ever started."""
        if not (path / "state.json").exists():
            raise UserError(f"{path}: no services were started here; `make services` or `stprivacy services start` does")
        return cls.open(path)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One start or stop at a time. What another did meanwhile is read again."""
        with _locked(self.path):
            self.state = _read_state(self.path / "state.json")
            yield

    def save(self) -> None:
        write_private(self.path / "state.json", json.dumps(asdict(self.state), indent=2) + "\n")

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def port(self, name: str, wanted: int | None = None) -> int:
        """The port for a server that is about to start: the one wanted, else the last one, else a free one.

        Raises UserError when somebody else has the port that was wanted.
        """
        last = self.state.ports.get(name)
        if wanted and not _is_free(wanted):
            raise UserError(f"--port {name}={wanted}: somebody listens on 127.0.0.1:{wanted} already; name another one")
        port = wanted or (last if last and _is_free(last) else _free_port(set(self.state.ports.values())))
        self.state.ports[name] = port
        return port


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_private(path: Path, text: str) -> Path:
    """Write a file that only its owner can read, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return fresh.replace(path)


def _read_state(path: Path) -> State:
    plain = json.loads(path.read_text())
    return State(**plain | {"processes": {name: Process(**found) for name, found in plain["processes"].items()}})


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a connection that was closed lately is no hindrance
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port(taken: set[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port
