"""Ray as a stage starts it: beside other clusters on the same machine, its workers ask their own."""

import os
import subprocess
import sys

import pytest

from stprivacy.training.distributed import cluster, run_tasks

ASK = """
import sys
from ray._raylet import GcsClient
print(len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=60)))
"""


def own_cluster() -> str | None:
    """Where Ray's State API asks from within a worker; without it, wherever it finds some Ray instance on the machine."""
    return os.environ.get("RAY_ADDRESS")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_workers_of_a_local_cluster_ask_that_cluster_about_their_run(monkeypatch):
    """Or a training run is ended by its own cleaner as soon as another Ray instance starts on the machine."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with cluster(num_cpus=1, dashboard=False) as ray:
        assert run_tasks(own_cluster, [()]) == [ray.get_runtime_context().gcs_address]
    assert "RAY_ADDRESS" not in os.environ  # the next cluster of this process is a new one


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_local_cluster_lets_in_who_has_the_token_of_this_home_and_nobody_else(monkeypatch):
    """It listens on all addresses, and who is let in can run code."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def ask(address, **variables):
        strangers = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        return subprocess.run(
            [sys.executable, "-c", ASK, address], env=strangers | variables, capture_output=True, text=True, check=False, timeout=300
        )

    with cluster(num_cpus=1, dashboard=False) as ray:
        address = ray.get_runtime_context().gcs_address
        none, another = ask(address, RAY_AUTH_MODE="disabled"), ask(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
        for refused in (none, another):
            assert (refused.returncode, refused.stdout) == (1, "")
            assert "Authentication token is missing or incorrect" in refused.stderr
        assert ask(address, RAY_AUTH_MODE="token").stdout.strip() == "1"
