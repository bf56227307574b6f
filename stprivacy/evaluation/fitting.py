"""Training one attacker: all of train once an epoch, chosen on val, nothing of test.

The weights that are judged are an exponential moving average (EMA) of the trained ones: it does what a falling learning rate would do,
at every epoch, so that training can stop when val stops improving, without a schedule that has to know its end beforehand.

n clips, V views, B batch, T frames, S side, A attributes, O outputs (actions or attributes).
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stprivacy.action_task import Target
from stprivacy.data.clips import epoch_order
from stprivacy.evaluation.attack_networks import build_attacker
from stprivacy.evaluation.jobs import AttackJob, Epoch, best_epoch
from stprivacy.evaluation.metrics import Labels, cmap, top1
from stprivacy.evaluation.released import Released, device_here
from stprivacy.models.channel import to_float
from stprivacy.models.checkpoints import save_weights
from stprivacy.randomness import keyed_seed

LEAST_GAIN = 1e-3
"""A val score that is better by less is no improvement to wait for, and within this of 1 there is nothing left to find."""
FITTED = 0.2
"""An attacker whose training loss is above this share of a constant answer's has not fitted its clips: a lower bound."""
EMA_STEPS = 40
"""Steps, about: each moves the averaged weights by 1/40 of the way, an epoch of the default data set being 45."""
PREDICT_BATCH = 64


class Clips(Protocol):
    """What an attacker learns from: a release, or several put together."""

    actions: tuple[str, ...]
    attributes: tuple[str, ...]

    def labels(self, split: Literal["train", "val", "test"]) -> Labels: ...
    def training_labels(self) -> Labels: ...
    def views(self, split: Literal["val", "test"]) -> np.ndarray: ...
    @property
    def num_training_rows(self) -> int: ...
    def training_batch(self, rows: np.ndarray, seed: int, epoch: int, device: torch.device | str = "cpu") -> Tensor: ...


