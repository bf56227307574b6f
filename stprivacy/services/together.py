"""All services as one: started in order, stopped in reverse, described, and handed to clients as variables."""

import contextlib
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stprivacy.errors import UserError
from stprivacy.services import postgres, programs
from stprivacy.services.folder import Folder
from stprivacy.services.processes import MARK, Process, belonging, end, spawn, wait_until
from stprivacy.training.ray_folder import is_private


@dataclass(frozen=True)
class Service:
    """How one is started and ended."""

    name: str
    launch: Callable[[Folder, int | None], Process]
    """Start its process, on a port if one is wanted."""
    answers: Callable[[Folder], bool]
    patience_s: float
    """For its first start on a busy machine."""
    farewell: signal.Signals = signal.SIGTERM
    prepare: Callable[[Folder], None] | None = None
    """What is to be done once it answers."""
    port: str | None = None
    """The port to show, where it isn't called as the service."""


def _spawn(folder: Folder, name: str, command: list[str], environment: dict[str, str]) -> Process:
    owner = postgres.user() if name == "postgres" else None
    cwd = Path("/") if owner else folder.path  # the other user may not be let in here
    return spawn(command, environment | {MARK: f"{folder.state.mark}:{name}"}, folder.log(name), cwd, owner)


def _postgres(folder: Folder, wanted: int | None) -> Process:
    postgres.initialise(folder)
    command = postgres.command(folder, folder.port("postgres", wanted))
    return _spawn(folder, "postgres", command, postgres.environment())


def _s3(folder: Folder, wanted: int | None) -> Process:
    command = programs.s3_command(folder, folder.port("s3", wanted))
    return _spawn(folder, "s3", command, programs.s3_environment(folder))


def _mlflow(folder: Folder, wanted: int | None) -> Process:
    command = programs.mlflow_command(folder.port("mlflow", wanted))
    return _spawn(folder, "mlflow", command, programs.mlflow_environment(folder))


def _ray(name: str) -> Callable[[Folder, int | None], Process]:
    def launch(folder: Folder, wanted: int | None) -> Process:
        if name == "ray-head":
            folder.port("ray", wanted)
        return _spawn(folder, name, programs.ray_command(folder, name), programs.ray_environment(folder))

    return launch


ALWAYS = (
    # Its fast shutdown: clients are cut off, data are written.
    Service("postgres", _postgres, postgres.is_ready, 120, signal.SIGINT, postgres.make_databases),
    Service("s3", _s3, programs.s3_answers, 60),
    Service("mlflow", _mlflow, programs.mlflow_answers, 600),
)
RAY = (
    Service("ray-head", _ray("ray-head"), lambda folder: programs.ray_answers(folder, 1), 400, port="ray"),
    Service("ray-worker", _ray("ray-worker"), lambda folder: programs.ray_answers(folder, 2), 400, port="ray-worker-manager"),
)
SERVICES = ALWAYS + RAY
PORTS = ("postgres", "s3", "mlflow", "ray")


def start(path: Path, with_ray: bool = False, ports: dict[str, int] | None = None) -> None:
    """Start what doesn't run yet, and say what runs. One that doesn't come up is ended; those before it stay.

    `ports`: numbers by name of `PORTS`, where not the last or a free one. Raises UserError when a program or package is missing or a
    port is taken, RunError when a service doesn't come up.
    """
    postgres.binaries()
    programs.check_s3()
    programs.check_mlflow()
    folder, ports = Folder.open(path), ports or {}
    with folder.alone():
        for service in SERVICES if with_ray else ALWAYS:
            running = folder.state.processes.get(service.name)
            if running and running.find():
                print(f"{service.name:10} {address(folder, service)}: runs already", flush=True)
                continue
            _end(folder, service)  # workers of one that crashed hold its port
            with _ended_on_failure(folder, service):
                process = service.launch(folder, ports.get(service.port or service.name))
                folder.state.processes[service.name] = process
                folder.save()
                wait_until(lambda: service.answers(folder), service.name, process, folder.log(service.name), service.patience_s)  # noqa: B023
                if service.prepare:
                    service.prepare(folder)
            print(f"{service.name:10} {address(folder, service)}: started", flush=True)


@contextmanager
def _ended_on_failure(folder: Folder, service: Service) -> Iterator[None]:
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            _end(folder, service)


def stop(path: Path, purge: bool = False) -> None:
    """End what was started here and nothing else, crashed or not. `purge`: the data go, too."""
    folder = Folder.existing(path)
    with folder.alone():
        for service in reversed(SERVICES):
            print(f"{service.name:10} {'ended' if _end(folder, service) else 'was not running'}", flush=True)
        for node in {"ray-head", "ray-worker"} & folder.state.elsewhere.keys():
            place = Path(folder.state.elsewhere.pop(node))
            shutil.rmtree(place.parent if is_private(place) else place, ignore_errors=True)
            folder.save()
        if purge:
            for place in map(Path, folder.state.elsewhere.values()):
                shutil.rmtree(place)
                with contextlib.suppress(OSError):  # another project's data are there, too
                    place.parent.rmdir()
            shutil.rmtree(folder.path)
            print(f"{folder.path}: removed, data included", flush=True)


def _end(folder: Folder, service: Service) -> bool:
    """End a service with all that it started; whether there was anything to end."""
    process = folder.state.processes.get(service.name)
    found = belonging(folder.state.mark, service.name, process)
    end(found, service.farewell, process)
    end(belonging(folder.state.mark, service.name, None), signal.SIGKILL, None)  # what was started while the others ended
    if process:
        del folder.state.processes[service.name]
        folder.save()
    return bool(found)


def status(path: Path) -> bool:
    """Say what runs where; whether all of `ALWAYS` does."""
    folder = Folder.existing(path)
    running = set()
    for service in SERVICES:
        process = folder.state.processes.get(service.name)
        if process and process.find():
            running.add(service.name)
            healthy = "answers" if service.answers(folder) else f"doesn't answer; see {folder.log(service.name)}"
            print(f"{service.name:10} {address(folder, service)}: pid {process.pid}, {healthy}")
        elif process:
            print(f"{service.name:10} crashed; see {folder.log(service.name)}; `stprivacy services start` starts it again")
        else:
            print(f"{service.name:10} doesn't run")
    return {service.name for service in ALWAYS} <= running


def address(folder: Folder, service: Service) -> str:
    host = {"ray-worker": programs.RAY_WORKER}.get(service.name, "127.0.0.1")
    scheme = "" if service.name in ("postgres", "ray-worker") else "http://"
    return f"{scheme}{host}:{folder.state.ports[service.port or service.name]}"


def client_variables(path: Path) -> dict[str, str]:
    """What a client of these services has in its environment. Raises UserError when they don't run."""
    folder = Folder.existing(path)
    alive = {name for name, process in folder.state.processes.items() if process.find()}
    missing = [service.name for service in ALWAYS if service.name not in alive]
    if missing:
        raise UserError(f"services: {', '.join(missing)} not running; `make services` or `stprivacy services start` starts what is missing")
    ray = programs.ray_client(folder) if "ray-head" in alive else {}
    return programs.mlflow_client(folder) | programs.s3_client(folder) | ray


def exports(path: Path) -> str:
    """`client_variables` as lines for a shell."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in client_variables(path).items())
