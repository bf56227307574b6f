"""The whole training loop. What the losses are: `task.py`; how a step is taken: `engine.py`; where it runs: `distributed.py`."""

from dataclasses import dataclass
from typing import Protocol

from stprivacy.training.batches import GlobalBatches
from stprivacy.training.code_game import CodeGame
from stprivacy.training.engine import Engine, Loss
from stprivacy.training.task import Batch, Game


@dataclass(frozen=True)
class Phase:
    """`init` (no adversary player) or `game` (an adversary player where the release has no bound)."""

    name: str
    num_epochs: int
    game: Game | CodeGame
    loss: Loss[Batch]
    """The anonymizer player's."""
    anonymizer: Engine
    adversary: Engine | None = None
    adversary_steps: int = 0


class Observer(Protocol):
    def step(self, phase: str, step: int, metrics: dict[str, float]) -> None:
        """A step is done; `metrics` are means over the global batch."""

    def epoch(self, phase: Phase, epoch: int) -> bool:
        """An epoch is done: the place for a checkpoint. False where the run is to end here."""


def play(phase: Phase, batches: GlobalBatches, start_epoch: int, observer: Observer) -> bool:
    """Play the epochs of a phase from `start_epoch` on. A step: one update of the anonymizer player, then the adversaries'.

    Gives whether it was played to its end.
    """
    game = phase.game
    for epoch in range(start_epoch, phase.num_epochs):
        for parts in batches.epoch(epoch):
            step = parts[0].step
            if phase.adversary and isinstance(game, Game) and game.restart_adversaries(step):
                phase.adversary.begin_anew()
            if phase.name == "game":
                parts = game.look_ahead(parts)
            metrics = phase.anonymizer.update(phase.loss, parts)
            if phase.adversary and isinstance(game, Game):
                for turn in range(phase.adversary_steps):
                    metrics |= phase.adversary.update(game.adversary_loss, game.recall(step, turn, len(parts)))
            observer.step(phase.name, step, metrics)
        if not observer.epoch(phase, epoch):
            return False
    return True
