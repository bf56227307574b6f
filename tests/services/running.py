"""The project's own services (`stprivacy services`) in a folder of the test session, on free ports."""

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from stprivacy.errors import UserError
from stprivacy.services import postgres, programs
from stprivacy.services.folder import Folder
from stprivacy.services.processes import belonging
from stprivacy.services.together import SERVICES, client_variables

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 700


class Services:
    """What a user has: the command, and the variables that it prints."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.printed = ""
        """All that the commands have printed, but for `env`."""

    def popen(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "stprivacy", "services", *words, "--folder", str(self.folder)]
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.popen(*words)
        try:
            printed, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
        self.printed += printed if words[0] != "env" else ""
        return subprocess.CompletedProcess(words, process.returncode, printed)

    def start(self, *words: str) -> None:
        ended = self.run("start", *words)
        assert ended.returncode == 0, ended.stdout

    def variables(self) -> dict[str, str]:
        return client_variables(self.folder)

    def processes(self, name: str | None = None) -> list[psutil.Process]:
        """What runs of one service, or of all."""
        state = Folder.existing(self.folder).state
        names = [name] if name else [service.name for service in SERVICES]
        return [each for one in names for each in belonging(state.mark, one, state.processes.get(one))]

    def lasting(self) -> list[psutil.Process]:
        """What runs as long as the services do: of Postgres its own process alone, since what it starts comes and goes."""
        names = [service.name for service in SERVICES if service.name != "postgres"]
        main = Folder.existing(self.folder).state.processes["postgres"].find()
        return [*([main] if main else []), *(process for name in names for process in self.processes(name))]

    def kill(self, name: str) -> None:
        """kill -9, workers included."""
        found = self.processes(name)
        assert found
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended with the one before it
                process.kill()
        psutil.wait_procs(found, timeout=10)


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Postgres, S3 and MLflow, started once; skips where a program is missing."""
    try:
        postgres.binaries()
        programs.check_s3()
        programs.check_mlflow()
    except UserError as error:
        pytest.skip(str(error))
    running = Services(tmp_path_factory.mktemp("services") / "of the session")
    try:
        running.start()
        yield running
    finally:
        ended = running.run("stop", "--purge")
        assert ended.returncode == 0, ended.stdout


def exported(lines: str) -> dict[str, str]:
    """What a shell would take from `services env`."""
    return dict(shlex.split(line)[1].split("=", 1) for line in lines.splitlines())
