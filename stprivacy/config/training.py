"""Sections about training: the two phases of the game, its players, and the engine."""

import posixpath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stprivacy.config.base import AllDifferent, Count, KeepRatio, Positive, Section, Share, Weight
from stprivacy.config.networks import NetworkKind


class InitPhase(Section):
    """Phase 1: L_spars + L_action (+ reconstruction of kept tubelets); no adversary yet."""

    epochs: Annotated[int, Field(ge=0)] = 3
    """0 for no init phase: the game then begins with the anonymizer at its start and recognizers trained on raw clips."""
    learning_rate: Positive = 1e-3
    action_weight: Weight = 1.0
    reconstruction_weight: Weight = 10.0
    full_steps: Annotated[int, Field(ge=0)] = 30
    """First steps without any sparsification."""
    ease_steps: Annotated[int, Field(ge=0)] = 100
    """Steps over which the target ratio then falls from 1 to r."""


class Adversary(Section):
    kind: NetworkKind = "cnn3d"
    start: Literal["raw", "fresh"] = "raw"
    """Start from the recognizer that evaluate-raw trained on raw clips, or from nothing."""
    learning_rate: Positive = 2e-3
    replay: Annotated[int, Field(ge=0)] = 30
    """Past releases (global batches) that its later steps draw from; 0 for none."""


class ClosedForm(Section):
    """Ridge regression from features to attributes, leave-one-out, in the global batch and the last ones; its R² is penalised."""

    weight: Weight = 10.0
    ridge: Positive = 2.0
    """λ, in units of the features' mean variance. Too small, it fits anything."""
    memory: Annotated[int, Field(ge=0)] = 10
    """Past global batches whose features are learned from, too: 24 clips alone do not tell a leak from luck."""
    random_kinds: tuple[NetworkKind, ...] = ("cnn3d", "cnn2d")
    """Random recognizers whose features are attacked."""
    redraw: Count = 60
    """Steps after which the random recognizers are drawn anew, and the memory begins anew."""
    raw_trained: bool = True
    """Also attack the features of the frozen raw-trained recognizers."""
    statistics: bool = False
    """Also attack what the linear attacker reads: mean, spread and change over time of every pixel of a small picture."""
    mask_weight: Weight = 0.0
    """Of another such regression, which sees which tubelets are kept and nothing else: what dropping gives away, whatever the kept ones
    show."""

    @model_validator(mode="after")
    def _sees_something(self) -> "ClosedForm":
        if self.weight and not (self.random_kinds or self.raw_trained or self.statistics):
            raise ValueError("weight is above 0 and there is nothing to see: set weight to 0, or random_kinds, raw_trained or statistics")
        return self

    @property
    def plays(self) -> bool:
        return self.weight > 0 or self.mask_weight > 0


Objective = Literal["entropy", "prior", "negative"]
Combine = Literal["mean", "strongest"]
NumSteps = Annotated[int, Field(ge=0)]


class Game(Section):
    """Phase 2: anonymizer player against adversary player (paper §3.4)."""

    epochs: Count = 8
    learning_rate: Positive = 5e-4
    decay_from: Share = 0.6
    """Share of the steps after which the anonymizer's rate falls linearly to a tenth; `schedule: cosine` ignores it."""
    ramp_steps: Annotated[int, Field(ge=0)] = 50
    """Steps over which the privacy terms grow to their weight."""
    objective: Objective = "entropy"
    """Privacy objective: BCE towards 0.5, BCE towards the attribute's share of training clips, or −BCE as in the paper."""
    rate_weight: Weight = 0.0
    """Weight of the release's information rate through the noisy channel, in nats a pixel value; 0 for none, as in the paper."""
    reference_weight: Weight = 1.0
    """Weight of the frozen reference recognizer's cross-entropy."""
    adversaries: tuple[Adversary, ...] = (Adversary(), Adversary(start="fresh"), Adversary(kind="cnn2d"))
    combine: Combine = "mean"
    """Privacy objective over several adversaries: their mean, or that of the one hardest to fool in this global batch (VITA)."""
    restart_every: NumSteps = 0
    """Steps after which all adversaries begin anew from random weights (VITA); 0 for never."""
    adversary_steps: Count = 4
    """Steps of the adversary player after each step of the anonymizer player."""
    mirror: bool = True
    """Adversaries see a random half of the replayed clips mirrored; off where an attribute tells left from right."""
    closed_form: ClosedForm = ClosedForm()
    sampled_kept_share: tuple[KeepRatio, KeepRatio] | None = None
    """Lowest and highest kept share: each step is played at one drawn between them, so that one model serves the whole range; null
    for `model.keep_ratio` in every step. At such a step exactly that share of each slice is kept, as in deployment."""

    @model_validator(mode="after")
    def _shares_rise(self) -> "Game":
        if self.sampled_kept_share and self.sampled_kept_share[0] >= self.sampled_kept_share[1]:
            low, high = self.sampled_kept_share
            raise ValueError(f"sampled_kept_share [{low:g}, {high:g}]: the first must be below the second; for example [0.3, 0.9]")
        return self


