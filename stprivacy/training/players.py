"""Who plays: the networks as a phase starts them, and each player's parameters with their learning rates and schedules."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from stprivacy.config import Params, Train
from stprivacy.models.anonymizer import Anonymizer
from stprivacy.models.anonymizers import build_anonymizer
from stprivacy.models.checkpoints import fresh_recognizer, load_weights, warm_start
from stprivacy.models.code import CodeAnonymizer
from stprivacy.models.recognizers import build_recognizer
from stprivacy.randomness import keyed_seed
from stprivacy.training.objectives import ramp
from stprivacy.training.task import Networks


@dataclass(frozen=True)
class Group:
    """Parameters that share a rate: learning_rate × schedule(step)."""

    parameters: tuple[nn.Parameter, ...]
    learning_rate: float
    schedule: Callable[[int], float]


@dataclass(frozen=True)
class Player:
    """What one engine optimises."""

    module: nn.Module
    groups: tuple[Group, ...]
    gradient_clip: float
    """Largest gradient norm over all of the player's parameters; 0 for no limit."""


def build_networks(
    params: Params, num_actions: int, num_attributes: int, recognizers_folder: Path, first_clips: torch.Tensor | None
) -> Networks:
    """The networks before phase 1: the anonymizer at its start, the action recognizer as evaluate-raw trained it on raw clips.

    `first_clips` (B, 3, T, H, W) in [0, 1]: training clips from which the identity start takes its principal components, which draws
    nothing; None leaves that start out, where other weights take its place at once.
    `recognizers_folder`: models/recognizers. Raises UserError where a file is missing or does not fit.
    """
    train, sizes, clip = params.train, params.recognizers, params.clip
    torch.manual_seed(keyed_seed("networks", train.seed))
    anonymizer = build_anonymizer(params.model, clip)
    if isinstance(anonymizer, CodeAnonymizer):
        reference = build_recognizer(train.action_kind, num_actions, sizes, clip)
        load_weights(recognizers_folder / "action.safetensors", reference)
        reads_latents = nn.Linear(anonymizer.num_latents, num_actions)
        return Networks(anonymizer, reads_latents, nn.ModuleList(), reference.requires_grad_(False).eval())
    if isinstance(anonymizer, Anonymizer):  # frame networks learn to reconstruct in init: baselines.reconstruction_weight
        if train.warm_start:
            warm_start(Path(train.warm_start), anonymizer)
        elif params.model.identity_start and first_clips is not None:
            anonymizer.start_as_identity(first_clips)
    action = build_recognizer(train.action_kind, num_actions, sizes, clip)
    load_weights(recognizers_folder / "action.safetensors", action)
    adversaries, raw_trained = nn.ModuleList(), {}
    for adversary in train.game.adversaries:
        network = fresh_recognizer(adversary.kind, num_attributes, sizes, clip)
        if adversary.start == "raw":
            load_weights(recognizers_folder / f"privacy-{adversary.kind}.safetensors", network)
            raw_trained[adversary.kind] = deepcopy(network).requires_grad_(False).eval()
        adversaries.append(network)
    return Networks(anonymizer, action, adversaries, raw_trained=tuple(raw_trained.values()))


def start_from_init(networks: Networks, train: Train, init_model: Path) -> None:
    """Put the networks where init left them; the action recognizer's copy, frozen, becomes the reference recognizer."""
    load_weights(init_model / "anonymizer.safetensors", networks.anonymizer)
    load_weights(init_model / "action.safetensors", networks.action)
    if train.game.reference_weight and networks.reference is None:
        networks.reference = deepcopy(networks.action).requires_grad_(False).eval()


def anonymizer_player(networks: Networks, train: Train, phase: str, num_steps: int) -> Player:
    """The anonymizer and the co-trained action recognizer, for the phase `init` or `game` of `num_steps` steps."""
    anonymizer_rate = train.init.learning_rate if phase == "init" else train.game.learning_rate
    schedule = _init_schedule(train, num_steps) if phase == "init" else _game_schedule(train, num_steps)
    constant = _cosine(num_steps) if train.schedule == "cosine" else _constant
    module = nn.ModuleDict({"anonymizer": networks.anonymizer, "action": networks.action})
    groups = (
        Group(tuple(networks.anonymizer.parameters()), anonymizer_rate, schedule),
        Group(tuple(networks.action.parameters()), train.action_learning_rate, constant),
    )
    return Player(module, groups, train.gradient_clip)


def code_player(networks: Networks, train: Train, phase: str, num_steps: int) -> Player:
    """A code's anonymizer and what reads the action from its latents, for the phase `init` or `game` of `num_steps` steps."""
    settings = train.code

    def schedule(step: int) -> float:
        if phase == "init":
            return ramp(step, 20)
        start = settings.decay_from * num_steps
        return 1.0 if step < start else max(0.05, (num_steps - step) / max(1.0, num_steps - start))

    module = nn.ModuleDict({"anonymizer": networks.anonymizer, "action": networks.action})
    return Player(module, (Group(tuple(module.parameters()), settings.learning_rate, schedule),), train.gradient_clip)


def adversary_player(networks: Networks, train: Train, num_steps: int) -> Player:
    """All trained adversaries; `num_steps` counts their own steps. When the anonymizer's rate decays they catch up: theirs stays."""
    schedule = _cosine(num_steps) if train.schedule == "cosine" else _constant
    groups = tuple(
        Group(tuple(network.parameters()), adversary.learning_rate, schedule)
        for network, adversary in zip(networks.adversaries, train.game.adversaries, strict=True)
    )
    return Player(networks.adversaries, groups, gradient_clip=0.0)


def _constant(step: int) -> float:
    return 1.0


def _cosine(num_steps: int) -> Callable[[int], float]:
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, num_steps))))


def _init_schedule(train: Train, num_steps: int) -> Callable[[int], float]:
    """Cosine, or a warm-up of 50 steps."""
    return _cosine(num_steps) if train.schedule == "cosine" else lambda step: ramp(step, 50)


def _game_schedule(train: Train, num_steps: int) -> Callable[[int], float]:
    """Cosine, or constant until `decay_from` of the steps and then linearly down to a tenth."""
    if train.schedule == "cosine":
        return _cosine(num_steps)
    start = train.game.decay_from * num_steps
    return lambda step: 1.0 if step < start else max(0.1, (num_steps - step) / max(1.0, num_steps - start))
