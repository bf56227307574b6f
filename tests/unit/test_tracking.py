"""What stands in MLflow after a stage, in a real store."""

import os
import time

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from stprivacy import tracking
from stprivacy.config import load_params
from stprivacy.errors import RunError, UserError


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
    with tracking.start("train", params, "first", inputs=[tmp_path / "input"]) as run:
        for step in range(3):
            run.later({"loss/total": 3.0 - step}, step)
        run.metrics({"action_top1": 0.5})
    found = client.get_run(run.id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["loss/total"] == 1.0
    assert [m.value for m in client.get_metric_history(run.id, "loss/total")] == [3.0, 2.0, 1.0]
    assert found.data.params["train.privacy_weight"] == str(params.train.privacy_weight)
    assert {"git.commit", "dvc.deps_md5", "dataset", "stage", "zero_stage", "config.hash"} <= found.data.tags.keys()
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


def judged(**changes):
    """A metrics.json as evaluate writes it."""
    floor = {"cmap": 0.4, "f1": 0.3, "action_top1": 0.1, "ap": {"hat": 0.4, "scarf": None}}
    return {
        "action": {"top1": 0.9},
        "privacy": {"cmap": 0.6, "f1": 0.5, "ap": {"hat": 0.6, "scarf": None}},
        "attackers": {
            "action": {"top1": 0.9, "val_score": 0.95, "epochs": 3, "train_loss": 0.1, "fitted": True},
            "privacy-cnn3d": {"cmap": 0.6, "f1": 0.5, "ap": {"hat": 0.6, "scarf": None}, "val_score": 0.65, "fitted": False},
        },
        "floors": {"chance": floor, "action_only": floor | {"cmap": 0.45}},
        "leak_removed": 0.25,
    } | changes


def pictures_in(folder):
    """The pictures of a judgement, by name, as files."""
    found = {name: folder / f"{name}.png" for name in ("clips", "released", "attributes")}
    for path in found.values():
        path.write_bytes(b"picture")
    return found


def test_a_judgement_leads_with_four_figures_and_groups_the_others(client, params, tmp_path):
    with tracking.start("evaluate", params, "judged") as run:
        run.judgement(judged(), pictures_in(tmp_path), show_raw=True)
    metrics = client.get_run(run.id).data.metrics
    headline = {"action_top1": 0.9, "privacy_cmap": 0.6, "privacy_f1": 0.5, "leak_removed": 0.25}
    assert {name: value for name, value in metrics.items() if "/" not in name} == headline
    assert metrics["attack/privacy-cnn3d/ap_hat"] == 0.6
    assert (metrics["attack/action/fitted"], metrics["attack/privacy-cnn3d/fitted"]) == (1, 0)
    assert (metrics["floor/chance/cmap"], metrics["floor/action_only/cmap"]) == (0.4, 0.45)
    assert not any("scarf" in name for name in metrics)  # no test clip has it: there is no figure


def test_a_leak_that_raw_clips_do_not_have_is_no_metric(client, params, tmp_path):
    with tracking.start("evaluate", params, "no leak") as run:
        run.judgement(judged(leak_removed=None), {}, show_raw=True)
    assert "leak_removed" not in client.get_run(run.id).data.metrics


@pytest.mark.parametrize(("show_raw", "sent"), [(True, {"clips", "released", "attributes"}), (False, {"released", "attributes"})])
def test_pictures_with_raw_frames_go_to_the_server_only_where_that_is_wanted(client, params, tmp_path, show_raw, sent):
    with tracking.start("evaluate", params, f"pictures {show_raw}") as run:
        run.judgement(judged(), pictures_in(tmp_path), show_raw)
    assert {artifact.path for artifact in client.list_artifacts(run.id, "pictures")} == {f"pictures/{name}.png" for name in sent}


def test_metrics_wait_for_a_server_that_went_away_and_the_run_goes_on(client, params, capsys):
    with tracking.start("train", params, "away for a while") as run:
        send = run.client.log_batch
        run.client.log_batch = lambda *_, **__: (_ for _ in ()).throw(OSError("connection refused"))
        run.metrics({"loss/total": 2.0}, 0)
        assert "1 metrics wait for the next try" in capsys.readouterr().err
        run.client.log_batch = send
        run.metrics({"loss/total": 1.0}, 1)
    assert [metric.value for metric in client.get_metric_history(run.id, "loss/total")] == [2.0, 1.0]


def test_metrics_whose_answer_was_lost_are_sent_again_and_kept_once(client, params, capsys):
    with tracking.start("train", params, "an answer is lost") as run:
        send = run.client.log_batch

        def unanswered(*given, **named):
            send(*given, **named)
            time.sleep(0.01)  # what is sent again has another time, if it is stamped again
            raise OSError("timed out")

        run.client.log_batch = unanswered
        run.metrics({"loss/total": 2.0, "loss/action": 1.0}, 0)
        assert "2 metrics wait for the next try" in capsys.readouterr().err
        run.client.log_batch = send
        run.metrics({"loss/total": 1.0}, 1)
    assert [metric.value for metric in client.get_metric_history(run.id, "loss/total")] == [2.0, 1.0]
    assert [metric.value for metric in client.get_metric_history(run.id, "loss/action")] == [1.0]


def test_a_run_whose_last_metrics_cannot_be_delivered_ends_with_one_clear_line(client, params, monkeypatch):
    monkeypatch.setattr(tracking, "connect", lambda: client)
    send = client.log_batch
    with pytest.raises(RunError) as ended, tracking.start("evaluate", params, "away for good") as run:
        run.later({"loss/total": 2.0}, 0)
        monkeypatch.setattr(client, "log_batch", lambda *_, **__: (_ for _ in ()).throw(MlflowException("connection\nrefused")))
    assert "finished work is kept" in str(ended.value)
    assert "\n" not in str(ended.value)
    assert client.get_run(run.id).info.status == "FAILED"
    monkeypatch.setattr(client, "log_batch", send)
    with tracking.start("evaluate", params, "away for good") as again:
        pass
    assert again.id == run.id


def test_what_a_stage_raises_is_not_hidden_by_a_server_that_is_away(client, params, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "connect", lambda: client)
    with pytest.raises(ZeroDivisionError), tracking.start("evaluate", params, "its own error") as run:
        run.later({"loss/total": 2.0}, 0)
        for name in ("log_batch", "set_terminated"):
            monkeypatch.setattr(client, name, lambda *_, **__: (_ for _ in ()).throw(MlflowException("refused")))
        raise ZeroDivisionError
    assert "shows the run" in capsys.readouterr().err


def test_a_password_in_the_servers_address_is_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:1")
    shown = tracking.complaint(MlflowException("connection refused"))
    assert "http://127.0.0.1:1: connection refused" in shown
    assert "secret" not in shown
    away = "API request to http://somebody:secret@127.0.0.1:1/api/2.0/mlflow/runs/get failed with exception: refused"  # MLflow's own words
    shown = tracking.complaint(MlflowException(away))
    assert "API request to http://127.0.0.1:1/api/2.0/mlflow/runs/get failed" in shown
    assert "secret" not in shown


def test_a_server_that_is_away_is_told_at_once_at_the_start_and_waited_for_afterwards(client, monkeypatch):
    monkeypatch.delenv(tracking.RETRIES, raising=False)
    tracking.connect()
    with tracking.answering():
        assert os.environ[tracking.RETRIES] == tracking.HASTY
    with tracking.persevering():
        assert os.environ[tracking.RETRIES] == tracking.PATIENT
    monkeypatch.setenv(tracking.RETRIES, "4")  # the user's word stands
    with tracking.answering():
        assert os.environ[tracking.RETRIES] == "4"


@pytest.mark.timeout(120)
def test_a_server_that_is_away_stops_the_stage_before_it_works(params, monkeypatch, free_port):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port}")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI.*start the server"), tracking.start("train", params, "away"):
        pytest.fail("the stage began without a server")
