"""The cheapest attacker: logistic regression on a clip's mean picture, how much each place varies, and how much it moves.

No local optimum, nothing to stop early: its penalty is chosen on val, and the rest follows. What it finds, anybody finds.

n clips, V views, B batch, T frames, S side, P pixels of the small picture, O outputs.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from stprivacy.evaluation.fitting import attack_loss, judge
from stprivacy.evaluation.jobs import AttackJob, Epoch, best_epoch
from stprivacy.evaluation.released import Released
from stprivacy.models.channel import to_float

GRID = 12
"""Rows and columns of the small picture."""
PENALTIES = (3.0, 0.3, 0.03, 0.003, 0.0003)
"""Weights of mean squared coefficients, beside the mean loss of a clip; from the strongest on, each fit starting from the last."""
STEPS = 60
"""Iterations of L-BFGS at each penalty."""
LEAST_SPREAD = 1e-3
"""Added to a feature's standard deviation, a quarter of a grey level: what never varies isn't blown up."""
BATCH = 64


def clip_statistics(clips: Tensor) -> Tensor:
    """Features (B, 3·3·P) of `clips` (B, 3, T, S, S) in [0, 1]: mean, standard deviation and mean change over time of every small pixel."""
    small = F.adaptive_avg_pool3d(clips, (clips.shape[2], GRID, GRID))  # (B, 3, T, G, G)
    change = (small[:, :, 1:] - small[:, :, :-1]).abs()
    parts = (small.mean(2), small.std(2, correction=0), change.mean(2) if clips.shape[2] > 1 else torch.zeros_like(small[:, :, 0]))
    return torch.cat([part.flatten(1) for part in parts], 1)


def fit_linear(job: AttackJob) -> dict[str, Any]:
    """Fit at every penalty, choose on val, answer test: what `run_attack` keeps, with a row of the curve for each penalty.

    Training clips are seen under one draw of the channel. The seed is of no consequence but for that draw.
    """
    released = Released(job.released)
    train, val = released.labels("train"), released.labels("val")
    num_rows = released.num_training_rows
    clip_of_row = np.arange(num_rows) // (num_rows // len(train.actions))
    starts = range(0, num_rows, BATCH)
    batches = (released.training_batch(np.arange(first, min(first + BATCH, num_rows)), job.seed, 0) for first in starts)
    seen = torch.cat([clip_statistics(batch) for batch in batches]).double()
    mean, scale = seen.mean(0), seen.std(0, correction=0) + LEAST_SPREAD
    seen = (seen - mean) / scale
    views = {split: (_features_of(released.views(split)) - mean) / scale for split in ("val", "test")}  # (n, V, F)
    num_outputs = len(released.actions if job.target == "action" else released.attributes)
    coefficients = torch.zeros(num_outputs, seen.shape[1] + 1, dtype=torch.float64)
    curve: list[Epoch] = []
    best = coefficients
    for number, penalty in enumerate(PENALTIES, start=1):
        coefficients, loss = _regression(coefficients, seen, penalty, lambda logits: attack_loss(logits, train, clip_of_row, job.target))
        curve.append(Epoch(number, loss, *judge(_answers(coefficients, views["val"], job.target), val, job.target)))
        if best_epoch(curve) is curve[-1]:
            best = coefficients
    job.folder.mkdir(parents=True, exist_ok=True)
    save_file({"coefficients": best, "mean": mean, "scale": scale}, job.folder / "best.safetensors")
    answers = {split: torch.from_numpy(_answers(best, views[split], job.target)) for split in ("val", "test")}
    return {"curve": [asdict(row) for row in curve], "fitted": True, **answers}


def _features_of(views: np.ndarray) -> Tensor:
    """(n, V, F) of released `views` uint8 (n, V, T, S, S, 3)."""
    flat = views.reshape(-1, *views.shape[2:])
    parts = [clip_statistics(to_float(torch.from_numpy(flat[first : first + BATCH].copy()))) for first in range(0, len(flat), BATCH)]
    return torch.cat(parts).double().view(*views.shape[:2], -1)


def _regression(start: Tensor, features: Tensor, penalty: float, loss_of: Callable[[Tensor], Tensor]) -> tuple[Tensor, float]:
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


def _answers(coefficients: Tensor, views: Tensor, target: str) -> np.ndarray:
    """Probabilities (n, O), the mean over `views` (n, V, F)."""
    logits = views @ coefficients[:, :-1].T + coefficients[:, -1]
    probabilities = logits.softmax(2) if target == "action" else logits.sigmoid()
    return np.asarray(probabilities.mean(1).numpy())
