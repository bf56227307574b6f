"""A trial without Ray: what it is made from, how it ends, what is found again, and the files of a sweep."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from stprivacy import tracking
from stprivacy.config import Params, Sweep
from stprivacy.errors import UserError
from stprivacy.evaluation.results import POINT_COLUMNS
from stprivacy.models.anonymizers import build_anonymizer
from stprivacy.models.checkpoints import save_model
from stprivacy.training.recorder import Progress
from stprivacy.training.space import Configuration
from stprivacy.training.sweep import TRIAL_COLUMNS, Ended, Suggestions, sweep_hash, trial_row, trials_at_a_time, write_outputs
from stprivacy.training.trial import Outcome, Sources, Trial, carry_out, read_points, trial_params
from tests.unit.evaluation_files import noise_clips, one_by_one, random_labels, tiny_params, write_dataset

ASK_RAY = "import stprivacy.training.sweep, ray._private.ray_constants as ray; print(ray.RAY_DASHBOARD_STARTUP_TIMEOUT_S)"
CONFIGURATION = Configuration(0.25, 15.0, 2.0, 7)


@pytest.fixture(scope="module")
def params() -> Params:
    plain = tiny_params(min_epochs=1, max_epochs=1)
    pareto = plain.pareto.model_copy(update={"kept_shares": (0.5, 0.25)})
    return plain.model_copy(update={"pareto": pareto, "sweep": Sweep(epochs=3, num_workers=2)})


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A data set, and files in place of what the stages before leave."""
    folder = tmp_path_factory.mktemp("sources")
    sizes = {"train": 12, "val": 9, "test": 9}
    actions, attributes = random_labels(sizes)
    write_dataset(folder, noise_clips(sizes), actions, attributes)
    (folder / "recognizers").mkdir()
    (folder / "init").mkdir()
    (folder / "init" / "anonymizer.safetensors").write_bytes(b"init")
    (folder / "raw.json").write_text(json.dumps({"privacy": {"cmap": 0.9}}))
    return folder


@pytest.fixture
def sources(made, tmp_path) -> Sources:
    return Sources(made / "shards", made / "recognizers", made / "init", made / "raw.json", tmp_path / "cache")


@pytest.fixture
def trial(params, sources) -> Trial:
    return Trial.of(CONFIGURATION, params, sources, sources.fingerprint())


# ---------------------------------------------------------------------------------------------- what a trial is made from


def test_a_trial_is_the_experiment_with_its_own_ratio_weights_seed_epochs_and_workers(params):
    own = trial_params(params, CONFIGURATION)
    assert own.model.kept_share == pytest.approx(0.25)
    assert (own.train.privacy_weight, own.train.action_weight, own.train.seed) == (15.0, 2.0, 7)
    assert (own.train.game.epochs, own.train.num_workers) == (3, 2)
    assert own.train.init == params.train.init
    assert Params.model_validate(own.model_dump(mode="json")) == own  # no value that params.yaml could not hold


def test_a_trial_is_judged_at_its_own_kept_share_first_and_at_each_other_once(params):
    assert trial_params(params, CONFIGURATION).evaluate.kept_shares == (0.25, 0.5)


def test_a_sweep_without_epochs_of_its_own_plays_the_game_s(params):
    plain = params.model_copy(update={"sweep": Sweep()})
    assert trial_params(plain, CONFIGURATION).train.game.epochs == params.train.game.epochs


def test_a_model_that_drops_nothing_has_one_kept_share(params):
    dense = params.model_copy(update={"model": params.model.model_copy(update={"sparsify_before": ()})})
    with pytest.raises(UserError, match=r"sweep\.kept_share = 0\.25.*set \[1\.0\]"):
        trial_params(dense, CONFIGURATION)
    assert trial_params(dense, replace(CONFIGURATION, kept_share=1.0)).model.kept_share == 1


def test_a_trial_is_found_again_by_what_changes_its_result_and_by_nothing_else(params, sources, trial):
    def hash_of(configuration=CONFIGURATION, **changes) -> str:
        changed = params.model_copy(update={"sweep": params.sweep.model_copy(update=changes)})
        return Trial.of(configuration, changed, sources, sources.fingerprint()).hash

    assert trial.hash == hash_of(num_trials=50, num_workers=1, seeds=(1, 2), search="random")
    others = [
        hash_of(replace(CONFIGURATION, seed=0)),
        hash_of(replace(CONFIGURATION, privacy_weight=3.0)),
        hash_of(epochs=1),
        hash_of(hopeless=2.0),
    ]
    assert len({trial.hash, *others}) == 5


def test_another_init_makes_other_trials(sources, tmp_path):
    (tmp_path / "init").mkdir()
    (tmp_path / "init" / "anonymizer.safetensors").write_bytes(b"another")
    assert replace(sources, init=tmp_path / "init").fingerprint() != sources.fingerprint()


def test_a_search_s_proposals_belong_to_its_space_and_not_to_its_length(params):
    longer, wider = (params.model_copy(update={"sweep": params.sweep.model_copy(update=changes)}) for changes in (
        {"num_trials": 9}, {"kept_share": (0.1,)},
    ))  # fmt: skip
    assert sweep_hash(params, "") == sweep_hash(longer, "") != sweep_hash(wider, "")


