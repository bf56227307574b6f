"""From a judgement to files: metrics.json, points.csv, curves.csv (DESIGN §7), and the recognizers that the game starts from."""

import csv
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stprivacy.action_task import ActionTask
from stprivacy.config import Params
from stprivacy.errors import UserError
from stprivacy.evaluation.beyond_action import strongest_told
from stprivacy.evaluation.floors import Floor, floors, random_ranking_cmap
from stprivacy.evaluation.frame_figures import frame_level_figures
from stprivacy.evaluation.inversion import Inversion
from stprivacy.evaluation.jobs import AttackResult
from stprivacy.evaluation.judge import NETWORKS, Judgement, Point
from stprivacy.evaluation.metrics import Labels, action_score, average_precisions, by_attribute, cmap, identity_top1, macro_f1
from stprivacy.evaluation.predictions import NAME, groups_of, save_predictions
from stprivacy.evaluation.rate import action_information, rate_figures
from stprivacy.evaluation.released import Released
from stprivacy.evaluation.uncertainty import leak_removed, uncertainty
from stprivacy.models.anonymizers import LEARNED, model_folder

# As they are called where a clip has one action; `ActionTask.named` gives the others.
POINT_COLUMNS = (
    "method", "keep_ratio", "kept_share", "action_weight", "privacy_weight", "seed", "val_action_top1", "val_privacy_cmap",
    "action_top1", "privacy_cmap", "privacy_f1", "leak_removed", "bits", "on_front", "run_id", "model_path",
)  # fmt: skip
CURVE_COLUMNS = ("attacker", "kept_share", "seed", "epoch", "train_loss", "val_score", "val_loss")


def write_results(judgement: Judgement, params: Params, folder: Path, raw_metrics: Path | None) -> dict[str, Any]:
    """Write metrics.json, points.csv and curves.csv; gives the metrics. `raw_metrics`: those of evaluate-raw, None for raw itself."""
    released = next(iter(judgement.released.values()))
    train, val, test = released.labels("train"), released.labels("val"), released.labels("test")
    ground = floors(train, test)
    of_raw = json.loads(raw_metrics.read_text()) if raw_metrics else None
    if of_raw and judgement.points[0].frame_level and "frame_level" not in of_raw:
        raise UserError(f"{raw_metrics}: raw clips were judged without labels of frames; run `dvc repro -f evaluate-raw` first")
    raw = of_raw["privacy"]["cmap"] if of_raw else None
    rows = [
        _row(point, judgement.method, test, ground["chance"].cmap, raw, params) | {"bits": _mean_bits(judgement.released[point.kept_share])}
        for point in judgement.points
    ]
    main = main_share(judgement, params)
    points = [point for point in judgement.points if point.kept_share == main]
    metrics = _metrics(points, judgement.method, params, test, ground, raw, released.attributes)
    folder.mkdir(parents=True, exist_ok=True)
    save_predictions(judgement, params.dataset.name, main, folder / NAME)
    val_groups = groups_of(judgement.shards, "val")
    told = [strongest_told(point.privacy, train, val, test, val_groups) for point in points]
    metrics |= uncertainty(points, told, train, test, groups_of(judgement.shards, "test"), released.attributes, raw_metrics)
    frames = [point.frame_level for point in points if point.frame_level]
    if frames:
        raw_frames = of_raw["frame_level"]["cmap"] if of_raw else None
        metrics["frame_level"] = frame_level_figures(frames, judgement.released[main], groups_of(judgement.shards, "test"), raw_frames)
    metrics["rate"] = _rate(points, judgement.released[main], groups_of(judgement.shards, "test"), params.dataset.kind == "vp-synth")
    write_csv(folder / "points.csv", test.action_task.named(POINT_COLUMNS), rows)
    write_csv(folder / "curves.csv", CURVE_COLUMNS, _curves(judgement))
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def main_share(judgement: Judgement, params: Params) -> float | None:
    """The kept share whose figures stand in metrics.json: the one that the model was trained for, or the nearest that was judged."""
    shares = [point.kept_share for point in judgement.points if point.kept_share is not None]
    return min(shares, key=lambda share: abs(share - params.model.kept_share)) if shares else None


def figures_of(point: Point, test: Labels) -> dict[str, float]:
    """Test figures of a point: the action attacker's top-1 (mAP of several), and the strongest privacy attacker's cMAP and F1."""
    seen = point.strongest.test
    found = {test.action_task.figure: action_score(point.action.test, test), "privacy_cmap": cmap(seen, test.present)}
    return found | {"privacy_f1": macro_f1(seen, test.present)}


def _row(point: Point, method: str, test: Labels, chance: float, raw: float | None, params: Params) -> dict[str, Any]:
    learned, figures = method in LEARNED, figures_of(point, test)
    return figures | {
        "method": method, "keep_ratio": point.keep_ratio, "kept_share": point.kept_share, "seed": point.seed,
        "action_weight": params.train.action_weight if learned else None,
        "privacy_weight": params.protection_weight if learned else None,
        test.action_task.val_figure: point.action.val_score, "val_privacy_cmap": point.strongest.val_score,
        "leak_removed": _or_null(leak_removed(figures["privacy_cmap"], figures["privacy_cmap"] if raw is None else raw, chance)),
        "model_path": model_folder(method).as_posix() if learned else None,
    }  # fmt: skip


def _mean_bits(released: Released) -> float | None:
    bits = released.bits("test")
    return None if bits is None else float(bits.mean())


