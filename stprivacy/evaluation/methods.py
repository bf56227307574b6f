"""A frozen method, learned or not, and how it releases clips; which one it is, by its name.

B batch, T frames, S side, Z latents.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from stprivacy.config import Channel, Clip
from stprivacy.errors import UserError
from stprivacy.models.anonymizer import Anonymizer, Painted
from stprivacy.models.anonymizers import LEARNED
from stprivacy.models.baselines import BASELINES, BOXED, build_baseline
from stprivacy.models.channel import transmit
from stprivacy.models.checkpoints import load_anonymizer
from stprivacy.models.code import Code, CodeAnonymizer


@dataclass(frozen=True)
class Method:
    """A frozen anonymizer and the channel behind it."""

    name: str
    anonymizer: nn.Module
    channel: Channel
    tubelet: tuple[int, int, int]
    num_sparsifications: int
    """0 for a method that drops nothing."""

    @property
    def repaints(self) -> bool:
        """Does every pixel that is shown come from a network? A filter passes raw ones on, and so does sparsification by itself."""
        return self.name in LEARNED and not (isinstance(self.anonymizer, Anonymizer) and not self.anonymizer.config.repaint)

    @property
    def is_code(self) -> bool:
        """Is a release painted from latents alone?"""
        return isinstance(self.anonymizer, CodeAnonymizer)

    def keep_ratio(self, kept_share: float) -> float | None:
        """r = kept share^(1/M); None where nothing is ever dropped. Raises UserError for a share that cannot be had."""
        if self.num_sparsifications:
            return float(kept_share ** (1 / self.num_sparsifications))
        if kept_share != 1:
            raise UserError(f"params.yaml: evaluate.kept_shares = {kept_share}: {self.name} drops no tubelets; set [1.0]")
        return None

    def code(self, clips: Tensor, kept_share: float) -> Code:
        """The latents of `clips` (B, 3, T, S, S) in [0, 1], of a method that `is_code`; computed where it is, given on the CPU."""
        assert isinstance(self.anonymizer, CodeAnonymizer)
        code = self.anonymizer.code(self._there(clips), self.keep_ratio(kept_share))
        return Code(code.mean.cpu(), code.log_std.cpu())

    def paint_code(self, latents: Tensor) -> Painted:
        """What is painted from `latents` (B, Z), given on the CPU."""
        assert isinstance(self.anonymizer, CodeAnonymizer)
        return Painted(self.anonymizer.paint(self._there(latents)).cpu(), None)

    def release(self, clips: Tensor, kept_share: float, noise: Tensor | None, boxes: Tensor | None = None) -> tuple[Painted, Tensor]:
        """Clips (B, 3, T, S, S) in [0, 1] as they were painted and as they leave the channel; `noise` as `noise_shape` says."""
        if not self.is_code:
            painted = self.paint(clips, kept_share, boxes)
            return painted, transmit(painted, self.channel, self.tubelet, noise)
        assert noise is not None
        painted = self.paint_code(self.code(clips, kept_share).sample(noise))
        return painted, transmit(painted, self.channel, self.tubelet, None)

    def _there(self, values: Tensor) -> Tensor:
        return values.to(next((parameter.device for parameter in self.anonymizer.parameters()), values.device))

    def paint(self, clips: Tensor, kept_share: float, boxes: Tensor | None = None) -> Painted:
        """`clips` (B, 3, T, S, S) in [0, 1] as a method that is no code paints them; computed where it is, given on the CPU.

        `boxes` (B, T, S, S) of 0/1 for a method that hides people's boxes. Raises UserError when it is given none.
        """
        ratio, there = self.keep_ratio(kept_share), self._there(clips)
        painted: Painted
        if self.name in BOXED:
            if boxes is None:
                raise UserError(f"{self.name}: hides people's boxes, and nothing says here where people are; leave it out")
            painted = self.anonymizer(there, boxes)
        else:
            painted = self.anonymizer(there) if ratio is None else self.anonymizer(there, ratio)
        return Painted(painted.pixels.cpu(), None if painted.keep is None else painted.keep.cpu())


def load_method(name: str, model: Path, clip: Clip, channel: Channel) -> Method:
    """A method by its name: a learned one from the folder `model` with the channel it was trained with, or a baseline.

    Baselines have a channel without noise, since they are what people do today; the baseline `noise` has `channel` itself, and raw
    clips have none. Raises UserError for an unknown name and for a model of other clips.
    """
    if name not in LEARNED:
        if name not in BASELINES:
            raise UserError(f"params.yaml: evaluate.methods: {name!r} is unknown; known are {', '.join([*LEARNED, *BASELINES])}")
        own = channel_of(name, channel)
        quiet = own if name == "noise" else own.model_copy(update={"noise": 0.0})
        return Method(name, build_baseline(name).eval().requires_grad_(False), quiet, (1, 1, 1), 0)
    anonymizer, own_channel = load_anonymizer(model)
    if (anonymizer.clip.num_frames, anonymizer.clip.size) != (clip.num_frames, clip.size):
        made_for = f"{anonymizer.clip.num_frames} frames at {anonymizer.clip.size} px"
        raise UserError(f"{model}: made for clips of {made_for}, not params.yaml's; run train")
    own_channel = own_channel.model_copy(update={"codec_crf": channel.codec_crf})  # what stands behind the channel is no part of a model
    return Method(name, anonymizer.eval().requires_grad_(False), own_channel, anonymizer.tubelet, anonymizer.num_sparsifications)


def channel_of(method: str, channel: Channel) -> Channel:
    """What of `channel` concerns a method: raw clips are neither grey nor coded, so that they stay the same whatever is released."""
    return channel.model_copy(update={"grey": False, "codec_crf": None}) if method == "raw" else channel
