"""The sweep: Ray Tune over kept share and loss weights. What a trial is: `trial.py`; which ones there are: `space.py`.

Every trial is a process without a CPU of its own that launches a Ray Train run, so that the trials which run at a time are as many
as their training workers find CPUs, and none waits for what another trial's driver holds. Nothing is taken up from Ray Tune's own
files: a sweep that was killed starts a new Tune experiment, in which every trial that had ended is found done.
"""

import logging
import os
import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stprivacy.action_task import ONE_ACTION, task_of
from stprivacy.training.distributed import DRIVER_ENVIRONMENT, NOT_IN_THE_RESULT, cluster, fit, run_tasks

os.environ.update(DRIVER_ENVIRONMENT)  # not in `cluster` alone: here Ray is imported before

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search import Searcher
from rich.console import Console
from rich.live import Live
from rich.text import Text

from stprivacy import tracking
from stprivacy.config import Params, config_hash
from stprivacy.errors import RunError, UserError
from stprivacy.evaluation.results import POINT_COLUMNS, write_csv
from stprivacy.jobs import fetch_inputs
from stprivacy.training.run_storage import bring, forget, ray_storage
from stprivacy.training.space import Configuration, Space, open_space
from stprivacy.training.trial import Outcome, Sources, Trial, carry_out, read_points, said_of
from stprivacy.training.worker import TrainingJob

TRIAL_COLUMNS = (
    "trial", "keep_ratio", "kept_share", "action_weight", "privacy_weight", "seed", "val_action_top1", "val_privacy_cmap",
    "action_top1", "privacy_cmap", "privacy_f1", "status", "reason", "run_id",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """A trial that has ended, as its process reported it."""

    trial: Trial
    outcome: Outcome
    run_id: str


def sweep(params: Params, sources: Sources, outputs: dict[str, Path], run: tracking.Run) -> Counter[str]:
    """Carry out all trials and put their results and models in place; gives how many finished, were stopped and failed.

    `outputs`: the folders `results` and `models`. Raises UserError when a trial needs more CPUs than there are, and RunError
    when no trial finished.
    """
    made_from = sources.fingerprint()
    with cluster(num_cpus=params.sweep.num_workers, show_workers=False) as ray:
        at_a_time = trials_at_a_time(ray.cluster_resources(), params.sweep.num_workers)
        run.tags({"ray.job_id": ray.get_runtime_context().get_job_id()})
        folder = sources.cache / "sweep" / sweep_hash(params, made_from)
        ended = _tune(params, sources, made_from, folder, at_a_time, run.id)
    write_outputs(ended, outputs)
    counts: Counter[str] = Counter(one.outcome.status for one in ended)
    run.metrics({f"trials/{status}": float(counts[status]) for status in ("finished", "stopped", "failed")})
    run.note(_note(ended))
    for name in ("trials.csv", "points.csv"):
        run.picture(outputs["results"] / name, "tables")
    if not counts["finished"]:
        raise RunError(f"none of the {len(ended)} trials finished; the first: {ended[0].outcome.status}, {ended[0].outcome.reason}")
    return counts


def trials_at_a_time(resources: dict[str, float], num_workers: int) -> int:
    """How many trials find CPUs (and GPUs, where there are enough for one) for their workers. Raises UserError for none."""
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if num_workers > cpus:
        raise UserError(f"params.yaml: sweep.num_workers = {num_workers}: more than the cluster's {cpus} CPUs; lower it or add nodes")
    return min(cpus, gpus if gpus >= num_workers else cpus) // num_workers


def sweep_hash(params: Params, made_from: str) -> str:
    """Names the folder of what a search has proposed; a sweep of more trials goes on where a smaller one ended."""
    kept = params.sweep.model_dump(mode="json", exclude={"num_trials", "num_workers"})
    judged = params.evaluate.model_dump(mode="json", include={"attack", "seeds"}) | {"kept_shares": params.pareto.kept_shares}
    train = params.train.model_dump(mode="json", exclude=NOT_IN_THE_RESULT)
    return config_hash(params.clip, params.model, params.channel, params.recognizers, train, kept, judged, made_from)


def _tune(params: Params, sources: Sources, made_from: str, folder: Path, at_a_time: int, parent_run: str) -> list[Ended]:
    """All trials, in the order in which they were proposed."""
    # Ray Tune's own tables, log files and handling of Ctrl-C would be in the way of ours.
    os.environ.update({"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1"})
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)  # it misses those log files
    shutil.rmtree(folder / "tune", ignore_errors=True)
    forget(folder / "tune")
    path, filesystem = ray_storage(folder)
    suggestions = Suggestions(open_space(params.sweep, params.train.seed, folder))
    function = tune.with_parameters(play_trial, params=params, sources=sources, made_from=made_from, parent_run=parent_run)
    with Lines() as lines:
        watcher = Watcher(lines)
        tune.Tuner(
            tune.with_resources(function, {"memory": 2**20}),  # no CPU: {"CPU": 0} is refused, and nothing at all means one
            tune_config=tune.TuneConfig(
                search_alg=suggestions,
                num_samples=params.sweep.num_trials * len(params.sweep.seeds),
                max_concurrent_trials=at_a_time,
                trial_name_creator=lambda trial: Configuration(**trial.config).name,
                trial_dirname_creator=lambda trial: Configuration(**trial.config).name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=path,
                storage_filesystem=filesystem,
                verbose=0,
                callbacks=[watcher],
                failure_config=tune.FailureConfig(max_failures=1),  # of the trial's process, as when its node is lost
            ),
        ).fit()
    return [
        Ended(Trial.of(configuration, params, sources, made_from), *watcher.ended.get(configuration.name, _UNKNOWN))
        for configuration in suggestions.made
    ]


