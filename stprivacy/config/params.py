"""The whole of params.yaml, and what its sections ask of one another."""

from pydantic import ConfigDict, Field, model_validator

from stprivacy.config.base import Section
from stprivacy.config.data import Clip, Dataset, Preprocess, Shard, SyntheticDataset
from stprivacy.config.evaluation import Evaluate, Pareto, Register, Tracking
from stprivacy.config.networks import Channel, Model, Recognizers
from stprivacy.config.training import BaselineGame, BaselineKind, Baselines, Sweep, Train


class Params(Section):
    """The whole of params.yaml."""

    model_config = ConfigDict(serialize_by_alias=True)

    dataset: Dataset
    clip: Clip
    preprocess: Preprocess
    shard: Shard
    model: Model
    channel: Channel
    recognizers: Recognizers
    train: Train
    baselines: Baselines = Baselines()
    sweep: Sweep = Sweep()
    evaluate: Evaluate
    pareto: Pareto = Pareto()
    registering: Register = Field(Register(), alias="register")
    """`register` in the file; pydantic has a method of that name."""
    tracking: Tracking = Tracking()

    def for_baseline(self, kind: BaselineKind) -> "Params":
        """The same experiment with this as its model: the paper's release, or a frame network and what `baselines` changes in its game."""
        baselines, train = self.baselines, self.train
        if kind == "stprivacy-tubelets":
            return self.model_copy(update={"model": self.model.model_copy(update={"release": "tubelets"})})
        model = self.model.model_copy(update={"kind": kind, "base_width": baselines.base_width})
        init = train.init.model_copy(update={"reconstruction_weight": baselines.reconstruction_weight})
        own: BaselineGame = getattr(baselines.game, kind)
        game = train.game.model_copy(update=own.model_dump(exclude_none=True))
        return self.model_copy(update={"model": model, "train": train.model_copy(update={"init": init, "game": game})})

    @property
    def own_channel(self) -> Channel:
        """The channel of the learned release: a code has its noise in its latents, and none on pixels."""
        return self.channel.model_copy(update={"noise": 0.0}) if self.model.is_code else self.channel

    @property
    def protection_weight(self) -> float:
        """Weight of what protects in training: of the rate for a code, else of the privacy objective. A sweep's `privacy_weight`."""
        return self.train.code.rate_weight if self.model.is_code else self.train.privacy_weight

    @model_validator(mode="after")
    def _sections_fit(self) -> "Params":
        frames, rows, columns = self.model.tubelet
        for key, size, step in (
            ("clip.num_frames", self.clip.num_frames, frames),
            ("clip.size", self.clip.size, rows),
            ("clip.size", self.clip.size, columns),
        ):
            if size % step:
                raise ValueError(f"{key} {size} is not a multiple of model.tubelet's {step}; take {step * (size // step + 1)}")
        for adversary in self.train.game.adversaries:
            if adversary.start == "raw" and adversary.kind not in self.evaluate.attack.kinds:
                raise ValueError(
                    f"train.game.adversaries: {adversary.kind} starts from a raw recognizer, but evaluate.attack.kinds trains none; "
                    f"add {adversary.kind} there or set start: fresh"
                )
        if self.train.game.rate_weight and not self.channel.noise:
            raise ValueError("train.game.rate_weight needs a channel with noise, whose rate it bounds; set channel.noise or rate_weight: 0")
        if self.train.action_kind != self.evaluate.attack.action_kind:
            raise ValueError(
                f"train.action_kind {self.train.action_kind} starts from the raw recognizer of evaluate.attack.action_kind "
                f"{self.evaluate.attack.action_kind}; set both alike"
            )
        if self.preprocess.short_side < self.clip.size:
            raise ValueError(
                f"preprocess.short_side {self.preprocess.short_side} is below clip.size {self.clip.size}; "
                f"raise it to at least {self.clip.size}"
            )
        return self

    @model_validator(mode="after")
    def _code_fits(self) -> "Params":
        if self.model.is_code and self.train.code.target == "neutral":
            shown = self.clip.num_frames * self.clip.frame_step
            whole = isinstance(self.dataset, SyntheticDataset) and self.dataset.num_frames == shown
            if not whole or self.clip.flip or self.preprocess.short_side != self.clip.size:
                raise ValueError(
                    "train.code.target: neutral is drawn by VP-Synth's renderer, for whole videos that are neither cut nor mirrored; "
                    "set target: motion, or take params/vp-synth.yaml's dataset, clip and preprocess"
                )
        return self
