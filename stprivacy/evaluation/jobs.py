"""The words of an attack: what determines a fit, what a finished one knows, and how a release is read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stprivacy.action_task import Target
from stprivacy.config import Attack, AttackerKind, Clip, Recognizers, config_hash
from stprivacy.evaluation.released import Released

PROTOCOL = 1
"""Raise when an attacker is trained otherwise: what an older protocol left in the cache is then not taken up."""


@dataclass(frozen=True)
class AttackJob:
    """All that determines a fit, and where to keep it."""

    released: Path
    target: Target
    kind: AttackerKind
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
        return self.cache / "attacks" / self.hash({"released": Released(self.released).checksum, "target": self.target})

    def hash(self, about: dict[str, str]) -> str:
        """A hash of `about` and of every setting of the fit."""
        settings = self.attack.model_dump(include={"min_epochs", "max_epochs", "patience", "learning_rate", "weight_decay", "batch"})
        fit = {"kind": self.kind, "seed": self.seed, "protocol": PROTOCOL}
        return config_hash(about | fit, settings, self.recognizers, self.clip)


@dataclass(frozen=True)
class Epoch:
    """One finished epoch of a fit; of a `linear` attacker, one of the penalties that were tried."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    val_score: float
    """Action top-1 or mAP, or cMAP."""
    val_loss: float


@dataclass(frozen=True)
class AttackResult:
    """What a finished attacker knows."""

    name: str
    target: Target
    kind: str
    """A kind of network, or the attack beside the fresh ones that it comes from, such as `ensemble`."""
    seed: int
    curve: tuple[Epoch, ...]
    """Empty for an attacker that was not trained on this release."""
    best_epoch: int
    """0 for such a one."""
    val_score: float
    train_loss: float | None
    """Of the last epoch, in nats."""
    fitted: bool
    """False: training had not come to its end, and the figures are a lower bound of what can be found."""
    val: np.ndarray
    """Probabilities (n, O), the mean over the views of a clip."""
    test: np.ndarray
    weights: Path | None
    """Safetensors file of the weights that were best on val."""


def attacker_name(target: Target, kind: str) -> str:
    """The action attacker is one, privacy attackers are told apart by their kind."""
    return f"privacy-{kind}" if target == "privacy" else "action"


def best_epoch(curve: "list[Epoch] | tuple[Epoch, ...]") -> Epoch:
    """The highest val score; among equals, which a small val split has many of, the lowest val loss."""
    return max(curve, key=lambda row: (row.val_score, -row.val_loss))