_UNKNOWN = (Outcome("failed", "its process ended without a word; Ray's logs may say why"), "")


def play_trial(config: dict[str, Any], params: Params, sources: Sources, made_from: str, parent_run: str) -> None:
    """What the process of a trial runs: report each epoch (through Ray Train's callback), then how it ended."""
    fetch_inputs()
    trial = Trial.of(Configuration(**config), params, sources, made_from)

    def train(job: TrainingJob, num_workers: int, storage: Path, name: str) -> Path:
        return fit(job, num_workers, storage, name, callbacks=[TuneReportCallback()])

    outcome, run_id = carry_out(trial, parent_run, train, run_tasks, tune.report)
    tune.report({"status": outcome.status, "reason": outcome.reason, "run_id": run_id, "figures": outcome.figures})


class Suggestions(Searcher):
    """Ray Tune's view of a space."""

    def __init__(self, space: Space):
        super().__init__()
        self.space = space
        self.made: list[Configuration] = []
        self.open: dict[str, Configuration] = {}

    def suggest(self, trial_id: str) -> Any:
        """A trial's `config`, or FINISHED."""
        try:
            self.open[trial_id] = next(self.space)
        except StopIteration:
            return Searcher.FINISHED
        self.made.append(self.open[trial_id])
        return asdict(self.open[trial_id])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        found = None
        if result and result.get("status") == "finished":
            task = task_of(name.removeprefix("figures/") for name in result)
            found = (result[f"figures/{task.val_figure}"], result["figures/val_leak"])
        self.space.tell(self.open.pop(trial_id), found)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a space keeps itself what it needs to go on."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep starts a new experiment each time")


class Watcher(tune.Callback):
    """Follows the trials from the driver: a line for people at each report, and how each trial ended."""

    def __init__(self, lines: "Lines"):
        self.lines = lines
        self.ended: dict[str, tuple[Outcome, str]] = {}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.lines.show(Configuration(**trial.config).name, "starts")

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any) -> None:
        name = Configuration(**trial.config).name
        if "status" in result:
            outcome = Outcome(result["status"], result["reason"], figures=result["figures"])
            self.ended[name] = outcome, result["run_id"]
            self.lines.show(name, said_of(outcome))
        elif "attacking" in result:
            self.lines.show(name, f"attacked afresh, kept shares: {result['attacking']}")
        elif "epoch" in result:
            self.lines.show(name, f"epoch {result['epoch']:.0f}, action loss {result['loss/action']:.3f}, kept {result['keep/share']:.2f}")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        name = Configuration(**trial.config).name
        reason = " ".join(str(trial.get_error() or "unknown").split())[-400:]
        self.ended[name] = Outcome("failed", reason), ""
        self.lines.show(name, f"failed: {reason}")


class Lines:
    """One line a trial: kept up to date in its place on a terminal, printed at each change elsewhere."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        console = Console()
        self.live = Live(console=console, refresh_per_second=2) if console.is_terminal else None

    def __enter__(self) -> "Lines":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def show(self, name: str, text: str) -> None:
        self.texts[name] = text
        if self.live:
            self.live.update(Text("\n".join(f"{name}: {text}" for name, text in self.texts.items())))
        else:
            print(f"{name}: {text}", flush=True)


def write_outputs(ended: list[Ended], outputs: dict[str, Path]) -> None:
    """trials.csv, points.csv, and a folder of results and one of weights for each finished trial; what was there before is gone."""
    fresh = {kind: folder.with_name(folder.name + ".new") for kind, folder in outputs.items()}
    for folder in fresh.values():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    points = []
    for one in ended:
        name = one.trial.configuration.name
        if one.outcome.status != "finished":
            continue
        bring(one.trial.folder)
        shutil.copytree(one.trial.folder / "results", fresh["results"] / name)
        shutil.copytree(one.trial.folder / "model", fresh["models"] / name)
        about = {"seed": one.trial.configuration.seed, "run_id": one.run_id, "model_path": (outputs["models"] / name).as_posix()}
        rows = [row | about for row in read_points(one.trial.folder)]
        write_csv(fresh["results"] / name / "points.csv", task_of(rows[0]).named(POINT_COLUMNS), rows)
        points.extend(rows)
    task = task_of(points[0]) if points else ONE_ACTION
    write_csv(fresh["results"] / "points.csv", task.named(POINT_COLUMNS), points)
    write_csv(fresh["results"] / "trials.csv", task.named(TRIAL_COLUMNS), [trial_row(one) for one in ended])
    for kind, folder in outputs.items():
        shutil.rmtree(folder, ignore_errors=True)
        fresh[kind].rename(folder)


def trial_row(ended: Ended) -> dict[str, Any]:
    """A row of trials.csv; the figures of a trial that did not finish are empty."""
    configuration, figures = ended.trial.configuration, ended.outcome.figures
    about = asdict(configuration) | {"trial": configuration.name, "keep_ratio": ended.trial.params.model.keep_ratio}
    about |= {"status": ended.outcome.status, "reason": ended.outcome.reason, "run_id": ended.run_id}
    return about | {name: figures[name] for name in task_of(figures).named(TRIAL_COLUMNS) if name in figures}


def _note(ended: list[Ended]) -> str:
    """The trials as a table in Markdown, for the parent run's description."""
    lines = ["| trial | how it ended |", "| --- | --- |"]
    for one in ended:
        lines.append(f"| {one.trial.configuration.name} | {said_of(one.outcome).replace('|', '/')} |")
    return "\n".join(lines)
