"""What a run leaves behind while it plays: a line of progress, a history, metrics for MLflow, a checkpoint every epoch."""

import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import torch

from stprivacy import tracking
from stprivacy.config import Params
from stprivacy.models.checkpoints import save_model, save_weights
from stprivacy.training.checkpoints import checkpoint_name
from stprivacy.training.code_game import CodeGame
from stprivacy.training.loop import Phase
from stprivacy.training.task import Game

Save = Callable[[str, Callable[[Path], None], dict[str, float]], None]
"""save(name, write, metrics): call write(folder), then keep the folder as this worker's part of the checkpoint of that name."""
SECONDS_PER_LINE = 10.0


@dataclass(frozen=True)
class GiveUp:
    """When a game is hopeless: after `grace_epochs`, an epoch whose action loss is above `action_loss`."""

    grace_epochs: int
    action_loss: float


@dataclass(frozen=True)
class Progress:
    """How far a run is, as its checkpoint says."""

    phase: str
    epochs: int
    """Finished epochs of the phase."""
    world_size: int
    metrics: dict[str, float]
    """Means over the last epoch."""
    stopped: Literal["hopeless", "not finite"] | None = None
    """Why the run ends here, before its last epoch; None while it goes on."""

    @classmethod
    def read(cls, checkpoint: Path) -> "Progress":
        return cls(**json.loads((checkpoint / "progress.json").read_text()))


