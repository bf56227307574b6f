"""Which operating points are worth having? All that were judged, the front among them, and the answer to the policy.

Val figures choose, test figures are only shown. Points that differ in nothing but the seed are one configuration, which counts by
its means: one lucky seed puts nothing on the front.

n points; a point is (action top-1 or mAP, cMAP): action counts upwards, cMAP downwards.
"""

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stprivacy.action_task import ActionTask, task_of
from stprivacy.config import Policy
from stprivacy.errors import RunError, UserError
from stprivacy.evaluation.results import POINT_COLUMNS, write_csv

# Columns as they are called where a clip has one action; `ActionTask.named` gives the others.
SETTINGS = ("method", "keep_ratio", "kept_share", "action_weight", "privacy_weight")
FIGURES = ("val_action_top1", "val_privacy_cmap", "action_top1", "privacy_cmap", "privacy_f1", "leak_removed", "bits")
MAY_BE_UNKNOWN = ("leak_removed", "bits")
"""Where raw clips leak nothing there is nothing to remove, and most releases have no bound."""
FRONT_COLUMNS = ("val_privacy_cmap", "val_action_top1", "privacy_cmap", "action_top1", "name")
ROUNDING = 1e-9
"""So much below the policy's bound is still on it: 0.9 × 1.0 is not 0.9 in binary."""


@dataclass(frozen=True)
class Point:
    """A row of a points.csv: one anonymizer at one kept share and seed."""

    settings: dict[str, Any]
    """By the names of `SETTINGS`; None where a method has none."""
    seed: int
    figures: dict[str, float]
    """By the names of `FIGURES`, of the action as its task calls it."""
    model_path: str
    """Empty for a method that is not learned."""
    folder: Path
    """Where its metrics.json and examples.npz are."""
    trial_run: str
    """MLflow run of the sweep's trial; empty for a point that is not the sweep's."""
    model: str
    """What tells its model from others of the same settings: `train`, or the kept share that a trial of the sweep was trained for."""

    @property
    def learned(self) -> bool:
        return bool(self.model_path)


@dataclass(frozen=True)
class Configuration:
    """Points that differ in the seed alone."""

    points: tuple[Point, ...]

    @property
    def settings(self) -> dict[str, Any]:
        return self.points[0].settings

    @property
    def learned(self) -> bool:
        return self.points[0].learned

    @property
    def task(self) -> ActionTask:
        return task_of(self.points[0].figures)

    @property
    def action(self) -> float:
        """Mean action figure on test."""
        return self.mean[self.task.figure]

    @property
    def val_action(self) -> float:
        return self.mean[self.task.val_figure]

    @property
    def num_seeds(self) -> int:
        """Of training where it comes from the sweep, else of the attackers."""
        return len({point.seed for point in self.points})

    @cached_property
    def mean(self) -> dict[str, float]:
        return {name: float(np.mean([point.figures[name] for point in self.points])) for name in self.points[0].figures}

    @cached_property
    def spread(self) -> dict[str, float]:
        """Largest − smallest over the points; 0 for a single one, of which nothing is known."""
        return {name: float(np.ptp([point.figures[name] for point in self.points])) for name in self.points[0].figures}

    @property
    def typical(self) -> Point:
        """The seed nearest to the mean on val: the one to release, since the figures that were promised are its own."""
        ahead = [abs(p.figures[self.task.val_figure] - self.val_action) for p in self.points]
        found = [abs(p.figures["val_privacy_cmap"] - self.mean["val_privacy_cmap"]) for p in self.points]
        return self.points[int(np.argmin(np.hypot(ahead, found)))]

    @property
    def name(self) -> str:
        """Readable and unique, such as `stprivacy at 0.4, privacy weight 15, action weight 1, trained at 0.7`."""
        share = self.settings["kept_share"]
        return ", ".join([str(self.settings["method"]) + ("" if share is None else f" at {share:.3g}"), *self.weights, *self.origin])

    @property
    def weights(self) -> list[str]:
        """The weights of the losses in words; empty for a method that is not learned."""
        found = {key: self.settings[key] for key in ("privacy_weight", "action_weight")}
        return [f"{key.replace('_', ' ')} {value:.3g}" for key, value in found.items() if value is not None]

    @property
    def origin(self) -> list[str]:
        """Which model it is, where the settings leave that open."""
        model, share = self.points[0].model, self.settings["kept_share"]
        if model == "train":
            return ["train's model"]
        elsewhere = model and share is not None and f"{float(model):.3g}" != f"{share:.3g}"
        return [f"trained at {float(model):.3g}"] if elsewhere else []


