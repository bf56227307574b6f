"""What do the dropped tubelets alone give away? An attacker that sees where they are, and no pixel of what was kept.

Dropping is the method's protection and a message at the same time: where somebody moves, tubelets stay. Kept pixels can be repainted,
the shape of what is kept is there for everybody to see.

B batch, L slices, N tubelets a slice.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stprivacy.evaluation.jobs import AttackResult, best_epoch
from stprivacy.evaluation.linear import regression
from stprivacy.evaluation.released import Released


@dataclass(frozen=True)
class MaskJob:
    """Logistic regression on which tubelets of a release are dropped, and which of them change from one slice to the next."""

    released: Path
    seed: int

    def run(self) -> AttackResult:
        """Fit, choose the penalty on val, read once on test. Seconds, and the channel's noise is of no consequence."""
        released = Released(self.released)
        found = regression(released, "privacy", self.seed, lambda clips: pattern(released.dropped(clips)))
        best = best_epoch(found.curve)
        return AttackResult(
            "privacy-mask", "privacy", "mask", self.seed, found.curve, best.epoch, best.val_score, found.curve[-1].train_loss, True,
            found.val, found.test, None,
        )  # fmt: skip


def pattern(dropped: Tensor) -> Tensor:
    """Features (B, L·N + (L − 1)·N) of `dropped` (B, L, N): every place of every slice, and whether it changes to the next one."""
    return torch.cat([dropped.flatten(1), (dropped[:, 1:] - dropped[:, :-1]).abs().flatten(1)], 1)
