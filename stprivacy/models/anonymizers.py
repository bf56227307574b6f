"""Every learned anonymizer by `model.kind`: STPrivacy's transformer, or one of the frame networks."""

from collections.abc import Sequence
from pathlib import Path

from stprivacy.config import Channel, Clip, Model
from stprivacy.models.anonymizer import Anonymizer
from stprivacy.models.code import CodeAnonymizer
from stprivacy.models.frame_networks import FrameAnonymizer

AnyAnonymizer = Anonymizer | CodeAnonymizer | FrameAnonymizer
LEARNED = ("stprivacy", "stprivacy-tubelets", "unet", "itnet", "collective")
"""Methods that are trained; all others are filters. `stprivacy` is what `model` says, `stprivacy-tubelets` its release as in the paper."""


def noise_shape(anonymizer: object, channel: Channel, pixels: Sequence[int]) -> tuple[int, ...] | None:
    """Shape of the standard normal draws that the release of one clip takes: of latents, or `pixels`; None where there is no noise."""
    if isinstance(anonymizer, CodeAnonymizer):
        return (anonymizer.num_latents,)
    return tuple(pixels) if channel.noise else None


def model_folder(method: str) -> Path:
    """Where the stages leave the model of a learned method."""
    return Path("models/anonymizer") if method == "stprivacy" else Path("models/baselines") / method / "anonymizer"


def build_anonymizer(model: Model, clip: Clip) -> AnyAnonymizer:
    """An untrained anonymizer for clips of `clip`'s shape. Raises UserError for clips that are too small for its kind."""
    if model.is_code:
        return CodeAnonymizer(model, clip)
    return Anonymizer(model, clip) if model.kind == "stprivacy" else FrameAnonymizer(model, clip)