@pytest.mark.parametrize(("resources", "num_workers", "expected"), [
    ({"CPU": 2.0}, 1, 2),
    ({"CPU": 3.0}, 2, 1),
    ({"CPU": 8.0, "GPU": 2.0}, 1, 2),  # a GPU a worker
    ({"CPU": 8.0, "GPU": 1.0}, 2, 4),  # too few for one trial: on CPUs
])  # fmt: skip
def test_as_many_trials_at_a_time_as_find_workers(resources, num_workers, expected):
    assert trials_at_a_time(resources, num_workers) == expected


def test_a_trial_that_can_never_run_is_refused_before_any_starts():
    with pytest.raises(UserError, match=r"sweep\.num_workers = 3: more than the cluster's 2 CPUs"):
        trials_at_a_time({"CPU": 2.0}, 3)


def test_ray_tune_gets_the_space_s_proposals_in_order_and_tells_it_what_finished_trials_found():
    class Told:
        left = iter([CONFIGURATION, replace(CONFIGURATION, seed=8)])
        found: ClassVar = {}

        def __next__(self):
            return next(self.left)

        def tell(self, configuration, found):
            self.found[configuration.seed] = found

    space = Told()
    suggestions = Suggestions(space)
    assert [suggestions.suggest(name) for name in ("a", "b")] == [asdict(CONFIGURATION), asdict(replace(CONFIGURATION, seed=8))]
    assert suggestions.suggest("c") == "FINISHED"
    suggestions.on_trial_complete("b", {"status": "finished", "figures/val_action_top1": 0.9, "figures/val_leak": 0.1})
    suggestions.on_trial_complete("a", {"status": "stopped"})
    assert space.found == {8: (0.9, 0.1), 7: None}
    assert [configuration.seed for configuration in suggestions.made] == [7, 8]


# ------------------------------------------------------------------------------------------------------- how a trial ends


