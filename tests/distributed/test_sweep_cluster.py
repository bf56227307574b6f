"""Ray as a stage starts it: beside other clusters on the same machine, its workers ask their own; what dies is started again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stprivacy.errors import RunError
from stprivacy.training.distributed import cluster, run_tasks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ASK = """
import sys
from ray._raylet import GcsClient
print(len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=60)))
"""


def own_cluster() -> str | None:
    """Where Ray's State API asks from within a worker; without it, wherever it finds some Ray instance on the machine."""
    return os.environ.get("RAY_ADDRESS")


def dies(folder: Path, name: str, times: int) -> int:
    """Kills its own process so many times, as the kernel does where memory is short; then gives which try this was."""
    tries = len(list(folder.glob(f"{name}-*"))) + 1
    (folder / f"{name}-{tries}").touch()
    if tries <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return tries


@pytest.fixture(scope="module")
def local():
    """A cluster as a stage starts it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with cluster(num_cpus=1, dashboard=False) as ray:
            yield ray


def test_the_workers_of_a_local_cluster_ask_that_cluster_about_their_run(local):
    """Or a training run is ended by its own cleaner as soon as another Ray instance starts on the machine."""
    assert run_tasks(own_cluster, [()]) == [local.get_runtime_context().gcs_address]
    assert "RAY_ADDRESS" not in os.environ  # the next cluster of this process is a new one


def test_a_task_whose_process_dies_is_started_again_twice_at_most(local, tmp_path):
    assert run_tasks(dies, [(tmp_path, "once", 1), (tmp_path, "never", 0)]) == [2, 1]
    with pytest.raises(RunError, match="^dies: WorkerCrashedError: "):
        run_tasks(dies, [(tmp_path, "ever", 9)])
    assert len(list(tmp_path.glob("ever-*"))) == 3


def test_a_local_cluster_lets_in_who_has_the_token_of_this_home_and_nobody_else(local):
    """It listens on all addresses, and who is let in can run code."""

    def ask(address, **variables):
        strangers = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        return subprocess.run(
            [sys.executable, "-c", ASK, address], env=strangers | variables, capture_output=True, text=True, check=False, timeout=300
        )

    address = local.get_runtime_context().gcs_address
    none, another = ask(address, RAY_AUTH_MODE="disabled"), ask(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
    for refused in (none, another):
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "Authentication token is missing or incorrect" in refused.stderr
    assert ask(address, RAY_AUTH_MODE="token").stdout.strip() == "1"
