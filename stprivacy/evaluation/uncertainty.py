"""The part of metrics.json that says how sure the figures are: `intervals`, and the leak beyond the action with its own.

A attributes, R resamples.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stprivacy.action_task import ONE_ACTION
from stprivacy.evaluation.beyond_action import ToldTheAction
from stprivacy.evaluation.floors import answer_from_action
from stprivacy.evaluation.judge import Point
from stprivacy.evaluation.metrics import Labels, average_precisions
from stprivacy.evaluation.predictions import NAME, Predictions, load_predictions
from stprivacy.evaluation.statistics import (
    LEVEL,
    RESAMPLES,
    interval,
    macro,
    resampled_aps,
    resampled_f1,
    resampled_share,
    resamples,
)


def leak_removed(released: float, raw: float, chance: float) -> float:
    """1 − (released − chance) / (raw − chance), of cMAPs; NaN where raw clips leak nothing that could be removed."""
    return 1 - (released - chance) / (raw - chance) if raw > chance else float("nan")


def uncertainty(
    points: Sequence[Point], told: Sequence[ToldTheAction], train: Labels, test: Labels, groups: np.ndarray, attributes: tuple[str, ...],
    raw_metrics: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """`intervals` and `leak_beyond_action` of the points (seeds) of one kept share, every figure the mean over them.

    `told`: the strongest attacker of each that knows the action, too. `groups` (n,): of each test clip. `raw_metrics`: where raw clips were
    judged, for the interval of `leak_removed`; None for raw itself.
    """
    times = resamples(groups)
    aps = _mean([resampled_aps(point.strongest.test, test.present, times) for point in points])
    beyond, beyond_interval = _beyond_action(told, train, test, times, attributes)
    intervals = {
        "level": LEVEL,
        "resamples": RESAMPLES,
        "groups": len(np.unique(groups)),
        test.action_task.figure: interval(resampled_action([point.action.test for point in points], test, times)),
        "privacy_cmap": interval(macro(aps)),
        "privacy_f1": interval(_mean([resampled_f1(point.strongest.test, test.present, times) for point in points])),
        "ap": {name: interval(aps[:, place]) for place, name in enumerate(attributes)},
        "leak_removed": _removed(macro(aps), test, times, raw_metrics),
        "leak_beyond_action": beyond_interval,
    }
    return {"leak_beyond_action": beyond, "intervals": intervals}


def resampled_action(answers: Sequence[np.ndarray], test: Labels, times: np.ndarray) -> np.ndarray:
    """The action figure (R,), the mean over `answers`, each (n, C) probabilities."""
    if test.action_task is ONE_ACTION:
        return resampled_share(_mean([answer.argmax(1) == test.actions for answer in answers]), times)
    return _mean([macro(resampled_aps(answer, test.truth("actions"), times)) for answer in answers])


def _mean(values: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(np.mean(values, axis=0))


def _beyond_action(
    told: Sequence[ToldTheAction], train: Labels, test: Labels, times: np.ndarray, attributes: tuple[str, ...]
) -> tuple[dict[str, Any], list[float] | None]:
    """The block of metrics.json, and the interval of its cMAP."""
    alone = answer_from_action(train, test)
    with_clip = _mean([average_precisions(found.test, test.present) for found in told])
    gain = with_clip - average_precisions(alone, test.present)
    drawn = _mean([resampled_aps(found.test, test.present, times) for found in told]) - resampled_aps(alone, test.present, times)
    block = {
        "cmap": float(np.nanmean(gain)),
        "ap": {name: None if np.isnan(value) else float(value) for name, value in zip(attributes, gain, strict=True)},
        "attacker": told[0].name,
        "told_cmap": float(np.nanmean(with_clip)),
        "ap_intervals": {name: interval(drawn[:, place]) for place, name in enumerate(attributes)},
    }
    return block, interval(macro(drawn))


def _removed(released: np.ndarray, test: Labels, times: np.ndarray, raw_metrics: Path | None) -> list[float] | None:
    """The interval of `leak_removed`, raw and released (R,) drawn alike; None where raw clips' answers were not kept or leak nothing."""
    raw = _raw_predictions(raw_metrics)
    if raw is None or not np.array_equal(raw.labels.present, test.present):
        return None
    cmaps = macro(_mean([resampled_aps(point.privacy, test.present, times) for point in raw.at(raw.main_share)]))
    shares = times @ test.present / times.sum(1, keepdims=True)
    chance = macro(np.where(shares > 0, shares, np.nan))
    removed = np.where(cmaps > chance, 1 - (released - chance) / np.where(cmaps > chance, cmaps - chance, 1), np.nan)
    return interval(removed)


def _raw_predictions(raw_metrics: Path | None) -> Predictions | None:
    path = raw_metrics.parent / NAME if raw_metrics else None
    return load_predictions(path) if path and path.exists() else None
