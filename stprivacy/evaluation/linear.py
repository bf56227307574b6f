"""The cheapest attacker: logistic regression on a clip's mean picture, how much each place varies, and how much it moves.

No local optimum, nothing to stop early: its penalty is chosen on val, and the rest follows. What it finds, anybody finds.

n clips, V views, B batch, T frames, S side, P pixels of the small picture, O outputs.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from stprivacy.action_task import Target
from stprivacy.evaluation.fitting import attack_loss, judge
from stprivacy.evaluation.jobs import AttackJob, Epoch, best_epoch
from stprivacy.evaluation.released import Released, device_here
from stprivacy.models.channel import to_float
from stprivacy.models.recognizers import clip_statistics

PENALTIES = (3.0, 0.3, 0.03, 0.003, 0.0003)
"""Weights of mean squared coefficients, beside the mean loss of a clip; from the strongest on, each fit starting from the last."""
STEPS = 60
"""Iterations of L-BFGS at each penalty."""
LEAST_SPREAD = 1e-3
"""Added to a feature's standard deviation, a quarter of a grey level: what never varies isn't blown up."""
BATCH = 64
STEPS_FROM_ACTIONS, ATTRIBUTES_AT_A_TIME = 200, 128
Features = Callable[[Tensor], Tensor]
"""features(released clips (B, 3, T, S, S) in [0, 1]) → (B, F)."""


@dataclass(frozen=True)
class Regression:
    """A logistic regression at the penalty that val chose."""

    curve: tuple[Epoch, ...]
    """A row for each penalty."""
    tensors: dict[str, Tensor]
    """Its `coefficients` (O, F + 1), the last being the constant, for features less `mean` over `scale` (F,)."""
    val: np.ndarray
    """Probabilities (n, O), the mean over the views of a clip."""
    test: np.ndarray


def fit_linear(job: AttackJob) -> dict[str, Any]:
    """Fit at every penalty, choose on val, answer test: what `run_attack` keeps, with a row of the curve for each penalty."""
    found = regression(Released(job.released), job.target, job.seed, clip_statistics)
    job.folder.mkdir(parents=True, exist_ok=True)
    save_file(found.tensors, job.folder / "best.safetensors")
    answers = {"val": torch.from_numpy(found.val), "test": torch.from_numpy(found.test)}
    return {"curve": [asdict(row) for row in found.curve], "fitted": True, **answers}


def regression(released: Released, target: Target, seed: int, features: Features) -> Regression:
    """Learn `target` from `features` of released training clips at every penalty, and choose on val.

    Training clips are seen under one draw of the channel. The seed is of no consequence but for that draw.
    """
    train, val = released.training_labels(), released.labels("val")
    every = np.arange(released.num_training_rows)
    starts = range(0, len(every), BATCH)
    seen = torch.cat([features(released.training_batch(every[first : first + BATCH], seed, 0)) for first in starts]).double()
    mean, scale = seen.mean(0), seen.std(0, correction=0) + LEAST_SPREAD
    seen = (seen - mean) / scale
    views = {split: (_of_views(released.views(split), features) - mean) / scale for split in ("val", "test")}  # (n, V, F)
    num_outputs = len(released.attributes if target == "privacy" else released.actions)
    coefficients = torch.zeros(num_outputs, seen.shape[1] + 1, dtype=torch.float64)
    curve: list[Epoch] = []
    best = coefficients
    for number, penalty in enumerate(PENALTIES, start=1):
        coefficients, loss = _fit(coefficients, seen, penalty, lambda logits: attack_loss(logits, train, every, target))
        curve.append(Epoch(number, loss, *judge(_answers(coefficients, views["val"], target), val, target)))
        if best_epoch(curve) is curve[-1]:
            best = coefficients
    tensors = {"coefficients": best, "mean": mean, "scale": scale}
    return Regression(tuple(curve), tensors, *(_answers(best, views[split], target) for split in ("val", "test")))


def _of_views(views: np.ndarray, features: Features) -> Tensor:
    """(n, V, F) of released `views` uint8 (n, V, T, S, S, 3)."""
    flat = views.reshape(-1, *views.shape[2:])
    parts = [features(to_float(torch.from_numpy(flat[first : first + BATCH].copy()))) for first in range(0, len(flat), BATCH)]
    return torch.cat(parts).double().view(*views.shape[:2], -1)


def _fit(start: Tensor, features: Tensor, penalty: float, loss_of: Callable[[Tensor], Tensor]) -> tuple[Tensor, float]:
    """Coefficients (O, F + 1), the last being the constant, and the loss without the penalty, from `start` on."""
    coefficients = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([coefficients], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        weights, constants = coefficients[:, :-1], coefficients[:, -1]
        value = loss_of(features @ weights.T + constants) + penalty * weights.square().sum() / len(weights)
        value.backward()
        return value

    optimizer.step(closure)
    found = coefficients.detach()
    return found, float(loss_of(features @ found[:, :-1].T + found[:, -1]))


def _answers(coefficients: Tensor, views: Tensor, target: Target) -> np.ndarray:
    """Probabilities (n, O), the mean over `views` (n, V, F)."""
    logits = views @ coefficients[:, :-1].T + coefficients[:, -1]
    probabilities = logits.softmax(2) if target == "action" else logits.sigmoid()
    return np.asarray(probabilities.mean(1).numpy())


def answer_from_actions(actions: np.ndarray, present: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Probabilities (m, A) of attributes from a clip's several actions alone: a logistic regression for each attribute.

    Learned from training clips' `actions` (n, C) and `present` (n, A), asked of `asked` (m, C), all 0/1. Least BCE plus half the squared
    weights, summed over clips. Actions count one by one, not in pairs. What no training clip has, or every one, gets its share of clips.
    """
    device = device_here()
    seen, truth, unseen = (torch.from_numpy(np.asarray(rows) > 0.5).to(device).double() for rows in (actions, present, asked))
    parts = [_from_actions(seen, part, unseen).cpu().numpy() for part in truth.split(ATTRIBUTES_AT_A_TIME, dim=1)]
    return np.concatenate(parts, axis=1)


def _from_actions(seen: Tensor, truth: Tensor, unseen: Tensor) -> Tensor:
    share = truth.mean(0)
    varies = (share > 0) & (share < 1)  # of others a constant would run away to infinity
    coefficients = torch.zeros(seen.shape[1] + 1, truth.shape[1], dtype=seen.dtype, device=seen.device)  # the last row being the constants
    coefficients[-1, varies] = share[varies].logit()
    coefficients.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [coefficients], max_iter=STEPS_FROM_ACTIONS, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = seen @ coefficients[:-1] + coefficients[-1]
        cost = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(0) + coefficients[:-1].square().sum(0) / 2
        value = cost[varies].sum() / len(truth)
        value.backward()
        return value

    if varies.any():
        optimizer.step(closure)
    found = coefficients.detach()
    return torch.where(varies, (unseen @ found[:-1] + found[-1]).sigmoid(), share)
