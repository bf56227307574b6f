"""Privacy attackers that are not trained on this release: recognizers of raw clips, attackers of other releases, and the mean of several.

They cost seconds. Each is judged on val and read once on test like any other, and counts where it is the strongest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stprivacy.action_task import Target
from stprivacy.config import AttackerKind, Clip, Recognizers
from stprivacy.evaluation.attack_networks import build_attacker
from stprivacy.evaluation.fitting import judge, predict
from stprivacy.evaluation.jobs import AttackResult
from stprivacy.evaluation.released import Released, device_here
from stprivacy.models.checkpoints import load_weights
from stprivacy.models.recognizers import Recognizer


@dataclass(frozen=True)
class Reading:
    """A network that was trained elsewhere, put to this release: a privacy attacker, or the action recognizer of raw clips."""

    name: str
    """Such as `privacy-raw-trained-cnn3d` or `privacy-cross-release-0.4-cnn2d`."""
    origin: str
    """`raw-trained` or `cross-release`."""
    kind: AttackerKind
    weights: Path
    seed: int
    released: Path
    recognizers: Recognizers
    clip: Clip
    target: Target = "privacy"

    def run(self) -> AttackResult:
        """Read val and test. Raises UserError for weights that are missing or of other sizes."""
        released = Released(self.released)
        num_outputs = len(released.attributes if self.target == "privacy" else released.actions)
        network = load_attacker(self.weights, self.kind, self.target, num_outputs, self.recognizers, self.clip)
        val, test = (predict(network, released.views(split), self.target) for split in ("val", "test"))
        return untrained(self.name, self.origin, self.seed, val, test, released, self.target)


def load_attacker(weights: Path, kind: AttackerKind, target: Target, num_outputs: int, recognizers: Recognizers, clip: Clip) -> Recognizer:
    """A trained attacker from its weights. Raises UserError for a file that is missing or of other sizes."""
    network = build_attacker(kind, target, num_outputs, recognizers, clip)
    load_weights(weights, network)
    return network.to(device_here()).eval().requires_grad_(False)


def untrained(
    name: str, origin: str, seed: int, val: np.ndarray, test: np.ndarray, released: Released, target: Target = "privacy"
) -> AttackResult:
    """The result of an attacker that has no fit of its own: it is as good as it can be."""
    score, _ = judge(val, released.labels("val"), target)
    return AttackResult(name, target, origin, seed, (), 0, score, None, True, val, test, None)


def raw_trained(recognizers: Path, kinds: Sequence[AttackerKind]) -> dict[AttackerKind, Path]:
    """The privacy recognizers of these `kinds` that evaluate-raw left in `recognizers` (models/recognizers)."""
    found = {kind: recognizers / f"privacy-{kind}.safetensors" for kind in kinds}
    return {kind: path for kind, path in found.items() if path.exists()}


def neighbours(share: float, shares: Sequence[float]) -> list[float]:
    """The next lower and the next higher of `shares`: an attacker trained far away sees another picture."""
    below, above = [other for other in shares if other < share], [other for other in shares if other > share]
    return ([max(below)] if below else []) + ([min(above)] if above else [])


def ensemble(members: Sequence[AttackResult], released: Released) -> AttackResult:
    """The mean of the probabilities of fresh privacy attackers of one seed."""
    val, test = (np.mean([getattr(member, split) for member in members], axis=0) for split in ("val", "test"))
    return untrained("privacy-ensemble", "ensemble", members[0].seed, val, test, released)
