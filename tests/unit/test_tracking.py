"""What stands in MLflow after a stage, in a real store."""

import mlflow
import pytest

from stprivacy import tracking
from stprivacy.config import load_params
from stprivacy.errors import UserError


@pytest.fixture
def params(project_root):
    return load_params(project_root / "params" / "vp-synth-tiny.yaml")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A migrated store for all tests of the file: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def client(store, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    return mlflow.MlflowClient(tracking_uri=store)


def test_a_stage_leaves_its_configuration_metrics_and_tags(client, params, tmp_path):
    (tmp_path / "input").write_text("bytes")
    with tracking.start("train", params, "first", inputs=[tmp_path / "input"], tags={"extra": "yes"}) as run:
        for step in range(3):
            run.later({"loss/total": 3.0 - step}, step)
        run.metrics({"action_top1": 0.5})
        run.text("hello", "note.txt")
    found = client.get_run(run.id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["loss/total"] == 1.0
    assert [m.value for m in client.get_metric_history(run.id, "loss/total")] == [3.0, 2.0, 1.0]
    assert found.data.params["train.privacy_weight"] == str(params.train.privacy_weight)
    assert {"git.commit", "dvc.deps_md5", "dataset", "stage", "zero_stage", "extra", "config.hash"} <= found.data.tags.keys()
    assert client.get_experiment(found.info.experiment_id).name == f"stprivacy/{params.dataset.name}/train"


def test_a_failed_stage_is_marked_and_its_restart_goes_on_in_the_same_run(client, params):
    with pytest.raises(ZeroDivisionError), tracking.start("train", params, "killed") as first:
        raise ZeroDivisionError
    assert client.get_run(first.id).info.status == "FAILED"
    with tracking.start("train", params, "killed") as second:
        pass
    assert second.id == first.id
    with tracking.start("train", params, "killed") as third:
        pass
    assert third.id != first.id  # a finished run is left alone


def test_deps_hash_follows_the_bytes_of_the_inputs(client, params, tmp_path):
    seen = set()
    for content in ("one", "two"):
        (tmp_path / "input").write_text(content)
        with tracking.start("train", params, f"deps-{content}", inputs=[tmp_path / "input"]) as run:
            seen.add(client.get_run(run.id).data.tags["dvc.deps_md5"])
    assert len(seen) == 2


@pytest.mark.timeout(120)
def test_a_server_that_is_away_stops_the_stage_before_it_works(params, monkeypatch, free_port):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port}")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI.*start the server"), tracking.start("train", params, "away"):
        pytest.fail("the stage began without a server")
