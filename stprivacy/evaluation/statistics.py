"""How sure is a figure, and is a difference between two methods one? Bootstrap over test clips.

A resample is a number of times for every clip. Clips of one group (a film, a recording) come and go together, since they are no
independent evidence. What varies here is the choice of test clips alone: not the training of the anonymizer, nor of the attackers.

n clips, R resamples, A attributes.
"""

from dataclasses import dataclass

import numpy as np

from stprivacy.randomness import keyed_seed

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A − B of one figure, by the same resamples of the same clips."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided: how often resampling turns the sign."""


def resamples(groups: np.ndarray, num: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each clip is drawn, float64 (R, n): as many groups as there are, drawn with replacement. `groups` (n,): of each clip."""
    _, of_clip = np.unique(groups, return_inverse=True)
    num_groups = int(of_clip.max()) + 1
    draws = np.random.default_rng(keyed_seed("bootstrap", seed)).multinomial(num_groups, np.full(num_groups, 1 / num_groups), num)
    return draws[:, of_clip].astype(np.float64)


def weighted_ap(scores: np.ndarray, truth: np.ndarray, times: np.ndarray) -> np.ndarray:
    """AP (R,) of `scores` (n,) against `truth` bool (n,), clip i counted `times[r, i]` times; NaN where no positive was drawn."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores are one threshold
    drawn = np.cumsum(times[:, order], axis=1)[:, ends]
    right = np.cumsum(times[:, order] * truth[order], axis=1)[:, ends]
    precision = np.divide(right, drawn, out=np.zeros_like(right), where=drawn > 0)
    total = right[:, -1]
    summed = (np.diff(right, axis=1, prepend=0) * precision).sum(1)
    return np.divide(summed, total, out=np.full(len(times), np.nan), where=total > 0)


def resampled_aps(probabilities: np.ndarray, present: np.ndarray, times: np.ndarray) -> np.ndarray:
    """AP (R, A) of every attribute; NaN where no clip with it was drawn."""
    return np.stack([weighted_ap(scores, truth, times) for scores, truth in zip(probabilities.T, present.T, strict=True)], axis=1)


def macro(aps: np.ndarray) -> np.ndarray:
    """cMAP (R,) of `aps` (R, A): the mean over the attributes that were drawn."""
    known = ~np.isnan(aps)
    return np.divide(np.where(known, aps, 0).sum(1), known.sum(1), out=np.full(len(aps), np.nan), where=known.any(1))


def resampled_f1(probabilities: np.ndarray, present: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Macro F1 (R,) at probability > 0.5, over the attributes that were drawn."""
    answer = probabilities > 0.5
    both, either = times @ (answer & present), times @ (answer.astype(float) + present)
    found = np.divide(2 * both, either, out=np.zeros_like(both), where=either > 0)
    return macro(np.where(times @ present > 0, found, np.nan))


def resampled_share(right: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Share (R,) of drawn clips that are `right` (n,)."""
    return np.asarray(times @ right / times.sum(1))


def interval(values: np.ndarray, level: float = LEVEL) -> list[float] | None:
    """[low, high] of the percentile interval of resampled `values` (R,); None where there is no value."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def paired_difference(value: float, resampled_a: np.ndarray, resampled_b: np.ndarray) -> Difference:
    """`value` = A − B on the clips as they are, with the interval and p of `resampled_a` − `resampled_b`, both (R,) of the same draws."""
    differences = resampled_a - resampled_b
    differences = differences[~np.isnan(differences)]
    low, high = interval(differences) or [np.nan, np.nan]
    turned = min((differences <= 0).sum(), (differences >= 0).sum())
    return Difference(value, low, high, min(1.0, 2 * (turned + 1) / (len(differences) + 1)))
