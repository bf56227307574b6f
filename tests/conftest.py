"""What tests of every folder share."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# One thread each, as the Makefile sets it: two threads on two busy cores are many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Ray and MLflow report their use to their makers otherwise, and a head of `ray start` even that it doesn't.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/", "MLFLOW_DISABLE_TELEMETRY": "true"}

# The same examples in every run, and no clock: what fails once in a hundred runs, by its draw or because others had the cores for a
# moment, says nothing of the change that it stops. `pytest --hypothesis-profile=default` draws other examples each time.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def project_root() -> Path:
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def free_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
