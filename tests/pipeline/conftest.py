"""The project in a folder of its own, where stages are really run, killed and started again."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = "vp-synth-tiny"
MADE_BY_RUNNING = {"data", "models", "results", "dvc.lock"}
FROM_OUTSIDE = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "STPRIVACY_NUM_WORKERS", "STPRIVACY_STORAGE", "DVC_STAGE")
"""Variables that would lead a stage out of its folder."""
MARK = "STPRIVACY_TEST_FOLDER"
PATIENCE_S = 900
"""For one command on a machine that is busy with something else; on a free one none takes a tenth of it."""


class Project:
    """A copy of the source files, with the tiny experiment in place."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder),  # before the installed package, which is the tree that the tests are run in
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder / ".dvc" / "tmp" / "site"),
            "RAY_USAGE_STATS_ENABLED": "0",
            MARK: str(folder),
        }

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its output and errors together in `stdout`."""
        return subprocess.run(
            words, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            timeout=PATIENCE_S,
        )  # fmt: skip

    def dvc(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "dvc", *words)

    def stage(self, name: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", f"pipelines.{name}")

    def run_and_kill(self, words: tuple[str, ...], ready: Callable[[str], bool]) -> str:
        """Start a command and kill -9 it when `ready(its output so far)`; gives the output. Fails when it ends by itself."""
        log = self.folder / "killed.log"
        with open(log, "wb") as file:
            process = subprocess.Popen(words, cwd=self.folder, env=self.environment, stdout=file, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + PATIENCE_S
        try:
            while not ready(log.read_text(errors="replace")):
                assert process.poll() is None, f"ended before it could be killed: {log.read_text()}"
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        return log.read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """What was started in this project and runs still."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill(self, words: str) -> None:
        """Kill -9 every process of this project with these words in its command line, all with ""; one that ends meanwhile is dead, too."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if words in " ".join(process.cmdline()):
                    process.kill()

    def wait_until_alone(self, seconds: float) -> bool:
        """Do all processes of this project end by themselves?"""
        deadline = time.monotonic() + seconds
        while self.processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def set(self, key: str, value: object) -> None:
        """Change `section.key` in params.yaml."""
        yaml, path = YAML(), self.folder / "params.yaml"
        params = yaml.load(path)
        *parts, last = key.split(".")
        section = params
        for part in parts:
            section = section[part]
        section[last] = value
        yaml.dump(params, path)


def assert_shown(lines: list, expected: list) -> None:
    """Each was shown once, in order. The last line of a worker may come too late: Ray shows what its log monitor has read until the end."""
    assert lines == expected[: len(lines)]
    assert len(lines) >= len(expected) - 1, (lines, expected)


@contextmanager
def made_project(folder: Path) -> Iterator[Project]:
    """The source files (tracked, or new and not ignored) in `folder`, as a repository; what they start is ended."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if name.partition("/")[0] not in MADE_BY_RUNNING and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    shutil.copy(folder / "params" / f"{EXPERIMENT}.yaml", folder / "params.yaml")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    with ended(Project(folder)) as project:
        project.set("sweep.num_trials", 1)  # tests/distributed has a sweep of several
        yield project


@contextmanager
def ended(project: Project) -> Iterator[Project]:
    """Whatever the project has started is ended."""
    try:
        yield project
    finally:
        project.kill("")


@pytest.fixture(scope="session")
def repro(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, str]]:
    """(a project after its one undisturbed `dvc repro`, a learned baseline in it, what that printed). Tests leave it as it is."""
    with made_project(tmp_path_factory.mktemp("repro")) as project:
        project.set("baselines.methods", ["unet"])
        project.set("baselines.base_width", 4)
        ran = project.dvc("repro")
        assert ran.returncode == 0, ran.stdout
        yield project, ran.stdout


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Project]:
    """A project in which nothing has been run."""
    with made_project(tmp_path) as project:
        yield project


@pytest.fixture
def copied(repro: tuple[Project, str], tmp_path: Path) -> Iterator[Project]:
    """A copy of the project after `dvc repro`, to be changed."""
    shutil.copytree(repro[0].folder, tmp_path / "project")
    with ended(Project(tmp_path / "project")) as project:
        yield project
