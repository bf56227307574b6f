"""How well do predictions agree with labels? Average precision per attribute, its macro mean, F1, top-1.

n clips, A attributes, C actions.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score

from stprivacy.action_task import ONE_ACTION, SEVERAL_ACTIONS, ActionTask, Target


@dataclass(frozen=True)
class Labels:
    """What is true of the clips of a split."""

    actions: np.ndarray
    """int64 (n,); (n, C) of 0/1 where a clip has several."""
    attributes: np.ndarray
    """(n, A) of 0/1."""

    @property
    def action_task(self) -> ActionTask:
        return ONE_ACTION if self.actions.ndim == 1 else SEVERAL_ACTIONS

    def truth(self, target: Target) -> np.ndarray:
        """bool (n, O): which outputs are true of each clip, where any number may be."""
        return self.present if target == "privacy" else self.actions > 0.5

    @property
    def present(self) -> np.ndarray:
        """bool (n, A)."""
        return np.asarray(self.attributes) > 0.5

    @property
    def one_identity_each(self) -> bool:
        """Does every clip have exactly one attribute, as where the attributes are persons?"""
        return self.present.shape[1] > 1 and bool((self.present.sum(1) == 1).all())


def average_precisions(probabilities: np.ndarray, present: np.ndarray) -> np.ndarray:
    """AP of every attribute, float64 (A,), from `probabilities` and `present` (n, A); NaN for one that no clip has."""
    pairs = zip(present.T, probabilities.T, strict=True)
    return np.array([average_precision_score(truth, scores) if truth.any() else np.nan for truth, scores in pairs])


def by_attribute(attributes: Iterable[str], values: Iterable[float]) -> dict[str, float | None]:
    """A value an attribute, for JSON, which knows no NaN: null for an attribute that no clip, or no frame, has."""
    return {name: None if np.isnan(value) else float(value) for name, value in zip(attributes, values, strict=True)}


def cmap(probabilities: np.ndarray, present: np.ndarray) -> float:
    """Macro mean of AP over the attributes that some clip has. Raises ValueError when none is there."""
    precisions = average_precisions(probabilities, present)
    if np.isnan(precisions).all():
        raise ValueError("no clip has any attribute")
    return float(np.nanmean(precisions))


def macro_f1(probabilities: np.ndarray, present: np.ndarray) -> float:
    """Macro mean of the positive class's F1 at probability > 0.5, over the attributes that some clip has."""
    known = present.any(0)
    truth, answer = present[:, known], probabilities[:, known] > 0.5
    # Not scikit-learn's f1_score: of a single column it would also count the absent class.
    return float((2 * (truth & answer).sum(0) / (truth.sum(0) + answer.sum(0))).mean())


def top1(probabilities: np.ndarray, actions: np.ndarray) -> float:
    """Share of clips whose most probable action is the true one; `probabilities` (n, C), `actions` (n,)."""
    return float((probabilities.argmax(1) == actions).mean())


def action_score(probabilities: np.ndarray, labels: Labels) -> float:
    """Top-1, or, where clips have several actions, the mean of AP over the actions that some clip has. `probabilities` (n, C)."""
    if labels.action_task is ONE_ACTION:
        return top1(probabilities, labels.actions)
    return cmap(probabilities, labels.truth("actions"))


def identity_top1(probabilities: np.ndarray, labels: Labels) -> float | None:
    """Share of clips whose most probable attribute is the true one; None unless every clip has exactly one."""
    return top1(probabilities, labels.present.argmax(1)) if labels.one_identity_each else None