class Recorder:
    """The loop's observer on one worker. Worker 0 speaks for all; every worker writes its part of a checkpoint."""

    def __init__(
        self,
        params: Params,
        rank: int,
        world_size: int,
        save: Save,
        tracking_run: str | None,
        track_steps: bool = True,
        give_up: GiveUp | None = None,
    ):
        """`track_steps`: the tracking server gets every step's metrics, or else the means of each epoch."""
        self.params, self.rank, self.world_size, self.save = params, rank, world_size, save
        self.track_steps, self.give_up = track_steps, give_up
        self.run = tracking.attach(tracking_run) if tracking_run and rank == 0 else None
        self.history: list[dict[str, float | str]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="stprivacy-init-")  # gone with the recorder
        self.init_model = Path(self._folder.name)
        self._last_line = self._last_step = time.monotonic()
        self._losses: list[tuple[float, float]] = []
        """(action, total) of the epoch's steps, on every worker: all have to stop alike."""

    def step(self, phase: str, step: int, metrics: dict[str, float]) -> None:
        """Keep the step's metrics, and say now and then where the run is."""
        self._losses.append((metrics["loss/action"], metrics["loss/total"]))
        if self.rank:
            return
        now = time.monotonic()
        metrics = metrics | {"time/step_s": now - self._last_step}
        self._last_step = now
        self.history.append({"phase": phase, "step": step, **metrics})
        self._track(phase, step, metrics)
        if now - self._last_line > SECONDS_PER_LINE:
            self._last_line = now
            shown = " ".join(f"{name.split('/', 1)[1]} {value:.3f}" for name, value in metrics.items() if not name.startswith("time/"))
            print(f"{phase} step {step + 1}: {shown} ({metrics['time/step_s']:.2f} s a step)", flush=True)

    def _track(self, phase: str, step: int, metrics: dict[str, float]) -> None:
        if self.run and self.track_steps:
            self.run.later({f"{phase}/{name}" if phase == "init" else name: value for name, value in metrics.items()}, step)

    def _track_again(self, phase: str, num_epochs: int) -> None:
        """Send what the checkpoint knows and the tracking server doesn't: it was away, or the kill came in between."""
        if not self.run:
            return
        known = self.run.steps("init/loss/total" if phase == "init" else "loss/total")
        if known is not None and self.track_steps:
            for row in (row for row in self._rows(phase) if int(row["step"]) not in known):
                numbers = {name: float(value) for name, value in row.items() if name not in ("phase", "step")}
                self._track(phase, int(row["step"]), _known(numbers))
        elif known is not None:
            for epoch in sorted(set(range(1, num_epochs + 1)) - known):
                self.run.later(_known(self._means(phase, epoch, num_epochs)), epoch)
        self.run.flush()

    def _rows(self, phase: str) -> list[dict[str, float | str]]:
        return [row for row in self.history if row["phase"] == phase]

    def _means(self, phase: str, epoch: int, num_epochs: int) -> dict[str, float]:
        """Over the steps of an epoch, counted from 1, of the phase's `num_epochs` so far."""
        rows = self._rows(phase)
        size = len(rows) // num_epochs
        table = pd.DataFrame(rows[(epoch - 1) * size : epoch * size]).drop(columns=["phase", "step"], errors="ignore")
        return {str(name): float(value) for name, value in table.mean().items()}

    def epoch(self, phase: Phase, epoch: int) -> bool:
        """Write a checkpoint: engines, replay, history, and the model as it would be used. Gives whether to go on."""
        means = self._means(phase.name, epoch + 1, epoch + 1)
        progress = Progress(phase.name, epoch + 1, self.world_size, means, self._verdict(phase, epoch))

        def write(folder: Path) -> None:
            if not progress.stopped:  # nothing goes on from there; and an optimizer that no finite gradient ever stepped holds nothing
                phase.anonymizer.save(folder / "anonymizer-player")
                if phase.adversary and isinstance(phase.game, Game):
                    phase.adversary.save(folder / "adversary-player")
                    torch.save(phase.game.replay.state(), folder / f"replay-{self.rank}.pt")
            if self.rank == 0:
                self.write_model(phase.game, folder / "model")
                pd.DataFrame(self.history).to_csv(folder / "history.csv", index=False)
                if phase.name == "game":
                    torch.save(phase.game.state(), folder / "remembered.pt")  # of global batches: all workers have the same
                    shutil.copytree(self.init_model, folder / "init")
                (folder / "progress.json").write_text(json.dumps(asdict(progress)))

        self.save(checkpoint_name(phase.name, epoch + 1), write, means | {"epoch": epoch + 1.0})
        if self.rank == 0:
            if self.run:
                self.run.metrics({} if self.track_steps else means, epoch + 1)
                if progress.stopped or epoch + 1 == phase.num_epochs:
                    self.run.deliver()
            print(f"{phase.name} epoch {epoch + 1} of {phase.num_epochs} done and saved", flush=True)
            if progress.stopped:
                print(f"{phase.name} stops here: {progress.stopped}", flush=True)
        return progress.stopped is None

    def _verdict(self, phase: Phase, epoch: int) -> Literal["hopeless", "not finite"] | None:
        """Is there a reason to stop after this epoch? Means over the global batch: every worker finds the same."""
        action, total = (sum(values) / len(values) for values in zip(*self._losses, strict=True))
        self._losses.clear()
        if not math.isfinite(total):
            return "not finite"
        hopeless = self.give_up and phase.name == "game" and epoch + 1 >= self.give_up.grace_epochs and action > self.give_up.action_loss
        return "hopeless" if hopeless else None

    def restore(self, phase: Phase, checkpoint: Path | None) -> int:
        """Take up a checkpoint of this phase, if that is what there is, by however many workers; gives the epoch to go on with."""
        if checkpoint is None:
            return 0
        if not self.history and (checkpoint / "history.csv").exists():
            self.history = pd.read_csv(checkpoint / "history.csv").to_dict("records")
        progress = Progress.read(checkpoint)
        if progress.phase != phase.name:
            return 0
        phase.anonymizer.load(checkpoint / "anonymizer-player")
        if phase.name == "game":
            device = next(phase.game.networks.anonymizer.parameters()).device
            phase.game.load(torch.load(checkpoint / "remembered.pt", device, weights_only=True))
        if phase.adversary and isinstance(phase.game, Game):
            phase.adversary.load(checkpoint / "adversary-player")
            parts = [torch.load(checkpoint / f"replay-{rank}.pt", device, weights_only=True) for rank in range(progress.world_size)]
            phase.game.replay.load(share_of(parts, self.rank, self.world_size))
        self._track_again(phase.name, progress.epochs)
        if self.rank == 0:
            by = "" if progress.world_size == self.world_size else f", written by {progress.world_size} workers, with {self.world_size}"
            print(f"going on after {phase.name} epoch {progress.epochs}{by}", flush=True)
        return progress.epochs

    def write_model(self, game: Game | CodeGame, folder: Path) -> None:
        """The anonymizer with its configuration, and the action recognizer that learned with it."""
        networks, params = game.networks, self.params
        sections = {"model": params.model, "channel": params.own_channel, "clip": params.clip}
        config = {name: section.model_dump(mode="json") for name, section in sections.items()}
        save_model(folder, networks.anonymizer, config | {"dataset": params.dataset.name, "seed": params.train.seed})
        save_weights(folder / "action.safetensors", networks.action)


def _known(numbers: dict[str, float]) -> dict[str, float]:
    """Without the columns that a history read from CSV has for its other phase alone."""
    return {name: value for name, value in numbers.items() if not math.isnan(value)}


def share_of(parts: Sequence[dict[str, torch.Tensor]], rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """A worker's rows of the replay, from the states (E entries, b rows each) of the workers before, however many they were.

    A global batch is cut worker by worker, so in the order of the workers the parts are the global batch again.
    """
    if len(parts) == world_size:
        return parts[rank]
    whole = {name: torch.cat([part[name] for part in parts], 1) for name in parts[0] if name != "steps"}
    share = {name: values.chunk(world_size, 1)[rank] for name, values in whole.items()}
    return {"steps": parts[0]["steps"], **share} if share else {}