class CodeTraining(Section):
    """How a code (`model.release: code`) is trained, in place of `init` and `game`: first to paint the action, then at a price for bits.

    The numbers of networks, losses and steps of `init` and `game` are not read; ratio, polarisation and action weights of `train` are.
    """

    init_epochs: Count = 5
    """Without a price for bits, and without an adversary."""
    epochs: Count = 13
    """Of the game: the price rises to `rate_weight`, and stays."""
    learning_rate: Positive = 2e-3
    decay_from: Share = 0.5
    """Share of the game's steps after which the rate falls linearly to a twentieth."""
    rate_weight: Weight = 0.02
    """β: weight of the rate, in nats a clip. The larger, the fewer bits; `sweep.privacy_weight` replaces it."""
    ramp_steps: Annotated[int, Field(ge=0)] = 200
    """Steps of the game over which the price rises."""
    target: Literal["motion", "neutral"] = "motion"
    """What the painter is to paint: what moves, recentred and scaled, without colour; or the neutral figure that VP-Synth's renderer draws
    for the same motion, which no camera can have."""
    reconstruction_weight: Weight = 60.0
    """Of the mean squared error to the target."""
    reference_weight: Weight = 1.0
    """Weight of the cross-entropy of the action recognizer that was trained on raw clips: others than ours shall read the release."""
    colours: bool = True
    """The encoder sees each clip under a random mixture of its colours, in positive or negative, brighter or darker."""
    adversary_weight: Weight = 0.0
    """Of a regression from latents to attributes over the whole training split; 0 for none: a small rate leaves it little."""
    ridge: Positive = 0.3
    """Its λ."""


class Train(Section):
    """The adversarial training (Ray Train, one engine a player)."""

    seed: int = 0
    privacy_weight: Weight = 15.0
    action_weight: Weight = 1.0
    ratio_weight: Weight = 8.0
    """Weight of the ratio loss (eq. 7)."""
    ratio_per: Literal["slice", "clip"] = "slice"
    """What the ratio loss holds to the keep ratio: every slice, or the clip over space and time (unstable, says the paper)."""
    polarisation_weight: Weight = 0.1
    """Weight of 4p(1 − p), which keeps the keep probabilities away from a coin flip."""
    action_kind: NetworkKind = "cnn3d"
    action_learning_rate: Positive = 1e-3
    weight_decay: Weight = 0.01
    betas: tuple[Share, Share] = (0.9, 0.99)
    gradient_clip: Weight = 1.0
    """Largest gradient norm of the anonymizer player; 0 for no limit."""
    schedule: Literal["decay", "cosine"] = "decay"
    init: InitPhase = InitPhase()
    game: Game = Game()
    code: CodeTraining = CodeTraining()
    windows_per_epoch: Count = 1
    """Random windows of each training video in an epoch; more where videos are few and long, since each epoch writes a checkpoint."""
    global_batch: Annotated[int, Field(ge=2)] = 24
    """Clips of one step over all workers; the number of workers does not change the result."""
    micro_batch: Count = 24
    """Most clips that a worker runs at once; the rest is gradient accumulation."""
    num_workers: Count = 2
    """Ray Train workers (STPRIVACY_NUM_WORKERS overrides)."""
    max_workers: Count | None = None
    """Where nodes come and go: from num_workers to so many, as many as there is room for. Each change costs the epoch it interrupts."""
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    zero_stage: Literal[0, 1, 2] = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    loader_processes: Annotated[int, Field(ge=0)] = 0
    """Processes that read clips ahead, per worker; 0 reads in the training process."""
    warm_start: str | None = None
    """A timm ViT or an authors' state dict (.safetensors) to start the anonymizer from."""
    anonymizer_from: str | None = None
    """Folder of an anonymizer trained on another data set, to be judged on this one as it is; null to train one here. It must lie
    outside what the stages write, which DVC empties first."""

    @model_validator(mode="after")
    def _source_is_not_an_output(self) -> "Train":
        _refuse_output("anonymizer_from", self.anonymizer_from)
        return self

    @model_validator(mode="after")
    def _engine_fits(self) -> "Train":
        if self.engine == "torch" and self.precision == "bf16":
            raise ValueError("precision bf16 needs engine: deepspeed; the torch engine is fp32")
        if self.max_workers and self.max_workers < self.num_workers:
            raise ValueError(f"max_workers {self.max_workers} is below num_workers {self.num_workers}; raise it, or leave it out")
        return self


