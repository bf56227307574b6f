"""What does a fresh attacker find in released clips? One fit: trained on train, chosen on val, read once on test.

The weights that are judged are a running average of the trained ones: it does what a falling learning rate would do, at every
epoch, so that training can stop when val stops improving, without a schedule that has to know its end beforehand.

n clips, V views, B batch, T frames, S side, A attributes, O outputs (actions or attributes).
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stprivacy.config import Attack, Clip, NetworkKind, Recognizers, config_hash
from stprivacy.data.clips import epoch_order
from stprivacy.evaluation.metrics import Labels, cmap, top1
from stprivacy.evaluation.released import Released
from stprivacy.models.channel import to_float
from stprivacy.models.checkpoints import fresh_recognizer, save_weights
from stprivacy.models.recognizers import Recognizer, build_recognizer
from stprivacy.randomness import keyed_seed

PROTOCOL = 1
"""Raise when an attacker is trained otherwise: what an older protocol left in the cache is then not taken up."""
LEAST_GAIN = 1e-3
"""A val score that is better by less is no improvement to wait for, and within this of 1 there is nothing left to find."""
FITTED = 0.2
"""An attacker whose training loss is above this share of a constant answer's has not fitted its clips: a lower bound."""
AVERAGE_OVER = 40
"""Steps, about: each moves the averaged weights by 1/40 of the way, an epoch of the default data set being 45."""
PREDICT_BATCH = 64


@dataclass(frozen=True)
class AttackJob:
    """All that determines a fit, and where to keep it."""

    released: Path
    target: Literal["action", "privacy"]
    kind: NetworkKind
    seed: int
    attack: Attack
    recognizers: Recognizers
    clip: Clip
    cache: Path
    label: str
    """What the lines of progress call the release."""

    @property
    def name(self) -> str:
        """`action` or `privacy-<kind>`, as the attacker is called in every result."""
        return attacker_name(self.target, self.kind)

    @property
    def folder(self) -> Path:
        """Named by the hash of the released clips and of every setting of the fit."""
        settings = self.attack.model_dump(include={"min_epochs", "max_epochs", "patience", "learning_rate", "weight_decay", "batch"})
        about = {"released": Released(self.released).checksum, "target": self.target, "kind": self.kind, "seed": self.seed}
        return self.cache / "attacks" / config_hash(about | {"protocol": PROTOCOL}, settings, self.recognizers, self.clip)


@dataclass(frozen=True)
class Epoch:
    """One finished epoch of a fit."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    val_score: float
    """Action top-1 or cMAP."""
    val_loss: float


@dataclass(frozen=True)
class AttackResult:
    """What a finished fit knows."""

    name: str
    target: Literal["action", "privacy"]
    kind: NetworkKind
    seed: int
    curve: tuple[Epoch, ...]
    best_epoch: int
    val_score: float
    train_loss: float
    """Of the last epoch, in nats."""
    fitted: bool
    """False: training had not come to its end, and the figures are a lower bound of what can be found."""
    val: np.ndarray
    """Probabilities (n, O), the mean over the views of a clip."""
    test: np.ndarray
    weights: Path
    """Safetensors file of the weights that were best on val."""


def attacker_name(target: str, kind: str) -> str:
    """The action attacker is one, privacy attackers are told apart by their kind."""
    return "action" if target == "action" else f"privacy-{kind}"


def run_attack(job: AttackJob) -> AttackResult:
    """Fit an attacker, going on where an earlier process was killed, and read it on test; a finished one is only read again."""
    finished, weights = job.folder / "finished.pt", job.folder / "best.safetensors"
    if not finished.exists():
        fit = Fit(job)
        if (job.folder / "checkpoint.pt").exists():
            fit.load(torch.load(job.folder / "checkpoint.pt", weights_only=True))
        while not fit.done:
            started = time.monotonic()
            epoch = fit.run_epoch()
            save_atomically(fit.state(), job.folder / "checkpoint.pt")
            print(_line(job, epoch, time.monotonic() - started), flush=True)
        network = fit.best_network()
        save_weights(weights, network)
        val, test = (torch.from_numpy(predict(network, fit.released.views(split), job.target)) for split in ("val", "test"))
        save_atomically({"curve": fit.state()["curve"], "fitted": fit.fitted, "val": val, "test": test}, finished)
        (job.folder / "checkpoint.pt").unlink()
    outcome = torch.load(finished, weights_only=True)
    curve = tuple(Epoch(**row) for row in outcome["curve"])
    best = best_epoch(curve)
    return AttackResult(
        job.name, job.target, job.kind, job.seed, curve, best.epoch, best.val_score, curve[-1].train_loss, outcome["fitted"],
        outcome["val"].numpy(), outcome["test"].numpy(), weights,
    )  # fmt: skip


class Fit:
    """An attacker in training. Every draw is keyed by (seed, epoch, row), so that a loaded state goes on exactly."""

    def __init__(self, job: AttackJob):
        self.job, self.released = job, Released(job.released)
        self.train, self.val = self.released.labels("train"), self.released.labels("val")
        outputs = len(self.released.actions if job.target == "action" else self.released.attributes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(keyed_seed("attacker", job.target, job.kind, job.seed))
            self.network = fresh_recognizer(job.kind, outputs, job.recognizers, job.clip)
            self.average = build_recognizer(job.kind, outputs, job.recognizers, job.clip)
        self.average.load_state_dict(self.network.state_dict())
        self.average.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), job.attack.learning_rate, weight_decay=job.attack.weight_decay)
        self.curve: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        num_rows = self.released.num_training_rows
        self.clip_of_row = np.arange(num_rows) // (num_rows // len(self.train.actions))
        self.steps_per_epoch = -(-num_rows // job.attack.batch)

    @property
    def done(self) -> bool:
        """Has val stopped improving, or is there nothing left to find?"""
        attack, curve = self.job.attack, self.curve
        if len(curve) >= attack.max_epochs or self._at_ceiling():
            return True
        return len(curve) >= attack.min_epochs and len(curve) - _last_gain(curve) >= attack.patience

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
        order = epoch_order(len(self.clip_of_row), self.job.seed, epoch)
        losses = []
        self.network.train()
        for step in range(self.steps_per_epoch):
            rows = np.sort(order[step * attack.batch : (step + 1) * attack.batch])  # sorted: reads run forward through the file
            self._warm_up(epoch * self.steps_per_epoch + step)
            clips = self.released.training_batch(rows, self.job.seed, epoch)
            loss = attack_loss(self.network(clips), self.train, self.clip_of_row[rows], self.job.target)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self._follow(epoch * self.steps_per_epoch + step)
            losses.append(loss.item() * len(rows))
        probabilities = predict(self.average, self.released.views("val"), self.job.target)
        score, loss_on_val = judge(probabilities, self.val, self.job.target)
        self.curve.append(Epoch(epoch + 1, sum(losses) / len(order), score, loss_on_val))
        if best_epoch(self.curve) is self.curve[-1]:
            self.best = {name: tensor.clone() for name, tensor in self.average.state_dict().items()}
        return self.curve[-1]

    def _warm_up(self, step: int) -> None:
        """The learning rate rises over the first epoch and then stays."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.job.attack.learning_rate * min(1.0, (step + 1) / max(self.steps_per_epoch, AVERAGE_OVER))

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        """Move the averaged weights towards the trained ones; early on, when those say little, faster."""
        share = max(1 / AVERAGE_OVER, 1 / (1 + step / 4))
        for averaged, trained in zip(self.average.parameters(), self.network.parameters(), strict=True):
            averaged.lerp_(trained, share)

    def best_network(self) -> Recognizer:
        """The averaged network of the best epoch."""
        self.average.load_state_dict(self.best)
        return self.average

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch needs, as tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "curve": [asdict(row) for row in self.curve],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = state["best"]
        self.curve = [Epoch(**row) for row in state["curve"]]


