"""Sections about judging: attackers, the methods compared, the front, and what the tracking server may see."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from stprivacy.config.base import AllDifferent, Count, KeepRatio, Positive, Section, Share, Weight
from stprivacy.config.networks import NetworkKind
from stprivacy.config.training import BaselineKind

AttackerKind = Literal["cnn3d", "cnn2d", "vit", "frames", "difference", "linear"]
"""What a fresh attacker may be. `frames`: a 2D CNN whose answers to single frames are averaged, where `cnn2d` averages features;
`difference`: a 3D CNN that sees nothing but what changes from frame to frame; `linear`: logistic regression on small pictures."""
ExtraAttack = Literal["ensemble", "raw-trained", "cross-release", "mask", "latents", "inversion", "reidentification"]
"""`ensemble`: the fresh attackers' mean. `raw-trained`: the recognizers that evaluate-raw left, who never saw a release.
`cross-release`: attackers trained at a neighbouring kept share. `mask`: a regression on which tubelets are dropped. `latents`: four kinds
of attacker on what a code's picture is painted from. `inversion`: a decoder from released to raw clips, and raw-trained recognizers on
what it paints. `reidentification`: who is it, by similarity to raw clips, where every clip is of one person."""


class Attack(Section):
    """How a fresh attacker is trained on released training clips."""

    kinds: Annotated[tuple[AttackerKind, ...], Field(min_length=1), AllDifferent] = ("cnn3d", "cnn2d")
    """Privacy attackers; the strongest on val counts."""
    extra: Annotated[tuple[ExtraAttack, ...], AllDifferent] = ()
    """Attacks beside them. The first three cost seconds, `mask` as much as `linear`; what these four find counts as any other
    attacker's does."""
    action_kind: NetworkKind = "cnn3d"
    min_epochs: Count = 12
    max_epochs: Count = 24
    patience: Count = 4
    """Epochs without a better val score after which an attacker stops (never before min_epochs)."""
    learning_rate: Positive = 3e-3
    weight_decay: Weight = 0.01
    batch: Count = 32
    train_windows: Count = 1
    """Windows of each training video that are released and learned from."""
    num_clips: Count = 1
    num_crops: Annotated[int, Field(ge=1, le=3)] = 1
    """Views of a val or test video whose predictions are averaged (the paper: 5 × 3)."""


class Evaluate(Section):
    methods: Annotated[tuple[str, ...], Field(min_length=1), AllDifferent] = ("downsample-2", "downsample-4", "blur", "stprivacy")
    """Filters and `stprivacy`. Learned baselines are `baselines.methods`: their stage waits for their models, as this one doesn't."""
    kept_shares: Annotated[tuple[KeepRatio, ...], Field(min_length=1), AllDifferent] = (0.7, 0.4)
    """Kept shares at which the one trained model is judged, attackers fresh at each."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1), AllDifferent] = (0,)
    """Seeds of the attackers."""
    boxes: Annotated[str, Field(pattern=r"^(hog|motion|rendered|.+\.csv)$")] = "motion"
    """Where people are, for `blackening`, `strong-blur` and `weak-blur`: `hog` (OpenCV's detector), `motion` (around what moves before
    a still camera), `rendered` (VP-Synth's true boxes), or a CSV of boxes (docs/data.md)."""
    attack: Attack = Attack()

    @model_validator(mode="after")
    def _learned_baselines_are_elsewhere(self) -> "Evaluate":
        learned = [name for name in self.methods if name in get_args(BaselineKind)]
        if learned:
            raise ValueError(f"methods names {learned[0]}, a learned baseline, which has to be trained first; name it in baselines.methods")
        return self


class Tracking(Section):
    log_raw_clips: bool = False
    """Put pictures of raw clips on the tracking server, too. VP-Synth's are always shown: nobody is in them."""


class Policy(Section):
    """Which point of the front to release with: the most private one whose action is good enough."""

    least_action_of_raw: Share = 0.9
    """Its val action top-1 is at least this share of raw video's."""


class Pareto(Section):
    kept_shares: Annotated[tuple[KeepRatio, ...], AllDifferent] = ()
    """Kept shares at which each trial of the sweep is judged beside its own, without retraining; empty for its own alone."""
    policy: Policy = Policy()


class Register(Section):
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "stprivacy-anonymizer"
    """The registered model whose versions are the front's learned points."""
