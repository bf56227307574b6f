"""What a running Ray writes is out of other users' reach."""

import os
import subprocess
from pathlib import Path

import pytest

from stprivacy.training.distributed import run_tasks


def where_ray_writes() -> tuple[str, list[bool]]:
    """In a task: the session's folder, and whether another user can look into the system's temporary folder and into that."""
    import ray

    session = ray._private.worker._global_node.get_session_dir_path()
    if os.getuid():
        return session, [True, False]  # who isn't root can't be somebody else; the mode of the outer folder is a unit test's
    stranger = {"user": "nobody", "group": "nogroup", "cwd": "/", "capture_output": True}
    return session, [subprocess.run(["ls", place], check=False, **stranger).returncode == 0 for place in ("/tmp", session)]


@pytest.mark.slow
def test_no_other_user_reaches_the_session_of_a_stage_and_it_is_gone_afterwards(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ((session, reached),) = run_tasks(where_ray_writes, [()])
    outer = Path(session).parents[1]
    assert outer.name.startswith("stprivacy-ray-") and reached == [True, False]
    assert not outer.exists()