@dataclass(frozen=True)
class Front:
    """Everything that is known about the operating points of one experiment."""

    dataset: str
    configurations: tuple[Configuration, ...]
    """Raw first, then the other methods; learned ones last."""
    policy: Policy
    raw_metrics: dict[str, Any]
    """metrics.json of raw, which holds the floors."""

    @property
    def task(self) -> ActionTask:
        """What the action figure is."""
        return self.raw.task

    @property
    def raw(self) -> Configuration:
        return next(c for c in self.configurations if c.settings["method"] == "raw")

    @property
    def reference(self) -> tuple[float, float]:
        """Reference point of the hypervolume: action at chance, cMAP 1."""
        return float(self.raw_metrics["floors"]["chance"][self.task.figure]), 1.0

    @cached_property
    def on_front(self) -> tuple[Configuration, ...]:
        """The configurations that no other dominates, the best action first."""
        mask = undominated(_values(self.configurations))
        front = [c for c, good in zip(self.configurations, mask, strict=True) if good]
        return tuple(sorted(front, key=lambda c: (-c.val_action, c.mean["val_privacy_cmap"])))

    @cached_property
    def knee(self) -> Configuration | None:
        """Where a further bit of privacy begins to cost more action than before; None where the front bends nowhere."""
        place = knee(_values(self.on_front))
        return None if place is None else self.on_front[place]

    @property
    def least_action(self) -> float:
        """The val action figure that the policy asks for."""
        return self.policy.least_action_of_raw * self.raw.val_action

    @cached_property
    def choice(self) -> Configuration | None:
        """The policy's answer: the least val cMAP among learned configurations with enough val action; None where none has it."""
        good = [c for c in self.configurations if c.learned and c.val_action >= self.least_action - ROUNDING]
        return min(good, key=lambda c: (c.mean["val_privacy_cmap"], -c.val_action), default=None)

    @property
    def seeds(self) -> int:
        """The smallest number of seeds that a learned configuration has."""
        return min(c.num_seeds for c in self.configurations if c.learned)

    def explain_choice(self) -> str:
        """What the policy asks for, and what was found or what is missing."""
        asked = (
            f"the most private learned point that keeps at least {self.policy.least_action_of_raw:g} of raw video's action "
            f"(val action {self.task.title} ≥ {self.least_action:.3f})"
        )
        if self.choice is None:
            best = max((c for c in self.configurations if c.learned), key=lambda c: c.val_action)
            return (
                f"{asked}: there is none, the best being {best.name} with {best.val_action:.3f}; "
                "lower pareto.policy.least_action_of_raw, train longer or sweep a smaller privacy_weight"
            )
        found = self.choice.mean
        figures = f"val action {self.choice.val_action:.3f}, val cMAP {found['val_privacy_cmap']:.3f}"
        behind = "" if self.choice in self.on_front else "; it is not on the front: a method that is not learned does as well or better"
        return f"{asked}: {self.choice.name} ({figures}){behind}"


# ------------------------------------------------------------------------------------------------ geometry


def undominated(values: np.ndarray) -> np.ndarray:
    """bool (n,): which of `values` (n, 2) no other dominates, being at least as good on both and better on one. Twins both stay."""
    action, cmap = values[:, 0], values[:, 1]
    at_least = (action[:, None] >= action) & (cmap[:, None] <= cmap)  # [i, j]: is i at least as good as j on both?
    better = (action[:, None] > action) | (cmap[:, None] < cmap)
    return np.asarray(~(at_least & better).any(axis=0))


def hypervolume(values: np.ndarray, reference: tuple[float, float]) -> float:
    """Area of (action, 1 − cMAP) that `values` (n, 2) dominate, beyond the reference point (action, cMAP)."""
    area, reached = 0.0, reference[1]
    for action, cmap in sorted(map(tuple, values), key=lambda value: (-value[0], value[1])):
        if action > reference[0] and cmap < reached:
            area += (action - reference[0]) * (reached - cmap)
            reached = cmap
    return area


