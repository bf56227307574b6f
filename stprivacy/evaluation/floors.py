"""What does an attacker get with no picture at all? Chance, a constant answer, the action label alone.

Answers come from the labels of the training split and are read on the test split. n clips, A attributes, C actions.
"""

from dataclasses import dataclass

import numpy as np

from stprivacy.action_task import SEVERAL_ACTIONS
from stprivacy.evaluation.metrics import Labels, action_score, average_precisions, cmap, macro_f1


@dataclass(frozen=True)
class Floor:
    """The figures that need no picture."""

    cmap: float
    f1: float
    action: float
    """Top-1, or mAP where clips have several actions."""
    ap: tuple[float, ...]
    """Per attribute; NaN for one that no test clip has."""


def floors(train: Labels, test: Labels) -> dict[str, Floor]:
    """`chance`, `constant` and `action_only`, by name."""
    return {"chance": chance(train, test), "constant": constant(train, test), "action_only": action_only(train, test)}


def chance(train: Labels, test: Labels) -> Floor:
    """Answers drawn at random with the shares of the training split.

    cMAP: the precision of a random pick, which is the share of positives. (A random *ranking* of few clips expects more,
    `random_ranking_cmap`; the lower figure is the stricter one, since leak counts from here.) F1: ratio of expected counts.
    """
    drawn, true = train.present.mean(0), test.present.mean(0)
    known = true > 0
    f1 = 2 * drawn[known] * true[known] / (drawn[known] + true[known])
    precisions = np.where(known, true, np.nan)
    return Floor(float(np.nanmean(precisions)), float(f1.mean()), _action_chance(train, test), tuple(precisions.tolist()))


def _action_chance(train: Labels, test: Labels) -> float:
    """The action figure of answers drawn at random."""
    if test.action_task is SEVERAL_ACTIONS:
        shares = test.truth("actions").mean(0)
        return float(shares[shares > 0].mean())
    num_actions = int(max(train.actions.max(), test.actions.max())) + 1
    of_train, of_test = (np.bincount(labels.actions, minlength=num_actions) / len(labels.actions) for labels in (train, test))
    return float(of_train @ of_test)


def constant(train: Labels, test: Labels) -> Floor:
    """The same answer for every clip: the training split's share of each attribute, and its most frequent action or, of several, shares."""
    answer = np.broadcast_to(train.present.mean(0), test.present.shape)
    if test.action_task is SEVERAL_ACTIONS:
        return _floor(answer, test, action_score(np.broadcast_to(train.truth("actions").mean(0), test.actions.shape), test))
    return _floor(answer, test, float((test.actions == np.bincount(train.actions).argmax()).mean()))


def action_only(train: Labels, test: Labels) -> Floor:
    """Each attribute's share among the training clips of the test clip's own action, one clip's weight added at its overall share.

    Where clips have several actions, what a regression makes of all of them.
    """
    return _floor(answer_from_action(train, test), test, 1.0)


def answer_from_action(train: Labels, test: Labels) -> np.ndarray:
    """The answer (n, A) of `action_only` to the clips of `test`."""
    if test.action_task is SEVERAL_ACTIONS:
        from stprivacy.evaluation.linear import answer_from_actions  # torch

        return answer_from_actions(train.actions, train.present, test.actions)
    overall = train.present.mean(0)
    answer = np.empty(test.present.shape)
    for action in np.unique(test.actions):
        same = train.present[train.actions == action]
        answer[test.actions == action] = (same.sum(0) + overall) / (len(same) + 1)
    return answer


def random_ranking_cmap(test: Labels) -> float:
    """Expected cMAP of a uniformly random ranking: above the share of positives by about ln(n)/n, much on a small test split.

    E[AP] = (H + (m − 1)/(n − 1) · (n − H)) / n for m positives among n clips, H the n-th harmonic number.
    """
    positives = test.present.sum(0)
    return float(expected_ap(positives[positives > 0], len(test.present)).mean())


def expected_ap(positives: np.ndarray, n: int) -> np.ndarray:
    """Expected AP of a uniformly random order of `n`, of which `positives` (each at least 1) are right."""
    harmonic = float((1 / np.arange(1, n + 1)).sum())
    return np.asarray((harmonic + (positives - 1) / max(n - 1, 1) * (n - harmonic)) / n)


def _floor(answer: np.ndarray, test: Labels, action: float) -> Floor:
    precisions = average_precisions(answer, test.present)
    return Floor(cmap(answer, test.present), macro_f1(answer, test.present), action, tuple(precisions.tolist()))
