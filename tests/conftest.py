"""What tests of every folder share."""

import os
from pathlib import Path

import pytest

# One thread each, as the Makefile sets it: two threads on two busy cores are many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def project_root() -> Path:
    return Path(__file__).resolve().parents[1]

