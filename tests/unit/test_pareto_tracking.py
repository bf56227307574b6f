"""The front in a real MLflow store: one run a point, brought up to date and never doubled; data and machine beside the stages' runs."""

import json
from dataclasses import replace
from threading import Event

import mlflow
import pytest
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from stprivacy import tracking
from stprivacy.config import Policy, load_params
from stprivacy.errors import UserError
from stprivacy.evaluation.pareto import find_front, rows
from stprivacy.tracking_front import POINT_PARAMS, VIEW, links, log_front, log_points, point_hash, serve
from tests.browser.front_files import METHODS, SWEPT, make_results


@pytest.fixture
def params(project_root):
    return load_params(project_root / "params" / "vp-synth.yaml")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A migrated store for all tests of the file: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def client(store, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    return mlflow.MlflowClient(tracking_uri=store)


def params_of(params, name, **changed):
    """The same experiment under another data set's name, so that tests do not see one another's points."""
    plain = params.model_dump(mode="json") | changed
    return type(params).model_validate(plain | {"dataset": plain["dataset"] | {"name": name}})


def log(params, results, policy=Policy(), swept=SWEPT):  # noqa: B008 (frozen)
    front = find_front(make_results(results, swept=swept), METHODS, policy)
    with tracking.start("pareto", params, "front", again=True) as run:
        ids = log_points(run, rows(front), params)
        log_front(run, "**the** note", [])
    return front, ids, run


def test_every_point_is_a_finished_run_with_its_figures(client, params, tmp_path):
    front, ids, run = log(params_of(params, "figures"), tmp_path / "results")
    assert len(set(ids)) == len(rows(front))
    for row, run_id in zip(rows(front), ids, strict=True):
        found = client.get_run(run_id)
        assert found.info.status == "FINISHED"
        assert {name: found.data.metrics[name] for name in ("action_top1", "privacy_cmap", "val_privacy_cmap")} == {
            name: row[name] for name in ("action_top1", "privacy_cmap", "val_privacy_cmap")
        }
        assert found.data.tags["on_front"] == str(row["on_front"]).lower()
        assert found.info.run_name.startswith(row["name"])
    assert sum(client.get_run(run_id).data.tags["choice"] == "true" for run_id in ids) == front.choice.num_seeds
    assert client.get_run(run.id).data.tags["mlflow.note.content"] == "**the** note"


def test_the_stage_run_again_makes_no_second_run(client, params, tmp_path):
    params = params_of(params, "again")
    _, first, run = log(params, tmp_path / "one")
    _, second, same = log(params, tmp_path / "two")
    assert (first, run.id) == (second, same.id)
    assert len(client.search_runs([run.experiment])) == len(first) + 1
    assert len(client.get_metric_history(first[0], "action_top1")) == 1


def test_a_configuration_that_was_tried_twice_has_two_runs_that_stay_two(client, params, tmp_path):
    params = params_of(params, "twice")
    twice = (*SWEPT, replace(SWEPT[0], trial="p5-s0-again"))
    _, first, _ = log(params, tmp_path / "one", swept=twice)
    _, second, _ = log(params, tmp_path / "two", swept=twice)
    assert first == second and len(set(first)) == len(first)


def test_another_policy_moves_the_mark_within_the_same_runs(client, params, tmp_path):
    params = params_of(params, "policy")
    _, first, _ = log(params, tmp_path / "one")
    moved = params_of(params, "policy", pareto={"policy": {"least_action_of_raw": 0.96}})
    front, second, _ = log(moved, tmp_path / "two", Policy(least_action_of_raw=0.96))
    assert first == second
    marked = [client.get_run(run_id).info.run_name for run_id in second if client.get_run(run_id).data.tags["choice"] == "true"]
    assert [name.startswith(front.choice.name) for name in marked] == [True] * front.choice.num_seeds


def test_points_of_an_earlier_sweep_stay_but_are_no_longer_current(client, params, tmp_path):
    params = params_of(params, "earlier")
    _, first, _ = log(params, tmp_path / "one")
    _, second, _ = log(params, tmp_path / "two", swept=())
    gone = [client.get_run(run_id).data.tags for run_id in set(first) - set(second)]
    assert len(gone) == len(SWEPT)
    assert all(tags["current"] == tags["on_front"] == tags["choice"] == "false" for tags in gone)


def test_another_training_is_another_point(client, params, tmp_path):
    params = params_of(params, "training")
    _, first, _ = log(params, tmp_path / "one")
    plain = params.model_dump(mode="json")["train"]
    _, second, _ = log(params_of(params, "training", train=plain | {"ratio_weight": plain["ratio_weight"] + 1}), tmp_path / "two")
    assert not set(first) & set(second)


@pytest.mark.parametrize(
    ("section", "change", "concerned"),
    [
        ("evaluate", {"boxes": "hog"}, {"blackening", "strong-blur", "weak-blur"}),
        ("baselines", {"base_width": 2}, {"unet", "itnet", "collective"}),
    ],
    ids=["boxes", "base_width"],
)
def test_a_key_makes_other_points_of_those_methods_alone_that_read_it(params, section, change, concerned):
    changed = params.model_copy(update={section: getattr(params, section).model_copy(update=change)})
    methods = {"raw", "blur", "stprivacy", "blackening", "strong-blur", "weak-blur", "unet", "itnet", "collective"}
    points = {method: dict.fromkeys(POINT_PARAMS) | {"method": method, "trial_run": ""} for method in methods}
    assert {method for method, row in points.items() if point_hash(row, params) != point_hash(row, changed)} == concerned


def test_the_experiment_has_its_summary_and_a_view_of_the_front(client, params, tmp_path):
    _, ids, run = log(params_of(params, "view"), tmp_path / "results")
    tags = client.get_experiment(run.experiment).tags
    assert tags["mlflow.note.content"] == "**the** note"
    view = json.loads(tags[f"mlflow.sharedViewState.{VIEW}"])
    assert {"metrics.`action_top1`", "metrics.`privacy_cmap`"} <= set(view["selectedColumns"])
    found = links("http://127.0.0.1:5000", "view")
    assert all(run_id in found["compare"] for run_id in ids) and run.id in found["summary"]
    assert links("http://127.0.0.1:5000", "other") == {}


@pytest.mark.timeout(120)
def test_a_server_that_is_away_is_named_when_its_front_is_asked_for(client, monkeypatch, free_port):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port}")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI.*start the server"):
        serve("vp-synth", 5000)