def knee(values: np.ndarray) -> int | None:
    """Place of the point of a front (n, 2) farthest beyond the chord between the front's ends, both axes scaled to its range.

    None where no point lies beyond the chord: fewer than three points, or a front that is straight or hollow.
    """
    low, high = values.min(0), values.max(0)
    if len(values) < 3 or (high == low).any():
        return None
    scaled = (values - low) / (high - low)
    beyond = (scaled[:, 0] + (1 - scaled[:, 1]) - 1) / math.sqrt(2)  # the ends are (0, 1) and (1, 0) in (action, 1 − cMAP)
    place = int(np.argmax(beyond))
    return place if beyond[place] > ROUNDING else None


def _values(configurations: Iterable[Configuration]) -> np.ndarray:
    """What chooses, (n, 2): mean val action and mean val cMAP."""
    return np.array([(c.val_action, c.mean["val_privacy_cmap"]) for c in configurations]).reshape(-1, 2)


# ------------------------------------------------------------------------------------------------ reading


def find_front(results: Path, methods: Iterable[str], policy: Policy) -> Front:
    """Collect `results`/evaluate/<method> of raw and `methods`, and `results`/sweep where it is.

    Raises UserError for a missing file or when nothing was learned, RunError for a figure that is no number.
    """
    evaluated = ["raw", *dict.fromkeys(method for method in methods if method != "raw")]
    raw_metrics = results / "evaluate/raw/metrics.json"
    _need(raw_metrics, "evaluate-raw")
    points = [point for method in evaluated for point in _evaluated_points(results / "evaluate" / method)]
    points += _sweep_points(results / "sweep")
    if not any(point.learned for point in points):
        raise UserError(f"{results}: no learned point to choose from; add stprivacy to evaluate.methods or run `dvc repro sweep`")
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(json.dumps([point.settings, point.model]), []).append(point)
    found = [Configuration(tuple(sorted(group, key=lambda point: point.seed))) for group in groups.values()]
    found.sort(key=lambda c: (c.settings["method"] != "raw", c.learned))  # stable: within a kind they stay as they came
    about = json.loads(raw_metrics.read_text())
    for folder in dict.fromkeys(point.folder for point in points):
        _check_dataset(folder / "metrics.json", about)
    return Front(about["dataset"], tuple(found), policy, about)


def _check_dataset(path: Path, raw: dict[str, Any]) -> None:
    """What is left over from another experiment must not stand on one front with this one's."""
    _need(path, path.parent.parent.name)
    metrics, mend = json.loads(path.read_text()), "run `dvc repro`, which brings both up to date"
    found, dataset = metrics["dataset"], raw["dataset"]
    if found != dataset:
        raise UserError(f"{path}: judged on {found}, but raw video on {dataset}; {mend}")
    own, other = task_of(metrics["action"]), task_of(raw["action"])
    if own is not other:
        raise UserError(f"{path}: judged by action {own.title}, but raw video by {other.title}; {mend}")


def _evaluated_points(folder: Path) -> list[Point]:
    stage = "evaluate-raw" if folder.name == "raw" else f"evaluate@{folder.name}"
    path = folder / "points.csv"
    _need(path, stage)
    return [_point(row, place, folder, "train" if row["model_path"] else "") for row, place in _rows(path)]


def _sweep_points(folder: Path) -> list[Point]:
    """A trial's own folder is named as its model's; without a sweep there are none."""
    path = folder / "points.csv"
    if not path.exists():
        return []
    _need(folder / "trials.csv", "sweep")
    trained_at = {row["trial"]: row["kept_share"] for row, _ in _rows(folder / "trials.csv")}
    points = []
    for row, place in _rows(path):
        trial = Path(row["model_path"]).name
        if trial not in trained_at:
            raise UserError(f"{place}: model_path {row['model_path']!r} is no trial of {folder / 'trials.csv'}; run `dvc repro -f sweep`")
        points.append(_point(row, place, folder / trial, trained_at[trial]))
    return points


def _rows(path: Path) -> Iterable[tuple[dict[str, str], str]]:
    """Rows, each with what an error message calls it."""
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            yield row, f"{path}, line {reader.line_num}"


