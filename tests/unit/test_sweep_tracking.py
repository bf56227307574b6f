"""Child runs: below their parent, found again by their hash."""

import mlflow
import pytest

from stprivacy import tracking
from stprivacy.config import load_params
from stprivacy.errors import RunError

ABOUT = {"kept_share": 0.4, "privacy_weight": 1 / 3}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def client(store, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    return mlflow.MlflowClient(tracking_uri=store)


@pytest.fixture
def parent(client, project_root, tmp_path):
    params = load_params(project_root / "params" / "vp-synth-tiny.yaml")
    with tracking.start("sweep", params, tmp_path.name) as run:
        yield run


def test_a_child_stands_below_its_parent_with_its_tags_and_its_own_parameters(client, parent):
    with tracking.child(parent.id, "first", "hash", ABOUT) as run:
        assert client.get_run(run.id).info.status == "RUNNING"
    found, above = client.get_run(run.id), client.get_run(parent.id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "first"
    assert found.info.experiment_id == above.info.experiment_id
    assert found.data.tags["mlflow.parentRunId"] == parent.id
    assert found.data.tags["dataset"] == above.data.tags["dataset"]
    assert found.data.tags["stage"] == "sweep"
    assert found.data.params == {"kept_share": "0.4", "privacy_weight": "0.333333"}


def test_the_same_hash_goes_on_in_the_same_run_of_the_same_parent(client, parent, project_root):
    with pytest.raises(ZeroDivisionError), tracking.child(parent.id, "first", "hash", ABOUT) as first:
        first.metrics({"loss/total": 1.0})
        raise ZeroDivisionError
    assert client.get_run(first.id).info.status == "FAILED"
    with tracking.child(parent.id, "first", "hash", ABOUT) as again:
        assert again.knows("loss/total")
        assert not again.knows("action_top1")
    assert again.id == first.id
    with tracking.child(parent.id, "second", "another hash", ABOUT) as other:
        pass
    assert other.id != first.id
    with tracking.start("sweep", load_params(project_root / "params" / "vp-synth-tiny.yaml"), "another sweep") as elsewhere:
        pass
    with tracking.child(elsewhere.id, "first", "hash", ABOUT) as cousin:
        pass
    assert cousin.id != first.id


def test_a_parent_that_is_not_there_is_told_in_one_line(client):
    with pytest.raises(RunError, match="MLFLOW_TRACKING_URI"), tracking.child("0" * 32, "first", "hash", ABOUT):
        pytest.fail("a child without a parent")