def test_the_data_set_of_a_stage_is_its_runs_input(client, params, tmp_path):
    digests = set()
    for index in ("one\n", "two\n"):
        shards = tmp_path / "data/shards/inputs"
        shards.mkdir(parents=True, exist_ok=True)
        about = {"name": "inputs", "actions": ["wave"], "attributes": ["face"], "num_videos": {"test": 1}}
        (shards / "dataset.json").write_text(json.dumps(about))
        (shards / "index.jsonl").write_text(index)
        with tracking.start("evaluate", params_of(params, "inputs"), f"reads {index}", [shards.relative_to(tmp_path)]) as run:
            pass
        (found,) = client.get_run(run.id).inputs.dataset_inputs
        assert found.dataset.name == "inputs" and found.tags[0].value == "evaluate"
        digests.add(found.dataset.digest)
    assert len(digests) == 2


def test_training_logs_the_load_of_its_machine(client, params, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    sampled, publish = Event(), SystemMetricsMonitor.publish_metrics
    monkeypatch.setattr(SystemMetricsMonitor, "publish_metrics", lambda *given: (publish(*given), sampled.set()))
    for stage, watched in (("train", True), ("evaluate", False)):
        sampled.clear()
        with tracking.start(stage, params_of(params, "load"), "watched") as run:
            assert sampled.wait(60 if watched else 1.5) == watched
        names = client.get_run(run.id).data.metrics
        assert any(name.startswith("system/") for name in names) == watched
