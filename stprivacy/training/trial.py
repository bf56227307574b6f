"""One trial of a sweep: play the game from init, let fresh attackers judge what it made, keep all of it under its hash.

A trial that has ended is a folder `.cache/stprivacy/trials/<hash>`, which appears whole or not at all: asked for again, by this
sweep started anew or by a larger one, it is there. A trial that was killed goes on from its last checkpoint.
"""

import csv
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

from stprivacy import tracking
from stprivacy.action_task import task_of
from stprivacy.config import Params, config_hash
from stprivacy.errors import RunError, UserError
from stprivacy.evaluation.floors import action_only
from stprivacy.evaluation.judge import Judgement, SideBySide, judge
from stprivacy.evaluation.raw_frames import raw_allowed
from stprivacy.evaluation.results import write_results
from stprivacy.fingerprint import code_fingerprint, fingerprint
from stprivacy.models.checkpoints import CONFIG, WEIGHTS
from stprivacy.training.budget import calibrate_model
from stprivacy.training.distributed import NOT_IN_THE_RESULT
from stprivacy.training.recorder import Progress
from stprivacy.training.run_storage import bring, forget, keep
from stprivacy.training.space import Configuration
from stprivacy.training.worker import TrainingJob

JUDGED_BY = (
    "attack_networks", "attackers", "beyond_action", "fitting", "floors", "frame_figures", "frame_level", "gallery", "inversion", "jobs",
    "judge", "latents", "linear", "mask", "methods", "metrics", "pictures", "predictions", "rate", "readings", "reidentification",
    "released", "results", "statistics",
    "uncertainty",
)  # fmt: skip
"""Modules of stprivacy.evaluation that a trial's figures, and the pictures beside them, come from."""
MADE_BY = (
    "training", "models", "data/clips.py", "data/codec.py", "data/frame_labels.py", "data/synthetic.py", "data/video.py",
    "randomness.py",
    "secret_noise.py", "action_task.py", *(f"evaluation/{name}.py" for name in JUDGED_BY),
)  # fmt: skip
"""All code that a trial's result comes from. Without boxes: those are for methods that hide them, which no trial is."""


class Fit(Protocol):
    """Ray Train's part: plays the job on workers, under a name by which a killed run is found again."""

    def __call__(self, job: TrainingJob, num_workers: int, storage: Path, name: str) -> Path:
        """Gives the folder of the last checkpoint."""


@dataclass(frozen=True)
class Sources:
    """What all trials of a sweep start from; absolute paths, since a trial may run anywhere."""

    shards: Path
    recognizers: Path
    init: Path
    raw_metrics: Path
    """results/evaluate/raw/metrics.json, for `leak_removed`."""
    cache: Path

    def fingerprint(self) -> str:
        """Over their bytes, and over the code that makes a trial's result of them."""
        return fingerprint(self.shards / "index.jsonl", self.recognizers, self.init, self.raw_metrics) + code_fingerprint(*MADE_BY)


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    status: Literal["finished", "stopped", "failed"]
    reason: str = ""
    """Why it was stopped or failed, in one line."""
    epochs: int = 0
    """Epochs played."""
    figures: dict[str, float] = field(default_factory=dict)
    """Of a finished trial at its own kept share: val_action_top1, val_privacy_cmap, val_leak (above the action-only floor),
    action_top1, privacy_cmap, privacy_f1, and leak_removed where raw clips leak anything. The action's name is its task's."""


@dataclass(frozen=True)
class Trial:
    """A configuration with the experiment that it makes."""

    configuration: Configuration
    params: Params
    sources: Sources
    hash: str

    @classmethod
    def of(cls, configuration: Configuration, params: Params, sources: Sources, sources_fingerprint: str) -> "Trial":
        """`params`: the sweep's; the trial's own follow from them and the configuration."""
        own = trial_params(params, configuration)
        about = {
            "train": own.train.model_dump(mode="json", exclude=NOT_IN_THE_RESULT),
            "evaluate": own.evaluate.model_dump(mode="json", include={"attack", "kept_shares", "seeds"}),
            "give_up": own.sweep.model_dump(include={"grace_epochs", "hopeless"}),
        }
        return cls(configuration, own, sources, config_hash(own.clip, own.model, own.channel, own.recognizers, about, sources_fingerprint))

    @property
    def folder(self) -> Path:
        """Where it is kept once it has ended: outcome.json, history.csv and, of a finished one, model/ and results/."""
        return self.sources.cache / "trials" / self.hash

    @property
    def work(self) -> Path:
        """Releases and attackers on their way; of no use afterwards, and hundreds of megabytes."""
        return self.sources.cache / "trials" / f"{self.hash}.work"

    @property
    def train_name(self) -> str:
        return f"trial-{self.hash}"

    def outcome(self) -> Outcome | None:
        """How it ended, if it has."""
        bring(self.folder)
        file = self.folder / "outcome.json"
        if not file.exists():
            return None
        keep(self.folder)  # again: a kill may have come between its last rename and that
        return Outcome(**json.loads(file.read_text()))