class Fit:
    """An attacker in training. Every draw is keyed by (seed, epoch, row), so that a loaded state goes on exactly."""

    least_gain = LEAST_GAIN

    def __init__(self, job: AttackJob, clips: Clips | None = None):
        """`clips`: what is learned from, where that is more than `job.released`."""
        self.job, self.released, self.device = job, clips or Released(job.released), device_here()
        self.train, self.val = self.released.training_labels(), self.released.labels("val")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(keyed_seed("attacker", job.target, job.kind, job.seed))
            self.network, self.ema = self._build(fresh=True).to(self.device), self._build(fresh=False).to(self.device)
        self.ema.load_state_dict(self.network.state_dict())
        self.ema.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), job.attack.learning_rate, weight_decay=job.attack.weight_decay)
        self.curve: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.steps_per_epoch = -(-len(self.train.actions) // job.attack.batch)

    @property
    def done(self) -> bool:
        """Has val stopped improving, or is there nothing left to find?"""
        attack, curve = self.job.attack, self.curve
        if len(curve) >= attack.max_epochs or self._at_ceiling():
            return True
        return len(curve) >= attack.min_epochs and len(curve) - _last_gain(curve, self.least_gain) >= attack.patience

    def _at_ceiling(self) -> bool:
        """Val perfect twice running and train fitted: on a small val split one perfect score may be luck."""
        return len(self.curve) >= 2 and self.fitted and all(row.val_score >= 1 - LEAST_GAIN for row in self.curve[-2:])

    @property
    def fitted(self) -> bool:
        """Is the last epoch's training loss a small share of what a constant answer costs?"""
        return self.curve[-1].train_loss <= FITTED * constant_loss(self.train, self.job.target)

    def run_epoch(self) -> Epoch:
        """One pass over the training clips, each window released anew, then val."""
        epoch, attack = len(self.curve), self.job.attack
        order = epoch_order(len(self.train.actions), self.job.seed, epoch)
        losses = []
        self.network.train()
        for step in range(self.steps_per_epoch):
            rows = np.sort(order[step * attack.batch : (step + 1) * attack.batch])  # sorted: reads run forward through the file
            self._warm_up(epoch * self.steps_per_epoch + step)
            loss = self._loss(rows, epoch)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self._update_ema(epoch * self.steps_per_epoch + step)
            losses.append(loss.item() * len(rows))
        self.curve.append(Epoch(epoch + 1, sum(losses) / len(order), *self._judge()))
        if best_epoch(self.curve) is self.curve[-1]:
            self.best = {name: tensor.clone() for name, tensor in self.ema.state_dict().items()}
        return self.curve[-1]

    def _build(self, fresh: bool) -> nn.Module:
        job = self.job
        outputs = len(self.released.attributes if job.target == "privacy" else self.released.actions)
        return build_attacker(job.kind, job.target, outputs, job.recognizers, job.clip, fresh)

    def _loss(self, rows: np.ndarray, epoch: int) -> Tensor:
        clips = self.released.training_batch(rows, self.job.seed, epoch, self.device)
        return attack_loss(self.network(clips), self.train, rows, self.job.target)

    def _judge(self) -> tuple[float, float]:
        """Score and loss of the averaged network on val."""
        return judge(predict(self.ema, self.released.views("val"), self.job.target), self.val, self.job.target)

    def _warm_up(self, step: int) -> None:
        """The learning rate rises over the first epoch and then stays."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.job.attack.learning_rate * min(1.0, (step + 1) / max(self.steps_per_epoch, EMA_STEPS))

    @torch.no_grad()
    def _update_ema(self, step: int) -> None:
        """Move the averaged weights towards the trained ones; early on, when those say little, faster."""
        share = max(1 / EMA_STEPS, 1 / (1 + step / 4))
        for averaged, trained in zip(self.ema.parameters(), self.network.parameters(), strict=True):
            averaged.lerp_(trained, share)

    def best_network(self) -> Any:
        """The averaged network of the best epoch."""
        self.ema.load_state_dict(self.best)
        return self.ema

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch needs, as tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "average": self.ema.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "curve": [asdict(row) for row in self.curve],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = state["best"]
        self.curve = [Epoch(**row) for row in state["curve"]]


def run_to_end(fit: Fit, folder: Path, describe: Callable[[Epoch, float], str]) -> Any:
    """Train until val stops improving, going on where an earlier process was killed; gives the best epoch's network, kept in `folder`.

    `describe`: an epoch and its seconds as a line of progress. The checkpoint is the caller's to remove, once all is kept.
    """
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        fit.load(torch.load(checkpoint, map_location=fit.device, weights_only=True))
    while not fit.done:
        started = time.monotonic()
        epoch = fit.run_epoch()
        save_atomically(fit.state(), checkpoint)
        print(describe(epoch, time.monotonic() - started), flush=True)
    network = fit.best_network()
    save_weights(folder / "best.safetensors", network)
    return network


def attack_loss(logits: Tensor, labels: Labels, rows: np.ndarray, target: Target) -> Tensor:
    """Cross-entropy with the one action, or mean BCE with attributes or several actions, of the windows with these numbers."""
    if target == "action":
        return F.cross_entropy(logits, torch.from_numpy(labels.actions[rows]).to(logits.device))
    return F.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels.truth(target)[rows]).to(logits))


def constant_loss(labels: Labels, target: Target) -> float:
    """The loss of answering every clip with the shares of the labels, in nats."""
    if target == "action":
        shares = np.bincount(labels.actions) / len(labels.actions)
        return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
    shares = np.clip(labels.truth(target).mean(0), 1e-6, 1 - 1e-6)
    return float(-(shares * np.log(shares) + (1 - shares) * np.log(1 - shares)).mean())


@torch.no_grad()
def predict(network: nn.Module, views: np.ndarray, target: Target) -> np.ndarray:
    """Probabilities (n, O) from released `views` uint8 (n, V, T, S, S, 3): the mean over views."""
    network.eval()
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    to_probabilities: Callable[[Tensor], Tensor] = (lambda logits: logits.softmax(1)) if target == "action" else torch.sigmoid
    flat = views.reshape(-1, *views.shape[2:])
    parts = [
        to_probabilities(network(to_float(torch.from_numpy(flat[first : first + PREDICT_BATCH].copy()).to(device))))
        for first in range(0, len(flat), PREDICT_BATCH)
    ]
    return torch.cat(parts).view(len(views), views.shape[1], -1).mean(1).double().cpu().numpy()


def judge(probabilities: np.ndarray, labels: Labels, target: Target) -> tuple[float, float]:
    """(score, loss): top-1 and negative log-likelihood of one action, or cMAP and BCE of attributes or several actions."""
    safe = probabilities.clip(1e-7, 1 - 1e-7)
    if target == "action":
        true = safe[np.arange(len(safe)), labels.actions]
        return top1(probabilities, labels.actions), float(-np.log(true).mean())
    truth = labels.truth(target)
    likelihood = np.where(truth, safe, 1 - safe)
    return cmap(probabilities, truth), float(-np.log(likelihood).mean())


def _last_gain(curve: list[Epoch], least: float) -> int:
    """The epoch that last raised the val score by more than `least`."""
    best, at = -np.inf, 0
    for row in curve:
        if row.val_score > best + least:
            best, at = row.val_score, row.epoch
    return at


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """`torch.save`, so that the file is the old or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    torch.save(state, part)
    os.replace(part, path)