def _point(row: dict[str, str], place: str, folder: Path, model: str) -> Point:
    task = task_of(row)
    missing = [column for column in task.named(POINT_COLUMNS) if column not in row]
    if missing:
        raise UserError(f"{place}: no column {missing[0]}; the file is of another version: run the stage again with `dvc repro -f`")
    if row["run_id"]:
        place += f" (run {row['run_id']})"
    figures = {}
    for name in task.named(FIGURES):
        value = float(row[name] or "nan")
        if not math.isfinite(value) and name not in MAY_BE_UNKNOWN:
            raise RunError(f"{place}: {name} is {row[name] or 'empty'}, no finite number; look into {folder} and judge it again")
        figures[name] = value
    settings = {"method": row["method"]} | {name: float(row[name]) if row[name] else None for name in SETTINGS[1:]}
    return Point(settings, int(row["seed"]), figures, row["model_path"], folder, row["run_id"], model)


def _need(path: Path, stage: str) -> None:
    if not path.exists():
        raise UserError(f"{path}: no such file; run `dvc repro {stage}`")


# ------------------------------------------------------------------------------------------------ writing


def rows(front: Front) -> list[dict[str, Any]]:
    """A row a point, as points.csv has them, and the `name` of its configuration; run_id is still to be filled in."""
    return [
        point.settings | point.figures | {"seed": point.seed, "model_path": point.model_path, "model": point.model, "name": c.name}
        | {"trial_run": point.trial_run, "on_front": c in front.on_front, "choice": c is front.choice, "knee": c is front.knee}
        for c in front.configurations for point in c.points
    ]  # fmt: skip


def write_front(front: Front, run_ids: list[str], folder: Path) -> dict[str, Any]:
    """Write points.csv, front.csv (for `dvc plots`) and metrics.json; gives the metrics. `run_ids`: MLflow's, as `rows` are ordered."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [row | {"run_id": run_id} for row, run_id in zip(rows(front), run_ids, strict=True)]
    columns, front_columns = front.task.named(POINT_COLUMNS), front.task.named(FRONT_COLUMNS)
    write_csv(folder / "points.csv", columns, [{name: _cell(row[name]) for name in columns} for row in found])
    on_front = [c.mean | {"name": c.name} for c in front.on_front]
    write_csv(folder / "front.csv", front_columns, [{name: row[name] for name in front_columns} for row in on_front])
    points = [point for c in front.configurations for point in c.points]
    run_of = {id(point): run_id for point, run_id in zip(points, run_ids, strict=True)}
    metrics = summary(front, run_of)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def summary(front: Front, run_of: dict[int, str]) -> dict[str, Any]:
    """What metrics.json says. `run_of`: MLflow run of each point, by its `id`."""
    unlearned = [c for c in front.configurations if not c.learned]
    return {
        "dataset": front.dataset,
        "hypervolume": hypervolume(_values(front.configurations), front.reference),
        "hypervolume_without_learned": hypervolume(_values(unlearned), front.reference),
        "reference": {front.task.figure: front.reference[0], "privacy_cmap": front.reference[1]},
        "front_size": len(front.on_front),
        "num_configurations": len(front.configurations),
        "num_points": sum(len(c.points) for c in front.configurations),
        "seeds": front.seeds,
        "policy": {"least_action_of_raw": front.policy.least_action_of_raw, f"least_{front.task.val_figure}": front.least_action},
        "knee": _describe(front.knee, front, run_of),
        "choice": _describe(front.choice, front, run_of),
        "choice_explained": front.explain_choice(),
    }


def _describe(c: Configuration | None, front: Front, run_of: dict[int, str]) -> dict[str, Any] | None:
    """A configuration by its means; model_path, seed and run_id are those of its typical seed."""
    if c is None:
        return None
    figures = {name: None if math.isnan(value) else value for name, value in c.mean.items()}
    about = {"name": c.name} | c.settings | {"seed": c.typical.seed, "seeds": c.num_seeds} | figures
    if len(c.points) > 1:
        about["spread"] = {name: None if math.isnan(value) else value for name, value in c.spread.items()}
    return about | {"on_front": c in front.on_front, "run_id": run_of.get(id(c.typical), ""), "model_path": c.typical.model_path}


def _cell(value: Any) -> Any:
    """NaN is an empty cell."""
    if isinstance(value, float) and math.isnan(value):
        return ""
    return str(value).lower() if isinstance(value, bool) else value
