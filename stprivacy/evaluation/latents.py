"""What do the latents themselves give away, to an attacker that is given them and knows everything but the raw clip?

A release of the kind `code` is painted from latents alone: whatever it tells of a person, its latents tell. They are few numbers, which
classifiers of tables learn from in seconds. Each kind is fitted at several settings, and val chooses among these.

n clips or windows, V views, Z latents, A attributes, m rows that are asked about.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from stprivacy.evaluation.fitting import judge
from stprivacy.evaluation.jobs import AttackResult, Epoch, best_epoch
from stprivacy.evaluation.metrics import Labels
from stprivacy.evaluation.released import Released

Kind = Literal["logistic", "kernel", "boosting", "mlp"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NUM_DRAWS = 4
"""Draws of its latents that are learned from, a training window."""
LOGISTIC_STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0)
"""scikit-learn's C, the inverse of the penalty: from the strongest penalty on."""
WIDTHS = (0.1, 0.3, 1.0)
"""Of the kernel exp(−width · |x − y|² / Z): nearly a polynomial of low degree at the first, local at the last."""
KERNEL_STRENGTHS = (0.1, 1.0, 10.0, 100.0)
NUM_CENTRES = 600
"""Training rows that span the kernel's functions."""
LEAVES, ROUNDS = (4, 31), (12, 25, 50, 100, 200)
"""Leaves of a tree, and how many trees are summed."""
HIDDEN = (128, 64)
WEIGHT_PENALTIES, EPOCHS = (0.01, 1.0, 10.0), (5, 10, 20, 40)
"""scikit-learn's alpha, and the passes over the training rows after which val is asked."""
STEPS = 2000
"""Iterations of L-BFGS at most."""

Answer = Callable[[np.ndarray], np.ndarray]
"""answer(latents (m, Z)) → probabilities (m, A)."""
Fits = Callable[[np.ndarray, np.ndarray, int], Iterator[Answer]]
"""fits(latents (n, Z), truth bool (n, A), seed) → an answer for each setting; of every attribute, both classes are among the rows."""


class Latents(Protocol):
    """What is asked of a release here; of releases, only one that was painted from latents has them."""

    def labels(self, split: Literal["val"]) -> Labels: ...
    def training_labels(self) -> Labels: ...
    @property
    def num_training_rows(self) -> int: ...
    def codes(self, split: Literal["val", "test"]) -> np.ndarray: ...
    def training_code(self, rows: np.ndarray, seed: int, epoch: int) -> Tensor: ...


@dataclass(frozen=True)
class LatentJob:
    """One kind of attacker on the latents that a release was painted from."""

    released: Path
    seed: int
    kind: Kind

    def run(self) -> AttackResult:
        """Fit every setting, choose on val, read once on test. Seconds to a minute."""
        return attack_latents(Released(self.released), self.seed, self.kind)


def attack_latents(released: Latents, seed: int, kind: Kind) -> AttackResult:
    """Learn attributes from `NUM_DRAWS` draws of every training window's latents; the curve has a row for each setting.

    An attribute of one class in training is answered with its share. Raises ValueError where no val clip has any attribute.
    """
    rows = np.arange(released.num_training_rows)
    seen = np.concatenate([released.training_code(rows, seed, draw).numpy() for draw in range(NUM_DRAWS)]).astype(np.float64)
    truth = np.tile(released.training_labels().present, (NUM_DRAWS, 1))
    scaler = StandardScaler().fit(seen)
    seen = scaler.transform(seen)
    curve: list[Epoch] = []
    for number, answer in enumerate(_fits_of_all(FITS[kind], seen, truth, seed), start=1):
        val = _of_views(answer, scaler, released.codes("val"))
        train_loss = F.binary_cross_entropy(torch.from_numpy(answer(seen)), torch.from_numpy(truth).double()).item()
        curve.append(Epoch(number, train_loss, *judge(val, released.labels("val"), "privacy")))
        if best_epoch(curve) is curve[-1]:
            best, best_val = answer, val
    test = _of_views(best, scaler, released.codes("test"))
    chosen = best_epoch(curve)
    return AttackResult(
        f"privacy-latents-{kind}", "privacy", "latents", seed, tuple(curve), chosen.epoch, chosen.val_score, curve[-1].train_loss, True,
        best_val, test, None,
    )  # fmt: skip


def _of_views(answer: Answer, scaler: StandardScaler, codes: np.ndarray) -> np.ndarray:
    """Probabilities (n, A), the mean over the views of `codes` (n, V, Z)."""
    num_clips, num_views, num_latents = codes.shape
    flat = scaler.transform(codes.reshape(-1, num_latents).astype(np.float64))
    return np.asarray(answer(flat).reshape(num_clips, num_views, -1).mean(1))


