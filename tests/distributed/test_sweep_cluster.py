"""Ray as a stage starts it: beside other clusters on the same machine, its workers ask their own."""

import os

import pytest

from stprivacy.training.distributed import cluster, run_tasks


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
