"""Checkpoints in a bucket whose server goes away: a real one, killed and started again while training goes on."""

import pandas as pd
import pytest

from stprivacy.data.storage import open_storage
from stprivacy.training.checkpoints import Checkpoints
from tests.distributed.fault_cluster import nodes, running
from tests.distributed.fault_driver import EPOCHS, write_sources
from tests.services.s3 import BUCKET, rclone_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
SECOND = "game epoch 2 of"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults-storage")
    write_sources(folder)
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with rclone_server(folder / "s3") as server:
        yield server


@pytest.fixture(scope="module")
def cluster(folder, server):
    """Nodes that find the storage by their environment; runs on them belong to a job, so that checkpoints go there."""
    with nodes(folder, STPRIVACY_STORAGE=server.url("project"), STPRIVACY_JOB="faults", **server.environ()) as cluster:
        cluster.grow(3)
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(cluster, folder):
    with running(cluster, folder, "undisturbed", 2) as run:
        assert run.end() == 0, run.text[-4000:]
    return run.history()


def assert_same_losses(run, undisturbed):
    found = run.history()
    losses = [name for name in undisturbed if name.startswith(("loss/", "attack/"))]
    pd.testing.assert_frame_equal(found[losses], undisturbed[losses], check_exact=False, rtol=1e-6, atol=1e-6)


def test_checkpoints_are_in_the_bucket_and_nowhere_else(undisturbed, folder, server):
    kept = server.folder / BUCKET / "project" / "runs" / "train" / "undisturbed"
    assert sorted(path.name for path in kept.iterdir()) == [f"game-{EPOCHS - 1:04d}", f"game-{EPOCHS:04d}"]
    assert [path.name for path in (folder / ".cache/stprivacy/train/undisturbed").iterdir()] == ["last"]


def test_a_storage_that_is_away_for_a_while(cluster, folder, server, undisturbed):
    with running(cluster, folder, "away", 2) as run:
        run.wait_for(SECOND)
        server.kill()
        run.wait_for("the storage of the checkpoints is away, trying for 120 s")
        server.start()
        assert run.end() == 0, run.text[-4000:]
    assert "workers were lost" not in run.text
    assert_same_losses(run, undisturbed)


def test_a_storage_that_stays_away_ends_the_run_in_one_line_and_loses_nothing(cluster, folder, server, undisturbed):
    with running(cluster, folder, "gone", 2, patience_s=5) as run:
        run.wait_for(SECOND)
        server.kill()
        try:
            assert run.end() == 1, run.text[-4000:]
        finally:
            server.start()
    last = run.text.splitlines()[-1]
    assert last.startswith("failed: training run gone: ") and f"nothing answers at {server.endpoint}" in last
    assert "finished epochs are kept in s3://" in last
    with running(cluster, folder, "gone", 2, log="-again") as again:
        assert again.end() == 0, again.text[-4000:]
    assert "going on after game epoch" in again.text
    assert "init epoch" not in again.text
    assert_same_losses(again, undisturbed)


@pytest.mark.parametrize(("end", "flaw"), [(b"?", "other bytes than were written"), (b"", "899 bytes of 900")], ids=["changed", "cut"])
def test_of_a_damaged_one_in_the_bucket_the_log_tells_and_the_one_before_is_taken(server, tmp_path, monkeypatch, end, flaw):
    """As the unit tests of checkpoints have it of a folder."""
    for name, value in server.environ().items():
        monkeypatch.setenv(name, value)
    run, said = Checkpoints(server.url("project"), f"runs/train/{tmp_path.name}", patience_s=0), []
    (tmp_path / "written/model").mkdir(parents=True)
    for name in ("game-0001", "game-0002"):
        (tmp_path / "written/model/weights").write_bytes(name.encode() * 100)
        run.put(name, tmp_path / "written", worker=0, num_workers=1)
    bucket, key = open_storage(run.url), f"{run.key}/game-0002/model/weights"
    bucket.put_bytes(key, bucket.get_bytes(key)[:-1] + end)
    taken = run.take_up(tmp_path / "here", lambda mine: [mine], said.append)
    assert taken and (taken / "model/weights").read_bytes() == b"game-0001" * 100
    assert said == [f"checkpoint game-0002 is damaged: model/weights has {flaw}; taking the one before"]


def test_wrong_credentials_end_it_before_anything_is_started(cluster, folder, server, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with running(cluster, folder, "refused", 2) as run:
        assert run.end() == 2, run.text[-4000:]
    assert "refused" in run.text and "AWS_SECRET_ACCESS_KEY" in run.text
    assert "RayTrainWorker" not in run.text