def trial_params(params: Params, configuration: Configuration) -> Params:
    """The experiment of one trial: its ratio, weights and seed, a sweep's epochs and workers, and the kept shares it is judged at.

    Raises UserError for a kept share that the model cannot have.
    """
    num_blocks, share = params.model.num_sparsifications, configuration.kept_share
    if not num_blocks and share != 1:
        raise UserError(f"params.yaml: sweep.kept_share = {share:g}: this model drops nothing; set [1.0]")
    length = {"epochs": params.sweep.epochs} if params.sweep.epochs else {}
    train: dict[str, Any] = {
        "seed": configuration.seed,
        "action_weight": configuration.action_weight,
        "num_workers": params.sweep.num_workers,
    }
    if params.model.is_code:
        train["code"] = params.train.code.model_copy(update=length | {"rate_weight": configuration.privacy_weight})
    else:
        train |= {"privacy_weight": configuration.privacy_weight, "game": params.train.game.model_copy(update=length)}
    shares = tuple(dict.fromkeys((share, *params.pareto.kept_shares)))
    return params.model_copy(
        update={
            "model": params.model.model_copy(update={"keep_ratio": share ** (1 / num_blocks) if num_blocks else 1.0}),
            "train": params.train.model_copy(update=train),
            "evaluate": params.evaluate.model_copy(update={"kept_shares": shares}),
        }
    )


