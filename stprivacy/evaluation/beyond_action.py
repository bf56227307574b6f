"""What does a clip tell about somebody beyond its action? An attacker who is told the action, too, against one who is told nothing else.

Two opinions on every attribute, the attacker's (log-odds from the clip) and that of the action alone (log-odds from the shares among
training clips of that action), are put together by a logistic model of three numbers. It is fitted on val: an attacker has learned its
training clips by heart, and on those its opinion would count for more than it is worth.

n clips, A attributes, K folds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from stprivacy.evaluation.floors import answer_from_action
from stprivacy.evaluation.jobs import AttackResult
from stprivacy.evaluation.metrics import Labels, cmap
from stprivacy.randomness import keyed_seed

NUM_FOLDS = 5
PRIOR = 1.0
"""Nats that a weight of 0 or 2 costs against 1: with few val clips both opinions count in full, as if they were independent."""


@dataclass(frozen=True)
class ToldTheAction:
    """An attacker's answers when the action is known beside the clip."""

    name: str
    val_score: float
    """cMAP on val, every clip answered by models that were fitted on other groups' clips."""
    test: np.ndarray
    """Probabilities (n, A)."""


def strongest_told(attackers: Sequence[AttackResult], train: Labels, val: Labels, test: Labels, val_groups: np.ndarray) -> ToldTheAction:
    """The attacker that is strongest on val when it is told the action. `val_groups` (n,): of each val clip."""
    alone = answers_alone(train, val, test)
    found = [told_the_action(attacker, alone, val, val_groups) for attacker in attackers]
    return max(found, key=lambda told: told.val_score)


def answers_alone(train: Labels, val: Labels, test: Labels) -> tuple[np.ndarray, np.ndarray]:
    """What the action alone says of val and test clips, each (n, A)."""
    return answer_from_action(train, val), answer_from_action(train, test)


def told_the_action(attacker: AttackResult, alone: tuple[np.ndarray, np.ndarray], val: Labels, val_groups: np.ndarray) -> ToldTheAction:
    """One attacker, told the action. `alone`: what that says of val and test by itself."""
    on_val, on_test = (log_odds(attacker.val), log_odds(alone[0])), (log_odds(attacker.test), log_odds(alone[1]))
    folds = folds_of(val_groups)
    crossed, answers = np.empty_like(attacker.val), np.empty_like(attacker.test)
    for column in range(val.present.shape[1]):
        clip, action, truth = on_val[0][:, column], on_val[1][:, column], val.present[:, column]
        for fold in np.unique(folds):
            out = folds == fold
            crossed[out, column] = answer(fitted(clip[~out], action[~out], truth[~out]), clip[out], action[out])
        answers[:, column] = answer(fitted(clip, action, truth), on_test[0][:, column], on_test[1][:, column])
    return ToldTheAction(attacker.name, cmap(crossed, val.present), answers)


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """log(p / (1 − p)), kept within ±14."""
    safe = probabilities.clip(1e-6, 1 - 1e-6)
    return np.asarray(np.log(safe) - np.log1p(-safe))


def fitted(clip: np.ndarray, action: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(weight of the clip's log-odds, of the action's, constant): least BCE on these clips, weights at least 0 and held to 1 by `PRIOR`."""
    opinions = np.stack([clip, action, np.ones_like(clip)], axis=1)
    sign = np.where(truth, 1.0, -1.0)

    def cost(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (opinions @ weights)
        pull = weights[:2] - 1
        slope = -(sign / (1 + np.exp(margin.clip(-500, 500)))) @ opinions
        slope[:2] += 2 * PRIOR * pull
        slope[2] += 2 * PRIOR * weights[2]
        return float(np.logaddexp(0, -margin).sum() + PRIOR * (pull @ pull + weights[2] ** 2)), slope

    return np.asarray(minimize(cost, np.array([1.0, 1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0, None), (0, None), (None, None)]).x)


def answer(weights: np.ndarray, clip: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Probabilities (n,)."""
    return np.asarray(1 / (1 + np.exp(-(weights[0] * clip + weights[1] * action + weights[2]))))


def folds_of(groups: np.ndarray) -> np.ndarray:
    """The fold (n,) of each clip: whole groups, dealt out in a fixed random order."""
    _, of_clip = np.unique(groups, return_inverse=True)
    num_groups = int(of_clip.max()) + 1
    order = np.random.default_rng(keyed_seed("folds")).permutation(num_groups)
    return np.asarray((order % min(NUM_FOLDS, max(num_groups, 2)))[of_clip])