class PretendFit:
    """Leaves the checkpoint that a training run would leave."""

    def __init__(self, params: Params, stopped: str | None = None):
        self.params, self.stopped, self.jobs = params, stopped, []

    def __call__(self, job, num_workers, storage, name):
        self.jobs.append(job)
        folder = storage / name / "checkpoint"
        (folder / "model").mkdir(parents=True, exist_ok=True)
        progress = Progress("game", 2, num_workers, {"loss/action": 3.0, "loss/total": 4.0}, self.stopped)
        (folder / "progress.json").write_text(json.dumps(asdict(progress)))
        rows = ["phase,step,loss/action,loss/total", *(f"game,{step},{step},1.0" for step in range(4))]
        (folder / "history.csv").write_text("\n".join(rows) + "\n")
        torch.manual_seed(0)
        config = {section: getattr(job.params, section).model_dump(mode="json") for section in ("model", "channel", "clip")}
        save_model(folder / "model", build_anonymizer(job.params.model, job.params.clip), config)
        return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def parent(store, params, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    with tracking.start("sweep", params, f"sweep of {tmp_path.name}") as run:
        run.tags({"ray.job_id": "01"})
        yield run


def played(trial: Trial, parent, fit) -> tuple[Outcome, str]:
    return carry_out(trial, parent.id, fit, one_by_one, lambda said: None)


def test_a_finished_trial_has_figures_points_and_weights_and_is_not_played_again(trial, params, parent):
    fit = PretendFit(params)
    outcome, run_id = played(trial, parent, fit)
    assert (outcome.status, outcome.reason) == ("finished", "")
    assert fit.jobs[0].init == trial.sources.init
    assert fit.jobs[0].is_trial
    metrics = json.loads((trial.folder / "results" / "metrics.json").read_text())
    assert metrics["kept_share"] == 0.25
    assert outcome.figures["privacy_cmap"] == metrics["privacy"]["cmap"]
    assert outcome.figures["val_leak"] >= 0
    assert played(trial, parent, PretendFit(params)) == (outcome, run_id)
    assert len(fit.jobs) == 1
    left = sorted(path.name for path in (trial.sources.cache / "trials").iterdir())
    assert left == [trial.hash]  # no releases of hundreds of megabytes
    assert not (trial.sources.cache / "train" / trial.train_name).exists()


@pytest.mark.parametrize("changes", [{"sparsify_before": ()}, {"kind": "unet", "base_width": 2}], ids=["dense", "unet"])
def test_a_trial_of_a_model_that_drops_nothing_has_figures_of_its_one_release(changes, params, sources, parent):
    model = params.model.model_copy(update=changes)
    trial = Trial.of(replace(CONFIGURATION, kept_share=1.0), params.model_copy(update={"model": model}), sources, str(changes))
    outcome, _ = played(trial, parent, PretendFit(params))
    assert (outcome.status, outcome.reason) == ("finished", "")
    (point,) = read_points(trial.folder)
    assert point["kept_share"] == point["keep_ratio"] == ""
    assert float(point["val_action_top1"]) == pytest.approx(outcome.figures["val_action_top1"])


def test_a_finished_trial_s_run_is_a_child_that_leads_with_the_headline_figures(trial, params, parent):
    outcome, run_id = played(trial, parent, PretendFit(params))
    data = parent.client.get_run(run_id).data
    assert data.tags["mlflow.parentRunId"] == parent.id
    assert data.tags["ray.job_id"] == "01"
    assert data.tags["trial.status"] == "finished"
    assert {name: float(value) for name, value in data.params.items()} == pytest.approx(
        {"kept_share": 0.25, "keep_ratio": 0.5, "privacy_weight": 15.0, "action_weight": 2.0, "seed": 7.0}
    )
    assert {
        "action_top1",
        "privacy_cmap",
        "privacy_f1",
        "leak_removed",
        "val_action_top1",
        "val_privacy_cmap",
        "val_leak",
    } <= data.metrics.keys()
    assert data.metrics["action_top1"] == pytest.approx(outcome.figures["action_top1"])
    assert [m.value for m in parent.client.get_metric_history(run_id, "loss/action")] == [0.5, 2.5]  # two epochs of two steps


def test_a_hopeless_trial_is_stopped_for_good_and_not_judged(trial, params, parent):
    outcome, _ = played(trial, parent, PretendFit(params, "hopeless"))
    assert (outcome.status, outcome.figures) == ("stopped", {})
    assert outcome.reason == "hopeless: action loss 3.000 in epoch 2"
    again = PretendFit(params)
    assert played(trial, parent, again)[0] == outcome
    assert again.jobs == []


def test_a_failed_trial_is_a_reason_in_one_line_and_is_tried_again(trial, params, parent):
    outcome, run_id = played(trial, parent, PretendFit(params, "not finite"))
    assert outcome.status == "failed"
    assert outcome.reason.startswith("the loss was not finite in epoch 2; ")
    assert "\n" not in outcome.reason
    assert parent.client.get_run(run_id).info.status == "FAILED"
    assert played(trial, parent, PretendFit(params)) == (trial.outcome(), run_id)
    assert trial.outcome().status == "finished"


# --------------------------------------------------------------------------------------------------- the files of a sweep


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_files_hold_a_row_a_trial_and_a_row_a_point_and_nothing_of_an_earlier_sweep(trial, params, sources, parent, tmp_path):
    outcome, run_id = played(trial, parent, PretendFit(params))
    broken = Trial.of(replace(CONFIGURATION, seed=8), params, sources, "")
    outputs = {"results": Path("results/sweep"), "models": Path("models/sweep")}
    (outputs["results"] / "an-older-trial").mkdir(parents=True)
    write_outputs([Ended(trial, outcome, run_id), Ended(broken, Outcome("failed", "no memory"), "")], outputs)

    name = CONFIGURATION.name
    first, second = rows_of(outputs["results"] / "trials.csv")
    assert tuple(first) == TRIAL_COLUMNS
    assert (first["trial"], first["status"], first["run_id"]) == (name, "finished", run_id)
    assert float(first["keep_ratio"]) == pytest.approx(0.5)
    assert float(first["val_action_top1"]) == outcome.figures["val_action_top1"]
    assert (second["status"], second["reason"], second["seed"], second["privacy_cmap"]) == ("failed", "no memory", "8", "")

    points = rows_of(outputs["results"] / "points.csv")
    assert tuple(points[0]) == POINT_COLUMNS
    assert [float(point["kept_share"]) for point in points] == [0.25, 0.5]
    for point in points:
        assert (point["method"], point["seed"], point["run_id"], point["model_path"]) == ("stprivacy", "7", run_id, f"models/sweep/{name}")
        assert (float(point["privacy_weight"]), float(point["action_weight"])) == (15.0, 2.0)
    assert rows_of(outputs["results"] / name / "points.csv") == points
    assert float(points[0]["privacy_cmap"]) == float(first["privacy_cmap"])

    assert sorted(path.name for path in outputs["results"].iterdir()) == ["points.csv", name, "trials.csv"]
    assert {"metrics.json", "points.csv", "curves.csv", "examples.npz"} <= {path.name for path in (outputs["results"] / name).iterdir()}
    assert sorted(path.name for path in (outputs["models"] / name).iterdir()) == ["anonymizer.safetensors", "config.json"]


def test_a_row_of_a_stopped_trial_keeps_its_columns_empty(trial):
    row = trial_row(Ended(trial, Outcome("stopped", "hopeless: …", 2), "abc"))
    assert not {"action_top1", "privacy_cmap", "val_privacy_cmap"} & row.keys()
    assert row["run_id"] == "abc"


# ---------------------------------------------------------------------------------------------------- Ray


@pytest.mark.timeout(300)  # for an import, on a busy machine
def test_ray_is_imported_by_a_sweep_with_our_variables(project_root):
    """It reads how long to wait for its dashboard at its import, and a sweep imports it before any cluster is started."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    asked = subprocess.run([sys.executable, "-c", ASK_RAY], cwd=project_root, env=environment, capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.strip() == "300"
