"""What one worker of a training run does: build the game, take up a checkpoint, play the phases.

It knows neither Ray nor where checkpoints are kept: `save` and `gather` are handed in.
"""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from stprivacy.config import Params, Train
from stprivacy.data.clips import ClipViews, ShardReader
from stprivacy.models.channel import to_float
from stprivacy.training.batches import GlobalBatches
from stprivacy.training.code_game import CodeGame
from stprivacy.training.engine import build_engine
from stprivacy.training.loop import Phase, play
from stprivacy.training.players import adversary_player, anonymizer_player, build_networks, code_player, start_from_init
from stprivacy.training.recorder import GiveUp, Progress, Recorder, Save
from stprivacy.training.targets import build_target
from stprivacy.training.task import Game

NUM_CLIPS_OF_IDENTITY_START = 200


@dataclass(frozen=True)
class TrainingJob:
    """What a run needs, in a form that travels to a worker."""

    params: Params
    shards: Path
    recognizers: Path
    init: Path | None = None
    """An init phase that is done already (anonymizer and action recognizer), or None."""
    tracking_run: str | None = None
    is_trial: bool = False
    """One of the many games of a sweep: given up by `params.sweep` when hopeless, and tracked by epochs instead of steps."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for Ray to send."""
        paths = {"shards": str(self.shards), "recognizers": str(self.recognizers), "init": str(self.init) if self.init else None}
        return {"params": self.params.model_dump(mode="json"), "tracking_run": self.tracking_run, "is_trial": self.is_trial, **paths}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "TrainingJob":
        init = Path(plain["init"]) if plain["init"] else None
        params, shards, recognizers = Params.model_validate(plain["params"]), Path(plain["shards"]), Path(plain["recognizers"])
        return cls(params, shards, recognizers, init, plain["tracking_run"], plain["is_trial"])


def run_worker(
    job: TrainingJob, rank: int, world_size: int, checkpoint: Path | None, save: Save, gather: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Play what is left of the run. `checkpoint`: a folder that `save` wrote, with the files of all workers, however many they were."""
    params, train = job.params, job.params.train
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    reader = ShardReader(job.shards, "train")
    batches = GlobalBatches(reader, params.clip, train, rank, world_size, device)
    give_up = GiveUp(params.sweep.grace_epochs, params.sweep.hopeless * constant_loss(reader)) if job.is_trial else None
    recorder = Recorder(params, rank, world_size, save, job.tracking_run, track_steps=not job.is_trial, give_up=give_up)
    reached = Progress.read(checkpoint) if checkpoint else None
    if reached and reached.stopped:
        return

    init_model = checkpoint / "init" if checkpoint and reached and reached.phase == "game" else job.init
    if init_model:
        shutil.copytree(init_model, recorder.init_model, dirs_exist_ok=True)
    else:
        init = _init(_game(params, reader, job.recognizers, gather, device), train, batches)
        if not play(init, batches, recorder.restore(init, checkpoint), recorder):
            return
        recorder.write_model(init.game, recorder.init_model)

    phase = _adversarial(_game(params, reader, job.recognizers, gather, device, recorder.init_model), train, batches)
    play(phase, batches, recorder.restore(phase, checkpoint), recorder)


def _init(game: Game | CodeGame, train: Train, batches: GlobalBatches) -> Phase:
    """The first phase, with its engine."""
    is_code = isinstance(game, CodeGame)
    num_epochs = train.code.init_epochs if is_code else train.init.epochs
    player = (code_player if is_code else anonymizer_player)(game.networks, train, "init", num_epochs * batches.steps_per_epoch)
    return Phase("init", num_epochs, game, game.init_loss, build_engine(player, train, batches.num_parts))


def _adversarial(game: Game | CodeGame, train: Train, batches: GlobalBatches) -> Phase:
    """The second phase, with its engines; a code's is played without an adversary player."""
    if isinstance(game, CodeGame):
        player = code_player(game.networks, train, "game", train.code.epochs * batches.steps_per_epoch)
        return Phase("game", train.code.epochs, game, game.game_loss, build_engine(player, train, batches.num_parts))
    num_steps = train.game.epochs * batches.steps_per_epoch
    anonymizer = build_engine(anonymizer_player(game.networks, train, "game", num_steps), train, batches.num_parts)
    adversary = build_engine(adversary_player(game.networks, train, num_steps * train.game.adversary_steps), train, batches.num_parts)
    return Phase("game", train.game.epochs, game, game.anonymizer_loss, anonymizer, adversary, train.game.adversary_steps)


def constant_loss(reader: ShardReader) -> float:
    """The action loss, in nats, of saying the same of every clip: all actions alike; or each at its share, where clips have several."""
    if not reader.info.several_actions:
        return math.log(len(reader.info.actions))
    shares = torch.from_numpy(reader.actions).mean(0)
    return float(F.binary_cross_entropy(shares, shares))


def _game(
    params: Params,
    reader: ShardReader,
    recognizers: Path,
    gather: Callable[[torch.Tensor], torch.Tensor],
    device: torch.device,
    init_model: Path | None = None,
) -> Game | CodeGame:
    """The game before init, or, given the model that init left, before the adversarial phase.

    Each phase gets networks and engines of its own: an engine's hooks stay on the parameters that it has seen.
    """
    train, info = params.train, reader.info
    first = None if init_model or params.model.is_code else _first_clips(params, reader)
    networks = build_networks(params, len(info.actions), len(info.attributes), recognizers, first)
    if init_model:
        start_from_init(networks, train, init_model)
    frozen_dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32  # engines convert what they train
    for network in (networks.anonymizer, networks.action, networks.adversaries):
        network.to(device).train()
    for network in (*networks.raw_trained, *([networks.reference] if networks.reference else [])):
        network.to(device, frozen_dtype)
    if params.model.is_code:
        return CodeGame(networks, train, build_target(params, reader), gather)
    prior = torch.from_numpy(reader.prevailing_attributes()).mean(0).to(device)
    return Game(networks, train, params.channel, params.clip, params.recognizers, prior, gather)


def _first_clips(params: Params, reader: ShardReader) -> torch.Tensor:
    """Float (B, 3, T, H, W) in [0, 1]: the middle of each of the first training videos."""
    views = ClipViews(reader, params.clip, num_clips=1, num_crops=1)
    first = [torch.from_numpy(views[index][0]) for index in range(min(NUM_CLIPS_OF_IDENTITY_START, len(reader)))]
    return to_float(torch.stack(first))