def attack_loss(logits: Tensor, labels: Labels, clips: np.ndarray, target: str) -> Tensor:
    """Cross-entropy with the action, or mean BCE with the attributes, of the clips with these numbers."""
    if target == "action":
        return F.cross_entropy(logits, torch.from_numpy(labels.actions[clips]))
    return F.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels.present[clips]).float())


def constant_loss(labels: Labels, target: str) -> float:
    """The loss of answering every clip with the shares of the labels, in nats."""
    if target == "action":
        shares = np.bincount(labels.actions) / len(labels.actions)
        return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
    shares = np.clip(labels.present.mean(0), 1e-6, 1 - 1e-6)
    return float(-(shares * np.log(shares) + (1 - shares) * np.log(1 - shares)).mean())


@torch.no_grad()
def predict(network: nn.Module, views: np.ndarray, target: str) -> np.ndarray:
    """Probabilities (n, O) from released `views` uint8 (n, V, T, S, S, 3): the mean over views."""
    network.eval()
    to_probabilities: Callable[[Tensor], Tensor] = (lambda logits: logits.softmax(1)) if target == "action" else torch.sigmoid
    flat = views.reshape(-1, *views.shape[2:])
    parts = [
        to_probabilities(network(to_float(torch.from_numpy(flat[first : first + PREDICT_BATCH].copy()))))
        for first in range(0, len(flat), PREDICT_BATCH)
    ]
    return torch.cat(parts).view(len(views), views.shape[1], -1).mean(1).double().numpy()


def judge(probabilities: np.ndarray, labels: Labels, target: str) -> tuple[float, float]:
    """(score, loss): top-1 and negative log-likelihood of actions, or cMAP and BCE of attributes."""
    safe = probabilities.clip(1e-7, 1 - 1e-7)
    if target == "action":
        true = safe[np.arange(len(safe)), labels.actions]
        return top1(probabilities, labels.actions), float(-np.log(true).mean())
    likelihood = np.where(labels.present, safe, 1 - safe)
    return cmap(probabilities, labels.present), float(-np.log(likelihood).mean())


def best_epoch(curve: "list[Epoch] | tuple[Epoch, ...]") -> Epoch:
    """The highest val score; among equals, which a small val split has many of, the lowest val loss."""
    return max(curve, key=lambda row: (row.val_score, -row.val_loss))


def _last_gain(curve: list[Epoch]) -> int:
    """The epoch that last raised the val score by more than `LEAST_GAIN`."""
    best, at = -np.inf, 0
    for row in curve:
        if row.val_score > best + LEAST_GAIN:
            best, at = row.val_score, row.epoch
    return at


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """`torch.save`, so that the file is the old or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    torch.save(state, part)
    os.replace(part, path)


def _line(job: AttackJob, epoch: Epoch, seconds: float) -> str:
    score = "action top-1" if job.target == "action" else "cMAP"
    return (
        f"{job.label}, {job.name}, seed {job.seed}: epoch {epoch.epoch} of at most {job.attack.max_epochs}, "
        f"train loss {epoch.train_loss:.3f}, val {score} {epoch.val_score:.3f} ({seconds:.1f} s)"
    )