def _fits_of_all(fits: Fits, seen: np.ndarray, truth: np.ndarray, seed: int) -> Iterator[Answer]:
    """`fits` to the attributes that vary; the others are answered with their share at every setting."""
    share = truth.mean(0)  # (A,)
    varies = (share > 0) & (share < 1)

    def filled(answer: Answer | None) -> Answer:
        def of_all(asked: np.ndarray) -> np.ndarray:
            probabilities = np.tile(share, (len(asked), 1))
            if answer is not None:
                probabilities[:, varies] = answer(asked)
            return probabilities

        return of_all

    if not varies.any():
        yield filled(None)
        return
    for answer in fits(seen, truth[:, varies], seed):
        yield filled(answer)


def _logistic(seen: np.ndarray, truth: np.ndarray, seed: int) -> Iterator[Answer]:
    """Regression on the latents as they are: what goes up or down with one of them, or with a sum. It draws nothing from the seed."""
    for strength in LOGISTIC_STRENGTHS:
        yield _regression(seen, truth, strength)


def _kernel(seen: np.ndarray, truth: np.ndarray, seed: int) -> Iterator[Answer]:
    """Regression with a Gaussian kernel, on the functions that some of the training rows span: any smooth function of the latents.

    With all rows as centres it would be the exact method, and take minutes.
    """
    for width in WIDTHS:
        spanned = Nystroem(gamma=width / seen.shape[1], n_components=min(NUM_CENTRES, len(seen)), random_state=seed).fit(seen)
        features = spanned.transform(seen)
        for strength in KERNEL_STRENGTHS:
            yield _after(spanned, _regression(features, truth, strength))


def _after(spanned: Nystroem, answer: Answer) -> Answer:
    return lambda asked: answer(spanned.transform(asked))


def _regression(features: np.ndarray, truth: np.ndarray, strength: float) -> Answer:
    """A logistic regression for each attribute."""
    models = [LogisticRegression(C=strength, max_iter=STEPS).fit(features, column) for column in truth.T]
    return lambda asked: np.stack([model.predict_proba(asked)[:, 1] for model in models], axis=1)


def _boosting(seen: np.ndarray, truth: np.ndarray, seed: int) -> Iterator[Answer]:
    """Boosted trees for each attribute: few leaves for single latents, more for several at once."""
    for leaves in LEAVES:
        model = HistGradientBoostingClassifier(max_iter=max(ROUNDS), max_leaf_nodes=leaves, early_stopping=False, random_state=seed)
        models = [deepcopy(model).fit(seen, column) for column in truth.T]
        for num_rounds in ROUNDS:
            yield _after_rounds(models, num_rounds)


def _after_rounds(models: list[HistGradientBoostingClassifier], num_rounds: int) -> Answer:
    """What the first `num_rounds` trees of each model say."""

    def answer(asked: np.ndarray) -> np.ndarray:
        return np.stack([next(islice(model.staged_predict_proba(asked), num_rounds - 1, None))[:, 1] for model in models], axis=1)

    return answer


def _mlp(seen: np.ndarray, truth: np.ndarray, seed: int) -> Iterator[Answer]:
    """One network for all attributes, asked after some epochs and some more.

    Not scikit-learn's own early stopping: the rows that it holds out would be other draws of windows that it learns from.
    """
    num_attributes = truth.shape[1]
    present = truth.astype(int) if num_attributes > 1 else truth[:, 0].astype(int)  # of a single column scikit-learn wants a row
    classes = np.arange(max(num_attributes, 2))
    for penalty in WEIGHT_PENALTIES:
        # A generator and no number, from which every call would begin anew: then all epochs would go through the rows in one order.
        model = MLPClassifier(HIDDEN, alpha=penalty, random_state=np.random.RandomState(seed))
        for epoch in range(1, max(EPOCHS) + 1):
            model.partial_fit(seen, present, classes=classes)
            if epoch in EPOCHS:
                yield _of_network(deepcopy(model), num_attributes)


def _of_network(model: MLPClassifier, num_attributes: int) -> Answer:
    """A column for each attribute; of a single one scikit-learn gives two, for absent and present."""
    return lambda asked: model.predict_proba(asked)[:, -num_attributes:]


FITS: dict[Kind, Fits] = {"logistic": _logistic, "kernel": _kernel, "boosting": _boosting, "mlp": _mlp}
