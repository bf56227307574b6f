"""Every learned anonymizer by `model.kind`: STPrivacy's transformer, or one of the frame networks."""

from pathlib import Path

from stprivacy.config import Clip, Model
from stprivacy.models.anonymizer import Anonymizer
from stprivacy.models.frame_networks import FrameAnonymizer

AnyAnonymizer = Anonymizer | FrameAnonymizer
LEARNED = ("stprivacy", "unet", "itnet", "collective")
"""Methods that are trained, `model.kind` by its name; all others are filters."""


def model_folder(method: str) -> Path:
    """Where the stages leave the model of a learned method."""
    return Path("models/anonymizer") if method == "stprivacy" else Path("models/baselines") / method / "anonymizer"


def build_anonymizer(model: Model, clip: Clip) -> AnyAnonymizer:
    """An untrained anonymizer for clips of `clip`'s shape. Raises UserError for clips that are too small for its kind."""
    return Anonymizer(model, clip) if model.kind == "stprivacy" else FrameAnonymizer(model, clip)