def carry_out(
    trial: Trial, parent_run: str, fit: Fit, side_by_side: SideBySide, report: Callable[[dict[str, Any]], None]
) -> tuple[Outcome, str]:
    """Carry the trial out, or find it done; gives its outcome and the id of its MLflow run, a child of `parent_run`.

    `report`: called with what is being done now. Nothing that goes wrong in here ends the sweep: it is an outcome.
    """
    configuration, run_id = trial.configuration, ""
    about = {**asdict(configuration), "keep_ratio": trial.params.model.keep_ratio}
    try:
        with tracking.child(parent_run, configuration.name, trial.hash, about) as run:
            run_id = run.id
            try:
                outcome = trial.outcome() or _play(trial, run_id, fit, side_by_side, report)
            except (UserError, RunError) as error:
                _describe(run, trial, Outcome("failed", _one_line(error)))
                raise
            for folder in (trial.work, trial.sources.cache / "train" / trial.train_name):
                shutil.rmtree(folder, ignore_errors=True)
                forget(folder)
            _track(run, trial, outcome)
    except (UserError, RunError) as error:
        return Outcome("failed", _one_line(error)), run_id
    return outcome, run_id


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _play(trial: Trial, run_id: str, fit: Fit, side_by_side: SideBySide, report: Callable[[dict[str, Any]], None]) -> Outcome:
    """Train, judge, and put the trial's folder in place."""
    params, sources = trial.params, trial.sources
    job = TrainingJob(params, sources.shards, sources.recognizers, sources.init, run_id, is_trial=True)
    checkpoint = fit(job, params.train.num_workers, sources.cache / "train", trial.train_name)
    progress = Progress.read(checkpoint)
    if progress.stopped == "not finite":
        raise RunError(f"the loss was not finite in epoch {progress.epochs}; lower its weights or the learning rates of train")
    part = trial.folder.with_name(f"{trial.hash}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    shutil.copy(checkpoint / "history.csv", part)
    if progress.stopped == "hopeless":
        reason = f"hopeless: action loss {progress.metrics['loss/action']:.3f} in epoch {progress.epochs}"
        outcome = Outcome("stopped", reason, progress.epochs)
    else:
        (part / "model").mkdir()
        for name in (WEIGHTS, CONFIG):
            shutil.copy(checkpoint / "model" / name, part / "model")
        calibrate_model(part / "model", sources.shards, params)
        report({"attacking": len(params.evaluate.kept_shares)})
        model = trial.work / "models" / fingerprint(part / "model")  # named by its content: so it travels to the nodes that release
        shutil.copytree(part / "model", model, dirs_exist_ok=True)
        keep(model)
        found = judge("stprivacy", params, sources.shards, model, trial.work, side_by_side, sources.recognizers)
        outcome = Outcome("finished", epochs=progress.epochs, figures=_write_judgement(found, trial, model, part / "results"))
    (part / "outcome.json").write_text(json.dumps(asdict(outcome), indent=2) + "\n")
    part.rename(trial.folder)
    keep(trial.folder)
    return outcome


def _write_judgement(found: Judgement, trial: Trial, model: Path, folder: Path) -> dict[str, float]:
    """Results and pictures of a trial; gives the figures at its own kept share, means over the attackers' seeds."""
    from stprivacy.evaluation.pictures import write_pictures  # matplotlib

    metrics = write_results(found, trial.params, folder, trial.sources.raw_metrics)
    write_pictures(found, metrics, trial.params, model, folder)
    share = trial.configuration.kept_share if trial.params.model.num_sparsifications else None
    own = [point for point in found.points if point.kept_share == share]
    released = found.released[share]
    floor = action_only(released.labels("train"), released.labels("val")).cmap
    task = task_of(metrics["action"])
    cmap_on_val = float(np.mean([point.strongest.val_score for point in own]))
    figures = {
        task.val_figure: float(np.mean([point.action.val_score for point in own])),
        "val_privacy_cmap": cmap_on_val,
        "val_leak": max(0.0, cmap_on_val - floor),
        task.figure: metrics["action"][task.name],
        "privacy_cmap": metrics["privacy"]["cmap"],
        "privacy_f1": metrics["privacy"]["f1"],
    }
    nan = [name for name, value in figures.items() if not math.isfinite(value)]
    if nan:
        raise RunError(f"{nan[0]} is not a number; are there positive and negative clips of each attribute in val and test?")
    return figures if metrics["leak_removed"] is None else figures | {"leak_removed": metrics["leak_removed"]}


def _track(run: tracking.Run, trial: Trial, outcome: Outcome) -> None:
    """Log what the run does not know yet: the epochs, where another run has played them, and the judgement."""
    folder = trial.folder
    _describe(run, trial, outcome)
    if not run.knows("loss/total"):
        for epoch, means in enumerate(_epoch_means(folder / "history.csv", outcome.epochs), start=1):
            run.later(means, epoch)
        run.flush()
    if outcome.status == "finished" and not run.knows(task_of(outcome.figures).figure):
        metrics = json.loads((folder / "results" / "metrics.json").read_text())
        pictures = {file.stem: file for file in (folder / "results").glob("*.png")}
        run.judgement(metrics, pictures, raw_allowed(trial.params))
        run.metrics({name: value for name, value in outcome.figures.items() if name.startswith("val_")})


def _describe(run: tracking.Run, trial: Trial, outcome: Outcome) -> None:
    """How the trial ended, for the tracking server's lists and for people."""
    configuration = trial.configuration
    setting = (
        f"kept share {configuration.kept_share:g}, privacy weight {configuration.privacy_weight:g}, "
        f"action weight {configuration.action_weight:g}, seed {configuration.seed}"
    )
    run.tags({"trial.status": outcome.status})
    run.note(f"{setting}: {said_of(outcome)}")


def _epoch_means(history: Path, num_epochs: int) -> list[dict[str, float]]:
    """Means of the metrics over each epoch of the game, from the history of its steps."""
    steps = pd.read_csv(history)
    game = steps[steps["phase"] == "game"].drop(columns=["phase", "step"])
    size = len(game) // num_epochs
    return [game[first : first + size].mean().dropna().to_dict() for first in range(0, size * num_epochs, size)]


def said_of(outcome: Outcome) -> str:
    """How a trial ended, for people: its figures, or what became of it."""
    figures = outcome.figures
    if not figures:
        return f"{outcome.status}: {outcome.reason}"
    task = task_of(figures)
    removed = f", leak removed {figures['leak_removed']:.2f}" if "leak_removed" in figures else ""
    return (
        f"action {figures[task.figure]:.3f} (val {figures[task.val_figure]:.3f}), cMAP {figures['privacy_cmap']:.3f} "
        f"(val {figures['val_privacy_cmap']:.3f}){removed}"
    )


def read_points(trial_folder: Path) -> list[dict[str, Any]]:
    """The rows of a finished trial's points.csv."""
    with open(trial_folder / "results" / "points.csv", newline="") as file:
        return list(csv.DictReader(file))
