"""A project's folder as `pareto` leaves it, with made figures and untrained models, for the tests of the registry."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

from stprivacy.evaluation.results import POINT_COLUMNS
from tests.unit.release_files import small_model

ATTRIBUTES = ("skin_color", "face", "gender", "nudity", "relationship")
NAME = "stprivacy-anonymizer"


def point(method: str, **given: Any) -> dict[str, Any]:
    """A row of points.csv."""
    figures = {"val_action_top1": 0.97, "val_privacy_cmap": 0.62, "action_top1": 0.96, "privacy_cmap": 0.63}
    figures |= {"privacy_f1": 0.55, "leak_removed": 0.74}
    learned = {"action_weight": 1.0, "privacy_weight": 15.0} if method == "stprivacy" else {}
    return dict.fromkeys(POINT_COLUMNS) | {"method": method, "seed": 0, "on_front": True} | figures | learned | given


WIDE = {"keep_ratio": 0.8367, "kept_share": 0.7, "model_path": "models/anonymizer"}
NARROW = {"keep_ratio": 0.6325, "kept_share": 0.4, "model_path": "models/anonymizer"}
POINTS = [
    point("raw", val_action_top1=1.0, val_privacy_cmap=0.99, action_top1=1.0, privacy_cmap=0.98, leak_removed=0.0),
    point("downsample-4", val_privacy_cmap=0.8, privacy_cmap=0.81),
    point("stprivacy", **WIDE, seed=0),
    point("stprivacy", **WIDE, seed=1, val_privacy_cmap=0.66, privacy_cmap=0.65, on_front=False),
    point("stprivacy", **NARROW, val_action_top1=0.93, val_privacy_cmap=0.57, action_top1=0.92, privacy_cmap=0.58, leak_removed=0.85),
    point("stprivacy", keep_ratio=0.9, kept_share=0.81, model_path="models/sweep/t1", on_front=False),
]
CHOICE = POINTS[4]


def metrics(**given: Any) -> dict[str, Any]:
    """A metrics.json of `evaluate`."""
    precisions = {name: 0.9 + number / 100 for number, name in enumerate(ATTRIBUTES)}
    floor = {"cmap": 0.5, "f1": 0.48, "action_top1": 0.125, "ap": dict.fromkeys(ATTRIBUTES, 0.5)}
    return {
        "dataset": "vp-synth", "method": "raw", "seed": 0, "keep_ratio": None, "kept_share": None,
        "action": {"top1": 1.0}, "privacy": {"cmap": 0.98, "f1": 0.97, "ap": precisions},
        "attackers": {"action": {"top1": 1.0}, "privacy-cnn3d": {"cmap": 0.98}, "privacy-cnn2d": {"cmap": 0.95}},
        "strongest_attacker": "privacy-cnn3d", "floors": {"chance": floor, "constant": floor, "action_only": floor},
        "leak_removed": 0.0,
    } | given  # fmt: skip


def write_points(folder: Path, points: list[dict[str, Any]], choice: dict[str, Any] | None) -> None:
    """results/pareto of the project."""
    pareto = folder / "results/pareto"
    pareto.mkdir(parents=True, exist_ok=True)
    _write_csv(pareto / "points.csv", points)
    (pareto / "metrics.json").write_text(json.dumps({"hypervolume": 0.4, "front_size": 3, "choice": choice}))


def make_project(folder: Path, root: Path, run_id: str) -> Path:
    """All that the stage `register` reads. `run_id`: the MLflow run of the chosen point."""
    shutil.copy(root / "params/vp-synth.yaml", folder / "params.yaml")
    small_model(folder / "models/anonymizer", seed=0)
    small_model(folder / "models/sweep/t1", seed=1)
    write_points(folder, [row | ({"run_id": run_id} if row is CHOICE else {}) for row in POINTS], CHOICE)
    own = {"cmap": CHOICE["privacy_cmap"], "f1": 0.55, "ap": dict(zip(ATTRIBUTES, (0.51, 0.52, 0.53, 0.54, 0.8), strict=True))}
    judged = {"raw": metrics(), "stprivacy": metrics(method="stprivacy", keep_ratio=0.6325, action={"top1": 0.92}, privacy=own)}
    for method, found in judged.items():
        place = folder / "results/evaluate" / method
        place.mkdir(parents=True)
        (place / "metrics.json").write_text(json.dumps(found))
        _write_csv(place / "points.csv", [row for row in POINTS if row["method"] == method])
    shards = folder / "data/shards/vp-synth"
    shards.mkdir(parents=True)
    (shards / "dataset.json").write_text(json.dumps({"name": "vp-synth", "num_videos": {"train": 144, "val": 16, "test": 40}}))
    (shards / "index.jsonl").write_text('{"key": "a"}\n')
    (folder / "dvc.lock").write_text("stages: {}\n")
    return folder


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, POINT_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def child_environment(root: Path) -> dict[str, str]:
    """For a process in another folder: this package, wherever the tests run it from."""
    return {**os.environ, "PYTHONPATH": str(root)}
