"""Is one method better than another? Differences of their test figures, clip for clip, with intervals and p-values."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stprivacy.errors import UserError
from stprivacy.evaluation.metrics import Labels, action_score, average_precisions
from stprivacy.evaluation.predictions import NAME, Predictions, SavedPoint, load_predictions
from stprivacy.evaluation.statistics import Difference, macro, paired_difference, resampled_aps, resamples
from stprivacy.evaluation.uncertainty import resampled_action


@dataclass(frozen=True)
class Line:
    """One figure of both methods, and their difference."""

    figure: str
    a: float
    b: float
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same test clips."""

    a: str
    b: str
    dataset: str
    num_clips: int
    num_groups: int
    attackers: tuple[str, str]
    """The strongest privacy attacker of each (of the first seed)."""
    seeds: tuple[int, int]
    """How many attacker seeds each figure is a mean over."""
    lines: tuple[Line, ...]
    """Action top-1 or mAP, cMAP, then each attribute's AP."""


def named(results: Path, name: str) -> tuple[Predictions, tuple[SavedPoint, ...], str]:
    """What METHOD or METHOD@KEPT_SHARE left below `results`/evaluate: predictions, the points of its share, its full name.

    Raises UserError for a share that is no number or was not judged, and for a method without predictions.
    """
    method, at, asked = name.partition("@")
    found = load_predictions(results / "evaluate" / method / NAME)
    try:
        share = float(asked) if at else found.main_share
    except ValueError:
        raise UserError(f"{name}: {asked!r} is no kept share; for example {method}@0.4") from None
    return found, found.at(share), method if share is None else f"{method}@{share:g}"


def compare(results: Path, name_a: str, name_b: str) -> Comparison:
    """Compare two methods, each at one kept share: the main one, or the one named as METHOD@KEPT_SHARE.

    Raises UserError for methods that were judged on other clips.
    """
    (one, points_a, full_a), (other, points_b, full_b) = named(results, name_a), named(results, name_b)
    same_labels = np.array_equal(one.labels.present, other.labels.present) and np.array_equal(one.labels.actions, other.labels.actions)
    if one.keys != other.keys or one.attributes != other.attributes or not same_labels:
        raise UserError(f"{name_a} and {name_b}: judged on other test clips or labels; run `dvc repro`, which brings both up to date")
    times, test = resamples(one.groups), one.labels
    lines = [_action_line(points_a, points_b, test, times)]
    drawn = [np.mean([resampled_aps(point.privacy, test.present, times) for point in points], axis=0) for points in (points_a, points_b)]
    aps = [np.mean([average_precisions(point.privacy, test.present) for point in points], axis=0) for points in (points_a, points_b)]
    means = [float(np.nanmean(values)) for values in aps]
    lines.append(Line("cMAP", means[0], means[1], paired_difference(means[0] - means[1], macro(drawn[0]), macro(drawn[1]))))
    for place, attribute in enumerate(one.attributes):
        a, b = float(aps[0][place]), float(aps[1][place])
        if not np.isnan(a):  # no test clip has it
            lines.append(Line(f"AP {attribute}", a, b, paired_difference(a - b, drawn[0][:, place], drawn[1][:, place])))
    strongest = points_a[0].strongest, points_b[0].strongest
    seeds = len(points_a), len(points_b)
    return Comparison(full_a, full_b, one.dataset, len(one.keys), len(np.unique(one.groups)), strongest, seeds, tuple(lines))


def _action_line(points_a: tuple[SavedPoint, ...], points_b: tuple[SavedPoint, ...], test: Labels, times: np.ndarray) -> Line:
    """The action figure: top-1, or mAP where clips have several actions."""
    both = points_a, points_b
    drawn = [resampled_action([point.action for point in points], test, times) for points in both]
    a, b = (float(np.mean([action_score(point.action, test) for point in points])) for points in both)
    return Line(f"action {test.action_task.title}", a, b, paired_difference(a - b, *drawn))
