"""From the operating points (results/pareto) to what becomes a version: weights at a keep ratio, with figures and their spread."""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stprivacy.action_task import task_of
from stprivacy.errors import UserError
from stprivacy.models.anonymizers import LEARNED
from stprivacy.models.checkpoints import CONFIG, WEIGHTS
from stprivacy.release.model import config_at, content_hash

# As they are called where a clip has one action; `ActionTask.named` gives the others.
FIGURES = ("action_top1", "privacy_cmap", "privacy_f1", "leak_removed", "bits", "val_action_top1", "val_privacy_cmap")
SPREAD_OF = ("val_action_top1", "val_privacy_cmap")


@dataclass(frozen=True)
class Entry:
    """A learned point: one content, whatever the number of attackers' seeds that judged it."""

    content: str
    folder: Path
    keep_ratio: float
    kept_share: float
    action_weight: float
    privacy_weight: float
    figures: dict[str, float]
    """FIGURES, means over the seeds of its attackers; those that are not known are left out."""
    spread: dict[str, float]
    """SPREAD_OF, largest − smallest over all seeds of its configuration; empty where there is one seed."""
    num_seeds: int
    """Seeds of its configuration: of attackers, and of trainings in a sweep."""
    runs: tuple[str, ...]
    """MLflow runs of its points."""


def read_points(path: Path) -> list[dict[str, Any]]:
    """The rows of a points.csv: numbers as floats, empty cells None, on_front as a bool. Raises UserError when the file is missing."""
    if not path.exists():
        raise UserError(f"{path}: no such file; run `dvc repro pareto`")
    with open(path, newline="") as file:
        return [{name: _value(name, cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def _value(name: str, cell: str) -> Any:
    if cell == "":
        return None
    if name == "on_front":
        return cell.lower() in ("true", "1", "1.0")
    return cell if name in ("method", "run_id", "model_path") else float(cell)


def entries_of(points: list[dict[str, Any]], choice: dict[str, Any] | None) -> list[Entry]:
    """The learned points of the front and the policy's choice, a content once, in the order of the file.

    The choice may lie behind the front, where a method that is not learned does better. Raises UserError when a model is not there.
    """
    favourite = _content(choice) if choice and choice["method"] in LEARNED else None
    learned = [point for point in points if point["method"] in LEARNED and point["model_path"]]
    contents = [_content(point) for point in learned]
    configurations = [_configuration(point) for point in learned]
    entries = []
    wanted = [content for content, point in zip(contents, learned, strict=True) if point["on_front"] or content == favourite]
    for content in dict.fromkeys(wanted):
        own = [point for other, point in zip(contents, learned, strict=True) if other == content]
        first = own[0]
        alike = _configuration(first)
        family = [point for other, point in zip(configurations, learned, strict=True) if other == alike]
        task = task_of(first)
        spread = {name: _spread(family, name) for name in task.named(SPREAD_OF)} if len(family) > 1 else {}
        figures = {name: _mean(own, name) for name in task.named(FIGURES)}
        entries.append(
            Entry(
                content=content,
                folder=Path(first["model_path"]),
                keep_ratio=_keep_ratio(first),
                kept_share=1.0 if first["kept_share"] is None else first["kept_share"],
                action_weight=first["action_weight"],
                privacy_weight=first["privacy_weight"],
                figures={name: value for name, value in figures.items() if not math.isnan(value)},
                spread=spread,
                num_seeds=len(family),
                runs=tuple(dict.fromkeys(point["run_id"] for point in own if point["run_id"])),
            )
        )
    return entries


def chosen(choice: dict[str, Any] | None, entries: list[Entry]) -> Entry | None:
    """The entry that the policy chose; None where it chose none, or a method that is not learned.

    Raises UserError when it chose a point that is not among them: then metrics.json and points.csv are of two runs.
    """
    if not choice or choice["method"] not in LEARNED:
        return None
    content = _content(choice)
    found = next((entry for entry in entries if entry.content == content), None)
    if found is None:
        raise UserError(f"results/pareto/metrics.json: its choice ({choice['model_path']}) is not in points.csv; run `dvc repro -f pareto`")
    return found


def _keep_ratio(point: dict[str, Any]) -> float:
    """1 for a model without sparsification."""
    return 1.0 if point["keep_ratio"] is None else float(point["keep_ratio"])


def _content(point: dict[str, Any]) -> str:
    folder = Path(point["model_path"])
    if not (folder / WEIGHTS).exists() or not (folder / CONFIG).exists():
        raise UserError(f"{folder}: points.csv names it, and it holds no {WEIGHTS} with {CONFIG}; run `dvc repro` or `dvc checkout`")
    return content_hash(folder, _keep_ratio(point))


def _configuration(point: dict[str, Any]) -> str:
    """Equal for points that differ in seeds alone. The folder's parent tells the full training from the sweep's shorter ones."""
    folder = Path(point["model_path"])
    config = config_at(folder)
    about = [point[name] for name in ("method", "keep_ratio", "action_weight", "privacy_weight")]
    return json.dumps([str(folder.parent), *about, *(config[name] for name in ("model", "channel", "clip"))], sort_keys=True)


def _mean(points: list[dict[str, Any]], name: str) -> float:
    values = [point[name] for point in points if point[name] is not None]
    return sum(values) / len(values) if values else float("nan")


def _spread(points: list[dict[str, Any]], name: str) -> float:
    values = [point[name] for point in points]
    return max(values) - min(values)