def _refuse_output(key: str, folder: str | None) -> None:
    """Raises ValueError for a folder to take models from that a stage writes."""
    outs = ("models/anonymizer", "models/init", "models/sweep", "models/recognizers", "models/baselines")
    place = f"{posixpath.normpath(folder)}/" if folder else ""
    if place.startswith(tuple(f"{out}/" for out in outs)):
        raise ValueError(f"{key} {place}: DVC empties that folder before the stage runs; copy it, for example to models/kept")


BaselineKind = Literal["stprivacy-tubelets", "unet", "itnet", "collective"]


class BaselineGame(Section):
    """In what a baseline's own game differs from `train.game`; null for the same."""

    objective: Objective | None = None
    combine: Combine | None = None
    restart_every: NumSteps | None = None


class BaselineGames(Section):
    """The differences by kind; one that is left out plays `train.game` as it is."""

    unet: BaselineGame = BaselineGame()
    itnet: BaselineGame = BaselineGame()
    collective: BaselineGame = BaselineGame()


class Baselines(Section):
    """Learned baselines: anonymizers of other kinds, trained by the model's game (but for `game`) and judged by the same attackers."""

    methods: Annotated[tuple[BaselineKind, ...], AllDifferent] = ()
    """What `train-baseline` trains and `evaluate-baseline` judges; empty for none. All but `model` and what follows is theirs, too."""
    base_width: Count | None = None
    """Their `model.base_width`: channels of the first layer, null for the published one, which is for GPUs."""
    reconstruction_weight: Weight = 10.0
    """Their `train.init.reconstruction_weight`: they begin by learning to repeat their input, as in SPAct and VITA."""
    game: BaselineGames = BaselineGames()
    """What of their papers' own games they are trained with; empty for `train.game`, so that the networks alone are compared."""
    taken_from: str | None = None
    """Folder like models/baselines of another data set's experiment, `<kind>/anonymizer` in it: theirs are judged on this one as they
    are, beside `train.anonymizer_from`. It must lie outside what the stages write."""

    @model_validator(mode="after")
    def _source_is_not_an_output(self) -> "Baselines":
        _refuse_output("taken_from", self.taken_from)
        return self


class Range(Section):
    """Values from `low` to `high`, drawn uniformly, or uniformly in the logarithm."""

    low: Positive
    high: Positive
    log: bool = False

    @model_validator(mode="after")
    def _low_is_lower(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}; exchange them")
        return self


Values = Annotated[tuple[Positive, ...], Field(min_length=1)] | Range
"""A list to choose from, or a range."""


class Sweep(Section):
    """Ray Tune over kept share and loss weights. Every trial plays the game from models/init and ends with fresh attackers."""

    kept_share: Values = (0.4, 0.7)
    """r^M, the share of tubelets that is left after all sparsification blocks; every value at most 1."""
    privacy_weight: Values = (15.0,)
    """Of what protects: `train.privacy_weight`; where a code is trained, `train.code.rate_weight`."""
    action_weight: Values = (1.0,)
    search: Literal["grid", "random", "optuna"] = "grid"
    """All combinations of lists; random draws; or Optuna on two objectives (val action up, val leak above the action-only floor down)."""
    num_trials: Count = 3
    """At most so many configurations; a grid is cut there."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1), AllDifferent] = (0,)
    """Each configuration is played with each of these."""
    epochs: Count | None = None
    """Epochs of a trial's game; null for those of `train.game`."""
    num_workers: Count = 1
    """Ray Train workers of a trial."""
    grace_epochs: Count = 2
    """A trial is not given up before so many epochs."""
    hopeless: Annotated[float, Field(gt=0)] = 1.1
    """It then stops when its action loss over an epoch is above this share of a constant answer's (ln of the number of actions)."""

    @model_validator(mode="after")
    def _values_fit(self) -> "Sweep":
        largest = self.kept_share.high if isinstance(self.kept_share, Range) else max(self.kept_share)
        if largest > 1:
            raise ValueError(f"kept_share {largest:g} is above 1; it is a share of the tubelets: take at most 1")
        if self.search == "grid":
            for name in ("kept_share", "privacy_weight", "action_weight"):
                if isinstance(getattr(self, name), Range):
                    raise ValueError(f"{name} is a range, and search grid needs lists; list its values or set search: random")
        return self