def _rate(points: list[Point], released: Released, groups: np.ndarray, independent: bool) -> dict[str, Any] | None:
    """`rate` of metrics.json; None where nothing bounds what a release says. `independent`: attributes are so of the action by design."""
    bits, test = released.bits("test"), released.labels("test")
    if bits is None:
        return None
    # Elsewhere a bit may be of the action and of an attribute at once: none is put down to the action, and the ceiling is a looser one.
    known = points[0].action.test
    about_action = action_information(known, test.actions, known.shape[1]) if independent else 0.0
    return rate_figures(bits, about_action, test.present, groups, released.attributes)


def _metrics(
    points: list[Point], method: str, params: Params, test: Labels, ground: dict[str, Floor], raw: float | None, attributes: tuple[str, ...]
) -> dict[str, Any]:
    """The contract's metrics.json: means over the attackers' seeds, and their spread where there are several."""
    figures, task = [figures_of(point, test) for point in points], test.action_task
    mean = {name: float(np.mean([figure[name] for figure in figures])) for name in figures[0]}
    precisions = np.mean([average_precisions(point.strongest.test, test.present) for point in points], axis=0)
    first = points[0]
    metrics: dict[str, Any] = {
        "dataset": params.dataset.name,
        "method": method,
        "seed": params.train.seed,
        "keep_ratio": first.keep_ratio,
        "kept_share": first.kept_share,
        "action": {task.name: mean[task.figure]},
        "privacy": {"cmap": mean["privacy_cmap"], "f1": mean["privacy_f1"], "ap": by_attribute(attributes, precisions)},
        "attackers": {result.name: _attacker(result, test, attributes) for result in (first.action, *first.privacy)},
        "strongest_attacker": first.strongest.name,
        "action_raw_trained": None if first.bystander is None else {task.name: action_score(first.bystander.test, test)},
        "floors": {name: _floor(floor, attributes, task) for name, floor in ground.items()},
        "random_ranking_cmap": random_ranking_cmap(test),
        "leak_removed": _or_null(leak_removed(mean["privacy_cmap"], mean["privacy_cmap"] if raw is None else raw, ground["chance"].cmap)),
        "num_test_clips": len(test.actions),
        "num_attacker_seeds": len(points),
    }
    if len(figures) > 1:
        metrics["spread_over_seeds"] = {name: float(np.ptp([figure[name] for figure in figures])) for name in mean}
    if first.inversion:
        metrics["inversion"] = _inversion(first.inversion, test)
    if first.reidentification:
        metrics["reidentification"] = asdict(first.reidentification)
    return metrics


def _inversion(found: Inversion, test: Labels) -> dict[str, Any]:
    """What was painted, how like raw clips it is, and what the raw-trained recognizer that is strongest on val reads from it."""
    about: dict[str, Any] = {
        "psnr": found.decoded.psnr,
        "ssim": found.decoded.ssim,
        "epochs": found.epochs,
        test.action_task.figure: found.action,
    }
    about |= {"floors": {"released": asdict(found.released), "constant": asdict(found.constant)}}
    if found.readings:
        reader = max(found.readings, key=lambda result: result.val_score)
        about |= {"attacker": reader.name, "cmap": cmap(reader.test, test.present), "identity_top1": identity_top1(reader.test, test)}
    return about


def _attacker(result: AttackResult, test: Labels, attributes: tuple[str, ...]) -> dict[str, Any]:
    about: dict[str, Any] = {"val_score": result.val_score, "fitted": result.fitted}
    if result.curve:  # others were trained elsewhere, or not at all
        about |= {"epochs": len(result.curve), "train_loss": result.train_loss}
    if result.target != "privacy":
        return {test.action_task.name: action_score(result.test, test)} | about
    precisions = by_attribute(attributes, average_precisions(result.test, test.present))
    figures: dict[str, Any] = {"cmap": cmap(result.test, test.present), "f1": macro_f1(result.test, test.present)}
    identity = identity_top1(result.test, test)
    return figures | ({} if identity is None else {"identity_top1": identity}) | {"ap": precisions} | about


def _floor(floor: Floor, attributes: tuple[str, ...], task: ActionTask) -> dict[str, Any]:
    return {"cmap": floor.cmap, "f1": floor.f1, task.figure: floor.action, "ap": by_attribute(attributes, floor.ap)}


def _or_null(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if np.isnan(value) else value


def _curves(judgement: Judgement) -> list[dict[str, Any]]:
    """A row an epoch and attacker, for `dvc plots`."""
    return [
        {"attacker": result.name, "kept_share": point.kept_share, "seed": point.seed} | asdict(epoch)
        for point in judgement.points
        for result in (point.action, *point.privacy)
        for epoch in result.curve
    ]


def write_csv(path: Path, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    """A CSV file with a header; a value that is None or missing is an empty cell."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def keep_recognizers(judgement: Judgement, folder: Path) -> None:
    """Put the weights of the first seed's attackers in place, as the networks that the game starts from (models/recognizers).

    Only kinds that an adversary may be: another attacker on raw clips doesn't change the game.
    """
    folder.mkdir(parents=True, exist_ok=True)
    point = judgement.points[0]
    info = {}
    for result in (point.action, *(result for result in point.privacy if result.kind in NETWORKS)):
        assert result.weights is not None  # networks have some
        shutil.copy(result.weights, folder / f"{result.name}.safetensors")
        info[result.name] = {"val_score": result.val_score, "epochs": len(result.curve)}
    (folder / "info.json").write_text(json.dumps(info, indent=2, sort_keys=True) + "\n")
